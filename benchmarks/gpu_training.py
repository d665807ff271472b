"""Training on a CUDA device: does it learn what the processor learns, how fast, and what precision and memory cost.

    python -m benchmarks.gpu_training
    python -m benchmarks.gpu_training --device cpu --samples 300 --configurations 8 --epochs 1    # a look at the code

One made-up table (`generated_table`), one algorithm (`grpo_warm`), one seed: on the processor in float32, and on the
device in float32, in bfloat16, with gradient checkpointing, and with both. Each run is compared with the processor's:
the validation reward, and the share of the test samples' requests for which both controllers choose the same. A second
seed on the processor says how far two runs are apart anyway. Seconds are those of an epoch with the validation after
it; the first epoch of a stage is left out. Writes benchmarks/results/gpu_training.json on CUDA devices only.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cuda_device import asked_device
from benchmarks.decision_job import Requests
from benchmarks.generated_table import SPACE, write_generated
from benchmarks.record import write_result
from benchmarks.training_scale import ALGORITHM, EpochTimes
from paceline.learning.options import TrainOptions
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.controller import Controller
from paceline.runtime.many import FIELDS, ContextBatch
from paceline.workflows.training import train_controller

PROCESSOR, OTHER_SEED = "cpu float32", "cpu float32, another seed"


def variants(device: str, base: TrainOptions) -> dict[str, TrainOptions]:
    """What is trained, by name; the processor's first."""
    there = replace(base, device=device)
    return {
        PROCESSOR: base,
        OTHER_SEED: replace(base, seed=base.seed + 1),
        "device float32": there,
        "device bfloat16": replace(there, precision="bfloat16"),
        "device gradient checkpointing": replace(there, gradient_checkpointing=True),
        "device both": replace(there, precision="bfloat16", gradient_checkpointing=True),
    }


def chosen(controller: Controller, table: OutcomeTable) -> np.ndarray:
    """What a controller chooses for the test samples, each under a hard budget of its own: int64 (n,)."""
    test = table.split_rows("test")
    batch = Requests(controller, test, seed=0).batch(test.samples)
    contexts = ContextBatch(**{name: getattr(batch, name) for name in FIELDS})
    return controller.decide_batch(contexts, budget_ms=batch.budget_ms).action


def trained(table: OutcomeTable, options: TrainOptions) -> tuple[Controller, dict[str, Any]]:
    """One run: its controller, and what it took."""
    on_cuda = options.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    times = EpochTimes()
    made = train_controller(table, options, progress=times)
    wall, _ = times.seconds()
    stages = np.split(wall, [options.warm_epochs])
    found: dict[str, Any] = {
        "validation_reward": round(float(made.policy.facts["validation_reward"]), 4),
        "epoch_seconds": {
            name: round(float(np.median(seconds[1:] if len(seconds) > 1 else seconds)), 4)
            for name, seconds in zip(("outcome", "grpo"), stages, strict=True)
        },
    }
    if on_cuda:
        found["device_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return made.controller, found


def measure(device: torch.device, samples: int, configurations: int, epochs: int) -> dict[str, Any]:
    """Everything, as it is written."""
    actions = np.unique(np.linspace(0, SPACE.size - 1, configurations).astype(int)).tolist()
    with tempfile.TemporaryDirectory() as directory:
        table = read_table(write_generated(Path(directory) / "table", samples, actions=actions))
        base = TrainOptions(algorithm=ALGORITHM, warm_epochs=epochs, epochs=epochs)
        runs: dict[str, dict[str, Any]] = {}
        choices: dict[str, np.ndarray] = {}
        for name, options in variants(device.type, base).items():
            controller, runs[name] = trained(table, options)
            choices[name] = chosen(controller, table)
            same = float(np.mean(choices[name] == choices[PROCESSOR]))
            runs[name]["same_choices_as_processor"] = round(same, 4)
            print(name, runs[name], flush=True)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "algorithm": ALGORITHM,
        "samples": samples,
        "configurations": len(actions),
        "epochs": epochs,
        "runs": runs,
    }


def main() -> None:
    """Measure, print, and write on a CUDA device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--configurations", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=5, help="of each stage")
    options = parser.parse_args()
    words = "--device cpu --samples 300 --configurations 8 --epochs 1"
    device = asked_device(options.device, "gpu_training", words)
    found = measure(device, options.samples, options.configurations, options.epochs)
    print(json.dumps(found, indent=1))
    if device.type == "cuda":
        print(write_result("gpu_training", found))


if __name__ == "__main__":
    main()
