"""Yes or no: accuracy of a reply, and what POPE (Li et al. 2023) reports over many."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.errors import TaskError

_DENIALS = frozenset(("no", "not", "cannot"))


def yes_or_no(reply: str) -> str | None:
    """What a reply says in its first sentence: "no" if it has a no, a not or a word in n't, else "yes" if it has a yes.

    None if it says neither. The evaluation code of POPE counts such a reply as a yes; a model that babbles would then
    be right half of the time, so here it is wrong.

    >>> yes_or_no("Yes, there is a dog."), yes_or_no("There is no dog. Yes."), yes_or_no("a dog")
    ('yes', 'no', None)
    """
    words = re.findall(r"[a-z]+(?:['’]t)?", reply.strip().split(".")[0].lower())
    if any(word in _DENIALS or word.endswith(("n't", "n’t")) for word in words):
        return "no"
    return "yes" if "yes" in words else None


def yes_no_accuracy(reply: str, answers: Sequence[str]) -> float:
    """1 when the reply says the same as the first answer, "yes" or "no", else 0.

    >>> yes_no_accuracy("No, there is not.", ["no"])
    1.0
    """
    return float(yes_or_no(reply) == answers[0].strip().lower())


@dataclass(frozen=True, kw_only=True, slots=True)
class YesNoSummary:
    """What POPE reports; "yes" is the positive class. Shares of nothing are 0."""

    accuracy: float
    precision: float  # of the replies that say yes, how many are right
    recall: float  # of the questions to which the answer is yes, how many are answered so
    f1: float  # harmonic mean of precision and recall
    yes_ratio: float  # share of replies that say yes
    unreadable: int  # replies that say neither


def yes_no_summary(replies: Sequence[str], answers: Sequence[str]) -> YesNoSummary:
    """Summary of many replies to questions whose answers are "yes" or "no".

    Raises:
        TaskError: no replies, another number of answers, or an answer that is neither.
    """
    if not replies or len(replies) != len(answers):
        raise TaskError(f"yes_no: got {len(replies)} replies to {len(answers)} answers, expected one each")
    wanted = [answer.strip().lower() for answer in answers]
    others = sorted(set(wanted) - {"yes", "no"})
    if others:
        raise TaskError(f"yes_no: got the answers {others}, expected yes or no")
    said = [yes_or_no(reply) for reply in replies]
    right_yes = sum(s == w == "yes" for s, w in zip(said, wanted, strict=True))
    precision = _share(right_yes, said.count("yes"))
    recall = _share(right_yes, wanted.count("yes"))
    return YesNoSummary(
        accuracy=sum(s == w for s, w in zip(said, wanted, strict=True)) / len(said),
        precision=precision,
        recall=recall,
        f1=_share(2 * precision * recall, precision + recall),
        yes_ratio=said.count("yes") / len(said),
        unreadable=said.count(None),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
