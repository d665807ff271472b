"""The ten traps of exp5, exp6, core_exp and lmms-eval files, in every layout; padding of distributed samplers."""

import json

import numpy as np
import pytest

from command_line import message, run
from imported_results import LAYOUTS, check_values, imported, layouts
from paceline.outcomes.importers.splits import shared_images
from result_files import (
    SMALL,
    Layout,
    World,
    edit,
    write_core_exp,
    write_exp5,
    write_exp6,
)


@layouts
def test_trap_1_batch_indices_are_no_sample_ids(layout, tmp_path):
    world = World(count=22)
    folder = write_exp5(tmp_path, world, layout)
    _, table = imported(folder, "--out", tmp_path / "out")
    assert len(table.sample_id) == 22
    check_values(table, world, timed=False)


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("write", [write_exp6, write_core_exp])
def test_trap_2_rank_local_ids(merged, write, tmp_path):
    world = World(count=22)
    folder = write(tmp_path / "files", world, Layout(ranks=4, merged=merged, metadata=False))
    audit, table = imported(folder, "--out", tmp_path / "out")
    assert [int(name.rsplit("/", 1)[1]) for name in table.sample_id] == list(range(22))
    if write is write_exp6:
        check_values(table, world)
    assert bool(audit["restarted_ids"]["files"]) == merged


def test_trap_2_ids_that_restart_too_often_are_refused(tmp_path):
    folder = write_exp6(tmp_path, World(), Layout(metadata=False))
    edit(
        folder / "exp6_latency_crops2_topk4_blocks12.json",
        lambda value: value["per_sample_latencies"][12].update(sample_id=0),
    )
    told = message(run("import", folder, "--out", tmp_path / "out"))
    assert "sample_id starts 2 times, world_size is 1" in told
    assert not (tmp_path / "out").exists()


@layouts
def test_trap_3_prefill_is_the_total_without_decoding(layout, tmp_path):
    world = World(count=22)
    audit, table = imported(write_exp6(tmp_path, world, layout), "--out", tmp_path / "out")
    np.testing.assert_allclose(table.first_token_ms, 0.75 * table.latency_ms, rtol=1e-5)
    assert audit["zero_prefill"] == 2 * 22
    assert any("T_prefill_ms is the last decode step" in note for note in audit["notes"])


@layouts
def test_trap_4_image_tokens_count_once(layout, tmp_path):
    audit, table = imported(write_exp6(tmp_path, World(), layout), "--out", tmp_path / "out")
    assert (table.prompt_tokens - table.vision_tokens == 20).all()
    assert set(table.vision_tokens[0].tolist()) == {144 * 3, 144 * 7}
    assert (table.tiles == 0).all()
    assert any("num_total_tokens counts those twice" in note for note in audit["notes"])
    assert any("tiles: unknown in all files" in note for note in audit["notes"])


@pytest.mark.parametrize("layout", [Layout(), Layout(ranks=4, merged=True), Layout(ranks=4, merged=False)])
def test_trap_5_failed_samples_are_named(layout, tmp_path):
    world = World(count=22)
    layout.drop = {(2, 4, 12): {5, 6}, (6, 8, 16): {7}}
    audit, table = imported(write_exp5(tmp_path, world, layout), "--out", tmp_path / "out")
    holes = audit["holes"]
    prefix = "coco_2014_vqa/"
    assert sorted(holes["max_crops 2, top_k 4, num_active_blocks 12"]["samples"]) == sorted(
        f"{prefix}{world.question_id(i)}" for i in (5, 6)
    )
    assert holes["max_crops 6, top_k 8, num_active_blocks 16"]["missing"] == 1
    assert int(np.isnan(table.accuracy).sum()) == 3
    assert (table.tiles[np.isnan(table.accuracy)] == -1).all()
    assert any("3 of 88 outcomes are missing" in warning for warning in audit["warnings"])
    assert "3 of 88" in message(run("import", tmp_path, "--strict", "--out", tmp_path / "strict"))
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("merged", [True, False])
def test_trap_5_without_metadata_files_of_different_length_are_refused(ranks, merged, tmp_path):
    layout = Layout(ranks=ranks, merged=merged, metadata=False, drop={(2, 4, 12): {20, 21}})
    told = message(run("import", write_exp5(tmp_path, World(count=22), layout), "--out", tmp_path / "out"))
    assert "cannot be joined by position" in told


