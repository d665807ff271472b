"""Tasks by name."""

from paceline.errors import TaskError
from paceline.tasks.protocol import Task

FOLDER = "folder:PATH"


def task_names() -> list[str]:
    """What `load_task` accepts."""
    return ["digits", FOLDER]


def load_task(name: str) -> Task:
    """The task of a name; case does not matter.

    "digits" makes its questions itself, "folder:PATH" reads images and a JSONL of questions (docs/tasks.md).

    Raises:
        TaskError: an unknown name, or questions that cannot be used.
    """
    key, colon, place = name.strip().partition(":")
    key = key.lower()
    if key == "digits" and not colon:
        from paceline.tasks.digits import DigitsTask

        return DigitsTask()
    if key == "folder":
        return _load_folder(place)
    raise TaskError(f"task: got {name!r}, expected one of {task_names()}")


def _load_folder(place: str) -> Task:
    from paceline.tasks.finite import FiniteTask
    from paceline.tasks.folder import FolderQuestions

    if not place.strip():
        raise TaskError(
            "task: got folder without a path, expected folder:PATH with images and questions.jsonl"
        )
    return FiniteTask(FolderQuestions(place))
