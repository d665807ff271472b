"""The sweep: samples x configurations into an outcomes directory, resumable after a kill at any moment."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import ProfileError
from paceline.models.protocol import ElasticModel
from paceline.outcomes.files import exclusive
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.progress import Progress, Silence
from paceline.outcomes.shards import ShardStore
from paceline.outcomes.store import (
    MANIFEST,
    OUTCOMES,
    SAMPLES,
    read_manifest,
    read_samples,
    read_table,
    write_manifest,
    write_samples,
)
from paceline.outcomes.table import SPLITS, OutcomeTable
from paceline.profiling import machine
from paceline.profiling.audit import audit_facts
from paceline.profiling.options import ProfileOptions
from paceline.profiling.plans import plan_actions
from paceline.profiling.samples import draw_samples, sample_columns, timed_positions
from paceline.profiling.shard import ShardRunner, stack_features
from paceline.profiling.timing import Clock, clock_facts
from paceline.tasks.protocol import Sample, Task


def profile(
    model: ElasticModel,
    task: Task,
    out: Path | str,
    options: ProfileOptions | None = None,
    progress: Progress | None = None,
    *,
    clock: Clock = time.perf_counter,
) -> OutcomeTable:
    """Measure a model on a task over its knobs.

    Blocks are ranked first. Then, shard by shard, every sample is answered under every configuration of the plan in
    batches, for accuracy, and the timed samples once more at batch 1 in random order, for latency. The same call on
    the same directory goes on after the last finished shard; on a finished one it measures nothing.

    Args:
        out: the outcomes directory to make or to go on with.
        options: what to test; the defaults of `ProfileOptions` if None.
        progress: shown how far the sweep is; nobody if None.
        clock: for the rate, the time left and the clock's own cost. Latencies come from the model.

    Returns:
        The finished table.

    Raises:
        ProfileError: options that do not fit the knob space or the task, another sweep in `out`, or a model or task
            that breaks its protocol.
        OutcomesError: damaged shards, or another process that writes to `out`.
        OSError: a full disk; finished shards stay.
    """
    options = options or ProfileOptions()
    progress = progress or Silence()
    out = Path(out)
    actions = plan_actions(model.knobs, options.plan, options.configurations, options.seed)
    samples = draw_samples(task, options)
    if out.exists() and not out.is_dir():
        raise ProfileError(f"{out}: this is a file, expected a directory for the outcomes")
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        return _profile(model, task, out, options, progress, clock, actions, samples)


def _profile(
    model: ElasticModel,
    task: Task,
    out: Path,
    options: ProfileOptions,
    progress: Progress,
    clock: Clock,
    actions: np.ndarray,
    samples: list[Sample],
) -> OutcomeTable:
    store = ShardStore(out)
    fresh = _describe(model, task, options)
    if (out / MANIFEST).is_file():
        _refuse_other(out, read_manifest(out), fresh)
        progress.message(f"{out}: this sweep is finished already, nothing is measured again")
        table = read_table(out)
        store.remove()
        return table
    manifest = store.begun()
    if manifest is None:
        manifest = _begin(store, model, task, options, progress, clock, fresh, samples)
    else:
        _refuse_other(out, manifest, fresh)
        _refuse_other_samples(out, samples)
    if manifest.block_ranking:
        model = model.with_block_ranking(manifest.block_ranking)
    runner = ShardRunner(
        model=model,
        task=task,
        options=options,
        actions=actions,
        max_new_tokens=options.max_new_tokens or task.max_new_tokens,
        progress=progress,
    )
    count = _run_shards(runner, store, samples, clock)
    store.compact(count)
    write_manifest(out, dataclasses.replace(manifest, audit=manifest.audit | audit_facts(out / OUTCOMES)))
    table = read_table(out)
    store.remove()
    return table


def _describe(model: ElasticModel, task: Task, options: ProfileOptions) -> Manifest:
    """The manifest as far as it is known before anything is measured, as it reads back from JSON."""
    manifest = Manifest(
        space=model.knobs,
        task=task.name,
        model=model.describe(),
        hardware=machine.hardware(),
        software=machine.software(),
        options=dataclasses.asdict(options),
    )
    return Manifest.from_json(json.loads(json.dumps(manifest.to_json(), allow_nan=False)))


def _begin(
    store: ShardStore,
    model: ElasticModel,
    task: Task,
    options: ProfileOptions,
    progress: Progress,
    clock: Clock,
    manifest: Manifest,
    samples: list[Sample],
) -> Manifest:
    """Rank the blocks, then record what the sweep is."""
    if (store.directory / OUTCOMES).exists():
        raise ProfileError(
            f"{store.directory}: has outcomes without a manifest; choose another directory or delete them"
        )
    first = samples[0]
    image_width = len(model.overview(task.image(first), first.question).image_features)
    ranking = _rank_blocks(model, task, options, progress) if options.importance_samples else []
    manifest = dataclasses.replace(
        manifest, block_ranking=ranking, image_width=image_width, audit=clock_facts(clock)
    )
    write_samples(store.directory / SAMPLES, sample_columns(samples))
    store.begin(manifest)
    return manifest


def _rank_blocks(model: ElasticModel, task: Task, options: ProfileOptions, progress: Progress) -> list[int]:
    """Blocks from most to least important, measured on training samples."""
    samples = task.samples(SPLITS[0], options.importance_samples, options.seed)
    progress.start(len(samples), "block importance")
    overviews = [model.overview(task.image(sample), sample.question) for sample in samples]
    stack_features(model, overviews)
    ranking = [int(block) for block in model.block_importance(overviews, [s.answer for s in samples])]
    if sorted(ranking) != list(range(len(ranking))):
        raise ProfileError(
            f"model {model.name}: block importance gave {ranking}, expected every block from 0 on, once"
        )
    progress.advance(len(samples))
    return ranking


def _run_shards(runner: ShardRunner, store: ShardStore, samples: list[Sample], clock: Clock) -> int:
    """Run the shards that are not finished; the number of all shards."""
    options, progress = runner.options, runner.progress
    size = options.shard_samples
    count = -(-len(samples) // size)
    finished = set(store.finished(count))
    left = [index for index in range(count) if index not in finished]
    timed = timed_positions(samples, options.timed)
    timed_in = {
        i: [p - i * size for p in range(i * size, (i + 1) * size) if p in timed] for i in range(count)
    }
    answers_in = {
        i: len(runner.actions)
        * (len(samples[i * size : (i + 1) * size]) + options.repeats * len(timed_in[i]))
        for i in range(count)
    }
    if finished:
        progress.message(f"{len(finished)} of {count} shards were finished before; going on")
    total = sum(answers_in[i] for i in left)
    progress.start(total, f"profiling {len(samples)} samples x {len(runner.actions)} configurations")
    warm, done, start = False, 0, clock()
    for index in left:
        shard = samples[index * size : (index + 1) * size]
        if timed_in[index] and not warm:
            runner.warm_up(shard[timed_in[index][0]])
            warm = True
        store.write(index, *runner.run(shard, timed_in[index], index))
        done += answers_in[index]
        progress.message(f"shard {index + 1} of {count}: {_pace(done, total, clock() - start)}")
    return count


def _pace(done: int, total: int, elapsed_s: float) -> str:
    """Rate and time left."""
    if elapsed_s <= 0:
        return f"{done} of {total} answers"
    rate = done / elapsed_s
    minutes, seconds = divmod(round((total - done) / rate), 60)
    return f"{rate:.1f} answers/s, {minutes} min {seconds:02d} s left"


def _refuse_other(out: Path, there: Manifest, now: Manifest) -> None:
    """Refuse to go on with a sweep that measures something else."""
    differences = [
        *_differences("", there.options, now.options),
        *_differences("model ", there.model, now.model),
        *_differences("", {"task": there.task}, {"task": now.task}),
        *_differences("", {"knob space": there.space.to_json()}, {"knob space": now.space.to_json()}),
        *_differences("", *({"processor": m.hardware.get("processor")} for m in (there, now))),
    ]
    if differences:
        raise ProfileError(
            f"{out}: holds another sweep: {'; '.join(differences)}. Use the same options to go on with it, or "
            "another directory"
        )


def _differences(prefix: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each entry that is not equal in both, in words."""
    return [
        f"{prefix}{name} was {there.get(name)!r}, is now {now.get(name)!r}"
        for name in sorted(set(there) | set(now))
        if there.get(name) != now.get(name)
    ]


def _refuse_other_samples(out: Path, samples: list[Sample]) -> None:
    there = read_samples(out / SAMPLES)
    for name, values in sample_columns(samples).items():
        if there[name].tolist() != values.tolist():
            raise ProfileError(
                f"{out}: the task gives other samples than when the sweep began ({name} differs); "
                "use another directory"
            )
