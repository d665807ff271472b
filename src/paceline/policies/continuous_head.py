"""The continuous head: a value in [0, 1] per knob, rounded to the nearest option when deciding."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from paceline.knobs import KnobSpace
from paceline.policies.knob_features import configuration_positions
from paceline.policies.stacked import StackedLinear

SMALLEST_SPREAD = 0.05
FIRST_SPREAD = 0.5
"""Standard deviation that a knob's value starts from: wide enough to try every option."""


class ContinuousHead(nn.Module):
    """logit(a | x) = - sum over knobs of (v_k(x) - place_k(a))^2 / (2 spread_k^2).

    v_k in [0, 1] is the value of knob k, place_k(a) where the configuration's option lies between the least and the
    greatest (`knob_features.option_positions`), spread_k a learned standard deviation per member and knob. The best
    configuration is the nearest one: with the whole space tested and feasible, each knob rounded on its own.
    """

    places: Float[Tensor, "action knob"]

    def __init__(
        self, members: int, hidden: int, space: KnobSpace, actions: np.ndarray, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.space = space
        places = torch.from_numpy(configuration_positions(space, actions)).float()
        self.register_buffer("places", places, persistent=False)
        self.values = StackedLinear(members, hidden, len(space.knobs), generator)
        start = math.log(math.expm1(FIRST_SPREAD - SMALLEST_SPREAD))
        self.spread = nn.Parameter(torch.full((members, 1, len(space.knobs)), start))

    def forward(self, hidden: Float[Tensor, "member batch h"]) -> Float[Tensor, "member batch action"]:
        """Logits of the tested configurations."""
        values, precision = torch.sigmoid(self.values(hidden).float()), self._precision()
        weighted = precision * self.places  # (member, action, knob)
        with torch.autocast(hidden.device.type, enabled=False):  # squares that nearly cancel
            near = 2.0 * values @ weighted.transpose(1, 2) - (weighted * self.places).sum(-1).unsqueeze(1)
            return near - (precision * values**2).sum(dim=-1, keepdim=True)

    def exported(self, actions: np.ndarray | None = None) -> dict[str, Tensor]:
        """The layer of the knobs' values, 1 / (2 spread^2), and the places of `actions` (default: the tested)."""
        places = self.places
        if actions is not None:
            places = torch.from_numpy(configuration_positions(self.space, actions)).to(self.places)
        return {
            "head.weight": self.values.weight,
            "head.bias": self.values.bias,
            "head.precision": self._precision(),
            "head.places": places,
        }

    def _precision(self) -> Float[Tensor, "member 1 knob"]:
        return 0.5 / (SMALLEST_SPREAD + F.softplus(self.spread)) ** 2
