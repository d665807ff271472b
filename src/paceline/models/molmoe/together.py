"""Many requests under one configuration at once: left-padded batches that read a shared image once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from paceline.errors import ModelError
from paceline.models.molmoe import knob_state
from paceline.models.molmoe.decoder import KeyValueCache
from paceline.models.molmoe.generation import (
    GenerationOptions,
    TextStream,
    last_mask,
    left_pad,
    padded_mask,
    padded_positions,
)
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.phase_clock import PhaseClock
from paceline.models.protocol import Overview, Timings

if TYPE_CHECKING:
    from paceline.models.molmoe.model import MolmoE, OverviewState

DENSE_SHARE = 8  # from an eighth of the experts on, all of them in one product beat groups, in batches


@torch.inference_mode()
def answer_together(
    model: "MolmoE",
    overviews: Sequence[Overview],
    max_crops: int,
    knobs: KnobState,
    options: GenerationOptions,
) -> tuple[list[TextStream], Timings]:
    """Greedy answers of many requests at once, and the phases of the whole; at least one request.

    Images are left-padded to the longest and read, each different one once; each request then continues from its
    image's cache with its own text, left-padded likewise.
    """
    if options.temperature > 0:
        raise ModelError("generate_batch is greedy; sample with generate, or set temperature to 0")
    for overview in overviews:
        model.check_length(model.workload(overview, max_crops).prompt_tokens, options)
    clock = PhaseClock(model.device)
    states = [overview.state for overview in overviews]
    firsts, owners = shared_images(states)
    images = [model.image_row(states[first], overviews[first].image_size, max_crops) for first in firsts]
    clock.mark("vision")
    texts = [state.question for state in states]
    streams = [TextStream(model.tokenizer, options.stop) for _ in states]
    many = (knobs.top_k or model.options.top_k) * DENSE_SHARE >= model.options.num_experts
    with knob_state.knobs(replace(knobs, every_expert=many)):
        embedded, valid = left_pad(images)
        text, text_valid = left_pad(texts)
        cache = KeyValueCache(embedded.shape[1] + text.shape[1] + options.max_new_tokens)
        model.decoder(embedded, padded_positions(valid), padded_mask(valid), cache, last_only=True)
        owner = torch.tensor(owners, device=model.device)
        cache = cache.repeat(owner)
        valid = torch.cat((valid[owner], text_valid), dim=1)
        length = text.shape[1]
        positions = padded_positions(valid)[:, -length:]
        hidden = model.decoder(text, positions, last_mask(valid, length), cache, last_only=True)
        for step in range(options.max_new_tokens):
            chosen = model.decoder.logits(hidden[:, -1]).argmax(dim=-1)
            for stream, token in zip(streams, chosen.tolist(), strict=True):
                if not stream.stopped:
                    stream.push(token)
            if step == 0:
                clock.mark("prefill")
            if all(stream.stopped for stream in streams) or step + 1 == options.max_new_tokens:
                break
            valid = torch.cat((valid, torch.ones_like(valid[:, :1])), dim=1)
            position = padded_positions(valid)[:, -1:]
            hidden = model.decoder(
                model.decoder.embed(chosen[:, None]), position, valid[:, None, None], cache
            )
    clock.mark("decode")
    return streams, clock.timings()


def shared_images(states: Sequence["OverviewState"]) -> tuple[list[int], list[int]]:
    """The first state of each different image, and for every state the number of its image."""
    numbers: dict[tuple[tuple[int, ...], bytes], int] = {}
    firsts: list[int] = []
    owners: list[int] = []
    for index, state in enumerate(states):
        key = (state.pixels.shape, state.pixels.tobytes())
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(index)
        owners.append(numbers[key])
    return firsts, owners
