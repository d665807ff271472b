"""VQA accuracy (Antol et al. 2015): agreement with people, after the normalisation of the VQA evaluation code.

The steps are those of https://visualqa.org/evaluation.html, applied to replies and to human answers alike.
"""

import re
from collections.abc import Sequence

NEEDED = 3
"""How many people must have given an answer for it to be fully right."""

NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Apostrophes stay (possessives), colons too (times), and periods have a rule of their own."""

_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")

_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's i'd've isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't
not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()


def _misspellings(word: str) -> list[str]:
    """The word with one of its apostrophes forgotten."""
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {wrong: word for word in _CONTRACTIONS for wrong in _misspellings(word)}
"""What lacks an apostrophe -> what was meant. "hell", "its" and "were" are words and not in it."""


def normalize(text: str) -> str:
    """An answer as the VQA evaluation code compares it.

    Line breaks and tabs are spaces. A punctuation mark disappears if it stands next to a space somewhere in the text,
    or if the text has a comma between digits; otherwise it becomes a space. Periods go, unless a digit follows. Then,
    word by word: lower case, number words to ten as digits ("none" is 0), no articles, contractions with their
    apostrophe.

    >>> normalize("The two dogs, dont run.")
    "2 dogs don't run"
    >>> normalize("100,978"), normalize("black-white"), normalize("3.5 a.m.")
    ('100978', 'black white', '3.5 am')
    """
    given = text.replace("\n", " ").replace("\t", " ").strip()
    has_thousands = _THOUSANDS.search(given) is not None
    cleaned = given
    for mark in PUNCTUATION:
        disappears = has_thousands or f"{mark} " in given or f" {mark}" in given
        cleaned = cleaned.replace(mark, "" if disappears else " ")
    words = (NUMBER_WORDS.get(word, word) for word in _PERIOD.sub("", cleaned).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """Mean over the people of min(1, others who gave this reply / 3): every person is left out once.

    With ten answers, a reply that 1, 2, 3 or 4 of them gave gets 0.3, 0.6, 0.9 or 1. With fewer than four answers the 3
    is one less than their number, so that a reply all of them gave is right; a single answer must be met.

    >>> round(vqa_accuracy("Two.", ["2"] * 3 + ["3"] * 7), 3)
    0.9
    """
    given = normalize(reply)
    matches = [normalize(answer) == given for answer in answers]
    if len(matches) == 1:
        return float(matches[0])
    needed = min(NEEDED, len(matches) - 1)
    total = sum(matches)
    return sum(min(1.0, (total - match) / needed) for match in matches) / len(matches)
