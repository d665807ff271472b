"""The action-embedding head: configurations enter by their knobs, so that untested ones can be scored too."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.knobs import KnobSpace
from paceline.policies.knob_features import knob_features
from paceline.policies.stacked import StackedLinear

EMBEDDING_WIDTH = 64
"""Hidden units between a configuration's knob features and its embedding."""


class EmbeddingHead(nn.Module):
    """logit(a | x) = hidden(x) . E(phi(a)) / sqrt(hidden units) + b(phi(a)).

    phi(a) are the knob features of a configuration; E and b are the outputs of one small network per member that all
    configurations share, so that what is learned of some holds for others that are like them.
    """

    features: Float[Tensor, "action feature"]

    def __init__(
        self, members: int, hidden: int, space: KnobSpace, actions: np.ndarray, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.space, self.tested, self.hidden = space, actions, hidden
        self.register_buffer(
            "features", torch.from_numpy(knob_features(space, actions, actions)), persistent=False
        )
        self.read = StackedLinear(members, self.features.shape[1], EMBEDDING_WIDTH, generator)
        self.embed = StackedLinear(members, EMBEDDING_WIDTH, hidden + 1, generator)

    def forward(self, hidden: Float[Tensor, "member batch h"]) -> Float[Tensor, "member batch action"]:
        """Logits of the tested configurations."""
        weight, bias = self._layer(self.features)
        return torch.baddbmm(bias, hidden, weight)

    def exported(self, actions: np.ndarray | None = None) -> dict[str, Tensor]:
        """The same function as one linear layer, over any `actions` of the knob space (default: the tested)."""
        features = self.features
        if actions is not None:
            features = torch.from_numpy(knob_features(self.space, actions, self.tested)).to(features.device)
        weight, bias = self._layer(features)
        return {"head.weight": weight, "head.bias": bias}

    def _layer(
        self, features: Float[Tensor, "action feature"]
    ) -> tuple[Float[Tensor, "member h action"], Float[Tensor, "member 1 action"]]:
        inputs = features.expand(self.read.weight.shape[0], -1, -1)
        embedded = self.embed(torch.relu(self.read(inputs))).transpose(1, 2)
        weight, bias = embedded.split([self.hidden, 1], dim=1)
        return weight * self.hidden**-0.5, bias
