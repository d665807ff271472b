"""The sweep: samples x configurations into an outcomes directory, resumable after a kill at any moment."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from paceline.errors import ProfileError
from paceline.models.block_importance import BlockImportance
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
    read_table,
    write_manifest,
    write_samples,
)
from paceline.outcomes.table import SPLITS, OutcomeTable
from paceline.profiling import machine
from paceline.profiling.audit import audit_facts
from paceline.profiling.options import RANKING_SAMPLES, ProfileOptions
from paceline.profiling.passes import Passes
from paceline.profiling.resume import refuse_other, refuse_other_samples
from paceline.profiling.rounds import first_actions
from paceline.profiling.samples import draw_samples, sample_columns, scouts_first
from paceline.profiling.shard import ShardRunner, stack_features
from paceline.profiling.timing import Clock, clock_facts
from paceline.tasks.protocol import Sample, Task, at_most, task_facts


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
    batches, for accuracy, and the timed samples once more at batch 1 in random order, for latency. An adaptive plan
    does so in rounds, first on scouting samples alone. The same call on the same directory goes on after the last
    finished shard, with the same choices; on a finished one it measures nothing.

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
    actions = first_actions(model.knobs, options)
    samples, scouts = draw_samples(task, options), 0
    if options.adaptive:
        samples, scouts = scouts_first(samples, options)
    if out.exists() and not out.is_dir():
        raise ProfileError(f"{out}: this is a file, expected a directory for the outcomes")
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        return _profile(model, task, out, options, progress, clock, actions, samples, scouts)


def _profile(
    model: ElasticModel,
    task: Task,
    out: Path,
    options: ProfileOptions,
    progress: Progress,
    clock: Clock,
    actions: np.ndarray,
    samples: list[Sample],
    scouts: int,
) -> OutcomeTable:
    store = ShardStore(out)
    fresh = _describe(model, task, options)
    if (out / MANIFEST).is_file():
        refuse_other(out, read_manifest(out), fresh)
        progress.message(f"{out}: this sweep is finished already, nothing is measured again")
        table = read_table(out)
        store.remove()
        return table
    manifest = store.begun()
    if manifest is None:
        manifest = _begin(store, model, task, options, progress, clock, fresh, samples)
    else:
        refuse_other(out, manifest, fresh)
        refuse_other_samples(out, samples)
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
    passes = Passes(runner=runner, store=store, clock=clock)
    facts = passes.run_rounds(samples, scouts) if scouts else passes.run_fixed(samples, actions)
    store.compact(passes.shards, passes.with_features)
    audit = manifest.audit | audit_facts(out / OUTCOMES) | facts
    write_manifest(out, dataclasses.replace(manifest, audit=audit))
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
        audit={"task": task_facts(task)},
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
    asked = options.importance_samples
    default = 0 if model.has_block_ranking else at_most(task, SPLITS[0], RANKING_SAMPLES)
    count = asked if asked is not None else default
    audit = manifest.audit | clock_facts(clock)
    ranking: list[int] = []
    if count:
        found = _measure_blocks(model, task, count, options, progress)
        ranking = list(found.ranking)
        audit |= {"block_importance": found.to_json() | {"samples": count}}
    manifest = dataclasses.replace(manifest, block_ranking=ranking, image_width=image_width, audit=audit)
    write_samples(store.directory / SAMPLES, sample_columns(samples))
    store.begin(manifest)
    return manifest


def _measure_blocks(
    model: ElasticModel, task: Task, count: int, options: ProfileOptions, progress: Progress
) -> BlockImportance:
    """Which blocks matter, measured on `count` training samples."""
    samples = task.samples(SPLITS[0], count, options.seed)
    progress.start(len(samples), "block importance")
    overviews = [model.overview(task.image(sample), sample.question) for sample in samples]
    stack_features(model, overviews)
    found = model.block_importance(overviews, [s.answer for s in samples], options.importance)
    progress.advance(len(samples))
    return found
