"""Accuracy by kind and latency along each knob of the embedded model, on the test split."""

import argparse
import statistics
import time
from collections import Counter, defaultdict

import numpy as np
import torch

from benchmarks.record import RESULTS, write_result
from paceline.knobs import Configuration
from paceline.models.protocol import ElasticModel
from paceline.models.registry import load_model
from paceline.report.plots import knob_curves
from paceline.tasks.digits import DigitsTask
from paceline.tasks.protocol import Sample


def curve_configurations(model: ElasticModel) -> list[Configuration]:
    """Every option of each knob with the others full, and the cheapest configuration."""
    found = [model.knobs.full, model.knobs.cheapest]
    for knob in model.knobs.knobs:
        found += [{**model.knobs.full, knob.name: option} for option in knob.options[:-1]]
    return found


def accuracy(
    model: ElasticModel, task: DigitsTask, samples: list[Sample], configurations: list[Configuration]
) -> list[dict[str, float]]:
    """Accuracy by kind, and the mean over kinds, of each configuration."""
    right = [defaultdict(list) for _ in configurations]
    for start in range(0, len(samples), 64):
        part = samples[start : start + 64]
        overviews = [model.overview(task.image(sample), sample.question) for sample in part]
        for index, configuration in enumerate(configurations):
            texts = model.generate_batch(overviews, configuration, task.max_new_tokens)
            for sample, text in zip(part, texts, strict=True):
                right[index][sample.kind].append(task.score(sample, text))
        print(f"accuracy: {start + len(part)} of {len(samples)} questions", flush=True)
    rows = []
    for scores in right:
        kinds = {kind: round(float(np.mean(scores[kind])), 4) for kind in task.kinds}
        rows.append({"mean": round(float(np.mean(list(kinds.values()))), 4), **kinds})
    return rows


def latency(
    model: ElasticModel,
    task: DigitsTask,
    samples: list[Sample],
    configurations: list[Configuration],
    rounds: int,
) -> list[dict[str, float]]:
    """Median, 10th and 90th percentile of the whole call at batch 1, configurations interleaved in random order."""
    rng = np.random.default_rng(0)
    times: list[list[float]] = [[] for _ in configurations]
    for number in range(-1, rounds):
        sample = samples[number % len(samples)]
        image = task.image(sample)
        for index in rng.permutation(len(configurations)):
            start = time.perf_counter()
            model.generate(model.overview(image, sample.question), configurations[index], task.max_new_tokens)
            if number >= 0:
                times[index].append((time.perf_counter() - start) * 1e3)
    return [
        {
            "latency_ms": statistics.median(row),
            "p10_ms": np.quantile(row, 0.1),
            "p90_ms": np.quantile(row, 0.9),
        }
        for row in times
    ]


def main() -> None:
    """Measure, check nothing, write benchmarks/results/embedded_model.json and .svg."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--split", default="test")
    parser.add_argument("--name", default="embedded_model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task, model = DigitsTask(), load_model(options.model)
    samples = task.samples(options.split, options.questions, seed=7)
    configurations = curve_configurations(model)
    timed = latency(model, task, samples, configurations, options.rounds)
    scored = accuracy(model, task, samples, configurations)
    answers = {kind: Counter(s.answer for s in samples if s.kind == kind) for kind in task.kinds}
    majority = {kind: round(max(c.values()) / c.total(), 4) for kind, c in answers.items()}
    full, cheapest = 0, 1
    knobs = {}
    for knob in model.knobs.knobs:
        least = configurations.index({**model.knobs.full, knob.name: knob.options[0]})
        knobs[knob.name] = {
            "buys": round(scored[full]["mean"] - scored[least]["mean"], 4),
            "costs": round(timed[full]["latency_ms"] / timed[least]["latency_ms"], 3),
        }
    rows = [
        {"configuration": c, "accuracy": a, **{key: round(float(v), 3) for key, v in t.items()}}
        for c, a, t in zip(configurations, scored, timed, strict=True)
    ]
    summary = {
        "questions": len(samples),
        "questions_by_kind": {kind: c.total() for kind, c in answers.items()},
        "majority": majority,
        "full_accuracy": scored[full],
        "full_minus_cheapest": round(scored[full]["mean"] - scored[cheapest]["mean"], 4),
        "above_majority": {kind: round(scored[full][kind] - majority[kind], 4) for kind in task.kinds},
        "latency_ratio": round(timed[full]["latency_ms"] / timed[cheapest]["latency_ms"], 3),
        "knobs": knobs,
    }
    path = write_result(options.name, {**summary, "configurations": rows})
    by_configuration = {tuple(row["configuration"].values()): row for row in rows}
    curves = [
        {
            "knob": knob.name,
            "option": option,
            "accuracy": by_configuration[tuple({**model.knobs.full, knob.name: option}.values())]["accuracy"][
                "mean"
            ],
            "latency_ms": by_configuration[tuple({**model.knobs.full, knob.name: option}.values())][
                "latency_ms"
            ],
        }
        for knob in model.knobs.knobs
        for option in knob.options
    ]
    knob_curves(curves, RESULTS / f"{options.name}.svg")
    print(f"{path}\n{summary}")


if __name__ == "__main__":
    main()
