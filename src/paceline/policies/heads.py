"""Output heads: one logit per tested configuration (joint), or per knob option and summed (independent)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.errors import TrainError
from paceline.knobs import KnobSpace


class StackedLinear(nn.Module):
    """A linear layer per member, side by side: (members, batch, inputs) -> (members, batch, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        limit = inputs**-0.5 if inputs else 0.0
        self.weight = nn.Parameter(
            torch.empty(members, inputs, outputs).uniform_(-limit, limit, generator=generator)
        )
        self.bias = nn.Parameter(
            torch.empty(members, 1, outputs).uniform_(-limit, limit, generator=generator)
        )

    def forward(self, inputs: Float[Tensor, "member batch i"]) -> Float[Tensor, "member batch o"]:
        """Apply every member's layer to its own rows."""
        return torch.baddbmm(self.bias, inputs, self.weight)


class JointHead(StackedLinear):
    """A logit per tested configuration."""

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (member, hidden, action) and bias (member, 1, action)."""
        return self.weight, self.bias


class IndependentHead(nn.Module):
    """A logit per option of every knob; a configuration's logit is the sum over its options.

    It cannot express that knobs trade off against each other; it is the baseline head.
    """

    chosen: Tensor  # (options, action): 1 where a configuration holds an option

    def __init__(
        self, members: int, hidden: int, space: KnobSpace, actions: np.ndarray, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.options = StackedLinear(members, hidden, sum(space.shape), generator)
        offsets = np.concatenate([[0], np.cumsum(space.shape)[:-1]])
        columns = space.option_indices(actions) + offsets
        chosen = torch.zeros(sum(space.shape), len(actions))
        chosen[torch.from_numpy(columns.T.copy()), torch.arange(len(actions))] = 1.0
        self.register_buffer("chosen", chosen)

    def forward(self, hidden: Float[Tensor, "member batch h"]) -> Float[Tensor, "member batch action"]:
        """Logits of the tested configurations."""
        return self.options(hidden) @ self.chosen

    def folded(self) -> tuple[Tensor, Tensor]:
        """The same function as one linear layer: weight (member, hidden, action), bias (member, 1, action)."""
        return self.options.weight @ self.chosen, self.options.bias @ self.chosen


def make_head(
    name: str, *, members: int, hidden: int, space: KnobSpace, actions: np.ndarray, generator: torch.Generator
) -> JointHead | IndependentHead:
    """The head called `name` over the tested `actions`."""
    if name == "joint":
        return JointHead(members, hidden, len(actions), generator)
    if name == "independent":
        return IndependentHead(members, hidden, space, actions, generator)
    raise TrainError(f"head: got {name!r}, expected 'joint' or 'independent'")
