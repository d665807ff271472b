"""The kinds of questions about a scene, and the arbitrary tables that some of them ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from paceline.tasks.scenes import COLOR_NAMES, Scene

NOUNS = tuple(
    "dog cat bird fish tree river house road boat train cloud stone bread salt lamp chair door clock coin ring "
    "bell drum flute rope wheel glove shirt hat shoe spoon knife plate".split()
)
MOODS = tuple("happy sleepy brave quiet noisy gentle clever shy proud calm".split())
WORDS = tuple(
    "amber basil cedar delta ember fable grove harbor ivory jasper karma lemon maple nectar olive pearl quartz "
    "raven sable tulip umber velvet willow xenon yarrow zephyr acorn bamboo cobalt dahlia echo falcon garnet "
    "hazel indigo jade kelp lotus marble nova onyx plum quill ruby saffron topaz ursa violet".split()
)
"""Answers of the table questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question and its answer."""

    kind: str
    text: str
    answer: str


@lru_cache(maxsize=1)
def tables() -> dict[str, np.ndarray]:
    """Indices into WORDS: facts (noun, digit), codes (mood, colour, digit), pairs (digit, digit)."""
    rng = np.random.default_rng(77)

    def draw(*shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return rng.permutation(np.arange(count) % len(WORDS)).reshape(shape)

    return {
        "fact": draw(len(NOUNS), 10),
        "code": draw(len(MOODS), len(COLOR_NAMES), 10),
        "pair": draw(10, 10),
    }


def _values(scene: Scene) -> dict[str, int]:
    return {digit.color: digit.value for digit in scene.digits}


def _colors(rng: np.random.Generator, scene: Scene, count: int) -> list[str]:
    """Different colours of the scene, in random order."""
    return [scene.digits[index].color for index in rng.permutation(len(scene.digits))[:count]]


def _read(rng: np.random.Generator, scene: Scene) -> Question | None:
    (color,) = _colors(rng, scene, 1)
    return Question(kind="read", text=f"which digit is {color}", answer=str(_values(scene)[color]))


def _color(rng: np.random.Generator, scene: Scene) -> Question | None:
    values = list(_values(scene).items())
    counts = np.bincount([value for _, value in values], minlength=10)
    single = [(color, value) for color, value in values if counts[value] == 1]
    if not single:
        return None
    color, value = single[rng.integers(len(single))]
    return Question(kind="color", text=f"which color is {value}", answer=color)


def _largest(rng: np.random.Generator, scene: Scene) -> Question | None:
    color = max(scene.digits, key=lambda digit: digit.size).color
    return Question(kind="largest", text="which color is largest", answer=color)


def _count(rng: np.random.Generator, scene: Scene) -> Question | None:
    return Question(kind="count", text="how many digits are there", answer=str(len(scene.digits)))


def _larger(rng: np.random.Generator, scene: Scene) -> Question | None:
    first, second = _colors(rng, scene, 2)
    values = _values(scene)
    return Question(
        kind="larger",
        text=f"which is larger {first} or {second}",
        answer=str(max(values[first], values[second])),
    )


def _plus(rng: np.random.Generator, scene: Scene) -> Question | None:
    first, second = _colors(rng, scene, 2)
    values = _values(scene)
    return Question(
        kind="plus", text=f"what is {first} plus {second}", answer=str(values[first] + values[second])
    )


def _plus3(rng: np.random.Generator, scene: Scene) -> Question | None:
    first, second, third = _colors(rng, scene, 3)
    values = _values(scene)
    total = values[first] + values[second] + values[third]
    return Question(kind="plus3", text=f"what is {first} plus {second} plus {third}", answer=str(total))


def _times(rng: np.random.Generator, scene: Scene) -> Question | None:
    first, second = _colors(rng, scene, 2)
    values = _values(scene)
    return Question(
        kind="times", text=f"what is {first} times {second}", answer=str(values[first] * values[second])
    )


def _fact(rng: np.random.Generator, scene: Scene) -> Question | None:
    (color,) = _colors(rng, scene, 1)
    noun = int(rng.integers(len(NOUNS)))
    word = WORDS[tables()["fact"][noun, _values(scene)[color]]]
    return Question(kind="fact", text=f"name the {NOUNS[noun]} of {color}", answer=word)


def _code(rng: np.random.Generator, scene: Scene) -> Question | None:
    (color,) = _colors(rng, scene, 1)
    mood = int(rng.integers(len(MOODS)))
    word = WORDS[tables()["code"][mood, COLOR_NAMES.index(color), _values(scene)[color]]]
    return Question(kind="code", text=f"which {MOODS[mood]} word is {color}", answer=word)


def _pair(rng: np.random.Generator, scene: Scene) -> Question | None:
    first, second = _colors(rng, scene, 2)
    values = _values(scene)
    word = WORDS[tables()["pair"][values[first], values[second]]]
    return Question(kind="pair", text=f"which word joins {first} and {second}", answer=word)


def _hop(rng: np.random.Generator, scene: Scene) -> Question | None:
    values = _values(scene)
    targets = {color: COLOR_NAMES[value % len(COLOR_NAMES)] for color, value in values.items()}
    starts = [color for color, target in targets.items() if target in values and target != color]
    if not starts:
        return None
    start = starts[rng.integers(len(starts))]
    return Question(kind="hop", text=f"which digit follows {start}", answer=str(values[targets[start]]))


KINDS: dict[str, Callable[[np.random.Generator, Scene], Question | None]] = {
    "read": _read,
    "color": _color,
    "largest": _largest,
    "count": _count,
    "larger": _larger,
    "plus": _plus,
    "plus3": _plus3,
    "times": _times,
    "fact": _fact,
    "code": _code,
    "pair": _pair,
    "hop": _hop,
}
"""Each maker returns None where the scene does not allow its question.

`hop`: a digit d points to colour number d mod 6 (red, green, blue, yellow, purple, cyan); the answer is the digit
there.
"""

VOCABULARY: tuple[str, ...] = (
    *(str(number) for number in range(82)),
    *COLOR_NAMES,
    *NOUNS,
    *MOODS,
    *WORDS,
    *"which digit is color largest how many digits are there larger or what plus times name the of word joins and "
    "follows a in picture".split(),
)
"""Every word of questions and answers."""


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    """A random question of a kind, or None where the scene does not allow it."""
    return KINDS[kind](rng, scene)
