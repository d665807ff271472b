"""A row of a public question set as a question, whichever set it is of."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paceline.errors import TaskError
from paceline.tasks.finite import Asked
from paceline.tasks.hub_specs import HubSpec
from paceline.tasks.metrics.multiple_choice import LETTERS
from paceline.tasks.metrics.registry import make_reference
from paceline.tasks.prompts import fill_template

DEFAULT_KIND = "question"


class UnusableRowError(Exception):
    """A row that cannot be asked or judged; the text says why. Such rows are counted, not hidden."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What a row asks, and its names."""

    asked: Asked
    key: str  # empty where the set has no ids
    image_id: str  # empty where the set has none
    kind: str


def read_row(spec: HubSpec, row: Mapping[str, Any]) -> Row:
    """The question of a row.

    Raises:
        UnusableRowError: no question or answer, or options and answer that do not fit each other.
    """
    question = row[spec.question]
    if not isinstance(question, str) or not question.strip():
        raise UnusableRowError("no question")
    context = row[spec.context] if spec.context else None
    if context and context.strip():
        question = f"Context: {context.strip()}\n{question}"
    choices = _choices(row[spec.choices]) if spec.choices else ()
    answers = _answers(row[spec.answer], choices)
    if not answers:
        raise UnusableRowError("no answer")
    try:
        reference = make_reference(spec.metric, answers, choices)
    except TaskError as error:
        raise UnusableRowError("answer and options do not fit") from error
    template = spec.choice_prompt if choices else spec.prompt
    asked = Asked(
        prompt=fill_template(template, question, choices),
        metric=spec.metric,
        reference=reference,
        template=template,
    )
    return Row(
        asked=asked, key=_joined(row, spec.key), image_id=_joined(row, spec.image_id), kind=_kind(spec, row)
    )


def _choices(value: Any) -> tuple[str, ...]:
    """Texts of the options; MMMU writes the list as a text."""
    if isinstance(value, str):
        value = _literal_list(value) if value.strip() else []
    return tuple(str(text) for text in value or ())


def _answers(value: Any, choices: Sequence[str]) -> list[str]:
    """All right answers. With options the position of one, as a number or in digits, becomes its letter."""
    if value is None:
        return []
    if choices:
        position = int(value) if isinstance(value, int) or str(value).isdigit() else None
        if position is None:
            return [str(value)]
        if not 0 <= position < min(len(choices), len(LETTERS)):
            raise UnusableRowError("answer and options do not fit")
        return [LETTERS[position]]
    if isinstance(value, Mapping):  # a list of records, column by column
        value = value["answer"]
    if isinstance(value, str):
        value = _literal_list(value) if value.startswith("[") else [value]
    texts = [item["answer"] if isinstance(item, Mapping) else item for item in value]
    return [str(text) for text in texts if text is not None and str(text).strip()]


def _literal_list(text: str) -> list[Any]:
    """The list that a text writes out; a text that is none is its only item."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [text]
    return list(value) if isinstance(value, list | tuple) else [text]


def _joined(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return "-".join(str(row[column]) for column in columns)


def _kind(spec: HubSpec, row: Mapping[str, Any]) -> str:
    value = row[spec.kind] if spec.kind else None
    if isinstance(value, list):
        value = value[0] if value else None
    return str(value) if value not in (None, "") else DEFAULT_KIND
