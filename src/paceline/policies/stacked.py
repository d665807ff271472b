"""A linear layer per member, side by side: what every network and head is made of."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


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
