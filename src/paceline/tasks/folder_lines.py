"""One line of a folder's JSONL of questions."""

import json
from dataclasses import dataclass
from typing import Any

from paceline.errors import TaskError
from paceline.tasks.drawing import SHARES

KEYS = ("question", "image", "answer", "answers", "id", "kind", "choices", "metric", "split")
DEFAULT_KIND = "question"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A question about an image, as written."""

    number: int  # of the line, from 1 on
    key: str  # its id, or its number
    question: str
    image: str  # relative to the folder
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    kind: str
    metric: str | None
    split: str | None


def parse_line(text: str, number: int) -> Line:
    """The line of a JSON text.

    Raises:
        TaskError: broken JSON, unknown or missing keys, or values of the wrong type.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise TaskError(f"not JSON ({error.msg}, column {error.colno})") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise TaskError(f"not JSON of a question ({error})") from error
    except RecursionError as error:
        raise TaskError("not JSON of a question (nested too deeply)") from error
    if not isinstance(value, dict):
        raise TaskError(f"got {type(value).__name__}, expected a JSON object")
    unknown = sorted(set(value) - set(KEYS))
    if unknown:
        raise TaskError(f"unknown keys {unknown}, expected some of {list(KEYS)}")
    if ("answer" in value) == ("answers" in value):
        raise TaskError("expected either answer or answers")
    split = value.get("split")
    if split is not None and split not in list(SHARES):
        raise TaskError(f"split: got {split!r}, expected one of {list(SHARES)}")
    answers = _texts(value, "answers") if "answers" in value else (_answer("answer", value["answer"]),)
    return Line(
        number=number,
        key=_answer("id", value["id"]) if "id" in value else f"line{number}",
        question=_text(value, "question"),
        image=_text(value, "image"),
        answers=answers,
        choices=_texts(value, "choices") if "choices" in value else (),
        kind=_text(value, "kind") if "kind" in value else DEFAULT_KIND,
        metric=_text(value, "metric") if "metric" in value else None,
        split=split,
    )


def _text(value: dict[str, Any], key: str) -> str:
    if key not in value:
        raise TaskError(f"{key} is missing")
    if not isinstance(value[key], str) or not value[key].strip():
        raise TaskError(f"{key}: got {value[key]!r}, expected a text")
    return _storable(key, value[key])


def _texts(value: dict[str, Any], key: str) -> tuple[str, ...]:
    if not isinstance(value[key], list) or not value[key]:
        raise TaskError(f"{key}: got {value[key]!r}, expected a list of texts")
    return tuple(_answer(key, item) for item in value[key])


def _answer(key: str, value: Any) -> str:
    """A text; a number as it is written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{key}: got {value!r}, expected a text or a number")
    return _storable(key, value)


def _storable(key: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TaskError(f"{key}: got {text!r}, which has half a character ({error.reason})") from error
    return text


def _refuse_constant(name: str) -> None:
    raise TaskError(f"not JSON ({name} is no number there)")
