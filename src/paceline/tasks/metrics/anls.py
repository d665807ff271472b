"""Normalised Levenshtein similarity (Biten et al. 2019), the metric of DocVQA. Its average over questions is ANLS."""

from collections.abc import Sequence

from paceline.tasks.metrics.exact import plain

THRESHOLD = 0.5
"""A reply this far from an answer, as a share of the longer text, is another answer and not a misreading."""


def levenshtein(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of letters that make one text the other.

    >>> levenshtein("kitten", "sitting")
    3
    """
    if len(first) < len(second):
        first, second = second, first
    previous = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        current = [row]
        for column, other in enumerate(second, start=1):
            replaced = previous[column - 1] + (letter != other)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def anls(reply: str, answers: Sequence[str]) -> float:
    """Similarity with the nearest answer, in [0, 1]; case and space do not count.

    For one answer a and reply r, with NL = levenshtein(a, r) / length of the longer: 1 - NL if NL < 0.5, else 0. The
    score is the largest of these over the answers.

    >>> round(anls("New Yrok", ["new york", "NYC"]), 3)
    0.75
    """
    return max(_similarity(plain(reply), plain(answer)) for answer in answers)


def _similarity(reply: str, answer: str) -> float:
    longer = max(len(reply), len(answer))
    if longer == 0:
        return 1.0
    if abs(len(reply) - len(answer)) >= THRESHOLD * longer:  # at least so many insertions: no need to count
        return 0.0
    distance = levenshtein(reply, answer) / longer
    return 1 - distance if distance < THRESHOLD else 0.0
