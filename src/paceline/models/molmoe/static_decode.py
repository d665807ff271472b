"""Decoding steps of fixed shapes, so that a CUDA device can replay one as a graph instead of being told every kernel.

At batch 1 a token's products take less time than the calls that start them; a graph starts all of them at once. A step
writes keys and values into buffers of a fixed capacity at a position that is a tensor, and masks what lies beyond it.
"""

import logging
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paceline.models.molmoe import knob_state
from paceline.models.molmoe.decoder import KeyValueCache
from paceline.models.molmoe.knob_state import KnobState

if TYPE_CHECKING:
    from paceline.models.molmoe.model import MolmoE

ROUNDED = 512  # positions: capacities are multiples, so that requests of like length share a graph
MOST_GRAPHS = 128  # kept; more than the configurations of blocks and experts in the default knob space
WARM_UP = 3  # runs before a capture, which lets libraries choose their kernels and allocate
CLOSE = (
    0.05  # largest difference of a replay to the run it was made from, in standard deviations of the logits
)

logger = logging.getLogger(__name__)


class StaticCache(KeyValueCache):
    """Keys and values of all blocks in buffers of one capacity, written at a position that is a tensor."""

    def __init__(self, model: "MolmoE", capacity: int) -> None:
        super().__init__(capacity)
        options = model.options
        shape = (2, 1, options.num_heads, capacity, options.width // options.num_heads)
        place = {"dtype": model.dtype, "device": model.device}
        self._buffers = [torch.zeros(shape, **place) for _ in range(options.num_blocks)]
        self.position = torch.zeros(1, dtype=torch.long, device=model.device)

    def load(self, cache: KeyValueCache, blocks: tuple[int, ...]) -> None:
        """Take over what a prefill left."""
        for block in blocks:
            keys, values = cache.read(block)
            length = keys.shape[2]
            self._buffers[block][0, :, :, :length] = keys
            self._buffers[block][1, :, :, :length] = values

    def extend(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one position and return the whole buffers; what lies beyond the position is masked."""
        all_keys, all_values = self._buffers[block].unbind(0)
        all_keys.index_copy_(2, self.position, keys)
        all_values.index_copy_(2, self.position, values)
        return all_keys, all_values


class Step:
    """The next token's scores for one choice of blocks and experts."""

    def __init__(self, model: "MolmoE", state: KnobState, cache: StaticCache) -> None:
        self._model = model
        self._state = state
        self._cache = cache
        self._places = torch.arange(cache.capacity, device=model.device)
        self._token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        self._replay: Callable[[], Tensor] = self.run

    def run(self) -> Tensor:
        """Scores (vocabulary,) after the token at the position, kernel by kernel."""
        decoder = self._model.decoder
        with knob_state.knobs(self._state):
            mask = (self._places <= self._cache.position)[None, None, None]
            rows = decoder.embed(self._token)
            hidden = decoder(rows, self._cache.position[None], mask, self._cache)
            return decoder.logits(hidden[0, -1])

    def capture(self) -> None:
        """From now on replay a graph.

        Raises RuntimeError where the device cannot, or where the replay gives other scores.
        """
        stream = torch.cuda.Stream(self._model.device)
        stream.wait_stream(torch.cuda.current_stream(self._model.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                expected = self.run()
        torch.cuda.current_stream(self._model.device).wait_stream(stream)
        expected = self.run().float()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, capture_error_mode="thread_local"
        ):  # other threads go on using the device
            scores = self.run()

        def replay() -> Tensor:
            graph.replay()
            return scores

        apart = (replay().float() - expected).abs().max()
        if not bool(apart <= CLOSE * expected.std()):
            raise RuntimeError(f"the replayed step differs from the run one by {float(apart):.3g}")
        self._replay = replay

    def __call__(self, token: int, position: int) -> Tensor:
        """Scores after `token` at `position`; the tensor is overwritten by the next call."""
        self._token.fill_(token)
        self._cache.position.fill_(position)
        return self._replay()


class StaticDecoding:
    """Steps of a model by configuration and capacity. One request at a time; others decode as without it."""

    def __init__(self, model: "MolmoE", *, capture: bool = True) -> None:
        self._model = model
        self._capture = capture
        self._busy = Lock()
        self._caches: dict[int, StaticCache] = {}
        self._steps: dict[tuple[KnobState, int], Step] = {}
        self.failed = False

    def begin(self, state: KnobState, cache: KeyValueCache) -> "Step | None":
        """A step that goes on from a prefill's cache, or None: busy with another request, or not possible here."""
        if self.failed or not self._busy.acquire(blocking=False):
            return None
        try:
            return self._step(state, cache)
        except (
            RuntimeError
        ) as error:  # capturing failed: decoding kernel by kernel is slower and always right
            self.failed = True
            self._busy.release()
            self._steps.clear()
            logger.warning("decoding without CUDA graphs: %s", str(error).splitlines()[0])
            return None
        except BaseException:
            self._busy.release()
            raise

    def end(self) -> None:
        """The request that `begin` gave a step is over."""
        self._busy.release()

    def _step(self, state: KnobState, cache: KeyValueCache) -> Step:
        capacity = min(-(-cache.capacity // ROUNDED) * ROUNDED, self._model.options.max_positions)
        if capacity not in self._caches:
            self._caches[capacity] = StaticCache(self._model, capacity)
        static = self._caches[capacity]
        static.load(cache, state.active_blocks or tuple(range(self._model.options.num_blocks)))
        key = (state, capacity)
        if key not in self._steps:
            if len(self._steps) >= MOST_GRAPHS:
                self._steps.pop(next(iter(self._steps)))
            step = Step(self._model, state, static)
            static.position.fill_(cache.length)
            if self._capture:
                step.capture()
            self._steps[key] = step
        return self._steps[key]
