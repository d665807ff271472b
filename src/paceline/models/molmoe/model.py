"""MolmoE: vision tower, decoder and tokenizer together, from an image and a question to an answer."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from paceline.errors import PromptError
from paceline.images import image_array
from paceline.models.molmoe import crops, knob_state
from paceline.models.molmoe.copies import CopyStream, PendingOverview
from paceline.models.molmoe.crops import CropOptions
from paceline.models.molmoe.decoder import Decoder, KeyValueCache
from paceline.models.molmoe.generation import (
    GenerationOptions,
    TextStream,
    TokenChoice,
)
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.one_crop import KeptCrop
from paceline.models.molmoe.options import MolmoEOptions
from paceline.models.molmoe.static_decode import StaticDecoding
from paceline.models.molmoe.together import answer_together
from paceline.models.molmoe.tokenizer import MolmoTokenizer
from paceline.models.molmoe.vision import VisionTower
from paceline.models.overview_features import FeatureSets, pooled, to_host
from paceline.models.phase_clock import PhaseClock
from paceline.models.protocol import Generation, Overview, Workload

CHARACTERS_PER_POSITION = 16  # no question with more characters than this per position is even tokenised


@dataclass(frozen=True, slots=True, eq=False)
class OverviewState:
    """What `generate` reuses of an overview."""

    pixels: np.ndarray  # uint8 (height, width, 3)
    mask: np.ndarray  # float32 (1, patches): the padding mask with which `tokens` were pooled
    features: Tensor  # (1, patches, features): vision tower before pooling
    tokens: Tensor  # (overview tokens, width)
    prompt_ids: tuple[int, ...]
    question: Tensor  # (prompt tokens, width): their rows of the embedding table
    # Image tokens by tiling, kept by batched generation only, where one sample meets many configurations.
    image_tokens: dict[tuple[int, int], Tensor] = field(default_factory=dict)


@lru_cache(maxsize=512)
def _grid_source(tiling: tuple[int, int], options: CropOptions, device: torch.device) -> Tensor:
    """For every token of the grid, its index among all pooled tokens of the high-resolution crops."""
    order = crops.token_order(tiling, options).ravel()
    with torch.inference_mode(False):
        return torch.from_numpy(np.argsort(order, kind="stable")[(order < 0).sum() :].copy()).to(device)


class MolmoE(nn.Module):
    """The model. Nothing on it changes while it answers, so that any number of threads may use it at once."""

    def __init__(self, options: MolmoEOptions, tokenizer: MolmoTokenizer) -> None:
        super().__init__()
        self.options = options
        self.crop_options = CropOptions.of(options)
        self.tokenizer = tokenizer
        self.vision = VisionTower(options)
        self.decoder = Decoder(options)
        self.longest_image = self._longest_image(options.max_crops)
        self.one_crop = KeptCrop()  # how overviews are computed, where the tower is small
        self.static: StaticDecoding | None = None  # steps of fixed shapes, where a device replays them

    @property
    def device(self) -> torch.device:
        """Where the embeddings are, and with them the weights unless a device map says otherwise."""
        return self.decoder.embedding.device

    @property
    def vision_device(self) -> torch.device:
        """Where the vision tower is."""
        return self.vision.class_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the computation."""
        return self.decoder.embedding.dtype

    # Before the decision

    @torch.inference_mode()
    def overview(self, image: Image.Image, prompt: str, copies: CopyStream | None = None) -> Overview:
        """Overview crop through the vision tower and prompt through the embedding table.

        With `copies` the pooled features travel to the host while other work goes on; reading them waits.
        Raises ImageError and PromptError for what the model cannot read.
        """
        clock, copy = time.perf_counter(), copies.begin() if copies is not None else None
        prompt_ids = self._prompt_ids(prompt)
        pixels = image_array(image)
        patches = crops.overview_crop(pixels, self.crop_options)
        mask = crops.padding_masks(pixels.shape[:2], None, self.crop_options)
        compiled = self.one_crop.of(self.vision) if self.device.type == "cpu" else None
        if compiled is not None:
            class_and_patches, tokens, image_mean = compiled.read(patches, mask[0])
        else:
            class_and_patches = self.vision.class_and_patches(self._tensor(patches[None]))
            tokens = self.vision.pool(class_and_patches[:, 1:], self._tensor(mask))[0]
            image_mean = None
        question = self.decoder.embed(torch.tensor(prompt_ids, device=self.device))
        state = OverviewState(pixels, mask, class_and_patches[:, 1:], tokens, tuple(prompt_ids), question)
        size, width = (pixels.shape[0], pixels.shape[1]), self.options.width
        key = size, len(prompt_ids)
        sets = FeatureSets(tokens, question, class_and_patches)
        if copy is not None:
            copy.send(pooled(tokens.to(self.device), question))
            return PendingOverview(
                copy, image_width=width, image_size=size, state=state, feature_sets=sets, workload_key=key
            )
        if image_mean is None:
            values = to_host(
                pooled(tokens.to(self.device), question)
            )  # waits for the device, then the clock is read
            image_mean, question_mean = values[:width], values[width:]
        else:
            rows = question.numpy()  # `np.mean` takes longer than the mean
            question_mean = np.add.reduce(rows, axis=0) / np.float32(len(rows))
        return Overview(
            image_features=image_mean,
            question_features=question_mean,
            image_size=size,
            elapsed_ms=(time.perf_counter() - clock) * 1e3,
            state=state,
            feature_sets=sets,
            workload_key=key,
        )

    def _prompt_ids(self, prompt: str) -> list[int]:
        most = CHARACTERS_PER_POSITION * self.options.max_positions
        if isinstance(prompt, str) and len(prompt) > most:
            raise PromptError(f"prompt: {len(prompt):,} characters, expected at most {most:,}; shorten it")
        ids = self.tokenizer.prompt_tokens(prompt)
        room = self.options.max_positions - self.longest_image - 1
        if len(ids) > room:
            raise PromptError(
                f"prompt: {len(ids):,} tokens, expected at most {room:,} beside an image; shorten it"
            )
        return ids

    def _longest_image(self, max_crops: int) -> int:
        """Tokens of the image part of the layout in the largest tiling of `max_crops`."""
        side = self.crop_options.pooled_side
        tilings = ((rows, max_crops // rows) for rows in range(1, max_crops + 1))
        grids = (crops.grid_shape(tiling, self.crop_options) for tiling in tilings)
        return max(self.tokenizer.layout_length(side, grid, 0) for grid in grids)

    def _tensor(self, array: np.ndarray) -> Tensor:
        # Copied: the cached masks are read-only, which torch warns about.
        return torch.tensor(array, device=self.vision_device, dtype=self.dtype)

    # After it

    def tiling(self, image_size: tuple[int, int], max_crops: int) -> tuple[int, int]:
        """Rows and columns of high-resolution crops of an image of (height, width) pixels."""
        return crops.choose_tiling(image_size[0], image_size[1], max_crops, self.crop_options)

    def workload(self, overview: Overview, max_crops: int) -> Workload:
        """What a request makes the model process."""
        tiling = self.tiling(overview.image_size, max_crops)
        grid = crops.grid_shape(tiling, self.crop_options)
        side = self.crop_options.pooled_side
        prompt = len(overview.state.prompt_ids)
        return Workload(
            tiles=1 if tiling == (1, 1) else 1 + tiling[0] * tiling[1],  # see `image_tokens`
            vision_tokens=side * side + grid[0] * grid[1],
            prompt_tokens=self.tokenizer.layout_length(side, grid, prompt),
        )

    def image_tokens(self, state: OverviewState, tiling: tuple[int, int]) -> Tensor:
        """Tokens (overview, then grid in reading order; width); only the high-resolution crops are computed.

        The overview is pooled again only where its padding mask depends on the tiling (`mask_row_shift`).
        """
        if tiling == (1, 1):  # the one crop of the whole image is the overview: its features are there
            features = state.features
            masks = crops.padding_masks(state.pixels.shape[:2], tiling, self.crop_options)
        else:
            patches, _, masks = crops.high_resolution_crops(state.pixels, tiling, self.crop_options)
            features = self.vision.features(torch.from_numpy(patches).to(self.vision_device, self.dtype))
        grid_source = _grid_source(tiling, self.crop_options, self.vision_device)
        if self.options.mask_row_shift == 0 or np.array_equal(masks[:1], state.mask):
            pooled = self.vision.pool(features, self._tensor(masks[1:]))
            return torch.cat((state.tokens, pooled.flatten(0, 1)[grid_source])).to(self.device)
        pooled = self.vision.pool(torch.cat((state.features, features)), self._tensor(masks))
        return torch.cat((pooled[0], pooled[1:].flatten(0, 1)[grid_source])).to(self.device)

    def all_image_tokens(self, pixels: np.ndarray, tiling: tuple[int, int]) -> Tensor:
        """The same from pixels, uint8 (height, width, 3), with the overview computed too: what reuse must equal."""
        patches, _, masks = crops.high_resolution_crops(pixels, tiling, self.crop_options)
        overview = crops.overview_crop(pixels, self.crop_options)[None]
        pooled = self.vision(self._tensor(np.concatenate((overview, patches))), self._tensor(masks))
        grid_source = _grid_source(tiling, self.crop_options, self.vision_device)
        return torch.cat((pooled[0], pooled[1:].flatten(0, 1)[grid_source])).to(self.device)

    def embeddings(self, state: OverviewState, tiling: tuple[int, int], image_tokens: Tensor) -> Tensor:
        """Input embeddings (time, width) of a request; the question's are those that the overview looked up."""
        return torch.cat((self.image_embeddings(tiling, image_tokens), state.question))

    def image_embeddings(self, tiling: tuple[int, int], image_tokens: Tensor) -> Tensor:
        """Those of the start token and the image: its tokens are added at the <im_patch> positions."""
        grid = crops.grid_shape(tiling, self.crop_options)
        layout = self.tokenizer.layout(self.crop_options.pooled_side, grid, ())
        places = [place for place, index in enumerate(layout) if index == self.tokenizer.image_patch]
        embedded = self.decoder.embed(torch.tensor(layout, device=self.device))
        return embedded.index_add_(0, torch.tensor(places, device=self.device), image_tokens)

    def check_length(self, prompt_tokens: int, options: GenerationOptions) -> None:
        """Raise PromptError for more tokens, new ones included, than the model has positions."""
        if prompt_tokens + options.max_new_tokens > self.options.max_positions:
            raise PromptError(
                f"prompt: {prompt_tokens:,} tokens and {options.max_new_tokens:,} new ones, but the model reads "
                f"{self.options.max_positions:,}; shorten the prompt or lower max_new_tokens"
            )

    def token_ids(
        self,
        state: OverviewState,
        tiling: tuple[int, int],
        knobs: KnobState,
        options: GenerationOptions,
        clock: PhaseClock,
    ) -> Iterator[int]:
        """Token ids one by one, the end token included. The knobs are turned inside each step only, never while
        the iterator is suspended, so that nothing leaks into its caller."""
        choose = TokenChoice(options)
        with _inside(knobs):
            embedded = self.embeddings(state, tiling, self.image_tokens(state, tiling))[None]
            clock.mark("vision")
            length = embedded.shape[1]
            cache = KeyValueCache(length + options.max_new_tokens)
            positions = torch.arange(length, device=self.device)[None]
            hidden = self.decoder(embedded, positions, cache=cache, last_only=True)
            token = choose(self.decoder.logits(hidden[0, -1]))
            clock.mark("prefill")
            static = None if self.static is None else self.static.begin(knobs, cache)
        try:
            for place in range(length, length + options.max_new_tokens):
                yield token
                if token == self.tokenizer.end_of_text or place + 1 == length + options.max_new_tokens:
                    return
                with _inside(knobs):
                    if static is not None:
                        token = choose(static(token, place))
                        continue
                    row = self.decoder.embed(torch.tensor([[token]], device=self.device))
                    hidden = self.decoder(row, torch.tensor([[place]], device=self.device), cache=cache)
                    token = choose(self.decoder.logits(hidden[0, -1]))
        finally:
            if static is not None and self.static is not None:
                self.static.end()

    def generate(
        self, overview: Overview, max_crops: int, knobs: KnobState, options: GenerationOptions
    ) -> Generation:
        """Answer a request, with the phases of its time."""
        workload = self.workload(overview, max_crops)
        self.check_length(workload.prompt_tokens, options)
        clock = PhaseClock(self.device)
        text = TextStream(self.tokenizer, options.stop)
        tiling = self.tiling(overview.image_size, max_crops)
        for token in self.token_ids(overview.state, tiling, knobs, options, clock):
            if text.push(token):
                break
        answer = text.text
        clock.mark("decode")
        return Generation(
            text=answer,
            tokens=tuple(text.tokens),
            finish_reason="stop" if text.stopped else "length",
            timings=clock.timings(),
            workload=workload,
        )

    def stream(
        self, overview: Overview, max_crops: int, knobs: KnobState, options: GenerationOptions
    ) -> Iterator[str]:
        """Pieces of the answer as they come; joined they are the text of `generate`."""
        self.check_length(self.workload(overview, max_crops).prompt_tokens, options)
        text = TextStream(self.tokenizer, options.stop)
        tiling = self.tiling(overview.image_size, max_crops)
        for token in self.token_ids(overview.state, tiling, knobs, options, PhaseClock(self.device)):
            if text.push(token):
                break
            if piece := text.delta(last=False):
                yield piece
        if piece := text.delta(last=True):
            yield piece

    def generate_batch(
        self, overviews: Sequence[Overview], max_crops: int, knobs: KnobState, options: GenerationOptions
    ) -> list[str]:
        """Greedy answers of many requests at once; an image that several of them ask about is read once."""
        if not overviews:
            return []
        return [stream.text for stream in answer_together(self, overviews, max_crops, knobs, options)[0]]

    def generate_together(
        self, overviews: Sequence[Overview], max_crops: int, knobs: KnobState, options: GenerationOptions
    ) -> list[Generation]:
        """The same with tokens, and with the phases of the whole batch as the time of each: nobody is done before."""
        if not overviews:
            return []
        streams, timings = answer_together(self, overviews, max_crops, knobs, options)
        return [
            Generation(
                text=stream.text,
                tokens=tuple(stream.tokens),
                finish_reason="stop" if stream.stopped else "length",
                timings=timings,
                workload=self.workload(overview, max_crops),
            )
            for stream, overview in zip(streams, overviews, strict=True)
        ]

    def image_row(self, state: OverviewState, image_size: tuple[int, int], max_crops: int) -> Tensor:
        """Input embeddings (time, width) of the start token and an image; its tokens are kept in the overview."""
        tiling = self.tiling(image_size, max_crops)
        if tiling not in state.image_tokens:
            state.image_tokens[tiling] = self.image_tokens(state, tiling)
        return self.image_embeddings(tiling, state.image_tokens[tiling])

    def embedding_rows(self, overviews: Sequence[Overview], max_crops: int) -> list[Tensor]:
        """Input embeddings per request; image tokens are kept in the overviews for the next configuration."""
        tilings = [self.tiling(overview.image_size, max_crops) for overview in overviews]
        for overview, tiling in zip(overviews, tilings, strict=True):
            if tiling not in overview.state.image_tokens:
                overview.state.image_tokens[tiling] = self.image_tokens(overview.state, tiling)
        return [
            self.embeddings(overview.state, tiling, overview.state.image_tokens[tiling])
            for overview, tiling in zip(overviews, tilings, strict=True)
        ]


@contextmanager
def _inside(knobs: KnobState) -> Iterator[None]:
    with torch.inference_mode(), knob_state.knobs(knobs):
        yield
