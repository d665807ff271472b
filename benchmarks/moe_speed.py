"""Our mixture of experts against the OLMoE block of transformers: equal shapes, equal weights, one run.

    python -m benchmarks.moe_speed
    python -m benchmarks.moe_speed --shapes tiny --rounds 3 --dry-run
    python -m benchmarks.moe_speed --table                             # of docs/molmoe_1b.md, from the result there is

Contenders are `ours` as a loaded checkpoint runs it (experts packed where that pays), and `OlmoeSparseMoeBlock` after
its RMS norm with transformers' expert implementations "eager" and "grouped_mm". All see the same hidden states; that
their outputs are equal is asserted before anything is timed. They take turns in random order, so ratios are those of
the same moments. Writes benchmarks/results/moe_speed.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.interleaved import measure, ratio
from benchmarks.record import RESULTS, write_result
from paceline.models.molmoe import knob_state
from paceline.models.molmoe.decoder import MixtureOfExperts
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.options import PRESETS

TOP_K = (1, 2, 4, 8, 16, 32)
PHASES = {"decode": 1, "decode of 8": 8, "prefill": 512}
"""Tokens that go through the block at once."""
IMPLEMENTATIONS = ("eager", "grouped_mm")
TURN_SECONDS = 0.05
"""A contender's turn lasts about so long, and at least a call."""
MOST_CALLS = 25
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Root mean square of a difference, in standard deviations of the output."""


def blocks(shape: str, dtype: torch.dtype, seed: int = 0) -> tuple[MixtureOfExperts, dict[str, Any], Any]:
    """Our block, theirs by implementation, and their norm, all with the same random weights."""
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeRMSNorm, OlmoeSparseMoeBlock

    options = replace(PRESETS[shape], router_cap=None)
    experts, width, inner = options.num_experts, options.width, options.expert_hidden
    generator = torch.Generator().manual_seed(seed)
    gate_up = _normal((experts, 2 * inner, width), dtype, generator)
    down = _normal((experts, width, inner), dtype, generator)
    router = _normal((experts, width), dtype, generator)
    theirs = {}
    for name in IMPLEMENTATIONS:
        config = OlmoeConfig(
            hidden_size=width,
            intermediate_size=inner,
            num_experts=experts,
            num_experts_per_tok=options.top_k,
            norm_topk_prob=False,
        )
        config._experts_implementation = name  # what `set_experts_implementation` of a whole model sets
        with torch.device("meta"):
            block = OlmoeSparseMoeBlock(config)
        weights = {"gate.weight": router, "experts.gate_up_proj": gate_up, "experts.down_proj": down}
        block.load_state_dict(weights, assign=True)
        theirs[name] = block.requires_grad_(False).eval()
    with torch.device("meta"):
        ours = MixtureOfExperts(options)
    ours.load_state_dict(
        {
            "norm.weight": torch.ones(width, dtype=dtype),
            "router.weight": router,
            "gate_up": gate_up,
            "down": down.mT.contiguous(),
        },
        assign=True,
    )
    ours.requires_grad_(False).eval().pack()
    return ours, theirs, OlmoeRMSNorm(width, eps=options.norm_eps).to(dtype)


def _normal(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random weights that keep the size of what they are multiplied with; made part by part, to need no second copy."""
    found = torch.empty(shape, dtype=dtype)
    for part in found:
        part.copy_(torch.randn(part.shape, generator=generator) * shape[-1] ** -0.5)
    return found


def contenders(
    ours: MixtureOfExperts, theirs: dict[str, Any], norm: Any, x: Tensor, top_k: int
) -> dict[str, Callable[[int], Tensor]]:
    """Everybody's call on the same hidden states; x (1, tokens, width)."""
    state = KnobState(top_k=top_k)

    def mine(_: int) -> Tensor:
        with torch.inference_mode(), knob_state.knobs(state):
            return ours(x)

    def other(name: str) -> Callable[[int], Tensor]:
        block = theirs[name]

        def call(_: int) -> Tensor:
            block.gate.top_k = top_k
            with torch.inference_mode():
                return block(norm(x))

        return call

    return {"ours": mine, **{name: other(name) for name in theirs}}


def assert_equal(calls: dict[str, Callable[[int], Tensor]], dtype: torch.dtype) -> float:
    """The largest difference to `eager`; an error where anybody computes something else."""
    reference = calls["eager"](0).float()
    scale = float(reference.std())
    found = {
        name: float((call(0).float() - reference).square().mean().sqrt()) / scale
        for name, call in calls.items()
    }
    wrong = {name: value for name, value in found.items() if not value <= CLOSE[dtype]}
    if wrong:
        raise AssertionError(f"outputs differ from eager by {wrong} standard deviations")
    return max(found.values())


