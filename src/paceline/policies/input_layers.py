"""The first layers of a policy network: learned attention pooling over tokens, learned reduction. torch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.policies.heads import StackedLinear


class ReducedLinear(nn.Module):
    """Two linear layers without anything between them: inputs -> reduced -> outputs, a learned projection.

    Deciding needs their product alone, which `weight` and `bias` are.
    """

    def __init__(
        self, members: int, inputs: int, reduced: int, outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.projection = StackedLinear(members, inputs, reduced, generator)
        self.linear = StackedLinear(members, reduced, outputs, generator)

    @property
    def weight(self) -> Float[Tensor, "member i o"]:
        """Of the one layer that both are."""
        return self.projection.weight @ self.linear.weight

    @property
    def bias(self) -> Float[Tensor, "member 1 o"]:
        """Likewise."""
        return torch.baddbmm(self.linear.bias, self.projection.bias, self.linear.weight)

    def forward(self, inputs: Float[Tensor, "member batch i"]) -> Float[Tensor, "member batch o"]:
        """Apply every member's layers to its own rows."""
        return self.linear(self.projection(inputs))


class AttentionPool(nn.Module):
    """A learned query per member over packed tokens; it starts as their mean.

    pooled = sum_i softmax_i(k_i . q / sqrt(width)) k_i over the real tokens k_i: `width` parameters per member.
    """

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Parameter(torch.zeros(members, width))

    @property
    def scaled_query(self) -> Float[Tensor, "member width"]:
        """The query with the logits' scale in it, as `token_pooling.attention_pool` takes it."""
        return self.query * self.width**-0.5

    def forward(self, packed: Float[Tensor, "member batch numbers"]) -> Float[Tensor, "member batch width"]:
        """Pool rows as `token_pooling.pack_tokens` packs them."""
        tokens = packed[..., :-1].unflatten(-1, (-1, self.width))
        real = torch.arange(tokens.shape[2], device=packed.device) < packed[..., -1:]
        logits = torch.einsum("mbtw,mw->mbt", tokens, self.scaled_query)
        weights = logits.masked_fill(~real, -torch.inf).softmax(dim=-1)
        return torch.einsum("mbt,mbtw->mbw", weights, tokens)


def input_layer(
    members: int, inputs: int, outputs: int, reduced: int | None, generator: torch.Generator
) -> StackedLinear | ReducedLinear:
    """A linear layer, by way of `reduced` numbers where that is fewer than the inputs."""
    if reduced is None or reduced >= inputs:
        return StackedLinear(members, inputs, outputs, generator)
    return ReducedLinear(members, inputs, reduced, outputs, generator)
