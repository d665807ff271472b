"""Train the learners on equal terms and judge them with every baseline on the same test samples."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paceline.errors import TrainError
from paceline.evaluation.choices import baseline_choices
from paceline.evaluation.contest import ContestOptions, grid_of, judge
from paceline.evaluation.decision_cost import decision_overhead
from paceline.evaluation.evaluate import provenance_of
from paceline.evaluation.jobs import CONTENDER, JobResult, LearnerJob, judge_fitted, run_jobs
from paceline.evaluation.splits import fit_and_test
from paceline.evaluation.stability import stability
from paceline.evaluation.times import fit_latency
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.learners.registry import LEARNERS, check_options, from_policy
from paceline.learning.learners.task import LearnerTask, make_task
from paceline.learning.options import TrainOptions
from paceline.learning.problem import problem_of
from paceline.learning.progress import Progress, SilentProgress
from paceline.learning.table_checks import check_learnable, check_reward
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes.table import OutcomeTable

TUNING = (
    "none on this table: every learner runs with its defaults; neighbours and clusters take the best of five sizes by "
    "inner folds, networks stop on validation rewards, the residual on inner folds, trees and the student have a "
    "fixed length; where times are runtimes, those that do not stop on validation samples learn from these, too"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """What is trained and how it is judged."""

    learners: tuple[str, ...] = ("grpo", "supervised")
    train: TrainOptions = field(default_factory=TrainOptions)  # of every learner alike
    contest: ContestOptions = field(default_factory=ContestOptions)
    processes: int = 1  # learners trained at the same time, each in a process of its own
    seeds: int = 1  # runs per learner, with train.seed, train.seed + 1, ...; the first is judged in full

    def __post_init__(self) -> None:
        unknown = [name for name in self.learners if name not in LEARNERS]
        if not self.learners or unknown or len(set(self.learners)) != len(self.learners):
            raise TrainError(
                f"learners: got {list(self.learners)}, expected one or more of {', '.join(LEARNERS)}, each once"
            )
        check_options(self.learners, self.train)
        for name in ("processes", "seeds"):
            if getattr(self, name) < 1:
                raise TrainError(f"{name}: got {getattr(self, name)}, expected at least 1")


def compare(
    table: OutcomeTable,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
    *,
    latency: LatencyEstimator | None = None,
    trained: Mapping[str, TrainedPolicy] | None = None,
) -> dict[str, Any]:
    """The results object of all learners and baselines on a table's test split.

    `trained` holds policies by learner that need not be trained again; `latency` an estimate that is already
    fitted (by default it is fitted on the timed samples outside the test split). Raises TrainError or OutcomesError
    for a table on which nothing can be trained or judged.
    """
    options, progress = options or CompareOptions(), progress or SilentProgress()
    check_learnable(table)
    check_reward(table, options.train)
    latency = latency or fit_latency(table, violation_rate=options.contest.violation_rate)
    fit_table, test_table, samples = fit_and_test(table)
    grid = grid_of(problem_of(fit_table, latency), options.contest)
    budgets = grid.budgets(options.contest.violation_rate)
    test = problem_of(test_table, latency)
    tasks = [
        make_task(
            fit_table,
            test,
            latency,
            replace(options.train, seed=options.train.seed + seed),
            grid.hard[0],
            progress,
        )
        for seed in range(options.seeds)
    ]
    tests = [task.asked[1] for task in tasks]
    names = tuple(name for name in options.learners if name not in (trained or {}))
    runs = run_jobs(tasks, tests, names, budgets, options.processes, progress)
    first, task = runs[0], tasks[0]
    for name, policy in (trained or {}).items():
        if name in options.learners:
            fitted = from_policy(name, policy, task, policy.facts.get("seconds", float("nan")))
            job = LearnerJob(task=task, names=(name,), budgets=budgets, test=tests[0])
            first = first.beside(judge_fitted(fitted, job))
    choices = baseline_choices(task.fit, tests[0], budgets).beside(first.choices)
    value = judge(task.fit, tests[0], choices, grid, options.contest)
    value["samples"] = samples
    deciding = next((first.policies[name] for name in options.learners if name in first.policies), None)
    if deciding is not None:
        value["overhead"] = _overhead(deciding, latency, task, test_table)
    value["learners"] = _costs(options.learners, first)
    if options.seeds > 1:
        value["stability"] = stability(task, tests[0], runs, grid, options.contest)
    value["training"] = {
        name: {"facts": policy.facts, "history": policy.history} for name, policy in first.policies.items()
    }
    value["provenance"] = provenance_of(table, latency, options.contest) | {
        "learners": list(options.learners),
        "contest": asdict(options.contest),
        "tuning": TUNING,
    }
    return value


def _costs(learners: tuple[str, ...], result: JobResult) -> dict[str, dict[str, Any]]:
    """By contender: what training took and what a decision takes."""
    return {
        CONTENDER.get(name, name): {
            "learner": name,
            "training_s": result.seconds[name],
            "decision_us": result.decision_us[name],
        }
        for name in learners
    }


def _overhead(
    policy: TrainedPolicy, latency: LatencyEstimator, task: LearnerTask, test_table: OutcomeTable
) -> dict[str, Any]:
    means = task.fit.configuration_mean_ms
    return decision_overhead(
        policy.numpy_policy(),
        latency,
        test_table,
        budget_ms=float(means.mean()),
        full_ms=float(means[task.fit.full]),
    )