def compare(
    shape: str, dtype: torch.dtype, threads: Iterable[int], rounds: int, prefill: int
) -> dict[str, Any]:
    """Times and ratios by threads, phase and top_k."""
    ours, theirs, norm = blocks(shape, dtype)
    width = PRESETS[shape].width
    generator = torch.Generator().manual_seed(1)
    found: dict[str, dict[str, Any]] = {}
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for phase, tokens in (PHASES | {"prefill": prefill}).items():
                x = torch.randn(1, tokens, width, generator=generator).to(dtype)
                for top_k in TOP_K:
                    calls = contenders(ours, theirs, norm, x, top_k)
                    apart = assert_equal(calls, dtype)
                    count_calls = _calls(calls["ours"])
                    warm_up = int(count_calls > 1)  # what takes a turn for a call fits no cache anyway
                    times = measure(calls, rounds=rounds, calls=count_calls, warm_up=warm_up, seed=top_k)
                    cell: dict[str, Any] = {
                        "milliseconds": {n: round(float(_middle(t)) / 1e3, 4) for n, t in times.items()},
                        "over_ours": {n: ratio(times[n], times["ours"]) for n in IMPLEMENTATIONS},
                        "apart": float(f"{apart:.1e}"),
                    }
                    found.setdefault(f"{count} thread{'s' * (count > 1)}", {}).setdefault(phase, {})[
                        str(top_k)
                    ] = cell
                    print(shape, dtype, count, phase, top_k, _said(cell), flush=True)
    finally:
        torch.set_num_threads(before)
    return {"packed": ours.packed is not None, **found}


def _calls(call: Callable[[int], Tensor]) -> int:
    """How many calls fill a turn."""
    started = time.perf_counter()
    call(0)
    return max(1, min(MOST_CALLS, round(TURN_SECONDS / (time.perf_counter() - started))))


def _middle(times: Any) -> Any:
    """Median of the rounds' medians."""
    return sorted(sorted(row)[len(row) // 2] for row in times)[len(times) // 2]


def _said(cell: dict[str, Any]) -> str:
    ratios = ", ".join(f"{name} x {value['median']:.2f}" for name, value in cell["over_ours"].items())
    return f"{cell['milliseconds']['ours']:.2f} ms, {ratios}"


def table(result: dict[str, Any]) -> list[str]:
    """Ratios at molmoe-1b's sizes as the documentation shows them."""
    lines = [
        "| type, threads, tokens at once | over | " + " | ".join(f"top_k {top_k}" for top_k in TOP_K) + " |",
        "|---" * (len(TOP_K) + 2) + "|",
    ]
    for dtype, found in result["shapes"]["molmoe-1b"].items():
        for threads, phases in found.items():
            if threads == "packed":
                continue
            for phase, cells in phases.items():
                for name in IMPLEMENTATIONS:
                    row = [f"{cells[str(top_k)]['over_ours'][name]['median']:.2f}" for top_k in TOP_K]
                    tokens = result["tokens"][phase]
                    lines.append(f"| {dtype}, {threads}, {tokens} | {name} | " + " | ".join(row) + " |")
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["molmoe-1b", "tiny"], choices=sorted(PRESETS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prefill", type=int, default=PHASES["prefill"], help="tokens of a prefill")
    parser.add_argument("--dry-run", action="store_true", help="print, write no file")
    parser.add_argument(
        "--table", action="store_true", help="print docs/molmoe_1b.md's table of the result there is"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(table(json.loads((RESULTS / "moe_speed.json").read_text()))))
        return
    shapes: dict[str, Any] = {}
    for shape in arguments.shapes:
        for dtype in (torch.float32, torch.bfloat16) if shape == "molmoe-1b" else (torch.float32,):
            threads = arguments.threads if dtype == torch.float32 else arguments.threads[:1]
            cells = compare(shape, dtype, threads, arguments.rounds, arguments.prefill)
            shapes.setdefault(shape, {})[str(dtype).removeprefix("torch.")] = cells
    if not arguments.dry_run:
        from importlib.metadata import version

        print(
            write_result(
                "moe_speed",
                {
                    "transformers": version("transformers"),
                    "tokens": PHASES | {"prefill": arguments.prefill},
                    "rounds": arguments.rounds,
                    "sizes": {
                        name: {
                            "experts": PRESETS[name].num_experts,
                            "width": PRESETS[name].width,
                            "hidden": PRESETS[name].expert_hidden,
                        }
                        for name in shapes
                    },
                    "shapes": shapes,
                },
            )
        )


if __name__ == "__main__":
    main()
