"""Tasks by name."""

import importlib

from paceline.errors import TaskError
from paceline.tasks.protocol import Task

TASKS = {"digits": ("paceline.tasks.digits", "DigitsTask")}
"""Name -> where the task's class is."""


def load_task(name: str) -> Task:
    """The task of a name; TaskError for an unknown one."""
    if name not in TASKS:
        raise TaskError(f"task: got {name!r}, expected one of {sorted(TASKS)}")
    module, attribute = TASKS[name]
    return getattr(importlib.import_module(module), attribute)()
