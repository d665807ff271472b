"""One `generate` of a transformers model: greedy, with marks of its phases, and as a stream."""

import contextvars
import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from paceline.models.phase_clock import PhaseClock

NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0}
"""Transformers' own defaults of sampling: what is None would be filled from the checkpoint again, with a warning."""


def greedy(model: Any) -> Any:
    """The checkpoint's own generation settings without sampling."""
    settings = copy.deepcopy(model.generation_config)
    settings.do_sample = False
    settings.num_beams = 1
    settings.cache_implementation = None  # some checkpoints ask for a cache of fixed length,
    settings.disable_compile = True  # with which the model would be compiled anew for every configuration
    for name in ("temperature", "top_p", "top_k", "typical_p", "min_p", "max_length"):
        if hasattr(settings, name):
            setattr(settings, name, NEUTRAL.get(name))
    return settings


def end_tokens(settings: Any) -> frozenset[int]:
    """Ids with which an answer ends."""
    ends = settings.eos_token_id
    return frozenset(ends if isinstance(ends, list | tuple) else () if ends is None else (ends,))


class FirstToken:
    """A stopping criterion that never stops: the first token is there when it is first asked."""

    def __init__(self, clock: PhaseClock) -> None:
        self._clock: PhaseClock | None = clock

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._clock is not None:
            self._clock.mark("prefill")
            self._clock = None
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class StopStrings:
    """A stopping criterion of one request: its answer holds one of the strings.

    That of transformers looks at the end of the prompt too, and at what is cut off around an answer.
    """

    def __init__(
        self, strings: Sequence[str], prompt_tokens: int, decode: Callable[[list[int]], str]
    ) -> None:
        self._strings, self._start, self._decode = strings, prompt_tokens, decode

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        text = self._decode(input_ids[0, self._start :].tolist())
        stopped = any(item in text for item in self._strings)
        return torch.full((len(input_ids),), stopped, device=input_ids.device)


class Cancelled:
    """A stopping criterion that stops when nobody reads the stream any more."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def streamed(tokenizer: Any, generate: Callable[[Any, Cancelled], None]) -> Iterator[str]:
    """Pieces of text from `generate(streamer, cancelled)`, which runs in a thread of its own with this context's knobs.

    What it raises is raised here. A reader that stops early stops it at the next token.
    """
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    cancelled = Cancelled()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            generate(streamer, cancelled)
        except BaseException as error:  # told to the reader, below
            failures.append(error)
            streamer.end()

    # A thread starts with an empty context: without the copy it would silently run the default configuration.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        cancelled.event.set()
        thread.join()
    if failures:
        raise failures[0]
