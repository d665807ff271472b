"""All contenders under every kind of budget, judged on the same test samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paceline.errors import OutcomesError
from paceline.evaluation import baselines, results, routing
from paceline.evaluation.budget_grid import (
    budget_grid,
    check_average,
    check_hard,
    deadline_grid,
    fixed_grid,
)
from paceline.evaluation.choices import Budgets, Choices, baseline_choices, contender_choices
from paceline.learning.checks import check_whole
from paceline.learning.learners.contender import Contender
from paceline.learning.problem import Problem
from paceline.outcomes.bootstrap import SceneBootstrap


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
        check_whole("bootstrap replicates", self.replicates, 100, OutcomesError)
        check_whole("seed", self.seed, 0, OutcomesError)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """The budgets of a contest and the quantiles they stand for."""

    hard: tuple[list[float], list[float | None]]
    average: tuple[list[float], list[float | None]]
    routed: tuple[float, ...] = ()  # average budgets of a router between two prices

    def budgets(self, violation_rate: float) -> Budgets:
        """What choices are made under."""
        return Budgets(
            hard_ms=self.hard[0],
            average_ms=self.average[0],
            routed_ms=list(self.routed),
            violation_rate=violation_rate,
        )


def grid_of(fit: Problem, options: ContestOptions) -> Grid:
    """Budgets by rule, from `fit` alone, where the options name none; BudgetError for some that nothing can meet."""
    afterwards = fit.cutoff_ms is not None
    ruled = deadline_grid(fit) if afterwards else budget_grid(fit.configuration_mean_ms, fit.unit_ms)
    hard, average = ruled, ruled
    if options.budgets_ms is not None:
        hard = fixed_grid("budgets_ms", options.budgets_ms)
        check_hard(hard[0], fit)
    if options.average_budgets_ms is not None:
        average = fixed_grid("average_budgets_ms", options.average_budgets_ms)
        check_average(average[0], fit)
    return Grid(hard=hard, average=average, routed=routing.budgets_of(fit))


def contest(
    fit: Problem,
    test: Problem,
    contenders: Mapping[str, Contender],
    options: ContestOptions | None = None,
    *,
    validation: Problem | None = None,
) -> dict[str, Any]:
    """Judge the contenders ("paceline", "supervised", ...) and the baselines.

    Static configurations and lookups are chosen on `fit`, prices of contenders on `validation` (`fit` if None);
    everything is judged on `test`, whose outcomes only the oracle sees. Returns the keys hard, average (or par10 where
    times are runtimes), routing (for a router between two prices), static, kinds, latency_share_at_full_accuracy and
    its interval of the results object.
    """
    options = options or ContestOptions()
    fit, test = fit.with_unit(fit.unit_ms), test.with_unit(fit.unit_ms)
    validation = fit if validation is None else validation.with_unit(fit.unit_ms)
    grid = grid_of(fit, options)
    budgets = grid.budgets(options.violation_rate)
    choices = baseline_choices(fit, test, budgets)
    choices = choices.beside(contender_choices(contenders, validation, test, budgets))
    return judge(fit, test, choices, grid, options)


def judge(
    fit: Problem, test: Problem, choices: Choices, grid: Grid, options: ContestOptions
) -> dict[str, Any]:
    """The numbers of a contest from choices that are made; see `contest`."""
    bootstrap = SceneBootstrap(test.scene, replicates=options.replicates, seed=options.seed)
    value = judge_choices(test, choices, grid, bootstrap)
    value["hard"]["static_feasible"] = [
        baselines.best_static(fit.under(budget), budget, options.violation_rate) is not None
        for budget in grid.hard[0]
    ]
    if fit.cutoff_ms is None:
        average = value["average"]
        if "paceline" in choices.average:
            hull = baselines.best_mix(fit)
            average |= results.equal_latency_gain(test, choices.average["paceline"], hull, bootstrap)
        shares_at_full = {}
        for name, reached in choices.frontiers.items():
            shares_at_full[name], interval = results.full_accuracy_share(test, reached, bootstrap)
            if name == "paceline":
                value["latency_share_at_full_accuracy"] = shares_at_full[name]
                value["latency_share_at_full_accuracy_ci"] = interval
        average["latency_share_at_full_accuracy"] = shares_at_full
    return value


def judge_choices(test: Problem, choices: Choices, grid: Grid, bootstrap: SceneBootstrap) -> dict[str, Any]:
    """The numbers that need no more than the choices and what came of them."""
    worth = [test.under(budget) for budget in grid.hard[0]]
    hard = results.section(worth, choices.hard, *grid.hard, bootstrap)
    value: dict[str, Any] = {"hard": hard}
    if choices.unlimited:
        value["par10"] = results.par10_section(test, choices.unlimited, bootstrap)
    else:
        hard["violation_rate"] = results.violations(test, choices.hard, grid.hard[0])
        same = [test] * len(grid.average[0])
        average = results.section(same, choices.average, *grid.average, bootstrap)
        average["realised_share"] = {
            name: [ms / budget for ms, budget in zip(reached, grid.average[0], strict=True)]
            for name, reached in average["mean_latency_ms"].items()
        }
        value["average"] = average
    if choices.routed:
        value["routing"] = routing.routing_section(test, choices.routed, bootstrap)
    value["static"] = results.static_dots(test)
    value["kinds"] = results.kinds(worth, choices)
    return value
