"""The whole product in one function, on the embedded model: profile, train, compare, answer live, report."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paceline.evaluation.baselines import best_mix, best_static
from paceline.evaluation.compare import CompareOptions, compare
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.splits import fit_and_test
from paceline.learning.problem import Problem, problem_of
from paceline.learning.progress import Progress
from paceline.models.protocol import ElasticModel
from paceline.models.registry import load_model
from paceline.outcomes.table import OutcomeTable
from paceline.profiling.sweep import profile
from paceline.report.html import write_report
from paceline.report.theme import import_matplotlib
from paceline.runtime.adaptive import AdaptiveModel
from paceline.tasks.protocol import Task
from paceline.tasks.registry import load_task
from paceline.workflows import live
from paceline.workflows.demo_options import DemoOptions
from paceline.workflows.reporting import measured_latencies
from paceline.workflows.training import TrainedController, profiled_overview_ms, train_controller

FRESH = 1_000_003
"""Added to the seed for the live questions, so that none of them was profiled."""
AVERAGE_QUANTILE = 0.5
"""The live average budget: this quantile of the configurations' mean latency."""


def run_demo(out: Path, options: DemoOptions, progress: Progress) -> dict[str, Any]:
    """Run every stage under `out` and return the results object.

    Holds what `compare` returns and `live`, `overhead_share`, `seconds` per stage, `controller`, `report`; also
    written to results.json. An interrupted demo goes on where its profile stopped.
    """
    import_matplotlib()
    stages = _Stages(progress)
    model, task = load_model(options.model), load_task(options.task)
    measured_before = (out / "outcomes" / "manifest.json").exists()
    with stages.timed("profile", "1/5 profile the model on this machine"):
        table = profile(model, task, out / "outcomes", options.profile, progress)
    with stages.timed("train", "2/5 train the controller"):
        trained = train_controller(
            table,
            options.train,
            violation_rate=options.violation_rate,
            overview_ms=profiled_overview_ms(out / "outcomes"),
            progress=progress,
        )
        trained.controller.save(out / "controller")
    with stages.timed("compare", "3/5 compare with supervised learning and the baselines"):
        results = _compare(table, trained, options, progress)
    with stages.timed("live", "4/5 answer fresh questions live"):
        adaptive = AdaptiveModel(
            model, trained.controller, calibrate=measured_before, cache_dir=out, on_message=progress.message
        )
        if measured_before:  # the profile may be of another day
            adaptive.calibrate(force=True)
        results["live"], shown = _live(adaptive, table, task, results, options, progress)
    results["overhead_share"] = (
        results["live"]["hard"]["overhead_ms"] / results["overhead"]["full_latency_ms"]
    )
    with stages.timed("report", "5/5 write the report"):
        results["report"] = str(
            write_report(
                results,
                out / "report.html",
                training_history=trained.policy.history,
                live=results["live"],
                examples=shown,
                latency_samples=measured_latencies(trained.controller, table, results),
            )
        )
    results |= {"seconds": stages.seconds, "controller": str(out / "controller")}
    (out / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    return results


@dataclass
class _Stages:
    """Announces the stages and times them."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str, description: str) -> Iterator[None]:
        self.progress.message(description)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        self.progress.message(f"{description}: {self.seconds[name]:.1f} s")


def _compare(
    table: OutcomeTable, trained: TrainedController, options: DemoOptions, progress: Progress
) -> dict[str, Any]:
    contest = ContestOptions(
        violation_rate=options.violation_rate, replicates=options.replicates, seed=options.seed
    )
    results = compare(
        table,
        CompareOptions(
            learners=(options.train.algorithm, *options.rivals), train=options.train, contest=contest
        ),
        progress,
        latency=trained.controller.latency,
        trained={options.train.algorithm: trained.policy},
    )
    for learner in results["training"].values():  # the curves are in the report
        del learner["history"]
    return results


def _live(
    adaptive: AdaptiveModel,
    table: OutcomeTable,
    task: Task,
    results: dict[str, Any],
    options: DemoOptions,
    progress: Progress,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The `live` part of the results and the examples for the report."""
    fit = problem_of(fit_and_test(table)[0], adaptive.controller.latency)
    rng = np.random.default_rng(options.seed)
    samples = task.samples("test", 2 * options.requests, options.seed + FRESH)
    first, second = samples[: options.requests], samples[options.requests :]
    _warm_up(adaptive.model, task, fit)

    grid = results["hard"]["budgets_ms"]
    budgets_ms = rng.uniform(min(grid), max(grid), len(first)).tolist()

    def static(budget_ms: float) -> Any:
        column = best_static(fit, budget_ms, options.violation_rate)
        return fit.space.configuration(int(fit.actions[fit.cheapest if column is None else column]))

    hard = live.answer_hard(adaptive, task, first, budgets_ms, static, progress)

    average_ms = float(np.quantile(fit.configuration_mean_ms, AVERAGE_QUANTILE))
    shares = best_mix(fit).shares(average_ms, 1, len(fit.actions))[0]
    columns = rng.choice(len(fit.actions), size=len(second), p=shares)
    statics = [fit.space.configuration(int(fit.actions[column])) for column in columns]
    average = live.answer_average(adaptive, task, second, average_ms, statics, progress)
    value = {"hard": live.summary(hard, budgets_ms), "average": live.summary(average, average_ms)}
    return value, live.examples(hard, task)


def _warm_up(model: ElasticModel, task: Task, fit: Problem) -> None:
    """A few calls at both ends, so that the first requests do not pay for the first touch of anything."""
    for sample in task.samples("validation", 3, FRESH):
        image = task.image(sample)
        for column in (fit.cheapest, fit.full):
            configuration = fit.space.configuration(int(fit.actions[column]))
            model.generate(model.overview(image, sample.question), configuration, task.max_new_tokens)
