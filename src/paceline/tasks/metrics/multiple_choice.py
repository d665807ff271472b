"""Multiple choice: which option a reply names, by its letter or by its text."""

import re
from collections.abc import Sequence

from paceline.tasks.metrics.exact import plain

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS = frozenset("AI")
"""Letters that are words too: within a sentence they name an option only where a word could not stand."""

_STATED = re.compile(
    r"(?i:\banswer\s*(?:is|:|=)\s*:?\s*(?:option\s+)?)[*(\[]*([A-Z](?![\w'’])|[a-z](?=[)\].*]*\s*$))"
)
_NAMED = re.compile(r"(?<![\w'’.-])(?<!not )(?<!not \()([A-Z])(?![\w'’-]|\.\w)")
_ARTICLE_LIKE = re.compile(r"\s+(?!and\b|or\b|nor\b|is\b|seems\b|because\b|since\b)[\w'’]")


def option_lines(choices: Sequence[str]) -> str:
    """The options as a prompt lists them.

    >>> print(option_lines(["cat", "dog"]))
    A. cat
    B. dog
    """
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def chosen_option(reply: str, choices: Sequence[str]) -> int | None:
    """Position of the option that a reply names, or None if it names none or several.

    Read in this order, and the first that finds something decides: the whole reply is a letter ("B", "(b)", "B."); it
    is the text of an option; it states an answer ("the answer is B"); capital letters stand alone in it ("B. cat",
    "(B)", "option B"); texts of options occur in it. Letters beyond the options are not letters.

    >>> [chosen_option(reply, ["cat", "dog"]) for reply in ("(B)", "B. dog", "The answer is A.", "a dog", "cat or dog")]
    [1, 1, 0, 1, None]
    """
    letters = LETTERS[: len(choices)]
    whole = re.sub(r"[\s()\[\].:,*]", "", reply)
    if len(whole) == 1 and whole.upper() in letters:
        return letters.index(whole.upper())
    texts = [_text(choice) for choice in choices]
    same = [place for place, text in enumerate(texts) if text and text == _text(reply)]
    if same:
        return _only(set(same))
    for found in (_STATED.findall(reply), _letters_alone(reply, choices)):
        named = {letters.index(letter.upper()) for letter in found if letter.upper() in letters}
        if named:
            chosen = _only(named)
            return chosen if chosen is None or _agrees(reply, texts, chosen) else None
    return _only(_texts_within(_text(reply), texts))


def multiple_choice_accuracy(reply: str, letter: str, choices: Sequence[str]) -> float:
    """1 when the reply names the option of the letter and no other, else 0.

    >>> multiple_choice_accuracy("It is the dog.", "B", ["cat", "dog"])
    1.0
    """
    return float(chosen_option(reply, choices) == LETTERS.index(letter))


def _only(places: set[int]) -> int | None:
    return next(iter(places)) if len(places) == 1 else None


def _text(text: str) -> str:
    return plain(text).strip(" .,:;!?\"'")


def _letters_alone(reply: str, choices: Sequence[str]) -> list[str]:
    """Capital letters that are words of the reply, outside the texts of options ("vitamin C") and no article."""
    for choice in choices:
        if len(choice.strip()) > 1:
            reply = re.sub(re.escape(choice.strip()), "something", reply, flags=re.IGNORECASE)
    return [found[1] for found in _NAMED.finditer(reply) if not _is_word(found, reply)]


def _is_word(found: re.Match[str], reply: str) -> bool:
    """Whether a lone A or I may be the article or the pronoun: another word follows."""
    return found[1] in WORDS and _ARTICLE_LIKE.match(reply, found.end()) is not None


def _agrees(reply: str, texts: Sequence[str], chosen: int) -> bool:
    """Whether what follows a leading letter is not the text of another option, as in "B. cat" where cat is A."""
    after = re.sub(r"^\W*[A-Za-z][)\].:,]\s*", "", reply.strip(), count=1)
    return _text(after) not in {text for place, text in enumerate(texts) if place != chosen} - {texts[chosen]}


def _texts_within(reply: str, texts: Sequence[str]) -> set[int]:
    """Options whose text occurs in the reply as whole words, without those that are part of a longer one found."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for place, text in enumerate(texts):
        if text:
            pattern = rf"(?<!\w){re.escape(text)}(?!\w)"
            spans[place] = [found.span() for found in re.finditer(pattern, reply)]
    every = [span for found in spans.values() for span in found]

    def stands_alone(span: tuple[int, int]) -> bool:
        return not any(o != span and o[0] <= span[0] and span[1] <= o[1] for o in every)

    return {place for place, found in spans.items() if any(stands_alone(span) for span in found)}
