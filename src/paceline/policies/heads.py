"""Output heads by name; the two simplest: a logit per tested configuration, or per option of a knob and summed."""

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.errors import TrainError
from paceline.knobs import KnobSpace
from paceline.policies.autoregressive_head import AutoregressiveHead
from paceline.policies.continuous_head import ContinuousHead
from paceline.policies.embedding_head import EmbeddingHead
from paceline.policies.spec import HEADS, UNTESTED_HEADS
from paceline.policies.stacked import StackedLinear


class JointHead(StackedLinear):
    """A logit per tested configuration."""

    def exported(self, actions: np.ndarray | None = None) -> dict[str, Tensor]:
        """Weight (member, hidden, action) and bias (member, 1, action); TrainError for other `actions`."""
        if actions is not None:
            raise TrainError(
                "head: 'joint' has a logit for each tested configuration and none for others; train with one of "
                f"{list(UNTESTED_HEADS)} to score configurations that were not tested"
            )
        return {"head.weight": self.weight, "head.bias": self.bias}


class IndependentHead(nn.Module):
    """A logit per option of every knob; a configuration's logit is the sum over its options.

    It cannot express that knobs trade off against each other; it is the baseline head.
    """

    chosen: Tensor  # (options, action): 1 where a configuration holds an option

    def __init__(
        self, members: int, hidden: int, space: KnobSpace, actions: np.ndarray, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.space, self.tested = space, actions
        self.options = StackedLinear(members, hidden, sum(space.shape), generator)
        self.register_buffer("chosen", _options_held(space, actions))

    def forward(self, hidden: Float[Tensor, "member batch h"]) -> Float[Tensor, "member batch action"]:
        """Logits of the tested configurations."""
        return self.options(hidden) @ self.chosen

    def exported(self, actions: np.ndarray | None = None) -> dict[str, Tensor]:
        """The same function as one linear layer: weight (member, hidden, action), bias (member, 1, action).

        Over any `actions` whose options were all tested, in some configuration; TrainError for others.
        """
        chosen = self.chosen
        if actions is not None:
            held, seen = self.space.option_indices(actions), self.space.option_indices(self.tested)
            for column, knob in enumerate(self.space.knobs):
                new = np.setdiff1d(held[:, column], seen[:, column])
                if len(new):
                    raise TrainError(
                        f"head: 'independent' learned nothing of {knob.name} {knob.options[new[0]]!r}, which no tested "
                        "configuration holds; leave it out, or use head 'embedding'"
                    )
            chosen = _options_held(self.space, actions)
        return {"head.weight": self.options.weight @ chosen, "head.bias": self.options.bias @ chosen}


def _options_held(space: KnobSpace, actions: np.ndarray) -> Float[Tensor, "option action"]:
    offsets = np.concatenate([[0], np.cumsum(space.shape)[:-1]])
    columns = space.option_indices(actions) + offsets
    held = torch.zeros(sum(space.shape), len(actions))
    held[torch.from_numpy(columns.T.copy()), torch.arange(len(actions))] = 1.0
    return held


Head: TypeAlias = JointHead | IndependentHead | EmbeddingHead | AutoregressiveHead | ContinuousHead


def make_head(
    name: str, *, members: int, hidden: int, space: KnobSpace, actions: np.ndarray, generator: torch.Generator
) -> Head:
    """The head called `name` over the tested `actions`."""
    if name == "joint":
        return JointHead(members, hidden, len(actions), generator)
    kinds = {
        "independent": IndependentHead,
        "embedding": EmbeddingHead,
        "autoregressive": AutoregressiveHead,
        "continuous": ContinuousHead,
    }
    if name in kinds:
        return kinds[name](members, hidden, space, actions, generator)
    raise TrainError(f"head: got {name!r}, expected one of {list(HEADS)}")
