"""What `AdaptiveModel.generate` adds to the bare model's time at the same configuration, end to end.

    python -m benchmarks.end_to_end                          # the embedded model and its controller, about 3 minutes
    python -m benchmarks.end_to_end --requests 20            # a quick look

One process, one thread, batch 1, fresh questions of the digits task. Every question is asked under every budget, in one
random order. Each time it is answered twice, one right after the other and either first at random: through the
controller, and by the bare model (overview and generation) at the configuration that the controller chose; the added
time is the difference. Intervals are of bootstrap draws of whole questions.

The bare model looks first, too. What that costs beside computing all crops of the full configuration at once is
measured in the same run, as `overview_split`. The bar: both medians together are at most 1 % of the full
configuration's latency.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.record import write_result
from paceline.cli.threads import one_thread
from paceline.images import image_array
from paceline.knobs import Configuration
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.one_crop import OneCrop
from paceline.models.registry import load_model
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.answer import Answer, Overhead
from paceline.runtime.controller import Controller
from paceline.tasks.registry import load_task

LIMIT = 0.01
"""The bar: added time as a share of the full configuration's latency."""
SHARES = (0.35, 0.5, 0.75, 1.25)
"""Hard budgets, as shares of the full configuration's expected latency."""
REPLICATES = 2000
WARM_UP = 12
"""Pairs that are not kept."""
PARTS = ("features_ms", "workloads_ms", "decision_ms", "bookkeeping_ms", "total_ms")

Budgets = Mapping[str, Any]
Asked = tuple[Image.Image, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One question under one budget, answered both ways at one configuration. Times in milliseconds."""

    request: int
    budget: str
    configuration: Configuration
    adaptive_ms: float
    bare_ms: float
    overhead: Overhead
    again: bool  # the bare answer of before was at another configuration and was made again, after the adaptive one

    @property
    def added_ms(self) -> float:
        """What the controller added."""
        return self.adaptive_ms - self.bare_ms


def turns(requests: int, budgets: Sequence[str], seed: int) -> Iterator[tuple[int, str, bool]]:
    """(request, budget, whether the bare model comes first): every pair once, in one random order.

    >>> sorted({(request, budget) for request, budget, _ in turns(2, ["a", "b"], seed=0)})
    [(0, 'a'), (0, 'b'), (1, 'a'), (1, 'b')]
    """
    rng = np.random.default_rng(seed)
    for place in rng.permutation(requests * len(budgets)):
        request, budget = divmod(int(place), len(budgets))
        yield request, budgets[budget], bool(rng.integers(2))


def measure(
    adaptive: AdaptiveModel,
    asked: Sequence[Asked],
    budgets: Mapping[str, Budgets],
    *,
    seed: int,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Pair]:
    """All pairs, in the order in which they were measured."""
    length = adaptive.controller.guard.max_new_tokens

    def bare(request: int, configuration: Configuration) -> float:
        started = clock()
        adaptive.model.generate(adaptive.model.overview(*asked[request]), configuration, length)
        return 1000.0 * (clock() - started)

    def chosen(request: int, budget: str) -> tuple[Answer, float]:
        started = clock()
        answer = adaptive.generate(*asked[request], **budgets[budget])
        return answer, 1000.0 * (clock() - started)

    order = list(turns(len(asked), list(budgets), seed))
    expected = {(request, budget): chosen(request, budget)[0].configuration for request, budget, _ in order}
    pairs = []
    for request, budget, bare_first in [*order[:warm_up], *order]:
        before = expected[request, budget]
        bare_ms = bare(request, before) if bare_first else float("nan")
        answer, adaptive_ms = chosen(request, budget)
        again = bare_first and answer.configuration != before
        if again or not bare_first:
            bare_ms = bare(request, answer.configuration)
        pairs.append(
            Pair(
                request=request,
                budget=budget,
                configuration=answer.configuration,
                adaptive_ms=adaptive_ms,
                bare_ms=bare_ms,
                overhead=answer.overhead,
                again=again,
            )
        )
    return pairs[warm_up:]


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles.

    >>> spread(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    {'median': 3.0, 'lower_quartile': 2.0, 'upper_quartile': 4.0}
    """
    lower, median, upper = (round(float(value), 4) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def median_interval(values: np.ndarray, requests: np.ndarray, seed: int = 0) -> list[float]:
    """95 % interval of the median of `values`, by bootstrap over whole requests (values of one stay together)."""
    groups = [values[requests == request] for request in np.unique(requests)]
    rng = np.random.default_rng(seed)
    draws = [
        float(np.median(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])))
        for _ in range(REPLICATES)
    ]
    return [round(float(end), 4) for end in np.quantile(draws, [0.025, 0.975])]


def together_interval(
    added: np.ndarray, requests: np.ndarray, split: np.ndarray, seed: int = 0
) -> list[float]:
    """95 % interval of the sum of both medians: `added` per pair, `split` per request, drawn by whole requests."""
    groups = [added[requests == request] for request in range(len(split))]
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(REPLICATES):
        drawn = rng.integers(len(split), size=len(split))
        draws.append(np.median(np.concatenate([groups[i] for i in drawn])) + np.median(split[drawn]))
    return [round(float(end), 4) for end in np.quantile(draws, [0.025, 0.975])]


def compared(pairs: Sequence[Pair], full_ms: float) -> dict[str, Any]:
    """Both times, their paired difference and its share of the full configuration's latency."""
    added = np.array([pair.added_ms for pair in pairs])
    interval = median_interval(added, np.array([pair.request for pair in pairs]))
    return {
        "pairs": len(pairs),
        "configurations": len({tuple(pair.configuration.items()) for pair in pairs}),
        "adaptive_ms": spread(np.array([pair.adaptive_ms for pair in pairs])),
        "bare_ms": spread(np.array([pair.bare_ms for pair in pairs])),
        "added_ms": spread(added) | {"interval": interval},
        "added_share": round(float(np.median(added)) / full_ms, 5),
        "added_share_interval": [round(end / full_ms, 5) for end in interval],
    }


