"""Every sample judged once, by learners that never saw its fold: k folds, folds of the table, or whole data sets."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from paceline.errors import OutcomesError, TrainError
from paceline.evaluation.choices import Choices, averaged_choices, baseline_choices, joined_choices
from paceline.evaluation.compare import TUNING, CompareOptions
from paceline.evaluation.contest import Grid, grid_of, judge_choices
from paceline.evaluation.evaluate import provenance_of
from paceline.evaluation.jobs import CONTENDER, JobResult, run_jobs
from paceline.evaluation.stability import MODES, spreads
from paceline.evaluation.times import fit_latency
from paceline.learning.learners.task import LearnerTask, make_task
from paceline.learning.problem import Problem, joined, problem_of
from paceline.learning.progress import Progress, SilentProgress
from paceline.learning.reference.crossfit import scene_folds
from paceline.learning.table_checks import check_learnable, check_reward
from paceline.outcomes.bootstrap import SceneBootstrap
from paceline.outcomes.table import OutcomeTable

VALIDATION_SHARE = 8
"""One in so many scenes outside the fold is held out to stop and to find prices on."""


def parse_folds(text: str) -> int | str:
    """How folds are made, in the words of the command line.

    >>> parse_folds("10"), parse_folds("dataset")
    (10, 'dataset')
    """
    if text in ("fold", "dataset"):
        return text
    if text.isdecimal() and int(text) >= 2:
        return int(text)
    raise TrainError(
        f"cross-validate: got {text!r}, expected a number of folds of at least 2, 'fold' or 'dataset'"
    )


def cross_validate_learners(
    table: OutcomeTable,
    options: CompareOptions | None = None,
    folds: int | str = 10,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The results object over all complete samples, each chosen for by learners that did not see its fold.

    Args:
        folds: how many, made by scene; "fold": those that the table was imported with; "dataset": every data set is a
            fold, so that contenders have seen the others only.

    With several seeds every fold is learned with each, and what is judged is what a seed picked by chance would choose.

    Raises OutcomesError for a table without such folds, and what `compare` raises.
    """
    options, progress = options or CompareOptions(), progress or SilentProgress()
    check_learnable(table, split=None)
    check_reward(table, options.train)
    table = table.select(np.asarray(table.tested.all(axis=1)))
    if not table.samples:
        raise OutcomesError(
            f"evaluation: no sample has an outcome under all {len(table.actions)} configurations; profile more"
        )
    label = fold_labels(table, folds, options.train.seed)
    names = np.unique(label)
    whole = problem_of(table, fit_latency(replace(table, split=np.full(table.samples, "train"))))
    grid = grid_of(whole, options.contest)
    seeds = range(options.train.seed, options.train.seed + options.seeds)
    tasks: list[list[LearnerTask]] = [[] for _ in seeds]
    for name in names:
        part = _parted(table, label == name, str(name), options.train.seed)
        latency = fit_latency(part, violation_rate=options.contest.violation_rate)
        fit_table = part.select(part.split != "test")
        _check_fold(fit_table, str(name))
        test = problem_of(part.select(part.split == "test"), latency)
        for seed, made in zip(seeds, tasks, strict=True):
            train = replace(options.train, seed=seed)
            made.append(make_task(fit_table, test, latency, train, grid.hard[0], progress))
    budgets = grid.budgets(options.contest.violation_rate)
    every = [task for made in tasks for task in made]
    results = run_jobs(
        every, [task.asked[1] for task in every], options.learners, budgets, options.processes, progress
    )
    tests = [task.asked[1] for task in tasks[0]]
    base = [baseline_choices(task.fit, test, budgets) for task, test in zip(tasks[0], tests, strict=True)]
    runs = [results[k * len(tests) : (k + 1) * len(tests)] for k in range(len(tasks))]  # by seed, then fold
    choices = [
        known.beside(averaged_choices([run[fold].choices for run in runs])) for fold, known in enumerate(base)
    ]
    value = _judged(joined(tests), joined_choices(choices), grid, options)
    if options.seeds > 1:
        by_seed = [
            joined_choices([known.beside(part.choices) for known, part in zip(base, run, strict=True)])
            for run in runs
        ]
        judged = [_judged(joined(tests), chosen, grid, options) for chosen in by_seed]
        value["stability"] = spreads(judged, set(base[0].hard))
    value["folds"] = [
        _fold(str(name), test, chosen, grid, options)
        for name, test, chosen in zip(names, tests, choices, strict=True)
    ]
    value["samples"] = {"test": table.samples, "folds": len(names)}
    value["learners"] = _costs(options.learners, results)
    value["provenance"] = provenance_of(table, tasks[0][0].latency, options.contest) | {
        "learners": list(options.learners),
        "contest": asdict(options.contest),
        "tuning": TUNING,
        "cross_validation": folds,
        "seeds": options.seeds,
        "judged_on": "every complete sample, by learners that did not see its fold",
    }
    return value


