"""The task "digits": questions about scenes of handwritten digits, endless and seeded, nothing stored."""

from functools import lru_cache

import numpy as np
from PIL import Image

from paceline.errors import TaskError
from paceline.tasks import questions, scenes
from paceline.tasks.protocol import Sample

QUESTIONS_PER_SCENE = 6

MIX: dict[str, dict[str, float]] = {
    "small": {
        "read": 0.34, "color": 0.34, "largest": 0.08, "count": 0.08, "larger": 0.02, "plus": 0.02, "plus3": 0.02,
        "times": 0.02, "fact": 0.02, "code": 0.02, "pair": 0.02, "hop": 0.02,
    },
    "large": {
        "read": 0.03, "color": 0.03, "largest": 0.06, "count": 0.06, "larger": 0.10, "plus": 0.10, "plus3": 0.10,
        "times": 0.10, "fact": 0.11, "code": 0.11, "pair": 0.10, "hop": 0.10,
    },
}  # fmt: skip
"""Share of each kind by the scale of the scene: small digits are mostly read, large ones mostly reasoned about."""

SPLIT_CODES = {"train": 1, "validation": 2, "test": 3}


class DigitsTask:
    """Visual questions about handwritten digits; see `questions.KINDS` and `scenes`."""

    name = "digits"
    max_new_tokens = 4

    @property
    def kinds(self) -> tuple[str, ...]:
        """Question kinds."""
        return tuple(questions.KINDS)

    def samples(self, split: str, count: int, seed: int = 0) -> list[Sample]:
        """The first `count` samples of the split's stream for `seed`."""
        found: list[Sample] = []
        index = 0
        while len(found) < count:
            found.extend(self._scene_samples(split, seed, index))
            index += 1
        return found[:count]

    def _scene_samples(self, split: str, seed: int, index: int) -> list[Sample]:
        scene, rng = scene_at(split, seed, index)
        kinds, shares = list(MIX[scene.scale]), np.array(list(MIX[scene.scale].values()))
        asked: dict[str, questions.Question] = {}
        while len(asked) < QUESTIONS_PER_SCENE:
            question = questions.ask(rng, scene, str(rng.choice(kinds, p=shares)))
            if question is not None:
                asked[question.text] = question
        return [
            Sample(
                sample_id=f"digits-{split}-{seed}-{index}-{number}",
                dataset="digits",
                split=split,
                image_hash=scene.hash,
                question=question.text,
                answer=question.answer,
                kind=question.kind,
            )
            for number, question in enumerate(asked.values())
        ]

    def scene(self, sample: Sample) -> scenes.Scene:
        """The scene that a sample asks about."""
        parts = sample.sample_id.split("-")
        if len(parts) != 5 or parts[0] != "digits" or not all(part.isdigit() for part in parts[2:]):
            raise TaskError(
                f"sample_id: got {sample.sample_id!r}, expected digits-SPLIT-SEED-SCENE-NUMBER as `samples` makes them"
            )
        return scene_at(parts[1], int(parts[2]), int(parts[3]))[0]

    def describe(self) -> dict[str, str]:
        """What a manifest records: the metric and the prompt."""
        return {"metric": "exact", "prompt": "{question}"}

    def image(self, sample: Sample) -> Image.Image:
        """The rendered scene, RGB."""
        return Image.fromarray(scenes.render(self.scene(sample)))

    def score(self, sample: Sample, text: str) -> float:
        """1 when the answer is exactly right, else 0; case and surrounding space do not count."""
        return float(text.strip().lower() == sample.answer)


@lru_cache(maxsize=4096)
def _scene_at(split: str, seed: int, index: int) -> tuple[scenes.Scene, int]:
    if split not in SPLIT_CODES:
        raise TaskError(f"split: got {split!r}, expected one of {sorted(SPLIT_CODES)}")
    rng = np.random.default_rng((SPLIT_CODES[split], seed, index))
    scene = scenes.random_scene(rng, split)
    return scene, int(rng.integers(2**31))


def scene_at(split: str, seed: int, index: int) -> tuple[scenes.Scene, np.random.Generator]:
    """A scene of a split's stream, and the generator that asks its questions."""
    scene, question_seed = _scene_at(split, seed, index)
    return scene, np.random.default_rng(question_seed)
