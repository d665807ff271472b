"""What one decision costs: Paceline's backends beside what a user would pick instead, and beside reading the weights.

    pip install -e '.[bench]'
    python -m benchmarks.decision_overhead                  # the shipped controller on runs/main_job/outcomes
    python -m benchmarks.decision_overhead --controller DIRECTORY --outcomes OUTCOMES

One process, one thread, batch 1. Contenders take turns in rounds, each round in another order, all on the same requests
of the test split, each with a budget of its own. Everybody does the whole job (`decision_job`): features, workload and
budget in, a configuration out, latency estimate and feasibility included. Paceline's decision also checks its input and
keeps what explains it. Rivals are fitted on the train split first, small and untimed; how each is asked stands in its
docstring and in the result. Batches are measured afterwards, also in turns (`decision_batches`).

The limit is the time to read the default backend's weights once from the cache level they fit in: computed from the
best bandwidth of any reader around that size, and measured as one more contender.
"""

import argparse
import inspect
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decision_backends import (
    DEFAULT,
    averaging,
    batching,
    deciding,
    load_backends,
    weight_bytes,
    with_actions_of,
)
from benchmarks.decision_batches import judged_batches, measure_batches, operations, per_second, products
from benchmarks.decision_job import Batch, Job, Requests, Rival
from benchmarks.decision_rivals import (
    EagerTorch,
    LightgbmOverConfigurations,
    LightgbmPerConfiguration,
    Neighbours,
)
from benchmarks.interleaved import measure, ratio, summary
from benchmarks.memory_limit import bandwidths, caches, readers
from benchmarks.record import write_result
from paceline.cli.threads import one_thread
from paceline.knobs import Configuration
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.average import AverageBudget
from paceline.runtime.controller import Controller

TO_LIMIT, TO_RIVAL = 3.0, 2.0
"""The bars: at most so many times the limit, at least so many times faster than the fastest rival."""
WARM_UP = 20
"""Untimed decisions at the start of a turn."""
CHECKED = 300
"""Decisions of every contender that must be within budget."""
READ = "read weights: "


def fit_rivals(
    controller: Controller, train: OutcomeTable, budgets_ms: np.ndarray, seed: int
) -> tuple[list[Rival], dict[str, str]]:
    """Every rival whose library is installed, fitted; and why others are missing."""
    kinds: list[type[Rival]] = [EagerTorch, LightgbmOverConfigurations, LightgbmPerConfiguration, Neighbours]
    missing = {}
    try:
        from benchmarks.decision_bandits import BanditParsed, BanditText, CostSensitive, MaskedPpo, PpoPredict

        kinds += [BanditText, BanditParsed, CostSensitive, MaskedPpo, PpoPredict]
    except ModuleNotFoundError as error:
        missing["vowpal wabbit and stable-baselines3"] = f"{error.name} is not installed: the extra `bench`"
    made: list[Rival] = []
    for kind in kinds:
        started = time.perf_counter()
        made.append(kind(Job(controller), train, budgets_ms, seed))
        print(f"{kind.name}: fitted in {time.perf_counter() - started:.1f} s", flush=True)
    return made, missing


def fits(
    controller: Controller, decide: Callable[[int], Configuration], requests: Requests, count: int
) -> bool:
    """Whether what a contender chooses is within budget, whenever anything is."""
    for index in range(count):
        context, budget_ms = requests[index]
        work = (context.tiles, context.vision_tokens, context.prompt_tokens)
        upper_ms = controller.latency.upper(controller.actions, *work)
        chosen = np.searchsorted(controller.actions, controller.space.action(decide(index)))
        if upper_ms[chosen] > budget_ms and (upper_ms <= budget_ms).any():
            return False
    return True


