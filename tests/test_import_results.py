"""Importing exp5, exp6, core_exp and lmms-eval files: what they hold, and how they are found and joined."""

import json

import numpy as np
import pytest

from command_line import message, run, run_json
from imported_results import check_values, imported, layouts, number_of
from result_files import (
    BALANCED,
    SMALL,
    Layout,
    World,
    edit,
    write_core_exp,
    write_exp5,
    write_exp6,
    write_lmms_eval,
)


@layouts
def test_accuracies_and_latencies_meet_in_one_table(layout, tmp_path):
    world = World(count=22)
    folders = write_exp5(tmp_path, world, layout), write_exp6(tmp_path, world, layout)
    audit, table = imported(*folders, "--out", tmp_path / "out")
    assert table.accuracy.shape == (22, len(SMALL))
    check_values(table, world)
    assert audit["joined_by"] == {
        "coco_2014_vqa/validation": "question_id" if layout.metadata else "position"
    }
    assert audit["timed_rows"] == 22 * len(SMALL)
    files = layout.ranks if layout.ranks > 1 and not layout.merged else 1
    assert len(audit["files"]) == 2 * files * len(SMALL)
    assert audit["disagreement"] == 0
    assert audit["holes"] == {}


def test_the_manifest_says_what_the_files_say(tmp_path):
    world = World()
    write_exp5(tmp_path, world, Layout())
    write_exp6(tmp_path, world, Layout())
    value = run_json("import", tmp_path, "--out", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["audit"] == value["audit"]
    assert manifest["space"] == [
        {"name": "max_crops", "options": [2, 6]},
        {"name": "top_k", "options": [4, 8]},
        {"name": "num_active_blocks", "options": [12, 16]},
    ]
    assert manifest["options"]["latency_kind"] == "latency"
    assert manifest["options"]["latency_unit"] == "ms"
    assert manifest["options"]["max_new_tokens"] == 16
    assert manifest["options"]["features"]["kind"] == "tf-idf + SVD of the question"
    assert manifest["image_width"] == 0
    assert manifest["model"] == {"num_total_blocks": 16}
    assert sorted(manifest["block_ranking"]) == list(range(16))
    assert sorted(manifest["block_ranking"][:12]) == manifest["options"]["active_block_indices"]["12"]


def test_the_audit_is_a_table_on_a_terminal(tmp_path):
    write_exp5(tmp_path, World(), Layout())
    write_exp6(tmp_path, World(), Layout())
    result = run("import", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for words in ("joined by", "spikes", "max_crops 6, top_k 8", "24 samples x 4 configurations", "note: "):
        assert words in result.stdout


def test_zero_and_negative_times_count_as_not_timed(tmp_path):
    folder = write_exp6(tmp_path, World(), Layout())

    def spoil(value):
        value["per_sample_latencies"][0]["T_total_ms"] = 0.0
        value["per_sample_latencies"][1]["T_total_ms"] = -4.0
        value["per_sample_latencies"][2]["T_decode_ms"] = 1e6

    edit(folder / "exp6_latency_crops2_topk4_blocks12.json", spoil)
    audit, table = imported(folder, "--out", tmp_path / "out")
    assert audit["impossible_times"] == 2
    assert int(np.isnan(table.latency_ms).sum()) == 2
    assert int(np.isnan(table.first_token_ms).sum()) == 3
    assert not np.isnan(table.accuracy).any()


def test_counts_that_cannot_be_and_files_without_samples_have_a_line(tmp_path):
    folder = write_exp6(tmp_path, World(), Layout())
    first, *_, last = sorted(folder.iterdir())
    edit(
        first,
        lambda value: value["per_sample_latencies"][0].update(num_vision_tokens=-5, num_output_tokens=-1),
    )
    edit(last, lambda value: value.update(per_sample_latencies=[], per_sample_predictions=[]))
    audit, table = imported(folder, "--out", tmp_path / "out")
    for name in ("vision_tokens", "output_tokens"):
        assert f"{name}: 1 values are negative or infinite and count as unknown" in audit["warnings"]
    assert f"{last}: holds no samples" in audit["warnings"]
    assert table.accuracy.shape == (24, 3)
    assert (table.vision_tokens >= 0).all()


def test_merged_and_rank_files_beside_each_other_are_read_once(tmp_path):
    world = World(count=22)
    write_exp5(tmp_path, world, Layout(ranks=4, merged=True))
    write_exp5(tmp_path, world, Layout(ranks=4, merged=False))
    audit, table = imported(tmp_path, "--out", tmp_path / "out")
    assert audit["duplicates"] == 0
    assert any("the rank files was read" in note or "rank files" in note for note in audit["notes"])
    check_values(table, world, timed=False)


def test_a_missing_rank_is_a_warning(tmp_path):
    folder = write_exp6(tmp_path, World(count=22), Layout(ranks=4, merged=False))
    for path in folder.glob("*_rank2.json"):
        path.unlink()
    audit, table = imported(folder, "--out", tmp_path / "out")
    assert any("ranks 2 of 4 are missing" in warning for warning in audit["warnings"])
    assert len(table.sample_id) == 17


def overall_exp5(folder):
    """The overall file in place of the single ones."""
    parts = [json.loads(path.read_text()) for path in sorted(folder.iterdir())]
    summary = []
    for part in parts:
        names = ("max_crops", "top_k", "num_active_blocks")
        summary.append(part["summary"][0] | {name: part["config"][name] for name in names})
    config = {
        "dataset_name": "coco_2014_vqa",
        "split": "validation",
        "num_combinations": len(parts),
        "world_size": 1,
    }
    records = [record for part in parts for record in part["all_samples"]]
    for path in folder.iterdir():
        path.unlink()
    (folder / "exp5_accuracy_results.json").write_text(
        json.dumps({"summary": summary, "all_samples": records, "config": config})
    )


def overall_exp6(folder):
    parts = [json.loads(path.read_text()) for path in sorted(folder.iterdir())]
    records = [record for part in parts for record in part["per_sample_latencies"]]
    for path in folder.iterdir():
        path.unlink()
    config = {"dataset_name": "coco_2014_vqa", "split": "validation", "world_size": 1}
    (folder / "exp6_latency_results.json").write_text(
        json.dumps({"summary": [], "all_samples": records, "config": config})
    )


def test_overall_files(tmp_path):
    world = World()
    layout = Layout(metadata=False)
    overall_exp5(write_exp5(tmp_path, world, layout))
    overall_exp6(write_exp6(tmp_path, world, layout))
    audit, table = imported(tmp_path, "--out", tmp_path / "out")
    check_values(table, world)
    assert any("order and counts of the summaries" in note for note in audit["notes"])


def test_overall_files_beside_single_ones_are_not_read_twice(tmp_path):
    folder = write_exp6(tmp_path, World(), Layout())
    (folder / "exp6_latency_results.json").write_text(json.dumps({"all_samples": [{"T_total_ms": 1.0}]}))
    audit, _ = imported(folder, "--out", tmp_path / "out")
    assert audit["duplicates"] == 0
    assert any("exp6_latency_results.json: not read" in note for note in audit["notes"])


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1), ("s", 1000)])
def test_older_exp6_needs_its_unit(unit, factor, tmp_path):
    world = World()
    folder = write_exp6(tmp_path, world, Layout())

    def old(value):
        for record in value["per_sample_latencies"]:
            total, decode = record.pop("T_total_ms"), record.pop("T_decode_ms")
            del record["T_prefill_ms"]
            record |= {
                "latency_total": total / factor,
                "latency_decode": decode / factor,
                "latency_prefill": 1,
            }

    for path in folder.iterdir():
        edit(path, old)
    told = message(run("import", folder, "--out", tmp_path / "out"))
    assert "--latency-unit s or --latency-unit ms" in told
    _, table = imported(folder, "--latency-unit", unit, "--out", tmp_path / "out")
    check_values(table, world)
    np.testing.assert_allclose(table.first_token_ms, 0.75 * table.latency_ms, rtol=1e-5)


