"""A decision made again: under other budgets, or with parts of the request hidden, many at a time. numpy only."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.budgets import POSITION_RANGE
from paceline.policies.decision import action_logits, choose
from paceline.policies.numpy_policy import NumpyPolicy

if TYPE_CHECKING:
    from paceline.runtime.decision import Asked, Decision

ROWS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Variants:
    """k ways to ask the same again. Amounts are as the caller says budgets: delays not yet subtracted."""

    budget_ms: np.ndarray  # float64 (k,) of the whole call; inf: no limit
    first_token_budget_ms: np.ndarray  # float64 (k,); inf: no limit
    price: np.ndarray  # float64 (k,): accuracy per full latency
    reachable: np.ndarray  # bool (k,): whether any choice can meet the average budget
    shown: np.ndarray  # float64 (k, 2) in [0, 1]: how much of the scaled image and question features is shown

    def __len__(self) -> int:
        return len(self.price)

    def part(self, rows: slice) -> "Variants":
        """Some of them."""
        return Variants(**{name: getattr(self, name)[rows] for name in self.__slots__})


class Replay:
    """Scores and choices of one request's variants, by the network in float32 that its controller holds."""

    def __init__(self, decision: "Decision", asked: "Asked") -> None:
        seen, controller = decision.candidates, asked.controller
        policy = controller.policy
        self.decision = decision
        self.policy = policy if type(policy) is NumpyPolicy else NumpyPolicy(policy.spec, policy.arrays)
        self.full_ms = asked.full_ms  # expected latency of the full configuration, of this machine
        self.reachable = asked.reachable
        self.scale = controller.scale
        self.mean_ms = seen.mean_ms / decision.slowdown
        context = asked.context
        self._rows = self.policy.rows(context.image_features[None], context.question_features[None])
        self._part = np.repeat(np.arange(2), (self.policy.spec.image_width, self.policy.spec.question_width))

    @property
    def longest_read_ms(self) -> float:
        """What must be left of a budget for the policy to take it for no limit, on this machine as it is now."""
        return self.read_ms(POSITION_RANGE[1])

    def read_ms(self, position: Any) -> Any:
        """What is left of the budgets that the policy reads at a position of `encode_budget`, or at several."""
        spec, factor = self.policy.spec, self.scale * self.decision.slowdown
        if spec.inputs.relative:
            factor *= self.full_ms / self.scale / spec.full_latency_ms
        return factor * spec.budget_low_ms * (spec.budget_high_ms / spec.budget_low_ms) ** position

    def variants(self, count: int) -> Variants:
        """The decision as it was asked for, `count` times: arrays to change."""
        decision = self.decision
        whole, first = (
            np.inf if limit is None else limit
            for limit in (decision.budget_ms, decision.first_token_budget_ms)
        )
        return Variants(
            budget_ms=np.full(count, whole, dtype=np.float64),
            first_token_budget_ms=np.full(count, first, dtype=np.float64),
            price=np.full(count, decision.price, dtype=np.float64),
            reachable=np.full(count, self.reachable),
            shown=np.ones((count, 2)),
        )

    def weigh(self, variants: Variants) -> tuple[np.ndarray, np.ndarray]:
        """(what is maximised, divided by the temperature; feasible), each (k, m)."""
        parts = [
            self._weigh(variants.part(slice(start, start + ROWS_AT_ONCE)))
            for start in range(0, len(variants), ROWS_AT_ONCE)
        ]
        logits, feasible = zip(*parts, strict=True)
        return np.concatenate(logits), np.concatenate(feasible)

    def choices(self, variants: Variants) -> np.ndarray:
        """Positions of the choices, int64 (k,); -1 where nothing fits."""
        parts = []
        for start in range(0, len(variants), ROWS_AT_ONCE):
            logits, feasible = self._weigh(variants.part(slice(start, start + ROWS_AT_ONCE)))
            parts.append(choose(logits, np.broadcast_to(self.mean_ms, logits.shape), feasible))
        return np.concatenate(parts)

    def score(self, variants: Variants, positions: np.ndarray) -> np.ndarray:
        """Scores of one position per variant as `Candidates.scores` has them, float64 (k,)."""
        spec, price = self.policy.spec, variants.price
        logits, _ = self.weigh(replace(variants, price=np.minimum(price, spec.highest_price)))
        value = spec.temperature * logits[np.arange(len(positions)), positions]
        if spec.output == "logits":
            return value
        return value + price * self.mean_ms[positions] / (spec.full_latency_ms * self.scale)

    def _weigh(self, asked: Variants) -> tuple[np.ndarray, np.ndarray]:
        seen, spec = self.decision.candidates, self.policy.spec
        whole = asked.budget_ms - self.decision.unexpected_ms
        first = asked.first_token_budget_ms - self.decision.unexpected_ms
        feasible = (seen.upper_ms <= whole[:, None]) & asked.reachable[:, None]
        feasible &= seen.first_upper_ms <= first[:, None]
        translated = np.isfinite(first) & feasible.any(axis=1)
        longest = np.where(feasible, seen.upper_ms, -np.inf).max(axis=1)
        whole = np.where(translated, np.minimum(whole, longest), whole)
        told = spec.told_ms(whole / (self.scale * self.decision.slowdown), self.full_ms / self.scale)
        shown = self._rows * asked.shown[:, self._part].astype(np.float32)
        scores = self.policy.row_scores(shown, told, asked.price).astype(np.float64)
        full_ms = spec.full_latency_ms * self.scale
        return action_logits(spec, scores, self.mean_ms, asked.price, full_latency_ms=full_ms), feasible
