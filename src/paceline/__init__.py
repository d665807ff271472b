"""Latency budgets for vision-language models: a learned choice of configuration per request.

Public names load on first use, so that `import paceline` stays light:

>>> import paceline
>>> paceline.Knob(name="crops", options=(2, 4)).options
(2, 4)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.errors import (
        BudgetError,
        ControllerError,
        DependencyError,
        ImageError,
        InfeasibleBudgetError,
        KnobError,
        ModelError,
        OutcomesError,
        PacelineError,
        ProfileError,
        PromptError,
        TaskError,
        TrainError,
    )
    from paceline.knobs import Knob, KnobSpace

__version__ = "0.1.0"

_HOMES = {
    "Knob": "paceline.knobs",
    "KnobSpace": "paceline.knobs",
    "BudgetError": "paceline.errors",
    "ControllerError": "paceline.errors",
    "DependencyError": "paceline.errors",
    "ImageError": "paceline.errors",
    "InfeasibleBudgetError": "paceline.errors",
    "KnobError": "paceline.errors",
    "ModelError": "paceline.errors",
    "OutcomesError": "paceline.errors",
    "PacelineError": "paceline.errors",
    "ProfileError": "paceline.errors",
    "PromptError": "paceline.errors",
    "TaskError": "paceline.errors",
    "TrainError": "paceline.errors",
}
"""The module that defines each public name."""

__all__ = [
    "BudgetError",
    "ControllerError",
    "DependencyError",
    "ImageError",
    "InfeasibleBudgetError",
    "Knob",
    "KnobError",
    "KnobSpace",
    "ModelError",
    "OutcomesError",
    "PacelineError",
    "ProfileError",
    "PromptError",
    "TaskError",
    "TrainError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'paceline' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
