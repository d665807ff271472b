"""The global picture of a controller: what it chooses for which questions and budgets, and by which inputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.errors import BudgetError, ControllerError
from paceline.evaluation.budget_grid import budget_grid, deadline_grid
from paceline.evaluation.importance import importance, orders
from paceline.evaluation.surrogate import DEPTH, Decisions, surrogate
from paceline.evaluation.usage import usage
from paceline.learning.checks import check_whole
from paceline.learning.principal import principal_components
from paceline.learning.progress import Progress, SilentProgress
from paceline.outcomes.bootstrap import SceneBootstrap
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.controller import Controller
from paceline.runtime.recorded import ALL, RecordedRequests, Shown

COMPONENTS = 3
"""Principal components of image and of question features that the surrogate tree may ask about."""
KINDS = 12
"""Kinds of question, the most frequent ones, that it may ask about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainOptions:
    """What is explained, and how much work goes into it."""

    split: str = "test"
    budgets_ms: tuple[float, ...] | None = None  # hard budgets; None: by quantiles of configuration latency
    average_budgets_ms: tuple[float, ...] | None = None  # likewise
    samples: int = 2000  # explained at most, drawn at random
    permutations: int = 5  # of features among samples, per group
    replicates: int = 1000  # of the bootstrap
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("permutations", 1), ("replicates", 100), ("seed", 0)):
            check_whole(f"explain {name}", getattr(self, name), least, ControllerError)


