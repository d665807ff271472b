"""Outcomes in the layouts of the public scripts, and back: nothing is lost that is not listed."""

import dataclasses
import json

import numpy as np
import pytest

import paceline.outcomes.exporters.exporting as exporting
from command_line import TalkingModel, message, put_fakes, run, run_json
from fakes import fake_table
from paceline.errors import OutcomesError
from paceline.knobs import Knob, KnobSpace
from paceline.outcomes.exporters.exporting import FORMATS, check_format, export_outcomes
from paceline.outcomes.store import read_table, write_table
from paceline.outcomes.table import CELL_FIELDS, SAMPLE_FIELDS
from result_files import Layout, World, edit, write_core_exp

SWEEP = [
    "profile", "fake", "--task", "fake", "--plan", "full", "--samples", 20, "--timed-samples", 8,
    "--shard-samples", 5,
]  # fmt: skip
formats = pytest.mark.parametrize("name", list(FORMATS))


@pytest.fixture
def model(monkeypatch):
    made = TalkingModel()
    put_fakes(monkeypatch, made)
    return made


def back(folder, out, *words):
    """What an import of exported files gives."""
    audit = run_json("import", folder, *words, "--out", out)["audit"]
    return audit, read_table(out)


def by_name(table):
    """Every sample's texts and every cell's values, by names that do not depend on any order."""
    order = sorted(range(table.samples), key=lambda row: table.sample_id[row])
    configurations = [tuple(sorted(table.space.configuration(a).items())) for a in table.actions.tolist()]
    columns = sorted(range(len(configurations)), key=lambda column: configurations[column])
    texts = {field: getattr(table, field)[order].tolist() for field in SAMPLE_FIELDS}
    cells = {field: getattr(table, field)[np.ix_(order, columns)] for field in CELL_FIELDS}
    return texts, [configurations[column] for column in columns], cells


def assert_same(table, imported, without=()):
    texts, configurations, cells = by_name(table)
    texts_back, configurations_back, cells_back = by_name(imported)
    assert texts_back == texts
    assert configurations_back == configurations
    for field in set(CELL_FIELDS) - set(without):
        np.testing.assert_array_equal(cells_back[field], cells[field], err_msg=field)


def holed(seed, datasets=("one", "two-parts")):
    """A generated table with holes, samples that were never timed, and single times that are missing."""
    table = fake_table(14, 4, 6, seed, timed_share=0.6)
    rng = np.random.default_rng(seed)
    hole = rng.random(table.accuracy.shape) < 0.25
    hole[:, 0] = False
    values = {field: getattr(table, field).copy() for field in CELL_FIELDS}
    for field in ("accuracy", "latency_ms", "first_token_ms", "output_tokens"):
        values[field][hole] = np.nan
    for field in ("tiles", "vision_tokens", "prompt_tokens"):
        values[field][hole] = -1
    values["accuracy"][~hole] = rng.random(int((~hole).sum())).astype(np.float32)
    untimed = rng.random(hole.shape) < 0.1
    values["latency_ms"][untimed] = values["first_token_ms"][untimed] = np.nan
    values["first_token_ms"][rng.random(hole.shape) < 0.1] = np.nan
    values["output_tokens"][rng.random(hole.shape) < 0.1] = np.nan
    images = {image: datasets[i % len(datasets)] for i, image in enumerate(dict.fromkeys(table.image_hash))}
    dataset = np.array([images[image] for image in table.image_hash])
    return dataclasses.replace(table, **values, dataset=dataset)


