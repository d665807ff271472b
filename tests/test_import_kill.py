"""A killed import leaves nothing in place, and the next one gives the directory that an undisturbed one gives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_line import message, run, run_json
from paceline.outcomes.files import exclusive
from result_files import Layout, World, write_exp5, write_exp6

# Each stops at a moment of an import: before the call of a function, once half of its work is there.
MOMENTS = {
    "reading": "paceline.outcomes.importers.result_files.read_json",
    "joining": "paceline.outcomes.importers.importing.assemble",
    "writing samples": "paceline.outcomes.store.write_features",
    "writing outcomes": "paceline.outcomes.store.write_row_groups",
    "before the manifest": "paceline.outcomes.store.write_manifest",
    "before it is in place": "paceline.outcomes.importers.importing.os.replace",
}
STOP = """
import importlib, sys, time
target, marker, *words = sys.argv[1:]
place, _, name = target.rpartition(".")
try:
    owner = importlib.import_module(place)
except ModuleNotFoundError:
    module, _, inner = place.rpartition(".")
    owner = getattr(importlib.import_module(module), inner)
if target.endswith("os.replace"):
    real = owner.replace
    def stop(source, goal):
        if str(source).endswith(".importing"):
            open(marker, "w").close()
            time.sleep(600)
        real(source, goal)
else:
    def stop(*args, **kwargs):
        open(marker, "w").close()
        time.sleep(600)
setattr(owner, name, stop)
from paceline.cli.app import main
sys.argv = ["paceline", *words]
main()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Result files, and the directory that an undisturbed import makes of them."""
    place = tmp_path_factory.mktemp("kill")
    write_exp5(place / "files", World(), Layout())
    write_exp6(place / "files", World(), Layout())
    run_json("import", place / "files", "--out", place / "expected")
    return place


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_sigkill_at_any_moment(moment, results, tmp_path):
    out, marker = tmp_path / "there" / "out", tmp_path / "stopped"
    words = ["import", str(results / "files"), "--out", str(out)]
    command = [sys.executable, "-c", STOP, MOMENTS[moment], str(marker), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not marker.exists():
            assert process.poll() is None, "the import ended before the moment came"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    run_json(*words)
    assert contents(out) == contents(results / "expected")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_two_imports_into_one_place(results, tmp_path):
    staging = tmp_path / ".out.importing"
    staging.mkdir()
    with exclusive(staging):
        told = message(run("import", results / "files", "--out", tmp_path / "out"))
    assert "another process is writing here" in told
    assert staging.exists()
    assert not (tmp_path / "out").exists()
