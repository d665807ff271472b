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
        ExportError,
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
    from paceline.models.registry import load_model
    from paceline.runtime.adaptive import AdaptiveModel
    from paceline.runtime.answer import Answer
    from paceline.runtime.average import AverageBudget
    from paceline.runtime.batch import RejectedRequestsError
    from paceline.runtime.controller import Controller
    from paceline.runtime.decision import Context, Decision
    from paceline.tasks.registry import load_task

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveModel": "paceline.runtime.adaptive",
    "Answer": "paceline.runtime.answer",
    "AverageBudget": "paceline.runtime.average",
    "Context": "paceline.runtime.decision",
    "Controller": "paceline.runtime.controller",
    "Decision": "paceline.runtime.decision",
    "load_model": "paceline.models.registry",
    "load_task": "paceline.tasks.registry",
    "Knob": "paceline.knobs",
    "KnobSpace": "paceline.knobs",
    "BudgetError": "paceline.errors",
    "ControllerError": "paceline.errors",
    "DependencyError": "paceline.errors",
    "ExportError": "paceline.errors",
    "ImageError": "paceline.errors",
    "InfeasibleBudgetError": "paceline.errors",
    "KnobError": "paceline.errors",
    "ModelError": "paceline.errors",
    "OutcomesError": "paceline.errors",
    "PacelineError": "paceline.errors",
    "ProfileError": "paceline.errors",
    "PromptError": "paceline.errors",
    "RejectedRequestsError": "paceline.runtime.batch",
    "TaskError": "paceline.errors",
    "TrainError": "paceline.errors",
}
"""The module that defines each public name."""

__all__ = [
    "AdaptiveModel",
    "Answer",
    "AverageBudget",
    "BudgetError",
    "Context",
    "Controller",
    "ControllerError",
    "Decision",
    "DependencyError",
    "ExportError",
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
    "RejectedRequestsError",
    "TaskError",
    "TrainError",
    "__version__",
    "load_model",
    "load_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'paceline' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
