"""The passes of a sweep: some samples under some configurations each, as consecutive shards.

A fixed plan is one pass. An adaptive plan is a pass over the scouting samples per round, then one over all other
samples under everything that the rounds tested. What a round tests is a function of the finished shards of the rounds
before it, so a sweep that was killed goes on with the same choices.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from paceline.errors import ProfileError
from paceline.knobs import KnobSpace
from paceline.outcomes.groups import group_means, group_medians
from paceline.outcomes.shards import ShardStore
from paceline.profiling.rounds import next_round
from paceline.profiling.samples import timed_positions, timed_with_scouts
from paceline.profiling.scouted import Scouted
from paceline.profiling.shard import ShardRunner
from paceline.profiling.timing import Clock
from paceline.tasks.protocol import Sample

SCOUTED_COLUMNS = ("sample_id", "action", "accuracy", "latency_ms", "overview_ms")


@dataclass(kw_only=True, slots=True)
class Passes:
    """Runs the passes of one sweep and counts their shards."""

    runner: ShardRunner
    store: ShardStore
    clock: Clock
    shards: int = 0  # of all passes so far
    with_features: list[int] = field(default_factory=list)  # shards in which a sample appears first

    def run_fixed(self, samples: Sequence[Sample], actions: np.ndarray) -> dict[str, Any]:
        """All samples under all configurations; there is nothing to tell about the plan."""
        self._run(samples, actions, timed_positions(samples, self.runner.options.timed))
        return {}

    def run_rounds(self, samples: Sequence[Sample], scouts: int) -> dict[str, Any]:
        """The rounds of an adaptive plan on the first `scouts` samples, then the other samples; facts for the audit."""
        space, options = self.runner.model.knobs, self.runner.options
        timed = timed_with_scouts(samples, scouts, options.timed)
        early, late = ({p for p in timed if (p < scouts) == side} for side in (True, False))
        rounds: list[dict[str, Any]] = []
        scouted: Scouted | None = None
        while True:
            chosen = next_round(space, options, scouted)
            facts = {"actions": chosen.actions.tolist(), "reason": chosen.reason, "widest": chosen.widest}
            rounds.append(facts)
            if not len(chosen.actions):
                break
            name = f"round {len(rounds)}: "
            self._run(samples[:scouts], chosen.actions, early, name, new_samples=scouted is None)
            rows = self.store.rows(range(self.shards), SCOUTED_COLUMNS)
            slowdown = slowdowns(rows, [part["actions"] for part in rounds])
            facts["slowdown"] = slowdown[-1]
            steady = {
                action: pace
                for part, pace in zip(rounds, slowdown, strict=True)
                for action in part["actions"]
            }
            scouted = scouted_from(space, rows, samples[:scouts], steady)
        assert scouted is not None  # the first round is never empty
        if scouts < len(samples):
            rest = {place - scouts for place in late}
            self._run(samples[scouts:], scouted.actions, rest)
        return {"plan": {"scout_samples": scouts, "timed_scouts": len(early), "rounds": rounds}}

    def _run(
        self,
        samples: Sequence[Sample],
        actions: np.ndarray,
        timed: set[int],
        name: str = "",
        *,
        new_samples: bool = True,
    ) -> None:
        """One pass: the shards that are not finished yet."""
        runner = dataclasses.replace(self.runner, actions=actions)
        size, first, progress = runner.options.shard_samples, self.shards, runner.progress
        parts = [range(start, min(start + size, len(samples))) for start in range(0, len(samples), size)]
        indices = range(first, first + len(parts))
        self.shards = indices.stop
        self.with_features += indices if new_samples else ()
        finished = self.store.finished(indices)
        for index in finished:
            self._check_shard(index, actions)
        times = [[place - part.start for place in part if place in timed] for part in parts]
        answers = [
            len(actions) * (len(part) + runner.options.repeats * len(some))
            for part, some in zip(parts, times, strict=True)
        ]
        left = [index - first for index in indices if index not in set(finished)]
        if finished:
            progress.message(f"{name}{len(finished)} of {len(parts)} shards were finished before; going on")
        total = sum(answers[number] for number in left)
        if left:
            progress.start(
                total, f"{name or 'profiling '}{len(samples)} samples x {len(actions)} configurations"
            )
        warm, done, start = False, 0, self.clock()
        for number in left:
            part = [samples[place] for place in parts[number]]
            if times[number] and not warm:
                runner.warm_up(part[times[number][0]])
                warm = True
            self.store.write(first + number, *runner.run(part, times[number], first + number))
            done += answers[number]
            pace = _pace(done, total, self.clock() - start)
            progress.message(f"{name}shard {number + 1} of {len(parts)}: {pace}")

    def _check_shard(self, index: int, actions: np.ndarray) -> None:
        """Refuse a finished shard of other configurations than the plan would test in it now."""
        there = np.unique(self.store.rows([index], ["action"]).column(0).to_numpy())
        if not np.array_equal(there, actions):
            raise ProfileError(
                f"{self.store.path}: shard {index} holds {len(there)} configurations that are not the "
                f"{len(actions)} which the plan tests there now; go on with the version of Paceline that began the "
                "sweep, or use another directory"
            )


def slowdowns(rows: pa.Table, rounds: Sequence[Sequence[int]]) -> list[float]:
    """How slow the machine was in each round, relative to the first one.

    The overview is the same work under every configuration, so its median time over a round's timed calls tells; 1
    for a model whose overview takes no time.

    Args:
        rows: with `SCOUTED_COLUMNS`.
        rounds: the actions of each round; no action is in two.
    """
    overview, action = rows.column("overview_ms").to_numpy(), rows.column("action").to_numpy()
    timed = np.isfinite(overview)
    medians = [float(np.median(overview[timed & np.isin(action, list(part))])) for part in rounds]
    return [median / medians[0] if median > 0 and medians[0] > 0 else 1.0 for median in medians]


def scouted_from(
    space: KnobSpace, rows: pa.Table, scouts: Sequence[Sample], slowdown: Mapping[int, float]
) -> Scouted:
    """The scouting samples' outcomes from rows with `SCOUTED_COLUMNS`; repeated times become their median.

    `slowdown`: action -> how slow the machine was when it was timed. Times are divided by it: rounds are minutes
    apart, and a machine that was busy for one of them would make its configurations look expensive.
    """
    place = {sample.sample_id: number for number, sample in enumerate(scouts)}
    sample = np.array([place[sample_id] for sample_id in rows.column("sample_id").to_pylist()])
    actions, column = np.unique(rows.column("action").to_numpy(), return_inverse=True)
    shape = (len(scouts), len(actions))
    cell = sample * shape[1] + column
    accuracy = group_means(cell, rows.column("accuracy").to_numpy(), shape[0] * shape[1])
    latency = group_medians(cell, rows.column("latency_ms").to_numpy(), shape[0] * shape[1])
    return Scouted(
        space=space,
        actions=actions,
        accuracy=accuracy.reshape(shape),
        latency_ms=latency.reshape(shape) / np.array([slowdown[action] for action in actions.tolist()]),
        scene=np.array([sample.image_hash for sample in scouts]),
    )


def _pace(done: int, total: int, elapsed_s: float) -> str:
    """Rate and time left."""
    if elapsed_s <= 0:
        return f"{done} of {total} answers"
    rate = done / elapsed_s
    minutes, seconds = divmod(round((total - done) / rate), 60)
    return f"{rate:.1f} answers/s, {minutes} min {seconds:02d} s left"
