"""What a task offers: samples with an image and a question, and a score for an answer."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about one image."""

    sample_id: str
    dataset: str
    split: str  # "train", "validation" or "test"
    image_hash: str  # equal for equal images: the unit by which data is split
    question: str
    answer: str
    kind: str


class Task(Protocol):
    """Questions, images and a metric."""

    name: str
    max_new_tokens: int

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def samples(self, split: str, count: int, seed: int = 0) -> list[Sample]:
        """The first `count` samples of a split's endless, seeded stream."""
        ...

    def image(self, sample: Sample) -> Image.Image: ...

    def score(self, sample: Sample, text: str) -> float:
        """Quality of an answer, in [0, 1]."""
        ...