def judged(
    times: Mapping[str, np.ndarray],
    named: list[str],
    others: list[str],
    *,
    limit_us: float,
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """The bars, from the times of one run: (rounds, calls) in microseconds by contender.

    `named`: rivals that the second bar names; `others`: further ones. No bar over rivals is met where one is `missing`.
    """
    ours = times[DEFAULT]
    medians = {name: float(np.median(times[name])) for name in (*named, *others)}
    to_limit = float(np.median(ours)) / limit_us
    value: dict[str, Any] = {
        "to_limit": {"ratio": round(to_limit, 3), "required": TO_LIMIT, "met": to_limit <= TO_LIMIT}
    }
    for label, names in (("to_fastest_rival", named), ("to_fastest_of_all", [*named, *others])):
        fastest = min(names, key=lambda name: medians[name])
        found = ratio(times[fastest], ours)
        met = found["median"] >= TO_RIVAL and not missing
        value[label] = {"rival": fastest, "ratio": found, "required": TO_RIVAL, "met": met}
    return value


def limit_of(size: int, times: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The time to read so many bytes: computed from the best bandwidth, and the fastest reader of the run."""
    levels = caches()
    medians = {name: float(np.median(times[name])) for name in times if name.startswith(READ)}
    fastest = min(medians, key=lambda name: medians[name])
    value = bandwidths(size, levels) | {
        "weight_bytes": size,
        "measured_us": round(medians[fastest], 2),
        "measured_by": fastest.removeprefix(READ),
        "caches": {cache.name: cache.size_bytes for cache in levels},
    }
    return value | {"us": min(value["computed_us"], value["measured_us"])}


def compare(path: str, table: OutcomeTable, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that the result file says."""
    backends, missing = load_backends(path)
    controller = backends[DEFAULT]
    requests = Requests(controller, table.split_rows("test"), options.seed)
    train = with_actions_of(controller, table.split_rows("train"))
    rivals, absent = fit_rivals(controller, train, np.array(requests.budgets_ms), options.seed)
    contenders = decisions(backends, rivals, requests)
    feasible = {name: fits(controller, decide, requests, CHECKED) for name, decide in contenders.items()}
    size = weight_bytes(controller)
    others: dict[str, Callable[[int], object]] = {"nothing but taking the request": requests.__getitem__}
    stream = AverageBudget(controller.scale * float(np.median(controller.prices.budgets_ms)))
    for name, backend in backends.items():
        others[f"{name}, average budget"] = averaging(backend, requests, stream)
    for name, read in readers(size).items():
        others[READ + name] = ignoring(read)
    print(f"{len(contenders)} contenders take turns for {options.rounds} rounds", flush=True)
    turns = {"rounds": options.rounds, "calls": options.calls, "warm_up": WARM_UP, "seed": options.seed}
    times = measure({**contenders, **others}, **turns)
    limit = limit_of(size, times)
    named, further = ([rival.name for rival in rivals if rival.named is wanted] for wanted in (True, False))
    small = requests.batch(2)
    batched: dict[str, Callable[[Batch], object]] = {
        name: batching(backend) for name, backend in backends.items()
    }
    together = {rival.name: rival.decide_batch for rival in rivals if rival.decide_batch(small) is not None}
    contenders_of_batches = {**batched, **together, **products(controller)}
    batches = measure_batches(contenders_of_batches, requests, options.batch_rounds, options.seed)
    return {
        "controller": Path(path).name,
        "fingerprint": controller.fingerprint[:16],
        "default_backend": controller.backend,
        "threads": 1,
        "configurations": len(controller.actions),
        "features": train.features.shape[1],
        "requests": len(requests.contexts),
        "turns": turns,
        "versions": {name: version(name) for name in sorted({p for rival in rivals for p in rival.packages})},
        "bars": judged(times, named, further, limit_us=limit["us"], missing=absent),
        "limit": limit,
        "decisions": {name: summary(found) for name, found in times.items()},
        "only_feasible": feasible,
        "rivals": {rival.name: rival.model | {"asked": inspect.getdoc(type(rival))} for rival in rivals},
        "batches": {
            "rounds": options.batch_rounds,
            "operations_per_request": operations(controller),
            "contexts_per_second": per_second(batches),
            "bars": judged_batches(batches, list(together), to_limit=TO_LIMIT, to_rival=TO_RIVAL),
        },
        "missing": missing | absent,
    }


def main() -> None:
    """Print the bars and write benchmarks/results/decision_overhead.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--controller", default="tiny", help="a directory or a shipped name")
    parser.add_argument("--outcomes", type=Path, default=Path("runs/main_job/outcomes"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=200, help="timed decisions of a contender per round")
    parser.add_argument("--batch-rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-result", action="store_true", help="write no result file")
    options = parser.parse_args()
    one_thread()
    entry = compare(options.controller, read_table(options.outcomes), options)
    tell(entry)
    if not options.no_result:
        write_result("decision_overhead", entry)


def decisions(
    backends: Mapping[str, Controller], rivals: list[Rival], requests: Requests
) -> dict[str, Callable[[int], Configuration]]:
    """Every contender's decision on request number so-and-so, under its hard budget."""

    def theirs(rival: Rival) -> Callable[[int], Configuration]:
        return lambda index: rival.decide(*requests[index])

    made = {name: deciding(backend, requests) for name, backend in backends.items()}
    return made | {rival.name: theirs(rival) for rival in rivals}


def ignoring(read: Callable[[], object]) -> Callable[[int], object]:
    """A reader as a contender, which is called with a request's number."""
    return lambda index: read()


def tell(entry: dict[str, Any]) -> None:
    """Print the table and the bars."""
    for name, line in sorted(entry["decisions"].items(), key=lambda item: item[1]["p50_us"]):
        low, high = line["round_p50_us"]["lowest"], line["round_p50_us"]["highest"]
        print(f"{line['p50_us']:9.1f} us p50 {line['p99_us']:9.1f} us p99  {low:8.1f} to {high:8.1f}  {name}")
    for name, line in entry["batches"]["contexts_per_second"].items():
        print("  ".join(f"{size}: {speed:>11,.0f}/s" for size, speed in line.items()), name)
    limit, feasible = entry["limit"], all(entry["only_feasible"].values())
    print(f"limit: {limit['us']} us for {limit['weight_bytes']} bytes from {limit['level']}")
    for name, bar in entry["bars"].items():
        print(f"{name}: {bar['ratio']} (required {bar['required']:g}): {'met' if bar['met'] else 'NOT met'}")
    for size, bars in entry["batches"]["bars"].items():
        limit, rival = bars["to_limit"], bars["to_fastest_rival"]
        print(
            f"batches of {size}: {limit['ratio']['median']} times the products alone, "
            f"{rival['ratio']['median']} times faster than {rival['rival']}"
        )
    print(f"only feasible choices: {feasible}; missing: {entry['missing'] or 'nothing'}")


if __name__ == "__main__":
    main()
