"""MolmoE as an elastic model: crops, experts per token and blocks, turned per request."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from paceline.errors import KnobError, ModelError
from paceline.knobs import SEED_SPACE, Configuration, KnobSpace, Option
from paceline.models.block_importance import BlockImportance
from paceline.models.facts import ModelFacts
from paceline.models.molmoe.ablation import measure_blocks
from paceline.models.molmoe.checkpoint import fingerprint, load_knobs, load_model, load_ranking
from paceline.models.molmoe.copies import CopyStream
from paceline.models.molmoe.default_knobs import (
    BLOCKS,
    MAX_CROPS,
    TOP_K,
    default_configuration,
    facts,
    limits,
)
from paceline.models.molmoe.generation import GenerationOptions
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.placement import DeviceMap
from paceline.models.protocol import Generation, Overview, Workload

BATCH = 48  # requests per left-padded batch: more does not go faster on a CPU


class ElasticMolmoE:
    """An `ElasticModel` over a MolmoE.

    `block_ranking` lists the blocks from most to least important; n active blocks are its first n, run in the order
    of the model. Without one the first blocks count as the most important.

    `overlap_copies` (a CUDA device only): features of an overview travel to the host on a stream of their own while the
    model and its caller go on, with the next overview for example; reading them waits.
    """

    def __init__(
        self,
        model: MolmoE,
        *,
        name: str,
        knobs: KnobSpace = SEED_SPACE,
        block_ranking: Sequence[int] | None = None,
        revision: str = "",
        overlap_copies: bool = False,
    ) -> None:
        self.model = model
        self.name = name
        self.revision = revision
        self._knobs = knobs
        self._copies = CopyStream(model.device) if overlap_copies else None
        _check_knobs(knobs, model)
        blocks = model.options.num_blocks
        ranking = (
            tuple(range(blocks)) if block_ranking is None else tuple(int(block) for block in block_ranking)
        )
        if sorted(ranking) != list(range(blocks)) or ranking[0] != 0:
            raise ModelError(
                f"block ranking {list(ranking)}: expected each of the {blocks} blocks once, block 0 first "
                "(the cache's length is read from it)"
            )
        self.block_ranking = ranking
        self.has_block_ranking = block_ranking is not None
        self._turned_to: dict[int, tuple[int, KnobState]] = {}  # by action, as they are asked for

    @property
    def knobs(self) -> KnobSpace:
        """What can be turned."""
        return self._knobs

    @property
    def default_configuration(self) -> Configuration:
        """Every knob at what the model was trained with; more experts are options, but not its default."""
        return default_configuration(self._knobs, self.model.options)

    def describe(self) -> dict[str, Any]:
        """JSON-able facts: name, hash of the weights, sizes, type and device."""
        options = self.model.options
        return {
            "name": self.name,
            "revision": self.revision,
            "architecture": "MolmoE",
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "width": options.width,
            "blocks": options.num_blocks,
            "experts": options.num_experts,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "block_ranking": list(self.block_ranking),
        }

    def facts(self) -> ModelFacts:
        """Units and ranges of the knobs, what always runs, where the overview sits."""
        return facts(self.model.options)

    @property
    def projector(self) -> Tensor:
        """The last layer of the vision projector, (width, inner): image features are means of its outputs.

        The model's own memory, not a copy.
        """
        return self.model.vision.project_down.weight.detach()

    def overview(self, image: Image.Image, prompt: str) -> Overview:
        """Overview crop and prompt, before the decision."""
        return self.model.overview(image, prompt, self._copies)

    def workload(self, overview: Overview, configuration: Mapping[str, Option]) -> Workload:
        """Tiles and tokens that a configuration would make of this image and prompt."""
        return self.model.workload(overview, self._turned(configuration)[0])

    def generate(
        self,
        overview: Overview,
        configuration: Mapping[str, Option],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> Generation:
        """Answer under a configuration; greedy unless a temperature is given."""
        max_crops, state = self._turned(configuration)
        options = GenerationOptions(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop
        )
        return self.model.generate(overview, max_crops, state, options)

    def stream(
        self,
        overview: Overview,
        configuration: Mapping[str, Option],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """Pieces of the answer as they come."""
        max_crops, state = self._turned(configuration)
        options = GenerationOptions(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop
        )
        return self.model.stream(overview, max_crops, state, options)

    def generate_batch(
        self, overviews: Sequence[Overview], configuration: Mapping[str, Option], max_new_tokens: int
    ) -> list[str]:
        """Answers only, left-padded in batches. Vision is kept in the overviews for the next configuration."""
        max_crops, state = self._turned(configuration)
        options = GenerationOptions(max_new_tokens=max_new_tokens)

        # Images of like length together, so that little is padding, and questions about one image side by side.
        def place(index: int) -> tuple[int, bytes]:
            workload = self.model.workload(overviews[index], max_crops)
            return workload.vision_tokens, overviews[index].state.pixels.tobytes()

        order = sorted(range(len(overviews)), key=place)
        answers = [""] * len(overviews)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            texts = self.model.generate_batch([overviews[index] for index in part], max_crops, state, options)
            for index, text in zip(part, texts, strict=True):
                answers[index] = text
        return answers

    def generate_together(
        self, overviews: Sequence[Overview], configuration: Mapping[str, Option], max_new_tokens: int
    ) -> list[Generation]:
        """Greedy answers of all, left-padded in one batch; the tokens are those of `generate`."""
        max_crops, state = self._turned(configuration)
        options = GenerationOptions(max_new_tokens=max_new_tokens)
        return self.model.generate_together(overviews, max_crops, state, options)

    def block_importance(
        self, overviews: Sequence[Overview], targets: Sequence[str], method: str = "loss"
    ) -> BlockImportance:
        """Blocks from most to least important on these samples, in the default configuration; block 0 always stays.

        By "loss", the block whose loss on `targets` would rise least is taken away, again and again; below the fewest
        blocks that the knob space can ask for, no order is needed: the blocks left keep the order of the model. By
        "similarity", the more a block changes what enters it, the more it matters.
        """
        max_crops, state = self._turned(self.default_configuration)
        fewest = min(int(option) for option in self._options(BLOCKS, self.model.options.num_blocks))
        return measure_blocks(
            self.model,
            overviews,
            targets,
            method=method,
            max_crops=max_crops,
            top_k=state.top_k,
            fewest=fewest,
        )

    def with_block_ranking(self, ranking: Sequence[int]) -> "ElasticMolmoE":
        """The same weights with another order in which blocks are skipped."""
        return ElasticMolmoE(
            self.model,
            name=self.name,
            knobs=self._knobs,
            block_ranking=ranking,
            revision=self.revision,
            overlap_copies=self._copies is not None,
        )

    def _options(self, knob: str, default: int) -> tuple[Option, ...]:
        return next((item.options for item in self._knobs.knobs if item.name == knob), (default,))

    def _turned(self, configuration: Mapping[str, Option]) -> tuple[int, KnobState]:
        """Crops, and what the decoder reads; a configuration outside the knob space is a KnobError."""
        action = self._knobs.action(configuration)
        if action not in self._turned_to:
            options = self.model.options
            count = int(configuration.get(BLOCKS, options.num_blocks))
            state = KnobState(
                top_k=int(configuration.get(TOP_K, options.top_k)),
                active_blocks=tuple(sorted(self.block_ranking[:count])),
            )
            self._turned_to[action] = int(configuration.get(MAX_CROPS, options.max_crops)), state
        return self._turned_to[action]


def _check_knobs(knobs: KnobSpace, model: MolmoE) -> None:
    most = limits(model.options)
    for knob in knobs.knobs:
        if knob.name not in most:
            raise KnobError(f"knob {knob.name}: MolmoE has no such knob, expected some of {sorted(most)}")
        wrong = [
            option
            for option in knob.options
            if not isinstance(option, int) or isinstance(option, bool) or not 1 <= option <= most[knob.name]
        ]
        if wrong:
            raise KnobError(
                f"knob {knob.name}: options {wrong}, expected integers from 1 to {most[knob.name]}"
            )


def load_elastic(
    directory: Path,
    *,
    name: str,
    device: str = "cpu",
    overlap_copies: bool = False,
    dtype: torch.dtype | None = None,
    device_map: DeviceMap | None = None,
) -> ElasticMolmoE:
    """A model directory as an elastic model, with the knobs and the ranking of blocks that lie beside its weights."""
    model = load_model(directory, device=device, dtype=dtype, device_map=device_map)
    return ElasticMolmoE(
        model,
        name=name,
        knobs=load_knobs(directory, model.options),
        block_ranking=load_ranking(directory),
        revision=fingerprint(directory),
        overlap_copies=overlap_copies,
    )
