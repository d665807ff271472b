"""A Hugging Face vision-language model as an elastic model: image, experts per token and blocks, turned per request."""

import copy
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from paceline.errors import ModelError, PromptError
from paceline.images import image_array
from paceline.knobs import Configuration, KnobSpace, Option
from paceline.models.block_importance import BlockImportance
from paceline.models.facts import ModelFacts
from paceline.models.overview_features import FeatureSets, pooled, to_host
from paceline.models.phase_clock import PhaseClock
from paceline.models.protocol import Generation, Overview, Workload
from paceline.models.transformers.checking import check_forgery, check_prompt, check_request
from paceline.models.transformers.generation import FirstToken, StopStrings, end_tokens, greedy, streamed
from paceline.models.transformers.importance import measure_blocks
from paceline.models.transformers.instrumented import Instrumented
from paceline.models.transformers.knob_state import TurnedKnobs, turned
from paceline.models.transformers.spaces import (
    BLOCKS,
    TOP_K,
    check_ranking,
    check_space,
    default_space,
    natural_ranking,
)
from paceline.models.transformers.telling import facts_of
from paceline.models.transformers.tower import TowerMemory, remembering

BATCH = 16  # requests per left-padded batch


@dataclass(frozen=True, slots=True, eq=False)
class OverviewState:
    """What `generate` reuses of an overview."""

    image: Image.Image  # RGB
    text: str  # the prompt with the image's placeholder
    memory: TowerMemory  # what the vision tower made of the overview
    beside: int  # tokens of the prompt beside those that stand for the image


