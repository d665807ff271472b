"""Token by token: greedy and sampled choice, and stop strings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.errors import ModelError
from paceline.models.molmoe.tokenizer import MolmoTokenizer

REPLACEMENT = "\ufffd"  # what an unfinished multi-byte character decodes to


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """How an answer is generated."""

    max_new_tokens: int
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # sample among the likeliest tokens that together have this probability
    seed: int | None = None  # None draws a new one per request
    stop: tuple[str, ...] = ()  # generation ends before any of these

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ModelError(f"max_new_tokens: got {self.max_new_tokens}, expected at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ModelError(f"temperature: got {self.temperature}, expected a number >= 0 (0 is greedy)")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p: got {self.top_p}, expected a share in (0, 1]")
        if isinstance(self.stop, str) or not all(isinstance(item, str) and item for item in self.stop):
            raise ModelError(f"stop: got {self.stop!r}, expected a tuple of non-empty strings")


class TokenChoice:
    """Picks the next token from logits, greedily or sampled from a generator of its own."""

    def __init__(self, options: GenerationOptions) -> None:
        self._temperature = options.temperature
        self._top_p = options.top_p
        self._generator = torch.Generator()
        if options.temperature > 0:
            self._generator.seed() if options.seed is None else self._generator.manual_seed(options.seed)

    def __call__(self, logits: Tensor) -> int:
        """Token id from logits (vocabulary,)."""
        if self._temperature == 0:
            return int(logits.argmax())
        likely, ids = (logits.float().cpu() / self._temperature).softmax(dim=-1).sort(descending=True)
        before = likely.cumsum(dim=-1) - likely
        kept = likely.masked_fill(before >= self._top_p, 0.0)
        return int(ids[torch.multinomial(kept, 1, generator=self._generator)])


class TextStream:
    """Turns tokens into text that only grows: unfinished characters and possible stop strings are held back."""

    def __init__(self, tokenizer: MolmoTokenizer, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._emitted = 0
        self.tokens: list[int] = []
        self.stopped = False  # the end token or a stop string came

    def push(self, token: int) -> bool:
        """Take a token; True when the answer ends with it."""
        self.tokens.append(token)
        self.stopped = token == self._tokenizer.end_of_text or (bool(self._stop) and self._cut()[1])
        return self.stopped

    def _cut(self) -> tuple[str, bool]:
        text = self._tokenizer.decode(self.tokens)
        found = [place for item in self._stop if (place := text.find(item)) >= 0]
        return (text[: min(found)].rstrip(), True) if found else (text, False)

    @property
    def text(self) -> str:
        """The answer so far, cut before a stop string."""
        return self._cut()[0]

    def delta(self, last: bool) -> str:
        """Text that is new since the last call and can no longer change; all of it when `last`."""
        text = self.text
        if not last:
            text = text.rstrip(REPLACEMENT)
            text = text[: len(text) - max((_overlap(text, item) for item in self._stop), default=0)].rstrip()
        piece = text[self._emitted :]
        self._emitted = max(self._emitted, len(text))
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def left_pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (time, width) of unequal length -> (batch, longest, width) with zeros first, and which are real."""
    longest = max(len(row) for row in rows)
    padded = torch.stack([torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=padded.device)
    return padded, torch.arange(longest, device=padded.device) >= (longest - lengths)[:, None]


def padded_mask(valid: Tensor) -> Tensor:
    """Attention mask (batch, 1, time, time) for left-padded rows: causal, and padding is never a key."""
    return last_mask(valid, valid.shape[1])


def last_mask(valid: Tensor, length: int) -> Tensor:
    """Mask (batch, 1, length, time) of the last `length` positions of `valid` (batch, time): causal, no padding.

    A padded position may attend to itself, so that its softmax is not over nothing.
    """
    time_steps = valid.shape[1]
    seen = torch.ones(length, time_steps, dtype=torch.bool, device=valid.device).tril(time_steps - length)
    itself = torch.eye(time_steps, dtype=torch.bool, device=valid.device)[-length:]
    return ((seen & valid[:, None, :]) | itself)[:, None]


def padded_positions(valid: Tensor) -> Tensor:
    """Position ids (batch, time): the cumulative sum of the mask minus 1, floored at 0."""
    return (valid.long().cumsum(dim=1) - 1).clamp(min=0)
