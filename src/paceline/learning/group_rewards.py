"""Rewards of groups of outcomes, as the training options say: published, masked or learned."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from paceline.errors import TrainError
from paceline.knobs import KnobSpace
from paceline.learning.dataset import DecisionProblem
from paceline.learning.options import TrainOptions
from paceline.learning.reward_model import load_reward_model
from paceline.policies.spec import PolicySpec
from paceline.rewards import configuration_complexity, masked_accuracy_reward, reward_v1, reward_v2


class GroupRewards:
    """The reward of every configuration of a split's samples under a context."""

    def __init__(
        self, problem: DecisionProblem, spec: PolicySpec, space: KnobSpace, options: TrainOptions
    ) -> None:
        """Raises TrainError for a reward model that cannot be read or is of other knobs, or a baseline untested."""
        self.options, self.full_ms = options, spec.full_latency_ms
        actions = np.array(spec.actions, dtype=np.int64)
        self.complexity = torch.from_numpy(configuration_complexity(space, actions)).float()
        full = space.action(space.full)
        self.baseline = None if options.baseline == "none" else Baseline(problem, actions == full, options)
        self.model = None if options.reward_model is None else load_reward_model(options.reward_model)
        self.shares = (
            None if self.model is None else torch.from_numpy(self.model.shares(space, actions)).float()
        )

    @torch.no_grad()
    def __call__(
        self,
        accuracy: Float[Tensor, "*group action"],
        mean_ms: Float[Tensor, "*group action"],
        budget: Float[Tensor, "*group 1"],
        price: Float[Tensor, "*group 1"],
    ) -> Float[Tensor, "*group action"]:
        """Rewards of outcomes under budgets in ms (inf: none) and prices.

        All but the masked reward need a budget: without a limit they take the full configuration's latency, and
        the price of time is charged on top. The weights of v1 are for seconds.
        """
        options = self.options
        if options.reward == "masked":
            return masked_accuracy_reward(accuracy, mean_ms, budget, self.full_ms, price, options.tie_break)[
                0
            ]
        limit = torch.where(budget < math.inf, budget, self.full_ms)
        charge = price * mean_ms / self.full_ms
        if options.reward == "v1":
            return reward_v1(accuracy, mean_ms / 1000.0, limit / 1000.0, options.reward_params) - charge
        if options.reward == "v2":
            baseline = None if self.baseline is None else self.baseline.accuracy(accuracy, limit)
            params, headroom = options.reward_params, options.baseline_headroom
            return reward_v2(accuracy, mean_ms, limit, self.complexity, params, baseline, headroom) - charge
        if options.reward == "learned" and self.model is not None and self.shares is not None:
            return self.model.rewards(accuracy, mean_ms, limit, self.shares) - charge
        raise ValueError(f"reward {options.reward!r} has no formula")


class Baseline:
    """What v2 counts accuracy against: the full configuration, or the best static one within the budget."""

    def __init__(self, problem: DecisionProblem, full: np.ndarray, options: TrainOptions) -> None:
        """`full`: bool (m,), true at the full configuration.

        Raises TrainError where the baseline of each sample is asked for and some have none.
        """
        self.per_sample = options.baseline_scope == "sample"
        self.means = torch.from_numpy(problem.configuration_means(problem.accuracy)).float()
        upper = problem.configuration_means(problem.upper_ms)
        if options.baseline == "full":
            self.limits, self.columns = torch.zeros(1), torch.from_numpy(np.flatnonzero(full))
        else:
            order = np.argsort(upper, kind="stable")
            means = self.means.numpy()[order]
            best = np.maximum.accumulate(means)
            first = np.maximum.accumulate(
                np.where(means > np.r_[-np.inf, best[:-1]], np.arange(len(order)), 0)
            )
            self.limits = torch.from_numpy(upper[order]).float()
            self.columns = torch.from_numpy(order[first])
        if self.per_sample:
            _check_tested(problem, self.columns.unique().numpy(), options.baseline)

    def accuracy(
        self, accuracy: Float[Tensor, "*group action"], limit_ms: Float[Tensor, "*group 1"]
    ) -> Float[Tensor, "*group 1"]:
        """Accuracy of the baseline within limits; of the cheapest configuration where none is within."""
        column = self.within(limit_ms)
        return accuracy.gather(-1, column) if self.per_sample else self.means[column]

    def within(self, limit_ms: Float[Tensor, "*group 1"]) -> Int[Tensor, "*group 1"]:
        """Column of the baseline: of those whose mean upper latency is within the limit, the most accurate."""
        place = torch.searchsorted(self.limits, limit_ms.contiguous(), right=True) - 1
        return self.columns[place.clamp(min=0)]


def _check_tested(problem: DecisionProblem, columns: np.ndarray, name: str) -> None:
    absent = ~problem.tested[:, columns].all(axis=1)
    if absent.any():
        raise TrainError(
            f"baseline: {int(absent.sum())} samples have no outcome under {name!r}; profile it on every sample, "
            "or use baseline_scope='split'"
        )
