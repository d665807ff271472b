"""A family that nobody described: depth, and experts where routers read them, each proved before it is offered.

There is no image knob: what a processor's options do differs too much to guess. The proofs (`proofs.py`) run once, when
the model is loaded, before anything else may use it.
"""

import copy
import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from paceline.errors import ModelError
from paceline.models.transformers.family import Family, ImageCount
from paceline.models.transformers.instrumented import Instrumented
from paceline.models.transformers.instruments import ROPE_DELTAS, TOP_K, find_routers
from paceline.models.transformers.knob_state import TurnedKnobs
from paceline.models.transformers.loading import Checkpoint
from paceline.models.transformers.proofs import (
    difference,
    logits,
    routed_widths,
    with_top_k,
    without_blocks,
    written_names,
)
from paceline.models.transformers.spaces import BLOCKS

PROBE_SIZE = 64  # pixels of the probe's sides: processors make the least of it that they can
REMEMBERED_SIZES = 4096
IMAGE_KNOBS = ("max_crops", "max_tiles", "max_pixels")
TOWERS = ("vision_tower", "visual", "vision_model", "vision_encoder")


class GenericFamily(Family):
    """What could be proved about a checkpoint."""

    overview_note = "the whole image; there is no image knob, so it is always reused"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.nested = False  # whether the processor wants a list of images per prompt
        self._lock = threading.Lock()
        self._counter = copy.deepcopy(checkpoint.processor)  # tokenizers keep padding in themselves
        self._image_token = _image_token(checkpoint)
        self._counts: dict[tuple[int, int], ImageCount] = {}
        self._kept = super().always_kept(checkpoint.config)
        self._experts = _experts(find_routers(checkpoint.model.get_decoder()))

    def always_kept(self, config: Any) -> tuple[int, ...]:
        return self._kept

    def keep(self, blocks: Sequence[int]) -> None:
        """Blocks that are also always kept."""
        self._kept = tuple(sorted({*self._kept, *blocks}))

    def experts(self, config: Any) -> int | None:
        return self._experts

    def tower(self, model: Any) -> nn.Module | None:
        found = (getattr(model.base_model, name, None) for name in TOWERS)
        return next((module for module in found if isinstance(module, nn.Module)), None)

    def batch_images(self, images: Sequence[Image.Image]) -> Any:
        return [[image] for image in images] if self.nested else list(images)

    def tiles(self, inputs: Mapping[str, Any]) -> int:
        pixels = inputs["pixel_values"]
        return int(np.prod(pixels.shape[:-3])) if pixels.ndim > 3 else 1

    def finish(
        self,
        processor: Any,
        images: Sequence[Image.Image],
        inputs: dict[str, Any],
        option: int | None,
        overviews: Sequence[Tensor | None] | None,
    ) -> dict[str, Any]:
        """The inputs as they are; what one image became is remembered, so that `count` need not try."""
        if len(images) == 1:
            with self._lock:
                self._remember((images[0].height, images[0].width), inputs)
        return inputs

    def count(self, processor: Any, size: tuple[int, int], option: int | None) -> ImageCount:
        """As an image of this size was counted before, or else a blank one now: exact for any processor."""
        with self._lock:
            if size not in self._counts:
                blank = self.batch_images([Image.new("RGB", (size[1], size[0]))])
                text = [self.prompt(self._counter, "?")]
                self._remember(size, self._counter(images=blank, text=text, return_tensors="pt"))
            return self._counts[size]

    def _remember(self, size: tuple[int, int], inputs: Mapping[str, Any]) -> None:
        if len(self._counts) >= REMEMBERED_SIZES:
            self._counts.clear()
        tokens = int((inputs["input_ids"] == self._image_token).sum())
        self._counts[size] = ImageCount(tiles=self.tiles(inputs), vision_tokens=tokens, layout_tokens=tokens)


def generic_family(checkpoint: Checkpoint) -> Family:
    """The family of a checkpoint that nobody described, with the knobs that could be proved.

    Raises ModelError for a class that takes no image features beside its inputs and where no knob could be proved.
    """
    _check_class(checkpoint)
    kind = checkpoint.config.model_type
    routers = find_routers(checkpoint.model.get_decoder())
    refused: dict[str, str] = dict.fromkeys(
        IMAGE_KNOBS, "nobody described what its processor makes of its options"
    )
    described = type(
        "DescribedFamily", (GenericFamily,), {"name": kind, "model_types": (kind,), "refused": refused}
    )
    family: GenericFamily = described(checkpoint)
    probe = _probe(checkpoint, family)
    described.kept_aside = (ROPE_DELTAS, *sorted(written_names(checkpoint.model, probe) - {ROPE_DELTAS}))
    if routers:
        described.routing_note = "not described: measure what fewer experts do to the answers"
    reason = _depth_fails(checkpoint, family, probe)
    if reason is not None:
        refused[BLOCKS] = reason
    reason = _top_k_fails(checkpoint, family, probe, routers) if routers else None
    if reason is not None:
        refused[TOP_K] = reason
    if BLOCKS in refused and (not routers or TOP_K in refused):
        reasons = "; ".join(f"{knob}: {refused[knob]}" for knob in (BLOCKS, TOP_K) if knob in refused)
        raise ModelError(
            f"model {checkpoint.name}: nobody described the family {kind!r}, and no knob of it could be proved "
            f"({reasons})"
        )
    return family


