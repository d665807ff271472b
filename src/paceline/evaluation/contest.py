"""All contenders under both kinds of budget, judged on the same test samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.evaluation import baselines, results
from paceline.evaluation.budget_grid import budget_grid, fixed_grid
from paceline.evaluation.pricing import choose_at, fit_price, one_hot
from paceline.learning.problem import Problem, Scorer
from paceline.learning.progress import Progress, SilentProgress
from paceline.outcomes.bootstrap import SceneBootstrap

BASELINES = 6
FRONTIER_PRICES = 48
"""Prices of time tried for the share of full's latency at which its accuracy is reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestOptions:
    """How contenders are compared."""

    budgets_ms: tuple[float, ...] | None = None  # hard budgets; None: by quantiles of configuration latency
    average_budgets_ms: tuple[float, ...] | None = None  # likewise
    violation_rate: float = 0.05  # promised share of requests over a hard budget
    replicates: int = 2000  # of the bootstrap
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.violation_rate < 1:
            raise OutcomesError(
                f"violation rate: got {self.violation_rate}, expected a share between 0 and 1"
            )
        if self.replicates < 100:
            raise OutcomesError(f"bootstrap replicates: got {self.replicates}, expected 100 or more")


def contest(
    fit: Problem,
    test: Problem,
    scorers: Mapping[str, Scorer],
    options: ContestOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge the scorers ("paceline", "supervised", ...) and the baselines.

    Everything is chosen on `fit` and judged on `test`; only the oracle looks at the test outcomes. Returns the keys
    hard, average, static, kinds, latency_share_at_full_accuracy and its interval of the results object.
    """
    options = options or ContestOptions()
    bootstrap = SceneBootstrap(test.scene, replicates=options.replicates, seed=options.seed)
    unit_ms = float(fit.configuration_mean_ms[fit.full])
    ruled = budget_grid(fit.configuration_mean_ms, unit_ms)
    hard = fixed_grid(options.budgets_ms) if options.budgets_ms else ruled
    average = fixed_grid(options.average_budgets_ms) if options.average_budgets_ms else ruled
    progress = progress or SilentProgress()
    progress.start(2 * (len(scorers) + BASELINES), "comparing contenders")

    hard_shares = _hard(fit, test, scorers, hard[0], options, progress)
    hard_section = results.section(test, hard_shares, *hard, bootstrap)
    hard_section["violation_rate"] = results.violations(test, hard_shares, hard[0])
    hard_section["static_feasible"] = [
        baselines.best_static(fit, budget, options.violation_rate) is not None for budget in hard[0]
    ]
    average_shares = _average(fit, test, scorers, average[0], unit_ms, progress)
    average_section = results.section(test, average_shares, *average, bootstrap)
    average_section["realised_share"] = {
        name: [ms / budget for ms, budget in zip(reached, average[0], strict=True)]
        for name, reached in average_section["mean_latency_ms"].items()
    }
    value = {
        "hard": hard_section,
        "average": average_section,
        "static": results.static_dots(test),
        "kinds": results.kinds(test, {"hard": hard_shares, "average": average_shares}),
    }
    if "paceline" in scorers:
        hull = baselines.best_mix(fit)
        average_section |= results.equal_latency_gain(test, average_shares["paceline"], hull, bootstrap)
    shares_at_full = {}
    for name, scorer in scorers.items():
        parts = _frontier(scorer, fit, test, unit_ms)
        shares_at_full[name], interval = results.full_accuracy_share(test, parts, bootstrap)
        if name == "paceline":
            value["latency_share_at_full_accuracy"] = shares_at_full[name]
            value["latency_share_at_full_accuracy_ci"] = interval
    average_section["latency_share_at_full_accuracy"] = shares_at_full
    return value


def _hard(
    fit: Problem,
    test: Problem,
    scorers: Mapping[str, Scorer],
    budgets_ms: list[float],
    options: ContestOptions,
    progress: Progress,
) -> dict[str, list[np.ndarray]]:
    rate = options.violation_rate
    choosers: dict[str, Callable[[float], np.ndarray]] = {
        "best_static": lambda b: baselines.hard_static(fit, test, b, rate),
        "full": lambda b: baselines.static_shares(test, fit.full),
        "cheapest": lambda b: baselines.static_shares(test, fit.cheapest),
        "random": lambda b: baselines.hard_random(test, b),
        "lookup": lambda b: baselines.hard_lookup(fit, test, b, rate),
        "oracle": lambda b: baselines.hard_oracle(test, b),
    }
    for name, scorer in scorers.items():
        choosers[name] = lambda b, scorer=scorer: baselines.hard_policy(scorer, test, b)
    return _choices(choosers, budgets_ms, progress)


def _average(
    fit: Problem,
    test: Problem,
    scorers: Mapping[str, Scorer],
    budgets_ms: list[float],
    unit_ms: float,
    progress: Progress,
) -> dict[str, list[np.ndarray]]:
    hull = baselines.best_mix(fit)
    choosers: dict[str, Callable[[float], np.ndarray]] = {
        "best_static": lambda b: hull.shares(b, *test.accuracy.shape),
        "full": lambda b: baselines.static_shares(test, fit.full),
        "cheapest": lambda b: baselines.static_shares(test, fit.cheapest),
        "random": lambda b: baselines.average_random(fit, test, b),
        "lookup": lambda b: baselines.average_lookup(fit, test, b, unit_ms),
        "oracle": lambda b: baselines.average_oracle(test, b, unit_ms),
    }
    for name, scorer in scorers.items():
        choosers[name] = _priced(scorer(fit, None), scorer(test, None), fit, test, unit_ms)
    return _choices(choosers, budgets_ms, progress)


def _priced(
    fit_values: np.ndarray, test_values: np.ndarray, fit: Problem, test: Problem, unit_ms: float
) -> Callable[[float], np.ndarray]:
    def choose(budget_ms: float) -> np.ndarray:
        mix = fit_price(fit_values, fit.mean_ms, budget_ms, unit_ms=unit_ms)
        return mix.shares(test_values, test.mean_ms)

    return choose


def _choices(
    choosers: Mapping[str, Callable[[float], np.ndarray]], budgets_ms: list[float], progress: Progress
) -> dict[str, list[np.ndarray]]:
    shares: dict[str, list[np.ndarray]] = {}
    for name, chooser in choosers.items():
        shares[name] = [chooser(budget) for budget in budgets_ms]
        progress.advance()
    return shares


def _frontier(scorer: Scorer, fit: Problem, test: Problem, unit_ms: float) -> list[np.ndarray]:
    """Choices on `test` at prices from free time up to where the cheapest budget would be met on `fit`."""
    fit_values = scorer(fit, None)
    cheapest_ms = float(np.where(fit_values > -np.inf, fit.mean_ms, np.inf).min(axis=1).mean())
    highest = fit_price(fit_values, fit.mean_ms, 1.05 * cheapest_ms, unit_ms=unit_ms).high
    prices = [0.0] if highest <= 0 else [0.0, *np.geomspace(1e-3 * highest, highest, FRONTIER_PRICES)]
    values = scorer(test, None)
    return [one_hot(choose_at(values, test.mean_ms, price, unit_ms), *values.shape) for price in prices]
