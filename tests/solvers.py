"""A table of solver runtimes: which of two solvers is fast hangs on the first feature; the third fails on half."""

import dataclasses

import numpy as np

from paceline.knobs import Knob, KnobSpace
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.table import OutcomeTable

CUTOFF_MS = 100_000.0
SPACE = KnobSpace((Knob(name="solver", options=("left", "right", "broken")),))


def solver_table(samples: int = 240, seed: int = 0, folds: int = 4) -> OutcomeTable:
    """Runtimes known only afterwards, as an import with --latency-unknown leaves them."""
    rng = np.random.default_rng(seed)
    side = rng.normal(size=samples)
    fast, slow = rng.uniform(500, 2_000, (2, samples)) * np.array([[1.0], [20.0]])
    lost = rng.random((samples, 3)) < np.array([0.0, 0.0, 0.5])
    runtime = np.stack([np.where(side < 0, fast, slow), np.where(side < 0, slow, fast), slow], axis=1)
    runtime = np.where(lost, CUTOFF_MS, runtime)
    counts = np.zeros((samples, 3), np.int32)
    place = np.arange(samples)
    return OutcomeTable(
        space=SPACE,
        actions=np.arange(3),
        sample_id=np.array([f"s{i}" for i in place]),
        dataset=np.where(place % 3 == 0, "first", "second"),
        split=np.array(["train", "train", "validation", "test"])[place % 4],
        image_hash=np.array([f"s{i}" for i in place]),
        question=np.array([""] * samples, dtype=object),
        kind=np.array(["instance"] * samples),
        accuracy=(~lost).astype(np.float32),
        latency_ms=runtime.astype(np.float32),
        first_token_ms=np.full((samples, 3), np.nan, np.float32),
        tiles=counts,
        vision_tokens=counts,
        prompt_tokens=counts,
        output_tokens=np.full((samples, 3), np.nan, np.float32),
        features=np.stack([side, rng.normal(size=samples)], axis=1).astype(np.float32),
        image_width=0,
        manifest=Manifest(space=SPACE, options={"latency_kind": "runtime", "features": {"kind": "columns"}}),
        fold=np.array([str(i % folds + 1) for i in place]),
    )


def priced_table(samples: int = 240, seed: int = 0) -> OutcomeTable:
    """The same solvers at a fixed price per call instead: right costs ten times left, nobody is late."""
    table = solver_table(samples, seed)
    prices = np.tile(np.array([0.001, 0.01, 0.002], np.float32), (samples, 1))
    accuracy = np.where(table.features[:, :1] < 0, [[1, 1, 0]], [[0, 1, 0]]).astype(np.float32)
    manifest = dataclasses.replace(
        table.manifest, options=table.manifest.options | {"latency_kind": "cost", "latency_unit": "usd"}
    )
    return dataclasses.replace(table, latency_ms=prices, accuracy=accuracy, manifest=manifest)
