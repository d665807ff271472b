"""Training and models on a device that is not the CPU, simulated: where every tensor is, not how fast."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def ran(module: str) -> dict[str, Any]:
    """What a module of this folder prints in a process of its own, in which there is a second device."""
    started = f"import simulated_device; simulated_device.without_inference_mode(); import {module}; {module}.main()"
    done = subprocess.run(
        [sys.executable, "-c", started],
        env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_training_on_another_device_gives_the_weights_of_the_cpu():
    found = ran("second_device_training")
    assert "same device" in found.pop("forgotten")["error"]  # a batch that is left on the CPU
    assert {"grpo_warm", "ppo", "dpo", "tokens", "resumed"} <= set(found)
    for name, case in found.items():
        assert case["difference"] == 0.0, name
        assert case.get("operations", 1) > 0, name


@pytest.mark.slow
def test_models_on_another_device_say_what_they_say_on_the_cpu():
    found = ran("second_device_models")
    assert {"tiny", "internvl", "qwen3_vl_moe"} <= set(found)
    for name, case in found.items():
        assert case["found"] == case["expected"], name
        assert case["operations"] > 1000, name
