"""What a task offers: samples with an image and a question, and a score for an answer."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about one image."""

    sample_id: str
    dataset: str
    split: str  # "train", "validation" or "test"
    image_hash: str  # equal for equal images: the unit by which data is split
    question: str  # as the model gets it, instructions included
    answer: str  # one right answer, the most frequent of several; `Task.score` knows all
    kind: str


class Task(Protocol):
    """Questions, images and a metric."""

    name: str
    max_new_tokens: int

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def samples(self, split: str, count: int, seed: int = 0) -> list[Sample]:
        """The first `count` samples of a split's seeded stream; TaskError if it has fewer."""
        ...

    def image(self, sample: Sample) -> Image.Image: ...

    def score(self, sample: Sample, text: str) -> float:
        """Quality of an answer, in [0, 1]."""
        ...


@runtime_checkable
class CountedTask(Protocol):
    """A task whose splits end."""

    def count(self, split: str) -> int:
        """How many samples a split has."""
        ...


@runtime_checkable
class DescribedTask(Protocol):
    """A task that says more about itself than its name."""

    def describe(self) -> dict[str, Any]:
        """What a manifest records: metric, prompt, origin, fingerprint; values are JSON."""
        ...


def at_most(task: Task, split: str, count: int) -> int:
    """`count`, or as many samples as the split has."""
    return min(count, task.count(split)) if isinstance(task, CountedTask) else count


def task_facts(task: Task) -> dict[str, Any]:
    """What a manifest records about a task."""
    facts = {"name": task.name, "max_new_tokens": task.max_new_tokens}
    return facts | task.describe() if isinstance(task, DescribedTask) else facts