def fold_labels(table: OutcomeTable, folds: int | str, seed: int) -> np.ndarray:
    """The fold of every sample as text, (n,)."""
    if folds == "dataset":
        names = np.unique(table.dataset)
        if len(names) < 2:
            raise OutcomesError(
                f"cross-validation: all samples are of the data set {names.tolist()}, expected two or more to leave "
                "one out"
            )
        return table.dataset
    if folds == "fold":
        if table.fold is None or len(np.unique(table.fold)) < 2:
            raise OutcomesError(
                "cross-validation: the outcomes hold no folds; import the table with --split COLUMN, where COLUMN "
                "names the fold, or give a number of folds"
            )
        return table.fold
    scenes = len(np.unique(table.image_hash))
    if scenes < int(folds):
        raise OutcomesError(
            f"cross-validation: got {folds} folds for {scenes} different images or samples, expected no more folds "
            "than those"
        )
    width = len(str(folds))
    return np.array([f"{fold + 1:0{width}d}" for fold in scene_folds(table.image_hash, int(folds), seed)])


def _parted(table: OutcomeTable, test: np.ndarray, name: str, seed: int) -> OutcomeTable:
    """The fold as the test split, the scenes outside it as the others; a scene that is in both is judged only."""
    outside = ~test & ~np.isin(table.image_hash, table.image_hash[test])
    splits = np.where(test, "test", "train").astype("<U10")
    rows = np.flatnonzero(outside)
    scenes = len(np.unique(table.image_hash[rows]))
    if scenes < 2:
        raise OutcomesError(
            f"cross-validation: {len(rows)} samples of other scenes are outside fold {name!r}, expected more to train "
            "on"
        )
    groups = min(VALIDATION_SHARE, scenes)
    splits[rows[scene_folds(table.image_hash[rows], groups, seed) == 0]] = "validation"
    return replace(table, split=splits).select(test | outside)


def _check_fold(fit_table: OutcomeTable, name: str) -> None:
    """`check_learnable` of what is outside a fold, which the message names."""
    try:
        check_learnable(fit_table)
    except TrainError as error:
        raise TrainError(f"cross-validation: outside fold {name!r} {error}") from error


def _judged(test: Problem, choices: Choices, grid: Grid, options: CompareOptions) -> dict[str, Any]:
    contest = options.contest
    bootstrap = SceneBootstrap(test.scene, replicates=contest.replicates, seed=contest.seed)
    return judge_choices(test, choices, grid, bootstrap)


def _fold(name: str, test: Problem, choices: Choices, grid: Grid, options: CompareOptions) -> dict[str, Any]:
    """One fold's closed gaps."""
    value = _judged(test, choices, grid, options)
    modes = [mode for mode in MODES if mode in value]
    return {
        "fold": name,
        "samples": test.samples,
        "closed_gaps": {mode: value[mode]["closed_gaps"] for mode in modes},
        "accuracy": {mode: value[mode]["accuracy"] for mode in modes if "accuracy" in value[mode]},
    }


def _costs(learners: tuple[str, ...], results: list[JobResult]) -> dict[str, dict[str, Any]]:
    """By contender: medians over folds of what training and a decision took."""
    return {
        CONTENDER.get(name, name): {
            "learner": name,
            "training_s": float(np.median([result.seconds[name] for result in results])),
            "decision_us": float(np.median([result.decision_us[name] for result in results])),
        }
        for name in learners
    }
