"""Tasks by name."""

from pathlib import Path

from paceline.errors import TaskError
from paceline.tasks.hub_specs import HUB_SPECS
from paceline.tasks.protocol import Task

FOLDER = "folder:PATH"


def task_names() -> list[str]:
    """What `load_task` accepts."""
    return ["digits", *HUB_SPECS, FOLDER]


def load_task(name: str) -> Task:
    """The task of a name; case does not matter.

    "digits" makes its questions itself, "folder:PATH" reads images and a JSONL of questions. The public question sets,
    such as "textvqa", come from the Hugging Face hub, or from a local copy: "textvqa:PATH" (docs/tasks.md).

    Raises:
        DependencyError: a public question set without the library `datasets`.
        TaskError: an unknown name, or questions that cannot be used.
    """
    key, colon, place = name.strip().partition(":")
    key = key.lower()
    if key == "digits" and not colon:
        from paceline.tasks.digits import DigitsTask

        return DigitsTask()
    if key in HUB_SPECS and (place.strip() or not colon):
        return _load_hub(key, place)
    if key == "folder":
        return _load_folder(place)
    raise TaskError(f"task: got {name!r}, expected one of {task_names()}")


def _load_hub(name: str, place: str) -> Task:
    from paceline.tasks.finite import FiniteTask
    from paceline.tasks.hub import HubQuestions

    return FiniteTask(HubQuestions(HUB_SPECS[name], Path(place).expanduser() if place else None))


def _load_folder(place: str) -> Task:
    from paceline.tasks.finite import FiniteTask
    from paceline.tasks.folder import FolderQuestions

    if not place.strip():
        raise TaskError(
            "task: got folder without a path, expected folder:PATH with images and questions.jsonl"
        )
    return FiniteTask(FolderQuestions(place))
