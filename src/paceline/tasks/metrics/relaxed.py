"""Relaxed accuracy of ChartQA (Masry et al. 2022, end of section 5.1; Methani et al. 2020)."""

import re
from collections.abc import Sequence

TOLERANCE = 0.05
"""Largest relative difference of a number that counts as right."""

_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(%?)")


def number_in(text: str) -> float | None:
    """The number that a text is, or None. "12%" is 0.12; a text with a unit or with separators is no number.

    >>> number_in(" 12% "), number_in("1,200"), number_in("3 apples")
    (0.12, None, None)
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    return float(found[1]) / 100 if found[2] else float(found[1])


def relaxed_accuracy(reply: str, answers: Sequence[str]) -> float:
    """1 when the reply is within 5 % of a numeric answer, or is another answer exactly (case aside), else 0.

    >>> relaxed_accuracy("104", ["100"]), relaxed_accuracy("106", ["100"]), relaxed_accuracy("Male", ["male"])
    (1.0, 0.0, 1.0)
    """
    return float(any(_is_right(reply, answer) for answer in answers))


def _is_right(reply: str, answer: str) -> bool:
    given, wanted = number_in(reply), number_in(answer)
    if given is None or wanted is None:
        return reply.strip().lower() == answer.strip().lower()
    if wanted == 0:
        return given == 0
    return abs(given - wanted) / abs(wanted) <= TOLERANCE