@formats
def test_a_sweep_and_its_export_hold_the_same(name, model, tmp_path):
    value = run_json(*SWEEP, "--out", tmp_path / "out", "--format", name)
    [export] = value["exports"]
    assert export["path"] == str(tmp_path / "out" / name)
    assert export["files"] == len(list((tmp_path / "out" / name).rglob("*.json"))) == 27
    table = read_table(tmp_path / "out")
    audit, imported = back(export["path"], tmp_path / "back", "--strict")
    assert_same(table, imported, without=("tiles",) if name == "exp6" else ())
    assert audit["joined_by"] == {"fake/train+validation+test": "sample_id"}
    assert imported.manifest.options["split_by"] == "exported files"
    assert imported.manifest.model["name"] == "fake"
    ranked = table.manifest.block_ranking
    assert imported.manifest.options["active_block_indices"]["8"] == sorted(ranked[:8])
    assert set(imported.manifest.block_ranking[:8]) == set(ranked[:8])


@formats
@pytest.mark.parametrize("seed", range(3))
def test_holes_and_untimed_cells_come_back(name, seed, tmp_path):
    table = holed(seed)
    write_table(tmp_path / "out", table)
    export = export_outcomes(tmp_path / "out", name)
    _, imported = back(export.path, tmp_path / "back")
    assert_same(table, imported, without=("tiles",) if name == "exp6" else ())


@formats
def test_an_import_of_an_import_is_the_same(name, tmp_path):
    write_table(tmp_path / "out", holed(5))
    first = export_outcomes(tmp_path / "out", name)
    back(first.path, tmp_path / "one")
    second = export_outcomes(tmp_path / "one", name)
    back(second.path, tmp_path / "two")
    assert_same(read_table(tmp_path / "one"), read_table(tmp_path / "two"))


def test_tiers_come_back_as_tiers(tmp_path):
    folder = write_core_exp(tmp_path / "core", World(), Layout())
    _, table = back(folder, tmp_path / "out")
    export = export_outcomes(tmp_path / "out", "core_exp")
    _, imported = back(export.path, tmp_path / "back")
    assert imported.space.names == ("tier", "top_k", "num_active_blocks")
    assert_same(table, imported)
    with pytest.raises(OutcomesError, match="--format exp6: got the knobs .'tier', .* expected .'max_crops'"):
        export_outcomes(tmp_path / "out", "exp6")


def test_what_a_format_cannot_carry_is_listed(model, tmp_path):
    words = [*SWEEP, "--repeats", 2, "--out", tmp_path / "out"]
    told = run(*words, "--format", "exp6", "--format", "core_exp").stdout
    assert f"27 exp6 files in {tmp_path / 'out' / 'exp6'}; not in them:\n" in told
    for part in (
        "features (8 columns)", "of 2 timed calls of a cell the median", "timed_accuracy", "tiles: exp6",
        "times of the overview", "manifest: hardware", "times of single decoding steps",
    ):  # fmt: skip
        assert part in told


def test_core_exp_holds_the_times_of_phases(model, tmp_path):
    run_json(*SWEEP, "--out", tmp_path / "out", "--format", "core_exp")
    table = read_table(tmp_path / "out")
    place = {name: row for row, name in enumerate(table.sample_id.tolist())}
    for path in (tmp_path / "out" / "core_exp").rglob("*.json"):
        value = json.loads(path.read_text())
        column = table.actions.tolist().index(table.space.action(value["paceline"]["configuration"]))
        for record in value["per_sample_results"]:
            first = table.first_token_ms[place[record["metadata"]["question_id"]], column]
            if np.isnan(first):
                assert record["T_vision_total"] is record["T_total"] is None
            else:
                assert record["T_vision_total"] + record["T_LLM_prefill"] == pytest.approx(first, rel=1e-5)


def test_summaries_are_those_of_the_entries(tmp_path):
    write_table(tmp_path / "out", holed(1, ("one",)))
    export = export_outcomes(tmp_path / "out", "exp6")
    path = export.path / "exp6_latency_one" / "exp6_latency_crops6_topk16_blocks12.json"
    value = json.loads(path.read_text())
    entries, [summary] = value["per_sample_latencies"], value["summary"]
    times = [entry["T_total_ms"] for entry in entries if entry["T_total_ms"] is not None]
    assert summary["num_samples"] == len(entries)
    assert summary["accuracy"] == pytest.approx(np.mean([entry["accuracy"] for entry in entries]))
    assert summary["latency_total_ms"]["P50"] == pytest.approx(np.median(times))
    assert summary["latency_total_ms"]["max"] == max(times)
    assert len(summary["active_block_indices"]) == 12


