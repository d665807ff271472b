"""Metrics by name: how good a reply is, given what is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.errors import TaskError
from paceline.tasks.metrics.anls import anls
from paceline.tasks.metrics.exact import exact_match, plain
from paceline.tasks.metrics.multiple_choice import LETTERS, multiple_choice_accuracy
from paceline.tasks.metrics.open_answer import open_accuracy
from paceline.tasks.metrics.relaxed import relaxed_accuracy
from paceline.tasks.metrics.vqa import vqa_accuracy
from paceline.tasks.metrics.yes_no import yes_no_accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What is right."""

    answers: tuple[str, ...]  # at least one; under multiple choice the letter of the right option
    choices: tuple[str, ...] = ()  # texts of the options, in the order of their letters


def _choice(reply: str, reference: Reference) -> float:
    return multiple_choice_accuracy(reply, reference.answers[0], reference.choices)


def _choice_or_open(reply: str, reference: Reference) -> float:
    return _choice(reply, reference) if reference.choices else open_accuracy(reply, reference.answers)


def _by_answers(metric: Callable[[str, Sequence[str]], float]) -> Callable[[str, Reference], float]:
    return lambda reply, reference: metric(reply, reference.answers)


METRICS: dict[str, Callable[[str, Reference], float]] = {
    "exact": _by_answers(exact_match),
    "vqa": _by_answers(vqa_accuracy),
    "anls": _by_answers(anls),
    "relaxed": _by_answers(relaxed_accuracy),
    "yes_no": _by_answers(yes_no_accuracy),
    "open": _by_answers(open_accuracy),
    "multiple_choice": _choice,
    "mmmu": _choice_or_open,
}
"""Name -> score in [0, 1] of a reply; "mmmu" is multiple choice where there are options, else open."""


def make_reference(metric: str, answers: Sequence[str], choices: Sequence[str] = ()) -> Reference:
    """What is right under a metric, checked.

    With choices, the answer may be a letter or the text of an option; it becomes the letter.

    >>> make_reference("multiple_choice", ["dog"], ["cat", "dog"]).answers
    ('B',)

    Raises:
        TaskError: an unknown metric, no answer, or answers and choices that the metric cannot use.
    """
    if metric not in METRICS:
        raise TaskError(f"metric: got {metric!r}, expected one of {sorted(METRICS)}")
    if not answers:
        raise TaskError("answers: got none, expected at least one")
    if metric == "multiple_choice" and not choices:
        raise TaskError("choices: got none, metric multiple_choice needs at least 2")
    if choices and metric in ("multiple_choice", "mmmu"):
        return Reference(answers=(_letter(answers, choices),), choices=tuple(choices))
    if metric == "yes_no" and not {plain(answer) for answer in answers} <= {"yes", "no"}:
        raise TaskError(f"answer: got {list(answers)}, metric yes_no expects yes or no")
    return Reference(answers=tuple(answers), choices=tuple(choices))


def _letter(answers: Sequence[str], choices: Sequence[str]) -> str:
    if not 2 <= len(choices) <= len(LETTERS):
        raise TaskError(f"choices: got {len(choices)}, expected 2 to {len(LETTERS)}")
    if len(answers) != 1:
        raise TaskError(f"answers: got {len(answers)}, expected one option of the choices")
    letters = LETTERS[: len(choices)]
    if len(answers[0].strip()) == 1 and answers[0].strip().upper() in letters:
        return answers[0].strip().upper()
    same = [
        letter for letter, choice in zip(letters, choices, strict=True) if plain(choice) == plain(answers[0])
    ]
    if len(same) != 1:
        raise TaskError(
            f"answer: got {answers[0]!r}, expected a letter from A to {letters[-1]} or the text of one option"
        )
    return same[0]


def score_reply(metric: str, reply: str, reference: Reference) -> float:
    """Quality of a reply under a metric, in [0, 1].

    >>> score_reply("exact", " Two", Reference(answers=("two",)))
    1.0
    """
    return METRICS[metric](reply, reference)