def test_older_exp6_says_neither_dataset_nor_split(tmp_path):
    world = World()
    write_exp5(tmp_path, world, Layout(metadata=False))
    folder = write_exp6(tmp_path, world, Layout(metadata=False)).rename(tmp_path / "old")

    def old(value):
        value["all_samples"] = value.pop("per_sample_latencies")
        for record in value["all_samples"]:
            record["latency_total"], record["latency_decode"] = (
                record.pop("T_total_ms"),
                record.pop("T_decode_ms"),
            )
        value["summary"] = [{"latency_mean": 1.0}]
        del value["config"], value["per_sample_predictions"]

    for path in folder.iterdir():
        edit(path, old)
    audit, table = imported(tmp_path, "--latency-unit", "ms", "--out", tmp_path / "out")
    check_values(table, world)
    assert any("name no split" in note for note in audit["notes"])
    assert any("do not list active_block_indices" in warning for warning in audit["warnings"])


def test_exp5_that_does_not_state_its_ranks(tmp_path):
    world = World()
    folder = write_exp5(tmp_path, world, Layout(metadata=False))
    for path in folder.iterdir():
        edit(path, lambda value: value["config"].pop("world_size"))
    audit, table = imported(tmp_path, "--out", tmp_path / "out")
    check_values(table, world, timed=False)
    assert any("do not state world_size" in warning for warning in audit["warnings"])


