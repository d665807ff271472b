"""Random-weight molmoe-1b in bfloat16 on a CUDA device: latency by knob, shares of the device's limits, overhead.

    python -m benchmarks.gpu_molmoe
    python -m benchmarks.gpu_molmoe --device cpu --preset tiny --configurations 6 --tokens 3   # a look at the code

Latency does not depend on what the weights are, so random ones do. Every configuration of the knob space is timed at
batch 1 on the same images, in random order. Limits are measured on the device in the same run: bandwidth by copying,
arithmetic by a large matrix product. The share of the bandwidth limit is that of decoding one token: weights, keys and
values that a token must read, over the time it takes. Writes benchmarks/results/gpu_molmoe.json on CUDA devices only.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.cuda_device import asked_device, wait
from benchmarks.molmoe_work import Work
from benchmarks.record import write_result
from paceline.knobs import Configuration
from paceline.latency.estimate import LatencyEstimator
from paceline.models.molmoe.default_knobs import BLOCKS, TOP_K, default_knobs
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.model import MolmoE
from paceline.models.molmoe.options import PRESETS, MolmoEOptions
from paceline.models.molmoe.static_decode import StaticDecoding
from paceline.models.molmoe.tokenizer import MolmoTokenizer, word_tokenizer
from paceline.models.protocol import Generation, Overview
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import PolicySpec
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.average import PriceTable
from paceline.runtime.controller import Controller
from paceline.runtime.guard import Guard

QUESTION = "what is in the picture ?"
SIZES = ((480, 640), (640, 480), (600, 1000), (1000, 700), (768, 768), (360, 1200), (900, 1200), (500, 500))
"""Heights and widths of the images: the usual aspect ratios, and a wide one."""
BAR = 0.5
"""Share of the bandwidth limit that decoding at batch 1 is to reach."""
HIDDEN = 64
REQUESTS = 64
TARGET_SHARE = 0.6
"""Budget of the requests whose overhead is measured, as a share of the slowest configuration's latency."""


def random_molmoe(options: MolmoEOptions, device: torch.device, dtype: torch.dtype, seed: int = 0) -> MolmoE:
    """A model with random weights of a size that keeps activations finite, made on the device."""
    tokenizer = MolmoTokenizer(
        word_tokenizer(QUESTION.split()), options.vocabulary + options.added_vocabulary
    )
    with torch.device("meta"):
        model = MolmoE(options, tokenizer)
    generator = torch.Generator(device=device).manual_seed(seed)
    weights = {}
    for name, item in model.state_dict().items():
        made = torch.empty(item.shape, dtype=dtype, device=device)
        if item.dim() == 1:
            weights[name] = made.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            weights[name] = made.normal_(0, item.shape[-1] ** -0.5, generator=generator)
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(False).eval()
    if device.type == "cuda":
        model.static = StaticDecoding(model)
    return model


def images(count: int, seed: int = 0) -> list[Image.Image]:
    """Noise in the usual sizes."""
    rng = np.random.default_rng(seed)
    shapes = [SIZES[index % len(SIZES)] for index in range(count)]
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def limits(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Bytes moved and operations done per second at best, in billions."""
    large = device.type == "cuda"
    source = torch.zeros(2**30 if large else 2**25, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    side = 8192 if large else 512
    left = torch.randn(side, side, device=device).to(dtype)
    return {
        "gigabytes_per_second": 2 * source.numel() / _best(lambda: target.copy_(source), device) / 1e9,
        "gigaoperations_per_second": 2 * side**3 / _best(lambda: left @ left, device) / 1e9,
    }


def _best(call: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Seconds of the fastest call."""
    found = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - started)
    return min(found)


def run_all(
    model: ElasticMolmoE, overviews: Sequence[Overview], configurations: Sequence[Configuration], tokens: int
) -> list[list[Generation]]:
    """Every configuration on every image, after one call of each that is not kept: [configuration][image]."""
    for configuration in configurations:
        model.generate(overviews[0], configuration, tokens)
    found: list[list[Generation]] = [[] for _ in configurations]
    rng = np.random.default_rng(0)
    for overview in overviews:
        for index in rng.permutation(len(configurations)):
            found[index].append(model.generate(overview, configurations[index], tokens))
    return found