def breakdown(pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """What the answers themselves say of the added time, by part."""
    return {part: spread(np.array([getattr(pair.overhead, part) for pair in pairs])) for part in PARTS}


def result(pairs: Sequence[Pair], full_ms: float, first_and_once_ms: np.ndarray) -> dict[str, Any]:
    """The numbers of a run, and the bar. `first_and_once_ms`: see `overview_split`."""
    overall = compared(pairs, full_ms)
    split = split_result(first_and_once_ms)
    named = {" ".join(f"{k}={v}" for k, v in pair.configuration.items()) for pair in pairs}
    by_configuration = {
        name: compared(found, full_ms)
        for name in sorted(named)
        if len(
            found := [p for p in pairs if name == " ".join(f"{k}={v}" for k, v in p.configuration.items())]
        )
        >= 20
    }
    added_ms = overall["added_ms"]["median"] + split["added_ms"]["median"]
    ends = together_interval(
        np.array([pair.added_ms for pair in pairs]),
        np.array([pair.request for pair in pairs]),
        first_and_once_ms[:, 0] - first_and_once_ms[:, 1],
    )
    share = round(added_ms / full_ms, 5)
    return {
        "bar": {
            "added_ms": round(added_ms, 4),
            "added_share": share,
            "added_share_interval": [round(end / full_ms, 5) for end in ends],
            "limit": LIMIT,
            "met": share <= LIMIT,
        },
        "full_latency_ms": round(full_ms, 3),
        "overall": overall,
        "overview_split": split,
        "breakdown_ms": breakdown(pairs),
        "by_budget": {
            name: compared([pair for pair in pairs if pair.budget == name], full_ms)
            for name in sorted({pair.budget for pair in pairs})
        },
        "by_configuration": by_configuration,
        "answered_again": sum(pair.again for pair in pairs),
    }


def full_latency_ms(adaptive: AdaptiveModel, asked: Sequence[Asked]) -> float:
    """Median time of the bare model at the full configuration."""
    length, times = adaptive.controller.guard.max_new_tokens, []
    for image, prompt in asked:
        started = time.perf_counter()
        adaptive.model.generate(
            adaptive.model.overview(image, prompt), adaptive.controller.space.full, length
        )
        times.append(1000.0 * (time.perf_counter() - started))
    return float(np.median(times))


@torch.inference_mode()
def overview_split(model: ElasticMolmoE, asked: Sequence[Asked], seed: int) -> np.ndarray:
    """Milliseconds to all embeddings of the full configuration, (requests, 2): overview first, or all crops at once.

    What looking first takes holds the pooled features; all crops at once make none.
    """
    molmo, crops = model.model, int(model.knobs.full["max_crops"])
    times = np.empty((len(asked), 2))
    rng = np.random.default_rng(seed)
    for row, (image, prompt) in enumerate(asked):
        tiling = molmo.tiling((image.height, image.width), crops)
        for way in rng.permutation(2):
            started = time.perf_counter()
            if way == 0:
                molmo.image_tokens(molmo.overview(image, prompt).state, tiling)
            else:
                molmo.all_image_tokens(image_array(image), tiling)
                molmo.decoder.embed(torch.tensor(molmo.tokenizer.prompt_tokens(prompt)))
            times[row, way] = 1000.0 * (time.perf_counter() - started)
    return times


def split_result(first_and_once_ms: np.ndarray) -> dict[str, Any]:
    """Both times and their paired difference."""
    extra = first_and_once_ms[:, 0] - first_and_once_ms[:, 1]
    return {
        "overview_first_ms": spread(first_and_once_ms[:, 0]),
        "at_once_ms": spread(first_and_once_ms[:, 1]),
        "added_ms": spread(extra) | {"interval": median_interval(extra, np.arange(len(extra)))},
    }


def main() -> None:
    """Write benchmarks/results/NAME.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2_024)
    parser.add_argument("--name", default="end_to_end", help="of the result file")
    options = parser.parse_args()
    one_thread()
    model, controller, task = load_model("tiny"), Controller.load("tiny"), load_task("digits")
    assert isinstance(model, ElasticMolmoE)
    samples = task.samples("test", options.requests, options.seed)
    asked = [(task.image(sample), sample.question) for sample in samples]
    with tempfile.TemporaryDirectory() as cache:  # measured now, and not kept for others
        adaptive = AdaptiveModel(model, controller, cache_dir=Path(cache), on_message=print)
        calibration = adaptive.calibrate()
    full_ms = full_latency_ms(adaptive, asked)
    budgets: dict[str, Budgets] = {f"{share:.0%}": {"budget": f"{100 * share:g}%"} for share in SHARES}
    budgets |= {"none": {}, "average 50%": {"average_budget_ms": 0.5 * full_ms}}
    pairs = measure(adaptive, asked, budgets, seed=options.seed)
    first_and_once_ms = overview_split(model, asked, options.seed)
    values = {
        "model": "tiny",
        "requests": len(asked),
        "calibration_ratio": round(calibration.ratio, 3),
        "calibration_spread": round(
            float(np.std(np.log(np.divide(calibration.measured_ms, calibration.predicted_ms)))), 3
        ),
        "compiled_overview": OneCrop.compiled()[:1],
        **result(pairs, full_ms, first_and_once_ms),
    }
    print(values["bar"], values["breakdown_ms"])
    print(write_result(options.name, values))


if __name__ == "__main__":
    main()
