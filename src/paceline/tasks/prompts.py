"""Prompt templates: how a question and its options become what the model reads."""

import string
from collections.abc import Sequence

from paceline.errors import TaskError
from paceline.tasks.metrics.multiple_choice import option_lines

SHORT_ANSWER = "{question}\nAnswer the question using a single word or phrase."
LETTER_ANSWER = "{question}\n{choices}\nAnswer with the option's letter from the given choices directly."
QUESTION_ONLY = "{question}"

PLACES = ("question", "choices")


def check_template(template: str) -> None:
    """Refuse a template that is not text around {question} and perhaps {choices}.

    Raises:
        TaskError: braces that do not match, another name in braces, or no {question}.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TaskError(f"prompt: got {template!r} ({error}); write a brace that is text twice") from error
    names = [name for _, name, _, _ in parts if name is not None]
    formats = [
        part for _, name, form, conversion in parts if name is not None for part in (form, conversion) if part
    ]
    if formats or "question" not in names or not set(names) <= set(PLACES):
        raise TaskError(
            f"prompt: got {template!r}, expected a text with {{question}} and, for options, {{choices}} in it"
        )


def fill_template(template: str, question: str, choices: Sequence[str] = ()) -> str:
    """The prompt of a question. Options that the template has no place for follow the question.

    >>> fill_template("{question} Be brief.", "Which?", ["cat", "dog"])
    'Which?\\nA. cat\\nB. dog Be brief.'
    """
    options = option_lines(choices)
    if choices and "{choices}" not in template:
        question = f"{question}\n{options}"
    return template.format(question=question, choices=options)
