"""What must hold of every family: bodies of tests, given a small checkpoint opened as an elastic model."""

import contextvars
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf.checkpoints import picture
from hf.opened import IMAGES, QUESTION, Small, open_checkpoint
from paceline.models.transformers import knob_state
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.instrumented import Instrumented
from paceline.models.transformers.knob_state import TurnedKnobs, turned
from paceline.models.transformers.spaces import BLOCKS, TOP_K
from paceline.models.transformers.tower import remembering

NEW_TOKENS = 8
THREADS = 24

PER_BLOCK = ("layer_types", "no_rope_layers", "mlp_layer_types")
"""Lists of a text configuration with an entry for every block."""
OF_BLOCKS = ("moe_layers", "rope_scaling_layers", "mlp_only_layers")
"""Lists of a text configuration that hold indices of blocks."""


# Blocks


def check_depth(small: Small, kept: Sequence[int]) -> None:
    """Skipped blocks: the logits of a model that has the kept blocks only, one image and a left-padded batch."""
    shared, model = small.shared, small.model
    physical = with_blocks(shared, kept)
    others = [block for block in range(len(shared.blocks)) if block not in kept]
    always = list(shared.limits.always_kept)
    ranking = [*always, *(block for block in kept if block not in always), *others]
    fewer = model.with_block_ranking(ranking)
    overview = small.overview()
    for option in (small.image_options()[0], small.image_options()[-1]):
        inputs = shared.process_again([overview], option)
        expected = logits_of(physical, inputs)
        with turned(TurnedKnobs(kept_blocks=frozenset(kept))):
            found = logits_of(shared.model, inputs)
        assert torch.equal(found, expected)
        with turned(TurnedKnobs()):
            assert not torch.equal(logits_of(shared.model, inputs), expected)
        answer = fewer.generate(overview, small.configuration(option, **{BLOCKS: len(kept)}), NEW_TOKENS)
        assert answer.tokens == answer_of(physical, inputs)
        size = (60, 60) if shared.family.mixed_batches else (None, None)
        both = [overview, small.overview(*size, "How many of them are red?")]
        inputs = shared.process_again(both, option)
        assert not inputs["attention_mask"].all()  # one of them is padded
        with turned(TurnedKnobs(kept_blocks=frozenset(kept))):
            found = logits_of(shared.model, inputs)
        assert torch.equal(found, logits_of(physical, inputs))


def with_blocks(shared: Instrumented, kept: Sequence[int]) -> nn.Module:
    """A model of the same class with these blocks only, weights copied."""
    config = copy.deepcopy(shared.model.config)
    text = config.get_text_config()
    for name in PER_BLOCK:
        if getattr(text, name, None):
            setattr(text, name, [getattr(text, name)[block] for block in kept])
    for name in OF_BLOCKS:
        if getattr(text, name, None):
            setattr(text, name, [place for place, block in enumerate(kept) if block in getattr(text, name)])
    text.num_hidden_layers = len(kept)
    model = type(shared.model)(config).eval().requires_grad_(False)  # kernels are chosen by it too
    prefix = next(name for name, module in shared.model.named_modules() if module is shared.blocks) + "."
    weights = {}
    for key, value in shared.model.state_dict().items():
        if key.startswith(prefix):
            block, rest = key.removeprefix(prefix).split(".", 1)
            if int(block) not in kept:
                continue
            key = f"{prefix}{list(kept).index(int(block))}.{rest}"
        weights[key] = value
    model.load_state_dict(weights)
    return model


