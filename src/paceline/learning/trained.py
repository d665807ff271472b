"""What training leaves."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedPolicy:
    """What training leaves: enough to decide with numpy alone, and how it went."""

    spec: PolicySpec
    arrays: dict[str, np.ndarray]  # float32, for `policy.safetensors`
    history: list[dict[str, Any]]  # one entry per epoch, see `Trainer`
    facts: dict[str, Any]  # JSON: options, rewards of warm start and result, counts, ranges, warnings

    def numpy_policy(self) -> NumpyPolicy:
        """The policy that decides."""
        return NumpyPolicy(self.spec, self.arrays)
