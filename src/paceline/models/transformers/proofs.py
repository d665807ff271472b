"""Does a knob mean on this model what it says? Answers under it against those of the model changed by hand.

The reference is the model itself without instruments: with blocks taken out of its list, or another number written on
its routers, and put back afterwards. No copy is made, so that a proof fits wherever the model does. Logits must be
equal bit by bit over a left-padded batch of two prompts with an image, at the prompt and at three further tokens read
from the KV cache.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paceline.models.transformers.generation import greedy
from paceline.models.transformers.instruments import TOP_K
from paceline.models.transformers.knob_state import TurnedKnobs, turned

NEW_TOKENS = 4

Change = tuple[dict[str, Any], str, Any]  # where, which name, its new value


@torch.inference_mode()
def logits(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Logits (tokens, batch, vocabulary) of a short greedy answer."""
    settings = copy.deepcopy(greedy(model))
    settings.eos_token_id = None
    settings.max_new_tokens = NEW_TOKENS
    settings.output_logits = True
    settings.return_dict_in_generate = True
    return torch.stack(model.generate(**inputs, generation_config=settings).logits)


@contextmanager
def without_blocks(model: Any, kept: Sequence[int]) -> Iterator[None]:
    """The model with the kept blocks alone, numbered anew, as if it had been built so."""
    decoder = model.get_decoder()
    blocks = decoder.layers
    changes: list[Change] = []
    for place, index in enumerate(kept):
        for module in blocks[index].modules():
            if isinstance(module.__dict__.get("layer_idx"), int):
                changes.append((module.__dict__, "layer_idx", place))
    for config in _configs(model, decoder, len(blocks)):
        changes.append((config.__dict__, "num_hidden_layers", len(kept)))
        for name, value in config.__dict__.items():
            if "layer" in name and isinstance(value, list | tuple) and len(value) == len(blocks):
                changes.append((config.__dict__, name, [value[index] for index in kept]))
    with _changed(changes):
        decoder.layers = nn.ModuleList([blocks[index] for index in kept])
        try:
            yield
        finally:
            decoder.layers = blocks


@contextmanager
def with_top_k(routers: Sequence[nn.Module], top_k: int) -> Iterator[None]:
    """The routers with another number of experts per token, as if they had been built so."""
    with _changed([(router.__dict__, TOP_K, top_k) for router in routers]):
        yield


def routed_widths(model: Any, routers: Sequence[nn.Module], inputs: Mapping[str, Any]) -> list[set[int]]:
    """Widths (last dimensions) of what each router returns: the number of experts is one where it selects."""
    widths: list[set[int]] = [set() for _ in routers]

    def watch(index: int) -> Callable[..., None]:
        def look(module: nn.Module, given: Any, answer: Any) -> None:
            parts = answer if isinstance(answer, tuple | list) else (answer,)
            widths[index] |= {part.shape[-1] for part in parts if isinstance(part, Tensor) and part.ndim > 0}

        return look

    handles = [router.register_forward_hook(watch(index)) for index, router in enumerate(routers)]
    try:
        logits(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return widths


def written_names(model: Any, inputs: Mapping[str, Any]) -> set[str]:
    """Attributes that modules write on themselves at every answer, not at the first alone."""
    logits(model, inputs)
    before = {module: dict(module.__dict__) for module in model.modules()}
    logits(model, inputs)
    return {
        name
        for module, values in before.items()
        for name, value in module.__dict__.items()
        if name not in values or values[name] is not value
    }


def difference(
    model: Any,
    inputs: Mapping[str, Any],
    reference: AbstractContextManager[None],
    instrumented: Callable[[], AbstractContextManager[None]],
    knobs: TurnedKnobs,
) -> str | None:
    """Why the knobs do not give what the reference gives; None where they do."""
    try:
        with reference:
            expected = logits(model, inputs)
    except Exception as error:  # somebody else's class, changed in a way that nobody foresaw
        return f"the model changed by hand does not run ({_told(error)})"
    try:
        with instrumented(), turned(knobs):
            found = logits(model, inputs)
    except Exception as error:
        return f"the model does not run with it turned ({_told(error)})"
    if torch.equal(expected, found):
        return None
    return "its answers with it turned are not those of a model built that way"


@contextmanager
def _changed(changes: Sequence[Change]) -> Iterator[None]:
    before = [(where, name, where[name]) for where, name, _ in changes]
    try:
        for where, name, value in changes:
            where[name] = value
        yield
    finally:
        for where, name, value in reversed(before):
            where[name] = value


def _configs(model: Any, decoder: nn.Module, blocks: int) -> list[Any]:
    """Configurations of the decoder: its own, its modules' and the one that the cache is made from."""
    found = [model.config.get_text_config(decoder=True)]
    found += [
        config for module in decoder.modules() if (config := getattr(module, "config", None)) is not None
    ]
    unique = {id(config): config for config in found}
    return [config for config in unique.values() if config.__dict__.get("num_hidden_layers") == blocks]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