def logits_of(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Logits (steps, batch, vocabulary) of a plain `generate` with the KV cache, pixels given; no answer ends early."""
    with torch.inference_mode():
        found = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(found.logits)


def answer_of(model: Any, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens of a plain `generate` for one request."""
    with torch.inference_mode():
        found = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tuple(found[0, inputs["input_ids"].shape[1] :].tolist())


# Experts


def check_top_k(small: Small, build: Callable[[int], Small]) -> None:
    """Fewer experts: the logits of a checkpoint built with that number, which `build` opens."""
    overview = small.overview()
    option = small.image_options()[-1]
    inputs = small.shared.process_again([overview], option)
    full = logits_of(small.shared.model, inputs)
    most = small.shared.limits.top_k or 0
    for top_k in (1, most - 1):
        other = build(top_k)
        expected = logits_of(other.shared.model, inputs)
        assert other.shared.limits.top_k == top_k
        with turned(TurnedKnobs(top_k=top_k)):
            found = logits_of(small.shared.model, inputs)
        assert torch.equal(found, expected)
        assert not torch.equal(found, full)
        answer = small.model.generate(overview, small.configuration(option, **{TOP_K: top_k}), NEW_TOKENS)
        assert answer.tokens == answer_of(other.shared.model, inputs)


# The overview


def check_reuse(small: Small, *, rows: bool) -> None:
    """What the overview's reuse gives is what the model gives without; `rows`: it saves one at every option."""
    shared, model = small.shared, small.model
    with counted_rows(shared) as seen:
        overview = small.overview()
    assert seen == [1]
    for place, option in enumerate(small.image_options()):
        configuration = small.configuration(option)
        with counted_rows(shared) as seen:
            answer = model.generate(overview, configuration, NEW_TOKENS)
        spared = rows or place == 0
        assert sum(seen) == answer.workload.tiles - spared
        inputs = shared.process_again([overview], option)
        memory = overview.state.memory.fork()
        with turned(TurnedKnobs()), remembering(memory):
            again = shared.image_tokens(shared.encode(inputs)[0])
        assert memory.reused == spared
        anew = shared.image_tokens(shared.encode(inputs)[0])
        torch.testing.assert_close(again, anew, rtol=1e-5, atol=1e-5)
        assert answer.tokens == answer_of(shared.model, inputs)


@contextmanager
def counted_rows(shared: Instrumented) -> Iterator[list[int]]:
    """Rows of pixels that go through the vision tower, call by call."""
    tower = shared.family.tower(shared.model)
    assert tower is not None
    seen: list[int] = []

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(len(next(item for item in (*args, *kwargs.values()) if isinstance(item, Tensor))))

    handle = tower.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def check_workload(small: Small, width: int, height: int) -> list[int]:
    """Tiles and tokens are known beforehand exactly, at every option; the tiles are returned."""
    overview = small.overview(width, height)
    tiles = []
    for option in small.image_options():
        configuration = small.configuration(option)
        inputs = small.shared.process_again([overview], option)
        image_token = small.shared.checkpoint.config.image_token_id
        workload = small.model.workload(overview, configuration)
        assert workload.vision_tokens == int((inputs["input_ids"] == image_token).sum())
        assert workload.prompt_tokens == inputs["input_ids"].shape[1]
        assert workload.tiles == small.shared.family.tiles(inputs)
        assert small.model.generate(overview, configuration, 1).workload == workload
        tiles.append(workload.tiles)
    return tiles


# Several requests, errors, copies


def check_threads(small: Small) -> None:
    """24 threads of different configurations at once, answers and streams in turn: each is what it is alone."""
    space = small.model.knobs
    actions = [place * space.size // THREADS for place in range(THREADS)]  # over the whole knob space
    overviews = [small.overview(*size) for size in IMAGES]

    def run(place: int) -> Any:
        overview, configuration = overviews[place % 3], space.configuration(actions[place])
        if place % 2 == 0:
            return small.model.generate(overview, configuration, NEW_TOKENS).tokens
        return "".join(small.model.stream(overview, configuration, NEW_TOKENS))

    alone = [run(place) for place in range(THREADS)]
    assert len(set(alone)) > THREADS // 3  # configurations and images do matter
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(run, range(THREADS))) == alone


def check_threads_of_callers(small: Small) -> None:
    """A thread that the caller starts inside `turned` needs the caller's context, and then has the knobs."""
    inputs = small.shared.process_again([small.overview()], small.image_options()[0])
    kept = frozenset(range(len(small.shared.blocks) - 1)) | set(small.shared.limits.always_kept)
    with turned(TurnedKnobs(kept_blocks=kept)), ThreadPoolExecutor(1) as pool:
        expected = logits_of(small.shared.model, inputs)
        context = contextvars.copy_context()
        found = pool.submit(context.run, logits_of, small.shared.model, inputs).result()
    assert torch.equal(found, expected)


def check_exception(small: Small) -> None:
    """An error in the middle of a generation leaves nothing behind."""
    overview = small.overview()
    few = small.model.knobs.cheapest
    before = small.model.generate(overview, small.model.knobs.full, NEW_TOKENS).tokens
    small.model.generate(overview, few, NEW_TOKENS)
    state = modules_of(small.shared.model)
    calls = []

    def fail(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 3:  # the prefill and one token went well
            raise RuntimeError("out of memory, say")

    handle = small.shared.blocks[0].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory, say"):
            small.model.generate(overview, few, NEW_TOKENS)
    finally:
        handle.remove()
    assert knob_state.current() is None
    assert modules_of(small.shared.model) == state
    assert small.model.generate(overview, small.model.knobs.full, NEW_TOKENS).tokens == before


def check_uninstall(small: Small) -> None:
    """A model without its instruments is the one that was loaded: classes, attributes, logits."""
    checkpoint = open_checkpoint(small.name, small.directory)
    inputs = small.shared.process_again([small.overview()], small.image_options()[-1])
    expected = logits_of(checkpoint.model, inputs)
    state = modules_of(checkpoint.model)
    model = ElasticTransformers(Instrumented(checkpoint, small.shared.family))
    assert modules_of(checkpoint.model) != state
    overview = model.overview(picture(90, 60), QUESTION)
    model.generate(overview, model.knobs.cheapest, NEW_TOKENS)
    model.uninstall()
    assert modules_of(checkpoint.model) == state
    with turned(TurnedKnobs(top_k=1, kept_blocks=frozenset({0}))):  # nobody reads it any more
        assert torch.equal(logits_of(checkpoint.model, inputs), expected)


def modules_of(model: nn.Module) -> dict[str, tuple[type, dict[str, int]]]:
    """Class and attributes of every module, attributes by identity."""
    return {
        name: (type(module), {key: id(value) for key, value in module.__dict__.items()})
        for name, module in model.named_modules()
    }


def check_copy(small: Small) -> None:
    """A deep copy of an instrumented model runs its own weights, and reads the knobs as well."""
    inputs = small.shared.process_again([small.overview()], small.image_options()[0])
    copied = copy.deepcopy(small.shared.model)
    kept = frozenset(range(len(small.shared.blocks) - 1)) | set(small.shared.limits.always_kept)
    with turned(TurnedKnobs(kept_blocks=kept)):
        expected = logits_of(small.shared.model, inputs)
        assert torch.equal(logits_of(copied, inputs), expected)
        with torch.no_grad():
            for parameter in small.shared.family.blocks(copied)[0].parameters():
                parameter.zero_()
        assert not torch.equal(logits_of(copied, inputs), expected)
        assert torch.equal(logits_of(small.shared.model, inputs), expected)