def summary(
    configuration: Configuration,
    answers: Sequence[Generation],
    options: MolmoEOptions,
    itemsize: int,
    limit: dict[str, float],
) -> dict[str, Any]:
    """Median phases in milliseconds, and the shares of the device's limits."""
    work = Work(
        options=options,
        top_k=int(configuration.get(TOP_K, options.top_k)),
        blocks=int(configuration.get(BLOCKS, options.num_blocks)),
    )
    # `tokens` hold the end token too; the first one is the prefill's.
    steps = [(a, len(a.tokens) - 1) for a in answers if len(a.tokens) > 1]
    found: dict[str, Any] = {
        "configuration": dict(configuration),
        "total_ms": _median([a.timings.total_ms for a in answers]),
        "vision_ms": _median([a.timings.vision_ms for a in answers]),
        "prefill_ms": _median([a.timings.prefill_ms for a in answers]),
        "tokens": _median([len(a.tokens) for a in answers]),
        "prefill_share_of_arithmetic": _median(
            [
                work.prefill_operations(a.workload.prompt_tokens)
                / a.timings.prefill_ms
                / 1e6
                / limit["gigaoperations_per_second"]
                for a in answers
            ]
        ),
        "vision_share_of_arithmetic": _median(
            [
                work.vision_operations(a.workload.tiles - 1)
                / a.timings.vision_ms
                / 1e6
                / limit["gigaoperations_per_second"]
                for a in answers
            ]
        ),
    }
    if steps:
        found["token_ms"] = _median([a.timings.decode_ms / count for a, count in steps])
        found["decode_share_of_bandwidth"] = _median(
            [
                work.decode_bytes(a.workload.prompt_tokens + count // 2, itemsize)
                / (a.timings.decode_ms / count)
                / 1e6
                / limit["gigabytes_per_second"]
                for a, count in steps
            ]
        )
    return found


def _median(values: Sequence[float]) -> float:
    return float(f"{np.median(values):.4g}")


def by_knob(model: ElasticMolmoE, summaries: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each knob, its options while the others are at their default; options that were not timed are left out."""
    default, found = model.default_configuration, {}
    for knob in model.knobs.knobs:
        wanted = {str(option): default | {knob.name: option} for option in knob.options}
        timed = {name: [s for s in summaries if s["configuration"] == c] for name, c in wanted.items()}
        found[knob.name] = {name: items[0] for name, items in timed.items() if items}
    return found


def overhead(
    model: ElasticMolmoE,
    pictures: Sequence[Image.Image],
    configurations: Sequence[Configuration],
    answers: Sequence[Sequence[Generation]],
    tokens: int,
) -> dict[str, Any]:
    """What a controller adds to requests, end to end; its policy is random, for only its size takes time."""
    space = model.knobs
    actions = np.array([space.action(configuration) for configuration in configurations])
    order = np.argsort(actions)
    read = {
        "tiles": lambda a: a.workload.tiles,
        "vision_tokens": lambda a: a.workload.vision_tokens,
        "prompt_tokens": lambda a: a.workload.prompt_tokens,
        "output_tokens": lambda a: len(a.tokens),
    }
    tiles, vision, prompt, output = [
        np.array([[float(get(answers[c][i])) for c in order] for i in range(len(pictures))])
        for get in read.values()
    ]
    total = np.array([[answers[c][i].timings.total_ms for c in order] for i in range(len(pictures))])
    first = np.array([[answers[c][i].timings.first_token_ms for c in order] for i in range(len(pictures))])
    latency, first_token = (
        LatencyEstimator.fit(space, actions[order], tiles, vision, prompt, output, t) for t in (total, first)
    )
    slowest = float(np.median(total.max(axis=1)))
    overview = model.overview(pictures[0], QUESTION)
    spec = PolicySpec(
        head="joint",
        members=1,
        image_width=len(overview.image_features),
        question_width=len(overview.question_features),
        hidden=HIDDEN,
        budget_low_ms=float(total.min()),
        budget_high_ms=slowest,
        full_latency_ms=slowest,
        actions=tuple(int(action) for action in actions[order]),
    )
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in spec.array_shapes().items()
    }
    arrays["feature_scale"] = np.ones_like(arrays["feature_scale"])
    controller = Controller(
        space=space,
        policy=NumpyPolicy(spec, arrays),
        latency=latency,
        first_token_latency=first_token,
        guard=Guard(overview_ms=overview.elapsed_ms, output_tokens=float(tokens), max_new_tokens=tokens),
        prices=PriceTable(np.array([slowest]), np.array([0.0])),
    )
    adaptive = AdaptiveModel(model, controller, calibrate=False)
    added = []
    for index in range(REQUESTS):
        answer = adaptive.generate(
            pictures[index % len(pictures)],
            QUESTION,
            budget_ms=TARGET_SHARE * slowest + overview.elapsed_ms,
            max_new_tokens=tokens,
        )
        added.append(answer.overhead.total_ms)
    return {
        "requests": REQUESTS,
        "median_ms": _median(added),
        "p95_ms": float(f"{np.quantile(added, 0.95):.4g}"),
        "share_of_slowest": float(f"{np.median(added) / slowest:.3g}"),
    }


def measure(
    preset: str, device: torch.device, dtype: torch.dtype, count: int, tokens: int, configurations: int | None
) -> dict[str, Any]:
    """Everything, as it is written."""
    options = PRESETS[preset]
    started = time.perf_counter()
    limit = limits(device, dtype)
    molmo = random_molmoe(options, device, dtype)
    model = ElasticMolmoE(molmo, name=f"{preset} with random weights", knobs=default_knobs(options))
    pictures = images(count)
    overviews = [model.overview(picture, QUESTION) for picture in pictures]
    space = model.knobs
    chosen = (
        np.arange(space.size) if configurations is None else np.linspace(0, space.size - 1, configurations)
    )
    tested = [space.configuration(int(action)) for action in chosen]
    if model.default_configuration not in tested:
        tested.append(model.default_configuration)
    answers = run_all(model, overviews, tested, tokens)
    summaries = [
        summary(configuration, of_it, options, dtype.itemsize, limit)
        for configuration, of_it in zip(tested, answers, strict=True)
    ]
    default = next(s for s in summaries if s["configuration"] == model.default_configuration)
    share = default.get("decode_share_of_bandwidth")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "preset": preset,
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in molmo.parameters()),
        "images": count,
        "max_new_tokens": tokens,
        "limits": {name: float(f"{value:.4g}") for name, value in limit.items()},
        "cuda_graphs": molmo.static is not None and not molmo.static.failed,
        "default": default,
        "bar": {"decode_share_of_bandwidth": BAR, "reached": share is not None and share >= BAR},
        "overview_ms": _median([overview.elapsed_ms for overview in overviews]),
        "knobs": by_knob(model, summaries),
        "configurations": summaries,
        "overhead": overhead(model, pictures, tested, answers, tokens),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Measure, print, and write on a CUDA device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="molmoe-1b", choices=sorted(PRESETS))
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--images", type=int, default=8, help="at least 8")
    parser.add_argument("--tokens", type=int, default=16, help="new tokens of every answer")
    parser.add_argument("--configurations", type=int, default=None, help="how many to time; by default all")
    arguments = parser.parse_args()
    device = asked_device(
        arguments.device, "gpu_molmoe", "--device cpu --preset tiny --configurations 6 --tokens 3"
    )
    dtype = torch.bfloat16 if arguments.dtype == "bfloat16" else torch.float32
    found = measure(
        arguments.preset, device, dtype, arguments.images, arguments.tokens, arguments.configurations
    )
    print(json.dumps({key: value for key, value in found.items() if key != "configurations"}, indent=1))
    if device.type == "cuda":
        print(write_result("gpu_molmoe", found))


if __name__ == "__main__":
    main()