def explain_controller(
    controller: Controller,
    table: OutcomeTable,
    options: ExplainOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What a controller does on the samples of a split: use of configurations, importance of inputs, surrogate tree.

    Keys: samples, unit, knobs, policy, and per kind of budget ("hard", "average"; runtimes have no average) budgets_ms,
    use, importance and surrogate. Raises OutcomesError for an empty split and for outcomes of other knobs or features,
    ControllerError for configurations that were not tested, BudgetError for budgets that make no sense.
    """
    options = options or ExplainOptions()
    rows = table.split_rows(options.split)
    requests = RecordedRequests(controller, _some(rows, options))
    budgets = _budgets(requests, options)
    bootstrap = SceneBootstrap(requests.problem.scene, replicates=options.replicates, seed=options.seed)
    progress = progress or SilentProgress()
    progress.start(4 * len(budgets), "explaining")
    modes = {
        mode: _mode(requests, mode, amounts, options, bootstrap, progress)
        for mode, amounts in budgets.items()
    }
    policy = controller.policy.spec
    return {
        "samples": {
            "split": options.split,
            "explained": len(requests),
            "of": rows.samples,
            "incomplete": requests.incomplete,
            "scenes": len(np.unique(requests.problem.scene)),
        },
        "unit": controller.quantity.unit,
        "known_before": controller.quantity.known_before,
        "knobs": [knob.name for knob in controller.space.knobs],
        "policy": {
            "algorithm": (controller.provenance.get("training") or {}).get("algorithm"),
            "output": policy.output,
            "configurations": len(controller.actions),
        },
        "permutations": options.permutations,
        "seed": options.seed,
        **modes,
    }


def _some(table: OutcomeTable, options: ExplainOptions) -> OutcomeTable:
    """The samples, or as many of them as are asked for, in their order."""
    if table.samples <= options.samples:
        return table
    drawn = np.random.default_rng(options.seed).choice(table.samples, options.samples, replace=False)
    return table.select(np.sort(drawn))


def _budgets(requests: RecordedRequests, options: ExplainOptions) -> dict[str, list[float]]:
    """Budgets by kind: those of the options, else by rule."""
    problem, quantity = requests.problem, requests.controller.quantity
    if not quantity.known_before:
        if options.average_budgets_ms:
            quantity.check_average(options.average_budgets_ms)
        return {"hard": sorted(set(options.budgets_ms or deadline_grid(problem)[0]))}
    ruled, _ = budget_grid(problem.configuration_mean_ms, problem.unit_ms)
    lowest = requests.controller.lowest_average_ms
    held = [budget for budget in ruled if budget >= lowest] or [lowest]
    average = list(options.average_budgets_ms or held)
    if min(average) < lowest * (1.0 - 1e-9):
        raise BudgetError(
            f"average budgets: got {', '.join(f'{b:g}' for b in average)}, expected at least "
            f"{quantity.text(lowest)}, the lowest mean that this controller can hold"
        )
    return {"hard": sorted(set(options.budgets_ms or ruled)), "average": sorted(set(average))}


def _mode(
    requests: RecordedRequests,
    mode: str,
    budgets: list[float],
    options: ExplainOptions,
    bootstrap: SceneBootstrap,
    progress: Progress,
) -> dict[str, Any]:
    """Everything about one kind of budget."""
    choices = _Choices(requests, mode, budgets)
    chosen, fits = choices.under(ALL)
    space, actions, kind = requests.problem.space, requests.controller.actions, requests.problem.kind
    use = [
        {
            "budget_ms": budget,
            "fits": float(fits[:, k].mean()),
            "accuracy": float(choices.accuracy(chosen)[:, k].mean()),
            "kinds": usage(space, actions, chosen[:, k], kind),
        }
        for k, budget in enumerate(budgets)
    ]
    groups: dict[str, Any] = {}
    mixed = orders(len(requests), options.permutations, options.seed)
    variants = {
        "image": [Shown(image=order) for order in mixed],
        "question": [Shown(question=order) for order in mixed],
        "budget": [Shown(budget=False)],
    }
    for group, shown in variants.items():
        progress.advance()
        groups[group] = _importance(choices, group, shown, chosen, bootstrap)
    progress.advance()
    found = surrogate(_decisions(requests, chosen, budgets), depth=DEPTH, seed=options.seed)
    return {
        "budgets_ms": budgets,
        "use": use,
        "importance": groups,
        "surrogate": None if found is None else found | {"tree": _named(found["tree"], requests)},
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Choices:
    requests: RecordedRequests
    mode: str
    budgets: list[float]

    def under(self, shown: Shown) -> tuple[np.ndarray, np.ndarray]:
        """(positions, whether anything fits), each (n, budgets)."""
        name = "budget_ms" if self.mode == "hard" else "average_ms"
        found = [self.requests.choices(**{name: budget}, shown=shown) for budget in self.budgets]
        chosen, fits = zip(*found, strict=True)
        return np.stack(chosen, axis=1), np.stack(fits, axis=1)

    def accuracy(self, chosen: np.ndarray) -> np.ndarray:
        """Accuracy of choices (n, budgets)."""
        limits = [budget if self.mode == "hard" else None for budget in self.budgets]
        columns = [self.requests.accuracy(chosen[:, k], limit) for k, limit in enumerate(limits)]
        return np.stack(columns, axis=1)

    def spent(self, chosen: np.ndarray) -> np.ndarray | None:
        """Expected latency of choices (n, budgets); None where it is known only afterwards."""
        if not self.requests.controller.quantity.known_before:
            return None
        return np.take_along_axis(self.requests.problem.mean_ms, chosen, axis=1)


def _importance(
    choices: _Choices, group: str, variants: list[Shown], chosen: np.ndarray, bootstrap: SceneBootstrap
) -> dict[str, Any]:
    spec = choices.requests.policy.spec
    if (spec.image_width, spec.feature_width - spec.image_width)[
        group == "question"
    ] == 0 and group != "budget":
        return {"not_read": f"the policy reads no {group} features"}
    if group == "budget" and choices.mode == "average" and spec.output == "accuracy":
        return {"not_read": "the policy does not read average budgets: they act through the price of time"}
    base, spent = choices.accuracy(chosen), choices.spent(chosen)
    changed, lost, more = [], [], []
    for shown in variants:
        other, _ = choices.under(shown)
        changed.append(other != chosen)
        lost.append(base - choices.accuracy(other))
        if spent is not None:
            more.append(choices.spent(other) - spent)  # pyright: ignore[reportOperatorIssue]
    return importance(
        np.stack(changed, axis=2),
        np.stack(lost, axis=2),
        np.stack(more, axis=2) if more else None,
        bootstrap,
    )


def _decisions(requests: RecordedRequests, chosen: np.ndarray, budgets: list[float]) -> Decisions:
    """Every decision with what a person could know of it."""
    names, columns = _inputs(requests)
    count, k = len(requests), len(budgets)
    inputs = np.concatenate(
        [np.tile(budgets, count)[:, None], np.repeat(np.stack(columns, axis=1), k, axis=0)]
        if columns
        else [np.tile(budgets, count)[:, None]],
        axis=1,
    )
    return Decisions(
        inputs=inputs.astype(np.float64),
        names=["budget", *names],
        chosen=chosen.reshape(-1),
        budget=np.tile(np.arange(k), count),
        scene=np.repeat(requests.problem.scene, k),
    )


def _inputs(requests: RecordedRequests) -> tuple[list[str], list[np.ndarray]]:
    """Names and values (n,) of what tells samples apart; constant ones are left out."""
    table = requests.table
    named: dict[str, np.ndarray] = {}
    kinds, counts = np.unique(table.kind, return_counts=True)
    for kind in kinds[np.argsort(-counts, kind="stable")][:KINDS].tolist():
        named[f"kind is {kind}"] = table.kind == kind
    least = int(requests.problem.configuration_mean_ms.argmin())
    named["prompt tokens"] = table.prompt_tokens[:, least] - table.vision_tokens[:, least]
    named["tiles of the image"] = table.tiles.max(axis=1)
    rows = requests.rows if requests.rows.ndim == 2 else requests.rows.mean(axis=0)
    width = requests.policy.spec.image_width
    for part, values in (("image", rows[:, :width]), ("question", rows[:, width:])):
        if values.shape[1]:
            found = principal_components(values.astype(np.float64), COMPONENTS).apply(values)
            named |= {f"{part} component {i + 1}": found[:, i] for i in range(found.shape[1])}
    varied = {
        name: values.astype(np.float64) for name, values in named.items() if values.min() < values.max()
    }
    return list(varied), list(varied.values())


def _named(node: dict[str, Any], requests: RecordedRequests) -> dict[str, Any]:
    """The tree with configurations in place of positions."""
    if "position" in node:
        action = int(requests.controller.actions[node["position"]])
        rest = {name: value for name, value in node.items() if name != "position"}
        return {"configuration": dict(requests.problem.space.configuration(action)), **rest}
    return node | {side: _named(node[side], requests) for side in ("low", "high")}