@formats
def test_a_finished_sweep_is_only_exported(name, model, tmp_path):
    run_json(*SWEEP, "--out", tmp_path / "out")
    calls = dict(model.calls)
    value = run_json(*SWEEP, "--out", tmp_path / "out", "--format", name)
    assert model.calls == calls
    again = run_json(*SWEEP, "--out", tmp_path / "out", "--format", name)
    assert again["exports"] == value["exports"]


def test_formats_that_do_not_fit_are_refused_before_the_sweep(model, tmp_path):
    told = message(run(*SWEEP, "--out", tmp_path / "out", "--format", "exp7"))
    assert "--format: got 'exp7', expected one of ['exp6', 'core_exp']" in told
    assert not (tmp_path / "out").exists()
    router = KnobSpace((Knob(name="model", options=("small", "large")),))
    for name in FORMATS:
        with pytest.raises(OutcomesError, match=f"--format {name}: got the knobs .'model'.*expected"):
            check_format(name, router)
    options = {"max_crops": (0, 4), "top_k": (4,), "num_active_blocks": (8,)}
    zero = KnobSpace(tuple(Knob(name=name, options=found) for name, found in options.items()))
    with pytest.raises(OutcomesError, match="0 crops are in no tier"):
        check_format("core_exp", zero)
    check_format("exp6", zero)


def test_costs_are_not_exported_as_times(tmp_path):
    table = fake_table(4, 2, 2)
    manifest = dataclasses.replace(table.manifest, options={"latency_kind": "cost"})
    write_table(tmp_path / "out", dataclasses.replace(table, manifest=manifest))
    with pytest.raises(OutcomesError, match="holds costs, expected milliseconds"):
        export_outcomes(tmp_path / "out", "exp6")


def test_datasets_that_would_share_files_are_refused(tmp_path):
    write_table(tmp_path / "out", holed(1, ("a b", "a-b")))
    with pytest.raises(OutcomesError, match="datasets 'a b' and 'a-b' would share the files"):
        export_outcomes(tmp_path / "out", "exp6")
    assert not (tmp_path / "out" / "exp6").exists()


def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch):
    write_table(tmp_path / "out", holed(1))
    export_outcomes(tmp_path / "out", "exp6")
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting.json, "dumps", fail)
    with pytest.raises(OSError, match="No space left"):
        export_outcomes(tmp_path / "out", "exp6")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


def test_other_files_are_never_replaced(tmp_path):
    write_table(tmp_path / "out", holed(1))
    (tmp_path / "out" / "exp6").mkdir()
    (tmp_path / "out" / "exp6" / "notes.txt").write_text("mine")
    with pytest.raises(OutcomesError, match="notes.txt, expected nothing or an earlier export"):
        export_outcomes(tmp_path / "out", "exp6")
    assert (tmp_path / "out" / "exp6" / "notes.txt").read_text() == "mine"


def to_one_split(value):
    for record in value["per_sample_results"]:
        record["metadata"]["paceline"]["split"] = "all"


@pytest.mark.parametrize("fault", ["split", "own", "configuration"])
def test_exports_that_were_changed_are_refused(fault, tmp_path):
    write_table(tmp_path / "out", holed(1))
    folder = export_outcomes(tmp_path / "out", "core_exp").path
    for path in folder.iterdir():
        if fault == "split":
            edit(path, to_one_split)
        elif fault == "own":
            edit(path, lambda value: value.update(paceline="yes"))
        else:
            edit(path, lambda value: value["paceline"]["configuration"].update(top_k=5))
    told = message(run("import", folder, "--out", tmp_path / "back"))
    expected = {
        "split": "metadata states the splits all",
        "own": "paceline is 'yes', expected an object",
        "configuration": "expected them to agree, export it again",
    }
    assert expected[fault] in told