def test_trap_5_exp6_without_metadata_knows_which_failed(tmp_path):
    layout = Layout(ranks=4, metadata=False, drop={(2, 4, 12): {5}})
    world = World(count=22)
    _, table = imported(write_exp6(tmp_path, world, layout), "--out", tmp_path / "out")
    assert [name.rsplit("/", 1)[1] for name in table.sample_id[np.isnan(table.accuracy).any(axis=1)]] == ["5"]


@layouts
def test_trap_6_two_block_sets_under_one_count(layout, tmp_path):
    world = World()
    write_exp5(tmp_path, world, layout)
    folder = write_exp6(tmp_path, world, layout)
    other = [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15]
    for path in folder.glob("*blocks12*.json"):
        edit(path, lambda value: value["config"].update(active_block_indices=other))
    told = message(run("import", tmp_path, "--out", tmp_path / "out"))
    assert "12 active blocks are" in told
    assert str(other) in told
    assert "different configurations under one name" in told
    _, table = imported(folder, "--out", tmp_path / "one")
    assert table.manifest.options["active_block_indices"]["12"] == other


@layouts
def test_trap_7_scores_in_a_batch_and_alone(layout, tmp_path):
    world = World(count=20, flips=5)
    write_exp5(tmp_path, world, layout)
    write_exp6(tmp_path, world, layout)
    audit, table = imported(tmp_path, "--out", tmp_path / "out")
    assert audit["disagreement"] == pytest.approx(0.25)
    assert audit["compared_accuracies"] == 20 * len(SMALL)
    check_values(table, world)


def captioned(value):
    for batch in range(0, len(value["all_samples"]), 4):
        for record in value["all_samples"][batch : batch + 4]:
            record |= {"score": 0.3 + batch / 100, "captions": ["a cat"], "coco_metrics": {"CIDEr": 1.1}}


@layouts
def test_trap_8_scores_copied_over_a_batch(layout, tmp_path):
    folder = write_exp5(tmp_path, World(dataset="coco_caption"), layout)
    write_exp5(tmp_path, World(), layout)
    for path in folder.iterdir():
        edit(path, captioned)
    audit, table = imported(tmp_path, "--out", tmp_path / "out")
    assert audit["copied_scores"] == {"coco_caption": 96}
    assert set(table.dataset.tolist()) == {"coco_2014_vqa"}
    assert any("CIDEr" in warning for warning in audit["warnings"])
    assert "every score is copied" in message(run("import", folder, "--out", tmp_path / "none"))


@layouts
def test_trap_8_is_seen_by_the_scores_alone(layout, tmp_path):
    folder = write_exp5(tmp_path, World(count=60), layout)

    def copy(value):
        batch = 0
        for record in value["all_samples"]:
            batch += record["sample_id"] == 0
            record["score"] = 0.3 + batch / 100

    for path in folder.iterdir():
        edit(path, copy)
    assert "every score is copied" in message(run("import", folder, "--out", tmp_path / "out"))


@layouts
def test_trap_9_spikes_are_reported_and_kept(layout, tmp_path):
    folder = write_exp6(tmp_path, World(), layout)
    edit(
        min(folder.glob("exp6_latency_crops2_topk4_blocks12*.json")),
        lambda value: value["per_sample_latencies"][0].update(T_total_ms=5000.0),
    )
    audit, table = imported(folder, "--out", tmp_path / "out")
    assert audit["spikes"] == 1
    assert audit["worst_spike"] > 50
    assert np.nanmax(table.latency_ms) == 5000
    assert any("they are kept" in warning for warning in audit["warnings"])


