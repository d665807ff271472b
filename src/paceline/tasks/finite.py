"""A task of finitely many questions: what a folder and a public question set have in common."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image, ImageOps

from paceline.errors import ImageError, TaskError
from paceline.tasks.drawing import SHARES, SPLIT_SEED, draw
from paceline.tasks.metrics.registry import Reference, score_reply
from paceline.tasks.protocol import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where a question stands, without its text."""

    sample_id: str
    image_hash: str
    split: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question as the model reads it, and how its answer is judged."""

    prompt: str
    template: str  # what the prompt was made by
    metric: str
    reference: Reference

    @property
    def answer(self) -> str:
        """The answer that most people gave, the first of equally frequent ones."""
        return Counter(self.reference.answers).most_common(1)[0][0]


class QuestionSet(Protocol):
    """Questions by position, from 0 on. Texts and images are read when they are asked for."""

    name: str
    max_new_tokens: int

    @property
    def entries(self) -> Sequence[Entry]: ...

    def asked(self, place: int) -> Asked: ...

    def image(self, place: int) -> Image.Image: ...

    def describe(self) -> dict[str, Any]:
        """Where the questions come from and how they are asked."""
        ...


class FiniteTask:
    """A `Task` over a question set."""

    def __init__(self, questions: QuestionSet) -> None:
        self.questions = questions
        self.name = questions.name
        self.max_new_tokens = questions.max_new_tokens
        self._place = {entry.sample_id: place for place, entry in enumerate(questions.entries)}
        self._places: dict[str, list[int]] = {split: [] for split in SHARES}
        for place, entry in enumerate(questions.entries):
            self._places[entry.split].append(place)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Question kinds, sorted."""
        return tuple(sorted({entry.kind for entry in self.questions.entries}))

    def count(self, split: str) -> int:
        """How many questions a split has."""
        return len(self._places.get(split, ()))

    def samples(self, split: str, count: int, seed: int = 0) -> list[Sample]:
        """The first `count` questions of a split in the random order of `seed`.

        Raises:
            TaskError: an unknown split, or fewer questions than asked for.
        """
        return [self._sample(place) for place in draw(self._places, split, count, seed, name=self.name)]

    def image(self, sample: Sample) -> Image.Image:
        """The image of a sample, upright and RGB, read now.

        Raises:
            TaskError: a sample of another task, or an image that is damaged or gone.
        """
        place = self._find(sample)
        try:
            image = self.questions.image(place)
        except ImageError as error:
            raise TaskError(f"task {self.name}: the image of sample {sample.sample_id}: {error}") from error
        return ImageOps.exif_transpose(image).convert("RGB")

    def score(self, sample: Sample, text: str) -> float:
        """Quality of an answer under the sample's metric, against all that people answered; in [0, 1]."""
        asked = self.questions.asked(self._find(sample))
        return score_reply(asked.metric, text, asked.reference)

    def describe(self) -> dict[str, Any]:
        """What a manifest records: metric, prompt, number of questions and images, origin, fingerprint."""
        entries = self.questions.entries
        return self.questions.describe() | {
            "samples": len(entries),
            "images": len({entry.image_hash for entry in entries}),
            "splits": {split: len(places) for split, places in self._places.items()},
            "split_seed": SPLIT_SEED,
        }

    def _sample(self, place: int) -> Sample:
        entry, asked = self.questions.entries[place], self.questions.asked(place)
        return Sample(
            sample_id=entry.sample_id,
            dataset=self.name,
            split=entry.split,
            image_hash=entry.image_hash,
            question=asked.prompt,
            answer=asked.answer,
            kind=entry.kind,
        )

    def _find(self, sample: Sample) -> int:
        place = self._place.get(sample.sample_id)
        if place is None:
            raise TaskError(
                f"sample_id: task {self.name} has no {sample.sample_id!r}; pass one of its samples"
            )
        return place


class Fingerprint:
    """A hash of all questions, answers, splits and image hashes: equal where a sweep asks the same."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, entry: Entry, asked: Asked) -> None:
        """Take a question in."""
        value = [
            *(entry.sample_id, entry.image_hash, entry.split, entry.kind),
            *(asked.prompt, asked.metric, asked.reference.answers, asked.reference.choices),
        ]
        self._digest.update(json.dumps(value, ensure_ascii=True).encode())

    @property
    def value(self) -> str:
        """The hash of what was taken in so far."""
        return self._digest.hexdigest()


def one_or_all(values: Iterable[str]) -> str | list[str]:
    """The value that all have, or the different ones, sorted.

    >>> one_or_all(["vqa", "vqa"]), one_or_all(["vqa", "anls"])
    ('vqa', ['anls', 'vqa'])
    """
    different = sorted(set(values))
    return different[0] if len(different) == 1 else different
