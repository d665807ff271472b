"""Result files say where they come from."""

import json

import pytest

from benchmarks import record


def test_a_result_says_on_what_and_by_which_command_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record.sys, "argv", ["speed.py", "/mnt/somewhere/data", "runs/x", "--seeds", "2"])
    value = json.loads(record.write_result("speed", {"ms": 3.5}).read_text())
    assert value["provenance"]["command"] == "python -m benchmarks.speed data runs/x --seeds 2"
    assert value["ms"] == 3.5
    assert set(value["provenance"]) == {"hardware", "software", "date", "commit", "command"}


def test_the_system_goes_by_its_name_alone():
    assert record.without_release({"system": "Linux-6.1.0-x86_64-with-glibc2.36", "python": "3.11.7"}) == {
        "system": "Linux",
        "python": "3.11.7",
    }
    assert record.without_release({"system": "Linux"}) == {"system": "Linux"}
    assert record.without_release({"torch": "2.13.0"}) == {"torch": "2.13.0"}


def test_values_with_a_provenance_of_their_own_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="it would hide the run's"):
        record.write_result("speed", {"provenance": {}})
    assert not list(tmp_path.iterdir())