@pytest.mark.parametrize("layout", [item for item in LAYOUTS if item.metadata])
def test_trap_10_an_image_is_in_one_split(layout, tmp_path):
    write_exp5(tmp_path / "a", World(count=40, images=10), layout)
    write_exp5(tmp_path / "b", World(count=40, images=10, split="train"), layout)
    audit, table = imported(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert audit["images_shared_by_source_splits"] == 10
    assert any("10 images are in more than one" in warning for warning in audit["warnings"])
    assert len(table.sample_id) == 80
    assert shared_images(table.image_hash.tolist(), table.split.tolist()) == []
    assert {
        name: len(np.unique(table.image_hash[table.split == name])) for name in np.unique(table.split)
    } == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }


def pad(folder, ranks, count):
    """Repeat the first samples at the ends of the last ranks, as a distributed sampler does, with other times."""
    sizes = [len(range(rank, count, ranks)) for rank in range(ranks)]
    padded = ranks * max(sizes) - count
    paths = sorted(folder.iterdir())
    for path in paths if "_rank" not in paths[0].name else paths[::ranks]:
        files = [path] if "_rank" not in path.name else sorted(path.parent.glob(path.name[:-6] + "?.json"))
        values = [json.loads(file.read_text()) for file in files]
        for key in ("all_samples", "per_sample_latencies", "per_sample_predictions"):
            if key not in values[0]:
                continue
            entries = [entry for value in values for entry in value[key]]
            parts = [entries[sum(sizes[:rank]) : sum(sizes[: rank + 1])] for rank in range(ranks)]
            for j in range(padded):
                number = parts[ranks - padded + j][-1]["sample_id"] + 1
                again = dict(parts[j][0], sample_id=number % 4 if key == "all_samples" else number)
                if "T_total_ms" in again:
                    again["T_total_ms"] *= 1.5
                parts[ranks - padded + j].append(again)
            if len(files) == 1:
                parts = [[entry for part in parts for entry in part]]
            for value, part in zip(values, parts, strict=True):
                value[key] = part
        for file, value in zip(files, values, strict=True):
            file.write_text(json.dumps(value))
    return padded


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize(("ranks", "count"), [(4, 22), (4, 21), (3, 23)])
def test_padding_of_a_distributed_sampler_is_dropped(ranks, count, merged, tmp_path):
    world, layout = World(count=count), Layout(ranks=ranks, merged=merged)
    folders = write_exp5(tmp_path / "a", world, layout), write_exp6(tmp_path / "b", world, layout)
    padded = pad(folders[0], ranks, count)
    assert pad(folders[1], ranks, count) == padded > 0
    audit, table = imported(*folders, "--out", tmp_path / "out")
    assert table.accuracy.shape == (count, len(SMALL))
    check_values(table, world)
    assert audit["padding"] == 2 * len(SMALL) * padded
    assert any("as a distributed sampler does" in note for note in audit["notes"])
    assert audit["duplicates"] == 0


def test_padding_whose_first_sample_failed_is_kept(tmp_path):
    world, layout = World(count=22), Layout(ranks=4, merged=False)
    folder = write_exp6(tmp_path, world, layout, SMALL[:2])
    pad(folder, 4, 22)
    for path in folder.glob("*_rank0.json"):
        edit(path, lambda value: [value[key].pop(0) for key in value if key.startswith("per_sample")])
    audit, table = imported(folder, "--out", tmp_path / "out")
    assert audit["padding"] == 2  # sample 1 was repeated; sample 0 is there once, at the end of rank 2
    assert table.accuracy.shape == (22, 2)


def test_ranks_without_padding_lose_nothing(tmp_path):
    world = World(count=24)
    folder = write_exp6(tmp_path, world, Layout(ranks=4, merged=True))
    audit, table = imported(folder, "--out", tmp_path / "out")
    assert audit["padding"] == 0
    check_values(table, world)


def test_padding_that_cannot_be_told_has_a_line(tmp_path):
    folder = write_exp6(tmp_path, World(count=24), Layout(ranks=4, merged=True, metadata=False))
    audit, _ = imported(folder, "--out", tmp_path / "out")
    assert any("if a distributed sampler padded them" in note for note in audit["notes"])
