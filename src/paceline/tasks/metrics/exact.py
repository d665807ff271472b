"""Exact match: the whole answer, but for case and space."""

from collections.abc import Sequence


def plain(text: str) -> str:
    """Lower case, single spaces, none at the ends.

    >>> plain("  Two  Dogs ")
    'two dogs'
    """
    return " ".join(text.casefold().split())


def exact_match(reply: str, answers: Sequence[str]) -> float:
    """1 when the reply is one of the answers, case and space aside, else 0.

    >>> exact_match("Two  dogs", ["2 dogs", "two dogs"])
    1.0
    """
    return float(plain(reply) in {plain(answer) for answer in answers})
