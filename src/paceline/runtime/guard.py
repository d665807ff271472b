"""What a controller is made of besides its policy and latency estimates: what training leaves, and the guard."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from paceline.errors import ControllerError
from paceline.policies.spec import PolicySpec


@runtime_checkable
class Trained(Protocol):
    """What training leaves, as far as a controller needs it."""

    @property
    def spec(self) -> PolicySpec: ...

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """What makes elapsed time, answer lengths and named budgets comparable with the latency estimate."""

    overview_ms: float = 0.0  # expected time of the overview, on the machine that the estimate is scaled to
    output_tokens: float = 1.0  # mean answer length in the profile
    max_new_tokens: int = 16  # longest answer in the profile's options
    classes: Mapping[str, float] = field(default_factory=dict)  # named budgets as shares of the full latency

    def __post_init__(self) -> None:
        if not isinstance(self.classes, Mapping):
            raise ControllerError(
                f"guard: classes are {self.classes!r}, expected shares of the full latency by name"
            )
        numbers = {
            "overview_ms": self.overview_ms,
            "output_tokens": self.output_tokens,
            "max_new_tokens": self.max_new_tokens,
        }
        for name, value in (
            numbers | {f"class {key!r}": share for key, share in self.classes.items()}
        ).items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (name.startswith("class") and value == 0):
                raise ControllerError(
                    f"guard: {name} is {value!r}, expected a finite number that is not negative"
                )
