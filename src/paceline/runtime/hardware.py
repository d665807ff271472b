"""What a machine's speed depends on, as calibrations and kept choices are filed under it."""

import os
import platform
import sys
from typing import Any


def hardware_facts() -> dict[str, Any]:
    """What sets this machine's speed: processor, cores this process may use, threads of torch if it is loaded."""
    processor = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    affinity = getattr(os, "sched_getaffinity", None)
    torch = sys.modules.get("torch")
    return {
        "machine": platform.machine(),
        "processor": processor,
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch else None,
    }
