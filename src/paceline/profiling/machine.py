"""Facts about the machine and the software, for manifests."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("paceline", "numpy", "torch", "pyarrow", "safetensors")


def hardware() -> dict[str, Any]:
    """Processor, its cores that this process may use, and the threads torch uses if it is loaded."""
    facts: dict[str, Any] = {"machine": platform.machine(), "processor": _processor(), "cpus": _cpus()}
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch_threads"] = torch.get_num_threads()
    return facts


def software() -> dict[str, str]:
    """Versions of Python and of the packages that matter to outcomes; a package that is absent is left out.

    The system goes by its name alone: the release of its kernel tells more of the machine than of the outcomes.
    """
    facts = {"python": platform.python_version(), "system": platform.system()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