class ElasticTransformers:
    """An `ElasticModel` over a checkpoint of Hugging Face transformers.

    Nothing is written on the model by a request; any number of threads may use it at once. A thread that is started by
    the caller inside a request must run in `contextvars.copy_context()`, as `stream` does.
    """

    def __init__(
        self,
        shared: Instrumented,
        *,
        knobs: KnobSpace | None = None,
        block_ranking: Sequence[int] | None = None,
    ) -> None:
        """`block_ranking`: blocks from most to least important, those that always run first.

        Raises KnobError for knobs that the checkpoint lacks, ModelError for a ranking of other blocks.
        """
        self.shared = shared
        self.name = shared.checkpoint.name
        self.family = shared.family
        limits = shared.limits
        self._knobs = knobs or default_space(self.family, shared.processor, limits)
        check_space(self.family, shared.checkpoint.config, limits, self._knobs)
        self.has_block_ranking = block_ranking is not None
        self.block_ranking = check_ranking(
            natural_ranking(limits) if block_ranking is None else block_ranking, limits
        )
        self._settings = greedy(shared.model)
        self._ends = end_tokens(self._settings)

    @property
    def knobs(self) -> KnobSpace:
        """What can be turned."""
        return self._knobs

    @property
    def default_configuration(self) -> Configuration:
        """Every knob at its most expensive option, the image as the processor would have it by itself."""
        name, option = self.family.image_knob, self.family.default_option(self.shared.processor)
        offered = {option for knob in self._knobs.knobs if knob.name == name for option in knob.options}
        return {**self._knobs.full, **({str(name): option} if option in offered else {})}

    def describe(self) -> dict[str, Any]:
        """JSON-able facts: name, revision, family, sizes, type and device."""
        checkpoint, limits = self.shared.checkpoint, self.shared.limits
        return {
            "name": self.name,
            "revision": checkpoint.revision,
            "architecture": type(self.shared.model).__name__,
            "family": self.family.name,
            "parameters": sum(parameter.numel() for parameter in self.shared.model.parameters()),
            "width": int(self.shared.model.get_input_embeddings().weight.shape[1]),
            "blocks": limits.blocks,
            "always_kept": list(limits.always_kept),
            "experts": limits.experts,
            "dtype": str(self.shared.model.dtype).removeprefix("torch."),
            "device": str(self.shared.device),
            "block_ranking": list(self.block_ranking),
            "image_processor": type(self.shared.processor.image_processor).__name__,
            "prompt": self.family.prompt_format(self.shared.processor),
            "ignored_tensors": len(checkpoint.ignored),
            "transformers": importlib.metadata.version("transformers"),
        }

    def facts(self) -> ModelFacts:
        """Units and ranges of the knobs, what always runs, where the overview sits, which knobs there are not."""
        return facts_of(self.family, self.shared.limits)

    @torch.inference_mode()
    def overview(self, image: Image.Image, prompt: str) -> Overview:
        """The image at its cheapest option through the vision tower, the prompt through the embedding table.

        Raises ImageError and PromptError for what the model cannot read, ModelError after `uninstall`.
        """
        self._check_installed()
        clock, shared, family = time.perf_counter(), self.shared, self.family
        check_prompt(shared.processor, prompt)
        question_ids = shared.question_ids(prompt)
        check_forgery(question_ids, shared.reserved)
        picture = Image.fromarray(image_array(image))
        option = family.overview_option(shared.processor)
        text = family.prompt(shared.processor, prompt)
        memory = TowerMemory(family.overview_position)
        shown = family.overview_image(shared.processor, picture)
        inputs = shared.process([shown], [text], option)
        with turned(TurnedKnobs()), remembering(memory):
            encoded = shared.encode_overview(inputs)
        tokens = shared.image_tokens(encoded)
        ids = torch.tensor(question_ids, device=shared.device)
        question = shared.model.get_input_embeddings()(ids)
        counted = shared.count((shown.height, shown.width), option)
        state = OverviewState(picture, text, memory, inputs["input_ids"].shape[1] - counted.layout_tokens)
        width = tokens.shape[1]
        values = to_host(pooled(tokens, question))
        return Overview(
            image_features=values[:width],
            question_features=values[width:],
            image_size=(picture.height, picture.width),
            elapsed_ms=(time.perf_counter() - clock) * 1e3,
            state=state,
            feature_sets=FeatureSets(tokens, question),
        )

    def workload(self, overview: Overview, configuration: Mapping[str, Option]) -> Workload:
        """Tiles and tokens that a configuration makes of this image and prompt."""
        option, _ = self._turned(configuration)
        counted = self.shared.count(overview.image_size, option)
        return Workload(
            tiles=counted.tiles,
            vision_tokens=counted.vision_tokens,
            prompt_tokens=overview.state.beside + counted.layout_tokens,
        )

    def generate(
        self,
        overview: Overview,
        configuration: Mapping[str, Option],
        max_new_tokens: int,
        *,
        stop: tuple[str, ...] = (),
    ) -> Generation:
        """Answer greedily under a configuration; tiles of the workload are those that the processor made."""
        check_request(max_new_tokens, stop)
        option, knobs = self._turned(configuration)
        self._check_length(overview, configuration, max_new_tokens)
        clock = PhaseClock(self.shared.device)
        with torch.inference_mode(), turned(knobs):
            inputs = self.shared.process_again([overview], option)
            encoded, rest = self._encode(overview, inputs)
            clock.mark("vision")
            start = inputs["input_ids"].shape[1]
            ends = [StopStrings(stop, start, self.shared.decode)] if stop else []
            found = self._run(rest, encoded, max_new_tokens, [FirstToken(clock), *ends])
        tokens = found[0, start:].tolist()
        text, stopped = self._text(tokens, stop)
        clock.mark("decode")
        return Generation(
            text=text,
            tokens=tuple(tokens),
            finish_reason="stop" if stopped else "length",
            timings=clock.timings(),
            workload=Workload(
                tiles=self.family.tiles(inputs),
                vision_tokens=len(self.shared.image_tokens(encoded)),
                prompt_tokens=inputs["input_ids"].shape[1],
            ),
        )

    def stream(
        self, overview: Overview, configuration: Mapping[str, Option], max_new_tokens: int
    ) -> Iterator[str]:
        """Pieces of the answer as they come. The knobs are turned in the thread that generates, never in the caller."""
        check_request(max_new_tokens)
        option, knobs = self._turned(configuration)
        self._check_length(overview, configuration, max_new_tokens)

        def run(streamer: Any, cancelled: Any) -> None:
            with torch.inference_mode(), turned(knobs):
                inputs = self.shared.process_again([overview], option)
                encoded, rest = self._encode(overview, inputs)
                self._run(rest, encoded, max_new_tokens, [cancelled], streamer=streamer)

        return streamed(self.shared.processor.tokenizer, run)

    def generate_batch(
        self, overviews: Sequence[Overview], configuration: Mapping[str, Option], max_new_tokens: int
    ) -> list[str]:
        """Answers only, left-padded in batches of images with like numbers of tokens."""
        check_request(max_new_tokens)
        option, knobs = self._turned(configuration)
        answers = [""] * len(overviews)
        for places in self._batches([self.workload(overview, configuration) for overview in overviews]):
            part = [overviews[index] for index in places]
            for overview in part:
                self._check_length(overview, configuration, max_new_tokens)
            with torch.inference_mode(), turned(TurnedKnobs(knobs.top_k, knobs.kept_blocks)):
                inputs = self.shared.process_again(part, option)
                encoded, rest = self.shared.encode(inputs)
                found = self._run(rest, encoded, max_new_tokens, [])
            for index, row in zip(places, found[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                answers[index] = self._text(row, ())[0]
        return answers

    def _batches(self, loads: Sequence[Workload]) -> Iterator[list[int]]:
        """Places of requests that are processed together: like numbers of tokens, equal tiles where a family must."""
        order = sorted(range(len(loads)), key=lambda index: loads[index].prompt_tokens)
        tiles = {0} if self.family.mixed_batches else {load.tiles for load in loads}
        for number in sorted(tiles):
            places = [index for index in order if number in (0, loads[index].tiles)]
            yield from (places[start : start + BATCH] for start in range(0, len(places), BATCH))

    def block_importance(
        self, overviews: Sequence[Overview], targets: Sequence[str], method: str = "loss"
    ) -> BlockImportance:
        """Scores and order of the blocks, all other knobs full; see `block_importance`."""
        counts = [int(option) for knob in self._knobs.knobs if knob.name == BLOCKS for option in knob.options]
        fewest = min(counts, default=self.shared.limits.blocks)
        option, knobs = self._turned(self.default_configuration)
        return measure_blocks(
            self.shared, overviews, targets, method=method, option=option, top_k=knobs.top_k, fewest=fewest
        )

    def with_block_ranking(self, ranking: Sequence[int]) -> "ElasticTransformers":
        """The same weights with another order in which blocks are skipped."""
        return ElasticTransformers(self.shared, knobs=self._knobs, block_ranking=ranking)

    def uninstall(self) -> None:
        """Take the instruments off: the model is what it was when it was loaded. No request may be running.

        What shares its weights (`with_block_ranking`) is uninstalled as well; requests are refused from then on.
        """
        self.shared.instruments.uninstall()

    def _encode(self, overview: Overview, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        with remembering(overview.state.memory.fork()):
            return self.shared.encode(inputs)

    def _run(
        self,
        rest: Mapping[str, Any],
        encoded: Any,
        max_new_tokens: int,
        criteria: list[Any],
        **options: Any,
    ) -> torch.Tensor:
        from transformers import StoppingCriteriaList

        settings = copy.deepcopy(self._settings)
        settings.max_new_tokens = max_new_tokens
        return self.shared.model.generate(
            **rest,
            mm_encoder_outputs={"image": encoded},
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList(criteria),
            **options,
        )

    def _text(self, tokens: Sequence[int], stop: tuple[str, ...]) -> tuple[str, bool]:
        """The answer, cut before a stop string, and whether it ended by itself; what follows an end is padding."""
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        text = self.shared.decode(tokens[:end])
        places = [place for item in stop if (place := text.find(item)) >= 0]
        return text[: min(places, default=None)].strip(), bool(places) or end is not None

    def _turned(self, configuration: Mapping[str, Option]) -> tuple[int | None, TurnedKnobs]:
        """The image's option and what the decoder reads; a configuration outside the knob space is a KnobError."""
        self._check_installed()
        self._knobs.action(configuration)
        limits = self.shared.limits
        option = configuration.get(self.family.image_knob or "")
        top_k = configuration.get(TOP_K)
        count = int(configuration.get(BLOCKS, limits.blocks))
        return None if option is None else int(option), TurnedKnobs(
            top_k=None if top_k is None else int(top_k),
            kept_blocks=frozenset(self.block_ranking[:count]) if count < limits.blocks else None,
        )

    def _check_installed(self) -> None:
        if not self.shared.instruments.installed:
            raise ModelError(
                f"model {self.name}: its instruments were taken off by uninstall, so that its knobs turn nothing; load "
                "it again"
            )

    def _check_length(
        self, overview: Overview, configuration: Mapping[str, Option], max_new_tokens: int
    ) -> None:
        positions = getattr(self.shared.checkpoint.config.get_text_config(), "max_position_embeddings", None)
        prompt = self.workload(overview, configuration).prompt_tokens
        if positions is not None and prompt + max_new_tokens > positions:
            raise PromptError(
                f"prompt: {prompt:,} tokens and {max_new_tokens:,} new ones, but the model reads {positions:,}; "
                "shorten the prompt, give the image fewer tokens or lower max_new_tokens"
            )
