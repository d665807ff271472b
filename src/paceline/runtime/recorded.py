"""What a controller decides on recorded samples, all of them at once. numpy only, apart from reading the problem."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.errors import OutcomesError
from paceline.learning.learners.policy_contender import policy_columns
from paceline.learning.problem import Problem, problem_of
from paceline.outcomes.feature_makers import difference, feature_maker, maker_label
from paceline.outcomes.table import OutcomeTable
from paceline.outcomes.workloads import over_actions
from paceline.policies.decision import action_logits, choose
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.runtime.controller import Controller

ROWS_AT_ONCE = 1024


def check_features_of(table: OutcomeTable, controller: Controller) -> None:
    """Raise OutcomesError for features that were made by another maker than those the controller was trained on."""
    trained = dict(controller.provenance.get("profile") or {}), dict(controller.provenance.get("model") or {})
    makers = (
        feature_maker(table.manifest.model, table.manifest.options),
        feature_maker(trained[1], trained[0]),
    )
    if makers[0] != makers[1]:
        raise OutcomesError(
            f"outcomes: their features were made by {maker_label(makers[0])}, the controller was trained on those of "
            f"{maker_label(makers[1])}{difference(*makers)}; name outcomes with the same features"
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shown:
    """What of n samples the policy is shown: the features of which samples, and whether the budget."""

    image: np.ndarray | None = None  # int (n,): whose image features each sample has; None: its own
    question: np.ndarray | None = None  # likewise
    budget: bool = True  # the guard and the price of time stay as they are


ALL = Shown()


class RecordedRequests:
    """The samples of a table as requests to a controller, each under one budget at a time."""

    def __init__(self, controller: Controller, table: OutcomeTable) -> None:
        """Of the samples on which all of the controller's configurations were tested.

        Raises:
            ControllerError: a configuration of the controller that was not tested, or features of another width.
            OutcomesError: another knob space, features of another maker, or no complete sample.
        """
        if table.space != controller.space:
            raise OutcomesError(
                f"outcomes: their knobs are {table.space.to_json()}, the controller's are "
                f"{controller.space.to_json()}; name the outcomes it was trained on, or others of the same knobs"
            )
        check_features_of(table, controller)
        policy_columns(controller.policy, table.actions)
        if len(table.actions) != len(controller.actions):
            table = over_actions(table, controller.actions)
        complete = np.asarray(table.tested.all(axis=1))
        if not complete.any():
            raise OutcomesError(
                f"outcomes: none of {len(complete)} samples was tested under all {len(controller.actions)} "
                "configurations of the controller; profile more samples"
            )
        self.incomplete = int((~complete).sum())
        self.controller = controller
        self.table = table if complete.all() else table.select(complete)
        self.problem: Problem = problem_of(self.table, controller.latency)
        policy = controller.policy
        self.policy = policy if type(policy) is NumpyPolicy else NumpyPolicy(policy.spec, policy.arrays)
        self.rows = self._read()
        self._full_ms = self.problem.sample_full_ms
        self._kept: tuple[Shown, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.problem.samples

    def choices(
        self, *, budget_ms: float | None = None, average_ms: float | None = None, shown: Shown = ALL
    ) -> tuple[np.ndarray, np.ndarray]:
        """(position of each sample's choice, int64 (n,); whether anything fits, bool (n,)).

        The choice is `Controller.decide`'s before the call starts, at the fitted price of an average budget; where
        nothing fits, the cheapest. A policy that reads the price is not shown it where the budget is hidden.
        """
        problem, controller, spec = self.problem, self.controller, self.policy.spec
        feasible = np.ones(problem.mean_ms.shape, dtype=bool)
        price = 0.0
        if budget_ms is not None:
            feasible &= problem.upper_ms <= budget_ms
        if average_ms is not None:
            price = controller.prices.price(average_ms / controller.scale)
            feasible &= average_ms >= controller.lowest_average_ms * (1.0 - 1e-9)
        read = 0.0 if spec.output == "logits" and not shown.budget else price
        scores = self._scores(shown, budget_ms if shown.budget else None, read)
        full_ms = spec.full_latency_ms * controller.scale
        logits = action_logits(spec, scores, problem.mean_ms, price, full_latency_ms=full_ms)
        chosen = choose(logits, problem.mean_ms, feasible)
        fits = chosen >= 0
        return np.where(fits, chosen, problem.mean_ms.argmin(axis=1)), fits

    def accuracy(self, chosen: np.ndarray, budget_ms: float | None) -> np.ndarray:
        """Accuracy of every sample's choice, float64 (n,); of solvers, 0 after the deadline."""
        return self.problem.under(budget_ms).accuracy[np.arange(len(self)), chosen]

    def _scores(self, shown: Shown, budget_ms: float | None, price: float) -> np.ndarray:
        """Scores (n, m), kept while only the price of an accuracy policy changes."""
        spec, same = self.policy.spec, budget_ms is None and self.policy.spec.output == "accuracy"
        if same and self._kept is not None and self._kept[0] is shown:
            return self._kept[1]
        on_profile = None if budget_ms is None else budget_ms / self.controller.scale
        full_ms = self._full_ms / self.controller.scale
        rows, parts = self._shown_rows(shown), []
        for start in range(0, len(self), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            told = spec.told_ms(on_profile, full_ms[part])
            parts.append(self.policy.row_scores(rows[..., part, :], told, price))
        scores = np.concatenate(parts).astype(np.float64)
        if same:
            self._kept = (shown, scores)
        return scores

    def _shown_rows(self, shown: Shown) -> np.ndarray:
        if shown.image is None and shown.question is None:
            return self.rows
        width = self.policy.spec.image_width
        parts = ((shown.image, slice(None, width)), (shown.question, slice(width, None)))
        own = np.arange(len(self))
        return np.concatenate(
            [self.rows[..., own if order is None else order, :][..., columns] for order, columns in parts],
            axis=-1,
        )

    def _read(self) -> np.ndarray:
        image, question = self.problem.image_features, self.problem.question_features
        parts: Sequence[np.ndarray] = [
            self.policy.rows(image[start : start + ROWS_AT_ONCE], question[start : start + ROWS_AT_ONCE])
            for start in range(0, len(image), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts, axis=-2)
