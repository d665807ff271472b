"""A results object as `evaluate` writes it, computed from a small made-up world, and what else a report takes."""

from typing import Any

import numpy as np

from paceline.knobs import Knob, KnobSpace

SPACE = KnobSpace(
    (
        Knob(name="max_crops", options=(1, 2, 4, 6, 9, 12)),
        Knob(name="top_k", options=(1, 2, 4, 8)),
        Knob(name="num_active_blocks", options=(8, 10, 12, 14, 16)),
    )
)
KINDS: dict[str, tuple[float, float, float]] = {
    # how much each knob matters
    "count": (1.0, 0.1, 0.2), "read": (1.4, 0.0, 0.1), "sum": (0.5, 0.3, 1.1), "product": (0.1, 1.3, 0.4),
    "compare": (0.3, 0.1, 0.8), "pair code": (0.1, 1.5, 0.1), "parity": (0.0, 0.1, 0.2), "where": (0.2, 0.0, 0.0),
}  # fmt: skip
CONTENDERS = ("paceline", "best_static", "full", "cheapest", "random", "lookup", "supervised", "oracle")


class World:
    """Outcomes of `count` questions under 48 configurations."""

    def __init__(self, count: int = 600, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        inner = rng.choice(np.arange(1, SPACE.size - 1), 46, replace=False)
        self.actions = np.sort(np.concatenate([[0, SPACE.size - 1], inner]))
        levels = SPACE.option_indices(self.actions) / (np.array(SPACE.shape) - 1)
        self.kind = rng.choice(list(KINDS), count)
        weights = np.array([KINDS[kind] for kind in self.kind])
        hardness = rng.uniform(0.2, 1.6, (count, 1))
        lack = hardness * (weights @ (1 - levels).T)
        self.truth = 0.94 * np.exp(-lack)
        self.accuracy = (rng.random(self.truth.shape) < self.truth).astype(float)
        base = 14 * (0.35 + 1.9 * levels[:, 0]) * (0.5 + 0.5 * levels[:, 2]) * (0.8 + 0.5 * levels[:, 1]) + 9
        self.latency = base * rng.uniform(0.85, 1.2, (count, 1))
        self.measured = self.latency * rng.lognormal(0, 0.03, self.latency.shape)
        self.seen = self.truth + rng.normal(0, 0.015, self.truth.shape)
        self.rng = rng


def make_results(count: int = 600, seed: int = 0) -> dict[str, Any]:
    """The whole object: both kinds of budget, dots, kinds, samples, overhead and provenance."""
    world = World(count, seed)
    means = world.latency.mean(axis=0)
    quantiles = [0.10, 0.25, 0.50, 0.75, 0.90, 1.0]
    hard = [1.3 * float(np.quantile(means, q)) for q in quantiles[:-1]] + [float(means.max() * 1.2)]
    average = [float(np.quantile(means, q)) for q in quantiles[:-1]] + [float(means.max())]
    budgets = {"hard": hard, "average": average}
    picked = {mode: [_picks(world, budget, mode) for budget in values] for mode, values in budgets.items()}
    sections = {mode: _section(world, budgets[mode], quantiles, picked[mode], mode) for mode in budgets}
    return {
        **sections,
        "static": [
            {
                "action": int(action),
                "configuration": SPACE.configuration(int(action)),
                "accuracy": float(world.accuracy[:, column].mean()),
                "latency_ms": float(means[column]),
            }
            for column, action in enumerate(world.actions)
        ],
        "kinds": _kinds(world, picked),
        "latency_share_at_full_accuracy": 0.44,
        "latency_share_at_full_accuracy_ci": [0.36, 0.58],
        "samples": {"train": 2400, "validation": 600, "test": count},
        "overhead": {"decision_ms": 0.11, "features_ms": 0.32, "share": 0.0061},
        "provenance": {
            "model": "tiny", "task": "digits", "date": "2025-11-23", "violation_rate": 0.05,
            "hardware": {"cpu": "two cores of a server", "threads": 1},
            "software": {"paceline": "0.1.0", "torch": "2.13.0"},
            "latency": {"fitted_on_samples": 300, "relative_error": 0.041, "coverage": 0.953},
            "bootstrap": {"resamples": 2000, "clusters": "image"},
        },
    }  # fmt: skip


def _kinds(world: World, picked: dict[str, list[dict[str, np.ndarray]]]) -> dict[str, Any]:
    def accuracy(rows: np.ndarray, mode: str, name: str) -> list[float]:
        return [float(world.accuracy[rows, picks[name][rows]].mean()) for picks in picked[mode]]

    value = {}
    for kind in KINDS:
        rows = np.flatnonzero(world.kind == kind)
        by_mode = {mode: {name: accuracy(rows, mode, name) for name in CONTENDERS} for mode in picked}
        value[kind] = {"count": len(rows), "accuracy": by_mode}
    return value


def _section(
    world: World, budgets: list[float], quantiles: list[float], picked: list[dict[str, np.ndarray]], mode: str
) -> dict[str, Any]:
    rows = np.arange(len(world.kind))
    names = ("accuracy", "mean_latency_ms", "p50_latency_ms", "p95_latency_ms", "violation_rate")
    section: dict[str, Any] = {"budgets_ms": budgets, "quantiles": quantiles}
    section |= {name: {contender: [] for contender in CONTENDERS} for name in names}
    for metric in ("gain", "gain_over_lookup", "gain_over_supervised", "closed_gap"):
        section[metric], section[f"{metric}_ci"] = [], []
    section["configurations"] = {}
    section["knob_use"] = {name: [] for name in SPACE.names}
    section["knob_use_by_kind"] = {kind: {name: [] for name in SPACE.names} for kind in KINDS}
    options = np.array([[float(v) for v in SPACE.configuration(int(a)).values()] for a in world.actions])
    for index, (budget, picks) in enumerate(zip(budgets, picked, strict=True)):
        right = {name: world.accuracy[rows, column] for name, column in picks.items()}
        for name, column in picks.items():
            times = world.measured[rows, column]
            late = float((times > budget).mean()) if mode == "hard" else None
            values = (
                float(right[name].mean()),
                float(times.mean()),
                *np.percentile(times, [50, 95]).tolist(),
                late,
            )
            for metric, value in zip(names, values, strict=True):
                section[metric][name].append(value)
        draws = world.rng.integers(0, len(rows), (200, len(rows)))
        for metric, rival in (
            ("gain", "best_static"),
            ("gain_over_lookup", "lookup"),
            ("gain_over_supervised", "supervised"),
        ):
            gain = right["paceline"] - right[rival]
            section[metric].append(float(gain.mean()))
            section[f"{metric}_ci"].append(np.percentile(gain[draws].mean(axis=1), [2.5, 97.5]).tolist())
        room = right["oracle"] - right["best_static"]
        gain = right["paceline"] - right["best_static"]
        section["closed_gap"].append(float(gain.mean() / room.mean()))
        ratios = gain[draws].mean(axis=1) / room[draws].mean(axis=1)
        section["closed_gap_ci"].append(np.percentile(ratios, [2.5, 97.5]).tolist())
        columns, counts = np.unique(picks["paceline"], return_counts=True)
        section["configurations"][str(index)] = {
            str(world.actions[column]): float(number / len(rows))
            for column, number in zip(columns, counts, strict=True)
        }
        chosen = options[picks["paceline"]]
        for place, name in enumerate(SPACE.names):
            section["knob_use"][name].append(float(chosen[:, place].mean()))
            for kind in KINDS:
                section["knob_use_by_kind"][kind][name].append(
                    float(chosen[world.kind == kind, place].mean())
                )
    if mode == "hard":
        section["static_feasible"] = [True] * len(budgets)
    else:
        section["gain_at_equal_latency"], section["gain_at_equal_latency_ci"] = (
            section["gain"],
            section["gain_ci"],
        )
    section["closed_gap_mean"] = float(np.mean(section["closed_gap"]))
    section["closed_gap_mean_ci"] = np.mean(section["closed_gap_ci"], axis=0).tolist()
    return section


def _picks(world: World, budget: float, mode: str) -> dict[str, np.ndarray]:
    count, width = world.accuracy.shape
    static = np.zeros_like(world.truth) + world.truth.mean(axis=0)
    by_kind = np.stack([world.truth[world.kind == kind].mean(axis=0) for kind in world.kind])
    scores = {
        "paceline": world.seen, "supervised": world.seen + world.rng.normal(0, 0.02, world.seen.shape),
        "lookup": by_kind, "best_static": static, "oracle": world.accuracy,
        "random": world.rng.random(world.truth.shape),
    }  # fmt: skip
    picks = {"full": np.full(count, width - 1), "cheapest": np.zeros(count, dtype=int)}
    for name, score in scores.items():
        if mode == "hard":
            reach = world.latency.max(axis=0) if name == "best_static" else world.latency
            allowed = np.broadcast_to(reach * 1.06 <= budget, score.shape)
            masked = np.where(allowed, score - 1e-4 * world.latency, -np.inf)
            masked[:, 0] = np.where(allowed.any(axis=1), masked[:, 0], 0.0)
            picks[name] = masked.argmax(axis=1)
        else:
            low, high = 0.0, 1.0
            for _ in range(40):
                price = (low + high) / 2
                pick = (score - price * world.latency).argmax(axis=1)
                over = world.latency[np.arange(count), pick].mean() > budget
                low, high = (price, high) if over else (low, price)
            picks[name] = (score - high * world.latency).argmax(axis=1)
    return picks


def make_latency_samples(results: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """Measured latencies per kind of budget, contender and budget."""
    rng = np.random.default_rng(seed)
    samples: dict[str, Any] = {}
    for mode in ("hard", "average"):
        section = results[mode]
        samples[mode] = {
            name: [
                np.clip(rng.normal(mean, max(p95 - mean, 0.5) / 1.65, 300), 2, None)
                for mean, p95 in zip(
                    section["mean_latency_ms"][name], section["p95_latency_ms"][name], strict=True
                )
            ]
            for name in ("paceline", "best_static")
        }
    return samples


def make_live(seed: int = 2) -> dict[str, Any]:
    """Both live streams, the hard one with every request."""
    rng = np.random.default_rng(seed)
    budgets = rng.uniform(14, 60, 200)
    latencies = np.minimum(budgets * rng.uniform(0.55, 1.02, 200), 55)
    stream = rng.choice([14.0, 19.0, 33.0, 51.0], 200, p=[0.4, 0.25, 0.25, 0.1]) * rng.normal(1, 0.04, 200)
    return {
        "hard": {
            "requests": 200, "accuracy": 0.74, "best_static_accuracy": 0.66, "violation_rate": 0.02,
            "mean_latency_ms": float(latencies.mean()), "budget_ms": budgets.tolist(),
            "request_budget_ms": budgets.tolist(), "request_latency_ms": latencies.tolist(),
        },
        "average": {
            "requests": 200, "accuracy": 0.78, "best_static_accuracy": 0.69, "violation_rate": None,
            "mean_latency_ms": float(stream.mean()), "budget_ms": 25.0, "request_latency_ms": stream.tolist(),
        },
    }  # fmt: skip


def make_history(seed: int = 3) -> list[dict[str, Any]]:
    """A warm start, then policy optimisation, one record per validation."""
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    for step in range(0, 300, 10):
        loss = 0.7 * np.exp(-step / 90) + 0.3 + rng.normal(0, 0.01)
        records.append(
            {"stage": "warm start", "step": step, "train_loss": loss, "validation_loss": loss + 0.04}
        )
    for step in range(300, 900, 10):
        gone = (step - 300) / 600
        records.append(
            {
                "stage": "grpo", "step": step, "train_reward": 0.66 + 0.07 * gone**0.5 + rng.normal(0, 0.006),
                "validation_reward": 0.65 + 0.05 * gone**0.5 + rng.normal(0, 0.003), "kl": 0.02 * gone + 0.001,
                "entropy": 2.4 - 1.1 * gone + rng.normal(0, 0.03), "clip_fraction": abs(rng.normal(0.03, 0.01)),
                "zero_variance_groups": float(0.2 + 0.1 * gone + rng.normal(0, 0.01)),
            }
        )  # fmt: skip
    return records


def make_examples(seed: int = 4) -> list[dict[str, Any]]:
    """Three questions with pictures of blobs."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    texts = [
        ("How many digits are there?", "7", "7", "count", (640, 256)),
        ("What is the product of the two digits?", "42", "42", "product", (256, 256)),
        ("Which digit stands at the far right?", "3", "8", "read", (256, 512)),
    ]
    examples = []
    for question, answer, expected, kind, (width, height) in texts:
        canvas = np.full((height, width), 18.0)
        for _ in range(7):
            x, y = rng.integers(10, width - 60), rng.integers(10, height - 60)
            canvas[y : y + 48, x : x + 48] = np.kron(rng.integers(0, 255, (8, 8)), np.ones((6, 6)))
        examples.append(
            {
                "image": Image.fromarray(canvas.astype(np.uint8)), "question": question, "answer": answer,
                "expected": expected, "kind": kind, "budget_ms": 30.0, "latency_ms": 24.31,
                "configuration": SPACE.configuration(int(rng.integers(SPACE.size))),
                "why": "budget 30.0 ms, 3.1 ms already spent; 21 of 48 configurations fit\n"
                "  1  max_crops 4 · top_k 2 · num_active_blocks 10   score 0.81   22.9 ms  <- chosen\n"
                "  2  max_crops 2 · top_k 8 · num_active_blocks 12   score 0.74   21.0 ms\n"
                "  3  max_crops 12 · top_k 2 · num_active_blocks 16  score 0.93   51.2 ms  does not fit",
            }
        )  # fmt: skip
    return examples