def _check_class(checkpoint: Checkpoint) -> None:
    model = checkpoint.model
    lacking = [
        what
        for what, there in {
            "a forward that takes mm_encoder_outputs": "mm_encoder_outputs"
            in inspect.signature(model.forward).parameters,
            "get_image_features": hasattr(model.base_model, "get_image_features"),
            "a decoder with layers": hasattr(model.get_decoder(), "layers"),
        }.items()
        if not there
    ]
    if lacking:
        raise ModelError(
            f"model {checkpoint.name}: nobody described the family {checkpoint.config.model_type!r}, and "
            f"{type(model).__name__} lacks {' and '.join(lacking)}; expected a class that is given image features"
        )


def _probe(checkpoint: Checkpoint, family: GenericFamily) -> dict[str, Any]:
    """Two prompts of different length about two images, left-padded."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, PROBE_SIZE, PROBE_SIZE, 3), dtype=np.uint8)
    images = [Image.fromarray(item) for item in pixels]
    texts = [family.prompt(checkpoint.processor, question) for question in ("Why?", "What can be seen here?")]
    with _instrumented(checkpoint, family) as shared:
        try:
            return shared.process(images, texts, None)
        except ValueError:  # some processors count images per prompt
            family.nested = True
            return shared.process(images, texts, None)


@contextmanager
def _instrumented(checkpoint: Checkpoint, family: Family) -> Iterator[Instrumented]:
    shared = Instrumented(checkpoint, family)
    try:
        yield shared
    finally:
        shared.instruments.uninstall()


def _depth_fails(checkpoint: Checkpoint, family: GenericFamily, probe: Mapping[str, Any]) -> str | None:
    """Why blocks cannot be skipped. Every block that may be skipped is, with every second other one.

    Some models add features to what their first blocks return: where skipping those fails, the first quarter is kept.
    """
    blocks = len(family.blocks(checkpoint.model))
    reason = None
    for early in (0, max(1, blocks // 4)):
        family.keep(range(early))
        always = family.always_kept(checkpoint.config)
        others = [index for index in range(blocks) if index not in always]
        if not others:
            return reason or "every block of it always runs"
        for half in (others[::2], others[1::2]):
            kept = sorted({*always, *half})
            reason = _turned_fails(
                checkpoint,
                family,
                probe,
                without_blocks(checkpoint.model, kept),
                TurnedKnobs(kept_blocks=frozenset(kept)),
            )
            if reason is not None:
                break
        if reason is None:
            return None
    return reason


def _top_k_fails(
    checkpoint: Checkpoint, family: Family, probe: Mapping[str, Any], routers: Sequence[nn.Module]
) -> str | None:
    """Why fewer experts cannot be taken."""
    own = routers[0].__dict__[TOP_K]
    if own == 1:
        return "its routers choose one expert per token, there are no fewer"
    full = logits(checkpoint.model, probe)
    for top_k in sorted({1, own - 1}):
        with with_top_k(routers, top_k):
            widths = routed_widths(checkpoint.model, routers, probe)
            same = bool((logits(checkpoint.model, probe) == full).all())
        if not any(widths) or not all(top_k in found for found in widths if found):
            return (
                "its routers weigh every expert, so that every expert always runs: fewer would save no time"
            )
        if same:
            return f"its answers do not change when its routers are told {top_k} instead of {own}"
        reason = _turned_fails(
            checkpoint, family, probe, with_top_k(routers, top_k), TurnedKnobs(top_k=top_k)
        )
        if reason is not None:
            return reason
    return None


def _turned_fails(
    checkpoint: Checkpoint,
    family: Family,
    probe: Mapping[str, Any],
    reference: AbstractContextManager[None],
    knobs: TurnedKnobs,
) -> str | None:
    @contextmanager
    def instrumented() -> Iterator[None]:
        with _instrumented(checkpoint, family):
            yield

    return difference(checkpoint.model, probe, reference, instrumented, knobs)


def _image_token(checkpoint: Checkpoint) -> int:
    config, processor = checkpoint.config, checkpoint.processor
    for owner, name in (
        (config, "image_token_id"),
        (config, "image_token_index"),
        (processor, "image_token_id"),
    ):
        found = getattr(owner, name, None)
        if isinstance(found, int):
            return found
    raise ModelError(
        f"model {checkpoint.name}: nobody described the family {config.model_type!r}, and neither its "
        "configuration nor its processor names the token that stands for an image (image_token_id)"
    )


def _experts(routers: Sequence[nn.Module]) -> int | None:
    """Experts that the routers choose from: as many as they choose where they do not say."""
    for router in routers:
        for name in ("num_experts", "n_routed_experts", TOP_K):
            if isinstance(router.__dict__.get(name), int):
                return router.__dict__[name]
    return None
