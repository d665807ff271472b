"""What an elastic model offers: an overview, then an answer under any configuration of its knobs."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from paceline.knobs import Configuration, KnobSpace, Option
from paceline.models.block_importance import BlockImportance


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What one request makes the model process; known before it runs."""

    tiles: int  # crops through the vision tower, the overview included
    vision_tokens: int  # tokens that carry image content
    prompt_tokens: int  # all tokens of the prefill, image tokens included


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The overview crop and the prompt, as seen before the decision. `state` is reused by `generate`."""

    image_features: np.ndarray  # float32 (image_features,): pooled overview features
    question_features: np.ndarray  # float32 (question_features,): pooled prompt embeddings
    image_size: tuple[int, int]  # (height, width) in pixels
    elapsed_ms: float  # wall time spent to make the overview
    state: Any  # opaque: what the model reuses
    feature_sets: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    # Further features by name, made when they are read, see `models.feature_sets`; empty: the pooled ones alone.
    workload_key: Hashable = (
        None  # of equal keys workloads are equal, under every configuration; None: not known
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Wall time of one `generate`, by phase, in milliseconds. The overview is not included."""

    vision_ms: float  # crops through the vision tower
    prefill_ms: float  # prompt through the decoder, first token included
    decode_ms: float  # all further tokens
    total_ms: float  # from call to return
    first_token_ms: float  # from call to the first token


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One answer."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    timings: Timings
    workload: Workload


class ElasticModel(Protocol):
    """A VLM whose knobs turn per request. Nothing on the model is mutated; concurrent requests are independent."""

    name: str

    @property
    def knobs(self) -> KnobSpace: ...

    @property
    def default_configuration(self) -> Configuration: ...

    @property
    def has_block_ranking(self) -> bool:
        """Whether somebody measured the order in which blocks are skipped, so that a sweep need not."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-able facts for manifests: name, revision or weight hash, sizes, dtype, device."""
        ...

    def overview(self, image: Image.Image, prompt: str) -> Overview: ...

    def workload(self, overview: Overview, configuration: Mapping[str, Option]) -> Workload: ...

    def generate(
        self, overview: Overview, configuration: Mapping[str, Option], max_new_tokens: int
    ) -> Generation: ...

    def generate_batch(
        self, overviews: Sequence[Overview], configuration: Mapping[str, Option], max_new_tokens: int
    ) -> list[str]:
        """Answers only, many requests at once under one configuration: for accuracy, never for latency."""
        ...

    def block_importance(
        self, overviews: Sequence[Overview], targets: Sequence[str], method: str = "loss"
    ) -> BlockImportance:
        """Scores and order of the blocks, measured on samples with their answers; the kept sets are nested.

        `method` is one of `block_importance.IMPORTANCE_METHODS`. Raises ModelError for another one.
        """
        ...

    def with_block_ranking(self, ranking: Sequence[int]) -> "ElasticModel":
        """The same weights with another order in which blocks are skipped."""
        ...


@runtime_checkable
class AnswersTogether(Protocol):
    """What an `ElasticModel` may offer besides: several requests under one configuration, for latency.

    A model without it is served one request after another: `AdaptiveModel.generate` of a list then runs every request
    as a group of its own, in the order of the deadlines.
    """

    def generate_together(
        self, overviews: Sequence[Overview], configuration: Mapping[str, Option], max_new_tokens: int
    ) -> list[Generation]:
        """Answers in the order of the overviews, with the tokens that `generate` would give.

        Timings are those of the whole call, from which all return at once. It must not take longer than `generate`
        for one after the other: the time of a group is bounded by the sum of its requests' upper latencies.
        """
        ...
