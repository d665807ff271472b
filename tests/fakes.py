"""A deterministic elastic model, its task and an outcome table with a known structure, for tests.

Four kinds of question: `small` wants crops, `deep` wants blocks, `wide` wants experts, `plain` wants nothing.
The question features show the kind, the image features the difficulty in [0, 1]. An answer is likely right
when the option index of the wanted knob, as a share of the highest, reaches the difficulty: so a choice per
input pays. Time is a formula; nothing sleeps.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from paceline.errors import OutcomesError
from paceline.knobs import Configuration, Knob, KnobSpace, Option
from paceline.models.block_importance import BlockImportance, rank_by_scores
from paceline.models.protocol import Generation, Overview, Timings, Workload
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.table import OutcomeTable
from paceline.tasks.protocol import Sample

FAKE_SPACE = KnobSpace(
    (
        Knob(name="max_crops", options=(2, 6, 12)),
        Knob(name="top_k", options=(4, 16, 32)),
        Knob(name="num_active_blocks", options=(8, 12, 16)),
    )
)
KINDS = ("small", "wide", "deep", "plain")  # the first three want the knob of the same position
RIGHT, WRONG = 0.95, 0.2  # chance of a right answer with and without what the question wants
OVERVIEW_MS = 1.0
NOISE = 0.03  # relative spread of a measured time
IMAGE_WIDTH, QUESTION_WIDTH = 3, 5
OVERVIEW_TOKENS, CROP_TOKENS = 16, 9


def draw(*key: object) -> float:
    """A number in [0, 1) that depends on the key only."""
    digest = zlib.crc32("|".join(map(str, key)).encode())
    return zlib.crc32(digest.to_bytes(4, "little") * 2) / 2**32


def right_probability(kind: str, difficulty: float, levels: Sequence[float]) -> float:
    """Chance of a right answer; `levels`: option index of every knob as a share of its highest."""
    wanted = 1.0 if kind == "plain" else levels[KINDS.index(kind)]
    return RIGHT if wanted >= difficulty else WRONG


def phase_times(
    tiles: int, prompt_tokens: int, output_tokens: int, top_k: int, blocks: int
) -> tuple[float, float, float]:
    """(vision, prefill, decode) in milliseconds, without noise."""
    prefill = blocks * (0.1 + 0.005 * prompt_tokens * (0.25 + 0.75 * top_k / 32))
    return 0.6 * (tiles - 1), prefill, 0.05 * blocks * (output_tokens - 1)


@dataclass
class FakeTask:
    """An endless stream of questions; two consecutive samples share an image."""

    name: str = "fake"
    max_new_tokens: int = 4

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS

    def samples(self, split: str, count: int, seed: int = 0) -> list[Sample]:
        def sample(index: int) -> Sample:
            image_hash = f"{split}-{seed}-{index // 2}"
            kind = KINDS[int(draw("kind", split, seed, index) * len(KINDS))]
            question = f"{kind} question {index}"
            return Sample(
                sample_id=f"{split}-{seed}-{index}",
                dataset="fake",
                split=split,
                image_hash=image_hash,
                question=question,
                answer=answer_of(traits(self.image_of(image_hash)), question),
                kind=kind,
            )

        return [sample(index) for index in range(count)]

    def image(self, sample: Sample) -> Image.Image:
        return self.image_of(sample.image_hash)

    @staticmethod
    def image_of(image_hash: str) -> Image.Image:
        """The difficulty in red, a key in green and blue; the width sets how many crops it can use."""
        pixel = np.array([draw("difficulty", image_hash), draw("a", image_hash), draw("b", image_hash)])
        width = 32 * (4 + int(draw("width", image_hash) * 9))
        return Image.fromarray(np.broadcast_to((pixel * 256).astype(np.uint8), (32, width, 3)).copy())

    def score(self, sample: Sample, text: str) -> float:
        return float(text == sample.answer)


@dataclass(frozen=True)
class Traits:
    difficulty: float
    capacity: int  # most crops the canvas can use
    key: str


def traits(image: Image.Image) -> Traits:
    red, green, blue = np.asarray(image.convert("RGB"))[0, 0].tolist()
    return Traits(difficulty=red / 256, capacity=image.width // 32, key=f"{red}.{green}.{blue}.{image.width}")


def answer_of(image: Traits, question: str) -> str:
    return str(int(draw("answer", image.key, question) * 10))


class FakeModel:
    """Answers by the rules of this module. `calls` counts work: configuration x sample."""

    name = "fake"

    def __init__(self, ranking: Sequence[int] | None = None, spike_every: int = 0) -> None:
        self.ranking = list(ranking) if ranking is not None else list(range(16))
        self.has_block_ranking = ranking is not None
        self.spike_every = spike_every
        self.calls = {"overview": 0, "generate": 0, "generate_batch": 0, "block_importance": 0}

    @property
    def knobs(self) -> KnobSpace:
        return FAKE_SPACE

    @property
    def default_configuration(self) -> Configuration:
        return FAKE_SPACE.full

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "fake", "blocks": 16}

    def overview(self, image: Image.Image, prompt: str) -> Overview:
        self.calls["overview"] += 1
        seen = traits(image)
        kind = prompt.split()[0]
        image_noise = [draw("image noise", i, seen.key) - 0.5 for i in range(IMAGE_WIDTH)]
        question_noise = [draw("question noise", i, prompt) - 0.5 for i in range(QUESTION_WIDTH)]
        shown = [seen.difficulty, seen.capacity / 12, 0.0]
        told = [float(kind == other) for other in KINDS] + [len(prompt) / 100]
        return Overview(
            image_features=(np.array(shown) + 0.05 * np.array(image_noise)).astype(np.float32),
            question_features=(np.array(told) + 0.05 * np.array(question_noise)).astype(np.float32),
            image_size=(image.height, image.width),
            elapsed_ms=OVERVIEW_MS,
            state=(seen, kind, prompt),
        )

    def workload(self, overview: Overview, configuration: Mapping[str, Option]) -> Workload:
        FAKE_SPACE.action(configuration)
        seen, _, prompt = overview.state
        crops = min(int(configuration["max_crops"]), seen.capacity)
        vision = OVERVIEW_TOKENS + CROP_TOKENS * crops
        return Workload(tiles=crops + 1, vision_tokens=vision, prompt_tokens=vision + len(prompt.split()))

    def _text(self, overview: Overview, configuration: Mapping[str, Option]) -> str:
        seen, kind, prompt = overview.state
        levels = FAKE_SPACE.option_indices(np.array([FAKE_SPACE.action(configuration)]))[0] / 2
        right = draw("luck", seen.key, prompt) < right_probability(kind, seen.difficulty, levels.tolist())
        answer = answer_of(seen, prompt)
        return answer if right else str((int(answer) + 1) % 10)

    def generate(
        self, overview: Overview, configuration: Mapping[str, Option], max_new_tokens: int
    ) -> Generation:
        self.calls["generate"] += 1
        workload = self.workload(overview, configuration)
        text = self._text(overview, configuration)
        tokens = tuple(range(1, 1 + min(max_new_tokens, 2)))
        key = (overview.state[0].key, overview.state[2], FAKE_SPACE.action(configuration))
        factor = np.exp(NOISE * 3.46 * (draw("noise", *key) - 0.5))
        if self.spike_every and self.calls["generate"] % self.spike_every == 0:
            factor *= 10
        top_k, blocks = int(configuration["top_k"]), int(configuration["num_active_blocks"])
        phases = phase_times(workload.tiles, workload.prompt_tokens, len(tokens), top_k, blocks)
        vision, prefill, decode = (float(factor * phase) for phase in phases)
        timings = Timings(
            vision_ms=vision,
            prefill_ms=prefill,
            decode_ms=decode,
            total_ms=vision + prefill + decode,
            first_token_ms=vision + prefill,
        )
        return Generation(text=text, tokens=tokens, finish_reason="stop", timings=timings, workload=workload)

    def generate_batch(
        self, overviews: Sequence[Overview], configuration: Mapping[str, Option], max_new_tokens: int
    ) -> list[str]:
        self.calls["generate_batch"] += len(overviews)
        return [self._text(overview, configuration) for overview in overviews]

    def block_importance(
        self, overviews: Sequence[Overview], targets: Sequence[str], method: str = "loss"
    ) -> BlockImportance:
        self.calls["block_importance"] += 1
        if len(overviews) != len(targets):
            raise ValueError(f"got {len(overviews)} overviews and {len(targets)} targets")
        scores = (None, *(block / 16 for block in range(1, 16)))
        return BlockImportance(method=method, ranking=rank_by_scores(scores), scores=scores)

    def with_block_ranking(self, ranking: Sequence[int]) -> "FakeModel":
        model = FakeModel(ranking, self.spike_every)
        model.calls = self.calls
        return model


def fake_table(
    n_train: int, n_validation: int, n_test: int, seed: int = 0, *, timed_share: float = 1.0
) -> OutcomeTable:
    """The fake model's outcomes, all 27 configurations, by formula; `timed_share` of the samples is timed."""
    model, task, space = FakeModel(), FakeTask(), FAKE_SPACE
    counts = {"train": n_train, "validation": n_validation, "test": n_test}
    samples = [sample for split, count in counts.items() for sample in task.samples(split, count, seed)]
    if not samples:
        raise OutcomesError("fake_table: got no samples, expected at least one")
    n, m = len(samples), space.size
    overviews = [model.overview(task.image(sample), sample.question) for sample in samples]
    options = np.array([list(space.configuration(a).values()) for a in range(m)])  # (m, 3)
    levels = space.option_indices(np.arange(m)) / 2  # (m, 3)
    wanted = np.ones((n, m))
    for i, sample in enumerate(samples):
        if sample.kind != "plain":
            wanted[i] = levels[:, KINDS.index(sample.kind)]
    difficulty = np.array([o.state[0].difficulty for o in overviews])
    luck = np.array([draw("luck", o.state[0].key, o.state[2]) for o in overviews])
    accuracy = luck[:, None] < np.where(wanted >= difficulty[:, None], RIGHT, WRONG)

    capacity = np.array([o.state[0].capacity for o in overviews])
    crops = np.minimum(options[:, 0], capacity[:, None])
    vision_tokens = OVERVIEW_TOKENS + CROP_TOKENS * crops
    prompt_tokens = vision_tokens + 3
    rng = np.random.default_rng(seed)
    phases = np.stack(phase_arrays(crops + 1, prompt_tokens, options[:, 1], options[:, 2]))
    phases = phases * np.exp(NOISE * rng.standard_normal((n, m)))
    untimed = rng.random(n) >= timed_share
    latency, first_token = OVERVIEW_MS + phases.sum(0), OVERVIEW_MS + phases[:2].sum(0)
    latency[untimed], first_token[untimed] = np.nan, np.nan
    output_tokens = np.where(untimed[:, None], np.nan, np.full((n, m), 2.0))
    return OutcomeTable(
        space=space,
        actions=np.arange(m, dtype=np.int64),
        **{
            name: np.array([getattr(s, name) for s in samples])
            for name in ("sample_id", "dataset", "split", "image_hash", "question", "kind")
        },
        accuracy=accuracy.astype(np.float32),
        latency_ms=latency.astype(np.float32),
        first_token_ms=first_token.astype(np.float32),
        tiles=(crops + 1).astype(np.int32),
        vision_tokens=vision_tokens.astype(np.int32),
        prompt_tokens=prompt_tokens.astype(np.int32),
        output_tokens=output_tokens.astype(np.float32),
        features=np.stack([np.concatenate([o.image_features, o.question_features]) for o in overviews]),
        image_width=IMAGE_WIDTH,
        manifest=Manifest(
            space=space,
            block_ranking=list(range(16)),
            task=task.name,
            model=model.describe(),
            image_width=IMAGE_WIDTH,
        ),
    )


def phase_arrays(
    tiles: np.ndarray, prompt_tokens: np.ndarray, top_k: np.ndarray, blocks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`phase_times` for two output tokens over arrays."""
    times = np.vectorize(phase_times, otypes=[float] * 3)
    return times(
        tiles, prompt_tokens, 2, np.broadcast_to(top_k, tiles.shape), np.broadcast_to(blocks, tiles.shape)
    )
