"""Result files: what was measured, on which machine, when, at which commit, by which command."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def hardware() -> dict[str, Any]:
    """Processor, cores and memory of this machine."""
    import psutil

    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
    }


def commit() -> str:
    """The commit of the working tree, marked when it has changes."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def without_release(software: dict[str, Any]) -> dict[str, Any]:
    """Recorded software with the plain name of the system: older outcomes also name the release of its kernel."""
    if "system" not in software:
        return software
    return software | {"system": software["system"].split("-")[0]}


def _plain(word: str) -> str:
    """A word of a command; of a path from the root only its name, since the rest says nothing elsewhere."""
    return Path(word).name if Path(word).is_absolute() else word


def write_result(name: str, values: dict[str, Any]) -> Path:
    """Write `values` with their provenance to benchmarks/results/NAME.json."""
    if "provenance" in values:
        raise ValueError(
            "values: got a provenance of their own; it would hide the run's, give it another name"
        )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    provenance = {
        "hardware": hardware(),
        "software": {name: version(name) for name in ("torch", "numpy")}
        | {"python": platform.python_version()},
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "command": " ".join(
            ["python", "-m", "benchmarks." + Path(sys.argv[0]).stem, *map(_plain, sys.argv[1:])]
        ),
    }
    path.write_text(json.dumps({"provenance": provenance, **values}, indent=1) + "\n", encoding="utf-8")
    return path