def test_percentages_must_be_stated(tmp_path):
    folder = write_exp5(tmp_path, World(), Layout())

    def percent(value):
        for record in value["all_samples"]:
            record["score"] *= 100

    for path in folder.iterdir():
        edit(path, percent)
    assert "--quality-unit percent" in message(run("import", folder, "--out", tmp_path / "out"))
    _, table = imported(folder, "--quality-unit", "percent", "--out", tmp_path / "out")
    assert set(np.unique(table.accuracy)) == {0, 1}


@pytest.mark.parametrize("layout", [Layout(), Layout(ranks=4), Layout(ranks=4, merged=False)])
def test_core_exp(layout, tmp_path):
    audit, table = imported(write_core_exp(tmp_path / "core", World(), layout), "--out", tmp_path / "out")
    assert [(knob.name, knob.options) for knob in table.space.knobs] == [
        ("tier", ("low", "medium", "high")),
        ("top_k", (4, 8)),
        ("num_active_blocks", (12,)),
    ]
    np.testing.assert_allclose(table.first_token_ms, 0.8 * table.latency_ms, rtol=1e-5)
    assert set(table.prompt_tokens[0].tolist()) == {164, 144 * 4 + 20, 144 * 9 + 20}
    assert set(table.tiles.ravel().tolist()) == {1, 2, 4, 5, 9, 10}
    assert table.manifest.options["tiers"]["medium"] == {"min_crops": 4, "max_crops": 8}
    assert audit["samples"] == 24


def test_lmms_eval(tmp_path):
    world = World()
    folder = write_lmms_eval(tmp_path / "logs", world)
    audit, table = imported(folder, "--out", tmp_path / "out")
    check_values(table, world, timed=False)
    assert table.dataset[0] == "vqav2_val"
    assert table.manifest.model == {"name": "allenai/MolmoE"}
    assert any("nothing is timed" in warning for warning in audit["warnings"])
    assert table.question[0] == world.question(number_of(world, table.sample_id[0]))


def test_lmms_eval_configurations_by_option_and_a_chosen_metric(tmp_path):
    world = World()
    folder = write_lmms_eval(tmp_path / "logs", world, grid=[(2, 4, 12), (6, 8, 16)])
    for name, path in zip(("small", "large"), sorted(folder.iterdir()), strict=True):
        path.rename(folder / name)
        log = next((folder / name).rglob("*.jsonl"))
        lines = [json.loads(line) | {"anls": 0.5} for line in log.read_text().splitlines()]
        log.write_text("\n".join(map(json.dumps, lines)))
    words = [folder, "--out", tmp_path / "out"]
    assert "--configuration" in message(run("import", *words, "--metric", "exact_match"))
    words += ["--configuration", "small:model=7b", "--configuration", "large:model=72b"]
    assert "['anls', 'exact_match']" in message(run("import", *words))
    _, table = imported(*words, "--metric", "exact_match")
    assert [(knob.name, knob.options) for knob in table.space.knobs] == [("model", ("72b", "7b"))]


def test_seeds_make_other_splits(tmp_path):
    folder = write_exp5(tmp_path, World(count=40, images=40), Layout())
    _, one = imported(folder, "--out", tmp_path / "one")
    _, same = imported(folder, "--out", tmp_path / "same")
    _, two = imported(folder, "--out", tmp_path / "two", "--seed", 1)
    assert one.split.tolist() == same.split.tolist() != two.split.tolist()
    assert {name: int((one.split == name).sum()) for name in ("train", "validation", "test")} == {
        "train": 24,
        "validation": 6,
        "test": 10,
    }
    np.testing.assert_array_equal(one.features, same.features)


def test_the_balanced_grid(tmp_path):
    world = World(count=60, images=30)
    write_exp5(tmp_path, world, Layout(ranks=4), BALANCED)
    write_exp6(tmp_path, world, Layout(ranks=4), BALANCED)
    _, table = imported(tmp_path, "--out", tmp_path / "out")
    assert table.accuracy.shape == (60, 27)
    check_values(table, world)
    assert table.space.action(table.space.full) == table.actions[-1]
