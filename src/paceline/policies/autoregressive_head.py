"""The autoregressive head: one knob after the other, each given the options chosen before."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.errors import TrainError
from paceline.knobs import KnobSpace
from paceline.policies.prefix_tree import PrefixTree
from paceline.policies.stacked import StackedLinear


class AutoregressiveHead(nn.Module):
    """log p(a | x) = log p(k1 | x) + log p(k2 | x, k1) + ..., knobs in the order of the space.

    A linear layer gives every node of the tree of tested configurations a logit; siblings share a softmax, so that the
    probabilities of the tested configurations sum to 1.
    """

    paths: Tensor  # (knobs, action): nodes on the way to a configuration
    groups: Tensor  # (node,): siblings

    def __init__(
        self, members: int, hidden: int, space: KnobSpace, actions: np.ndarray, generator: torch.Generator
    ) -> None:
        super().__init__()
        tree = PrefixTree.of(space.shape, actions)
        self.register_buffer("paths", torch.from_numpy(tree.paths), persistent=False)
        self.register_buffer("groups", torch.from_numpy(tree.groups), persistent=False)
        self.families = len(tree.starts)
        self.nodes = StackedLinear(members, hidden, len(tree.groups), generator)

    def forward(self, hidden: Float[Tensor, "member batch h"]) -> Float[Tensor, "member batch action"]:
        """Log-probabilities of the tested configurations."""
        logits = self.nodes(hidden).float()  # under mixed precision too: sums of many logarithms
        groups = self.groups.expand(logits.shape)
        highest = logits.new_zeros(*logits.shape[:-1], self.families).scatter_reduce(
            -1, groups, logits.detach(), "amax", include_self=False
        )
        shifted = logits - highest.gather(-1, groups)
        totals = torch.zeros_like(highest).scatter_add(-1, groups, shifted.exp())
        conditional = shifted - totals.log().gather(-1, groups)
        return torch.stack([conditional[..., path] for path in self.paths]).sum(dim=0)

    def exported(self, actions: np.ndarray | None = None) -> dict[str, Tensor]:
        """The layer over nodes; `PrefixTree.log_probabilities` does the rest. TrainError for other `actions`."""
        if actions is not None:
            raise TrainError(
                "head: 'autoregressive' gives untested configurations no probability; "
                "use head 'embedding' to score them"
            )
        return {"head.weight": self.nodes.weight, "head.bias": self.nodes.bias}
