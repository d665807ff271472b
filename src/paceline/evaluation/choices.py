"""What every contender chooses for the test samples, under every budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from paceline.evaluation import baselines
from paceline.evaluation.pricing import fit_price, one_hot
from paceline.learning.learners.contender import Contender
from paceline.learning.problem import Problem
from paceline.learning.progress import Progress

Shares = dict[str, list[np.ndarray]]
"""Contender -> shares (n, m) per budget: the probability with which a sample gets a configuration."""

BASELINES = 6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Budgets:
    """Under which contenders are compared; `None` among `hard_ms` is no deadline, where times are runtimes."""

    hard_ms: list[float]
    average_ms: list[float]
    violation_rate: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choices:
    """Of all contenders, for the samples of `test`."""

    test: Problem
    hard: Shares
    average: Shares = field(default_factory=dict)  # empty where times are known only afterwards
    unlimited: Shares = field(default_factory=dict)  # without a deadline; only where times are runtimes


def make_choices(
    fit: Problem,
    validation: Problem,
    test: Problem,
    contenders: Mapping[str, Contender],
    budgets: Budgets,
    progress: Progress,
) -> Choices:
    """Everything is chosen on `fit`, prices of contenders on `validation`; only the oracle sees test outcomes."""
    hard = _hard(fit, test, contenders, budgets, progress)
    if fit.cutoff_ms is not None:
        return Choices(test=test, hard=hard, unlimited=_unlimited(fit, test, contenders, progress))
    return Choices(test=test, hard=hard, average=_average(fit, validation, test, contenders, budgets, progress))


def joined_choices(parts: Sequence[Choices], test: Problem) -> Choices:
    """The choices of several folds for all their test samples, in the order of `parts`."""

    def join(name: str) -> Shares:
        first: Shares = getattr(parts[0], name)
        return {
            who: [np.concatenate([getattr(part, name)[who][k] for part in parts]) for k in range(len(shares))]
            for who, shares in first.items()
        }

    return Choices(test=test, hard=join("hard"), average=join("average"), unlimited=join("unlimited"))


def _hard(
    fit: Problem,
    test: Problem,
    contenders: Mapping[str, Contender],
    budgets: Budgets,
    progress: Progress,
) -> Shares:
    rate = budgets.violation_rate
    choosers: dict[str, Callable[[Problem, Problem, float], np.ndarray]] = {
        "best_static": lambda seen, asked, b: baselines.hard_static(seen, asked, b, rate),
        "full": lambda seen, asked, b: baselines.static_shares(asked, seen.full),
        "cheapest": lambda seen, asked, b: baselines.static_shares(asked, seen.cheapest),
        "random": lambda seen, asked, b: baselines.hard_random(asked, b),
        "lookup": lambda seen, asked, b: baselines.hard_lookup(seen, asked, b, rate),
        "oracle": lambda seen, asked, b: baselines.hard_oracle(asked, b),
    }
    problems = [(fit.under(b), test.under(b), b) for b in budgets.hard_ms]
    shares = {}
    for name, chooser in choosers.items():
        shares[name] = [chooser(*item) for item in problems]
        progress.advance()
    for name, contender in contenders.items():
        columns = [contender.choose(test, b, 0.0) for b in budgets.hard_ms]
        shares[name] = [one_hot(column, *test.accuracy.shape) for column in columns]
        progress.advance()
    return shares


def _unlimited(
    fit: Problem, test: Problem, contenders: Mapping[str, Contender], progress: Progress
) -> Shares:
    everlasting = Budgets(hard_ms=[np.inf], average_ms=[], violation_rate=1.0)
    shares = _hard(fit, test, {}, everlasting, progress)
    for name, contender in contenders.items():
        shares[name] = [one_hot(contender.choose(test, None, 0.0), *test.accuracy.shape)]
        progress.advance()
    return shares


def _average(
    fit: Problem,
    validation: Problem,
    test: Problem,
    contenders: Mapping[str, Contender],
    budgets: Budgets,
    progress: Progress,
) -> Shares:
    hull = baselines.best_mix(fit)
    choosers: dict[str, Callable[[float], np.ndarray]] = {
        "best_static": lambda b: hull.shares(b, *test.accuracy.shape),
        "full": lambda b: baselines.static_shares(test, fit.full),
        "cheapest": lambda b: baselines.static_shares(test, fit.cheapest),
        "random": lambda b: baselines.average_random(fit, test, b),
        "lookup": lambda b: baselines.average_lookup(fit, test, b, fit.unit_ms),
        "oracle": lambda b: baselines.average_oracle(test, b, fit.unit_ms),
    }
    for name, contender in contenders.items():
        choosers[name] = priced(contender, validation, test)
    shares = {}
    for name, chooser in choosers.items():
        shares[name] = [chooser(budget) for budget in budgets.average_ms]
        progress.advance()
    return shares


def priced(contender: Contender, validation: Problem, test: Problem) -> Callable[[float], np.ndarray]:
    """Shares on `test` under an average budget, at the price that meets it on `validation`."""

    def choose(budget_ms: float) -> np.ndarray:
        mix = fit_price(
            lambda price: contender.choose(validation, None, price), validation.mean_ms, budget_ms
        )
        return mix.shares(lambda price: contender.choose(test, None, price), test.mean_ms)

    return choose
