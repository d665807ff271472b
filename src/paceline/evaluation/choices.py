"""What every contender chooses for the test samples, under every budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from paceline.evaluation import baselines
from paceline.evaluation.metrics import sample_latency
from paceline.evaluation.pricing import fit_price, one_hot
from paceline.learning.learners.contender import Contender
from paceline.learning.problem import Problem

Shares = dict[str, list[np.ndarray]]
"""Contender -> shares (n, m) per budget: the probability with which a sample gets a configuration."""

FRONTIER_PRICES = 48
"""Prices of time tried for the share of full's latency at which its accuracy is reached."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Budgets:
    """Under which contenders are compared."""

    hard_ms: list[float]
    average_ms: list[float]
    routed_ms: list[float] = field(default_factory=list)  # averages that allow for shares of dear calls
    violation_rate: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frontier:
    """What a contender reaches without a hard limit at rising prices of time, per test sample."""

    accuracy: np.ndarray  # float32 (n, prices)
    latency_ms: np.ndarray  # float32 (n, prices)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choices:
    """Of some contenders, for the samples of one test split."""

    hard: Shares
    average: Shares = field(default_factory=dict)  # empty where times are known only afterwards
    routed: Shares = field(
        default_factory=dict
    )  # for `routing.SHARES` of dear calls; only for a router between two prices
    unlimited: Shares = field(default_factory=dict)  # without a deadline; only where times are runtimes
    frontiers: dict[str, Frontier] = field(default_factory=dict)  # of learners, where times are known

    def beside(self, other: "Choices") -> "Choices":
        """These and another's contenders, for the same samples."""
        return Choices(
            hard=self.hard | other.hard,
            average=self.average | other.average,
            routed=self.routed | other.routed,
            unlimited=self.unlimited | other.unlimited,
            frontiers=self.frontiers | other.frontiers,
        )


def joined_choices(parts: Sequence[Choices]) -> Choices:
    """The choices of several folds, one after the other."""

    def join(name: str) -> Shares:
        first: Shares = getattr(parts[0], name)
        return {
            who: [np.concatenate([getattr(part, name)[who][k] for part in parts]) for k in range(len(shares))]
            for who, shares in first.items()
        }

    return Choices(
        hard=join("hard"), average=join("average"), routed=join("routed"), unlimited=join("unlimited")
    )


def averaged_choices(runs: Sequence[Choices]) -> Choices:
    """The mean of several runs of the same contenders on the same samples: what a run picked by chance would choose."""

    def mean(name: str) -> Shares:
        first: Shares = getattr(runs[0], name)
        return {
            who: [np.mean([getattr(run, name)[who][k] for run in runs], axis=0) for k in range(len(shares))]
            for who, shares in first.items()
        }

    return Choices(
        hard=mean("hard"), average=mean("average"), routed=mean("routed"), unlimited=mean("unlimited")
    )


def baseline_choices(fit: Problem, test: Problem, budgets: Budgets) -> Choices:
    """Of those that learn nothing from features; everything is chosen on `fit`, only the oracle sees `test`."""
    rate = budgets.violation_rate
    choosers: dict[str, Callable[[Problem, Problem, float], np.ndarray]] = {
        "best_static": lambda seen, asked, b: baselines.hard_static(seen, asked, b, rate),
        "full": lambda seen, asked, b: baselines.static_shares(asked, seen.full),
        "cheapest": lambda seen, asked, b: baselines.static_shares(asked, seen.cheapest),
        "random": lambda seen, asked, b: baselines.hard_random(asked, b),
        "lookup": lambda seen, asked, b: baselines.hard_lookup(seen, asked, b, rate),
        "oracle": lambda seen, asked, b: baselines.hard_oracle(asked, b),
    }

    def under(limits: Sequence[float]) -> Shares:
        problems = [(fit.under(b), test.under(b), b) for b in limits]
        return {name: [chooser(*item) for item in problems] for name, chooser in choosers.items()}

    if fit.cutoff_ms is not None:
        return Choices(hard=under(budgets.hard_ms), unlimited=under([np.inf]))
    hull, shape = baselines.best_mix(fit), test.accuracy.shape
    average: dict[str, Callable[[float], np.ndarray]] = {
        "best_static": lambda b: hull.shares(b, *shape),
        "full": lambda b: baselines.static_shares(test, fit.full),
        "cheapest": lambda b: baselines.static_shares(test, fit.cheapest),
        "random": lambda b: baselines.average_random(fit, test, b),
        "lookup": lambda b: baselines.average_lookup(fit, test, b, fit.unit_ms),
        "oracle": lambda b: baselines.average_oracle(test, b, fit.unit_ms),
    }
    return Choices(
        hard=under(budgets.hard_ms),
        average={name: [chooser(b) for b in budgets.average_ms] for name, chooser in average.items()},
        routed={
            name: [chooser(b) for b in budgets.routed_ms]
            for name, chooser in average.items()
            if budgets.routed_ms and name not in ("full", "cheapest")  # these ask for no budget
        },
    )


def contender_choices(
    contenders: Mapping[str, Contender], validation: Problem, test: Problem, budgets: Budgets
) -> Choices:
    """Of learners; their prices of time are found on `validation`."""
    shape = test.accuracy.shape
    hard = {
        name: [one_hot(contender.choose(test, b, 0.0), *shape) for b in budgets.hard_ms]
        for name, contender in contenders.items()
    }
    if test.cutoff_ms is not None:
        unlimited = {
            name: [one_hot(contender.choose(test, None, 0.0), *shape)]
            for name, contender in contenders.items()
        }
        return Choices(hard=hard, unlimited=unlimited)
    average, frontiers, routed = {}, {}, {}
    for name, contender in contenders.items():
        choose = priced(contender, validation, test)
        average[name] = [choose(b) for b in budgets.average_ms]
        if budgets.routed_ms:
            routed[name] = [choose(b) for b in budgets.routed_ms]
        frontiers[name] = frontier(contender, validation, test)
    return Choices(hard=hard, average=average, routed=routed, frontiers=frontiers)


def priced(contender: Contender, validation: Problem, test: Problem) -> Callable[[float], np.ndarray]:
    """Shares on `test` under an average budget, at the price that meets it on `validation`."""

    def choose(budget_ms: float) -> np.ndarray:
        mix = fit_price(
            lambda price: contender.choose(validation, None, price),
            validation.mean_ms,
            budget_ms,
            validation.spent_ms,
        )
        return mix.shares(lambda price: contender.choose(test, None, price), test.mean_ms)

    return choose


def frontier(contender: Contender, validation: Problem, test: Problem) -> Frontier:
    """Choices on `test` at prices from free time up to where the cheapest budget would be met on `validation`."""
    cheapest = one_hot(validation.mean_ms.argmin(axis=1), *validation.mean_ms.shape)
    cheapest_ms = float(sample_latency(validation, cheapest).mean())

    def at_price(price: float) -> np.ndarray:
        return contender.choose(validation, None, price)

    highest = fit_price(at_price, validation.mean_ms, 1.05 * cheapest_ms, validation.spent_ms).high
    highest = highest if np.isfinite(highest) else 1.0
    prices = [0.0] if highest <= 0 else [0.0, *np.geomspace(1e-3 * highest, highest, FRONTIER_PRICES)]
    rows = np.arange(test.samples)
    columns = [contender.choose(test, None, price) for price in prices]
    return Frontier(
        accuracy=np.stack([test.accuracy[rows, column] for column in columns], axis=1).astype(np.float32),
        latency_ms=np.stack([test.spent_ms[rows, column] for column in columns], axis=1).astype(np.float32),
    )
