"""Open answers of MMMU (Yue et al. 2024): the short answer is looked for where a reply states its result."""

import re
from collections.abc import Sequence

from paceline.tasks.metrics.exact import plain

DECIMALS = 2
"""Numbers are equal when they are after rounding to so many decimals."""

INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What comes after the last of these in a sentence may be the result; in the last sentence also after "="."""

_SENTENCES = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][+-]?\d+)?")


def open_accuracy(reply: str, answers: Sequence[str]) -> float:
    """1 when a result stated by the reply is a numeric answer to two decimals or contains another answer, else 0.

    >>> open_accuracy("The area is 3 * 4 = 12.0.", ["12"]), open_accuracy("It is a heat pump", ["heat pump"])
    (1.0, 1.0)
    """
    results = _stated_results(reply)
    return float(any(_is_right(reply, results, answer) for answer in answers))


def _is_right(reply: str, results: Sequence[str], answer: str) -> bool:
    wanted = _number(answer)
    if wanted is not None:
        numbers = [_number(found) for result in results for found in _NUMBERS.findall(result)]
        return wanted in numbers or _number(reply) == wanted
    text = plain(answer)
    if plain(reply) == text:
        return True
    if len(text) == 1:  # a single letter must stand alone, or nearly every reply would contain it
        return any(text in result.split() for result in results)
    return bool(text) and any(text in result for result in results)


def _stated_results(reply: str) -> list[str]:
    """What the sentences of a reply say after their last indicator; the whole reply if none has one."""
    sentences = [sentence for sentence in _SENTENCES.split(reply.strip().rstrip(".")) if sentence.strip()]
    found: list[str] = []
    for number, sentence in enumerate(sentences, start=1):
        text = sentence.lower()
        indicators = (*INDICATORS, "=") if number == len(sentences) else INDICATORS
        tails = [text.rsplit(indicator, 1)[1].strip() for indicator in indicators if indicator in text]
        tails = [tail for tail in tails if tail.strip(" :,.!?;'")]
        if tails:
            found.append(plain(min(tails, key=len)))
    return found or [plain(reply)]


def _number(text: str) -> float | None:
    """The number that a text is, rounded, or None."""
    try:
        value = float(text.strip().replace(",", ""))
    except ValueError:
        return None
    return round(value, DECIMALS) if value == value else None
