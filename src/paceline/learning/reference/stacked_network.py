"""Several small networks trained side by side: two hidden layers with dropout."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.policies.heads import StackedLinear


class StackedNetwork(nn.Module):
    """(member, batch, inputs) -> (member, batch, outputs): linear, ReLU, dropout, twice, then linear."""

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        dropout: float,
        generator: torch.Generator,
        zero_output: bool = False,
    ) -> None:
        """`zero_output`: start with outputs of 0, as a residual must."""
        super().__init__()
        self.dropout = dropout
        self.first = StackedLinear(members, inputs, hidden, generator)
        self.second = StackedLinear(members, hidden, hidden, generator)
        self.last = StackedLinear(members, hidden, outputs, generator)
        if zero_output:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(
        self, inputs: Float[Tensor, "member batch i"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "member batch o"]:
        """With a `generator`, dropout is drawn from it; without, nothing is dropped."""
        hidden = self._dropped(torch.relu(self.first(inputs)), generator)
        hidden = self._dropped(torch.relu(self.second(hidden)), generator)
        return self.last(hidden)

    def _dropped(self, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None or self.dropout == 0.0:
            return hidden
        keep = 1.0 - self.dropout
        return hidden * (torch.rand(hidden.shape, generator=generator) < keep) / keep
