"""What a controller gains from configurations that were never profiled: a third of them is held out of training.

On an outcome table of many configurations, a third is held out by a seeded draw that spares the full and the cheapest.
Policies and latency estimates learn from the others. Judged on the test split, with the workload that the model counts
before it runs: (a) the accuracy that the embedding head predicts for held-out configurations, question by question,
against a constant per configuration from an additive law of the knobs; (b) the accuracy of choosing among all
configurations at hard budgets, against choosing among the profiled ones. Feasibility is what the latency law says of
configurations that it has never timed; how often it is wrong on timed test questions is counted too.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write_result
from paceline.cli.progress import Bar
from paceline.cli.threads import one_thread
from paceline.evaluation import baselines
from paceline.evaluation.budget_grid import budget_grid
from paceline.evaluation.metrics import sample_accuracy
from paceline.evaluation.pricing import one_hot
from paceline.evaluation.splits import fit_and_test
from paceline.evaluation.times import fit_latency
from paceline.learning.learners.contender import ValueContender
from paceline.learning.learners.policy_contender import policy_scorer
from paceline.learning.options import TrainOptions
from paceline.learning.problem import Problem, Scorer, problem_of
from paceline.learning.progress import Progress
from paceline.learning.train import train_controller_policy
from paceline.outcomes.bootstrap import SceneBootstrap, interval
from paceline.outcomes.table import OutcomeTable
from paceline.outcomes.workloads import over_actions
from paceline.policies.knob_features import configuration_positions

TRAIN_QUESTIONS = 2000
REFERENCE = "joint, profiled"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draw:
    """One choice of held-out configurations, judged."""

    predicted: np.ndarray  # float64 (test, held out): accuracies by the embedding head
    constant: np.ndarray  # float64 (held out,): by the additive law
    actual: np.ndarray  # float64 (test, held out)
    accuracy: Mapping[str, np.ndarray]  # contender -> (test, budgets)
    held_out_choices: list[float]  # per budget, of "embedding, all"
    late: Mapping[str, float | None]  # share of timed test calls over their upper latency


def held_out_columns(table: OutcomeTable, seed: int) -> np.ndarray:
    """A third of the configurations, ascending columns; the full and the cheapest stay."""
    free = np.arange(1, len(table.actions) - 1)
    drawn = np.random.default_rng(seed).permutation(free)[: len(table.actions) // 3]
    return np.sort(drawn)


def additive_law(table: OutcomeTable, columns: np.ndarray) -> np.ndarray:
    """Mean accuracy of every configuration by a sum of one parabola per knob, fitted to the means of `columns`."""
    places = configuration_positions(table.space, table.actions)
    design = np.column_stack([np.ones(len(places)), places, places**2])
    means = np.nanmean(table.accuracy[:, columns], axis=0)
    return np.clip(design @ np.linalg.lstsq(design[columns], means, rcond=None)[0], 0.0, 1.0)


def judge_draw(table: OutcomeTable, seed: int, options: TrainOptions, bar: Progress) -> Draw:
    """Train on two thirds of the configurations and judge all."""
    held_out = held_out_columns(table, seed)
    profiled = np.setdiff1d(np.arange(len(table.actions)), held_out)
    narrow = over_actions(table, table.actions[profiled])
    latency = fit_latency(narrow)
    fit_rows, test_rows, _ = fit_and_test(table)
    fit, test = problem_of(fit_rows, latency), problem_of(test_rows, latency)

    def scorer(
        head: str, algorithm: str, *, everything: bool = False, shown: OutcomeTable = narrow
    ) -> Scorer:
        chosen = replace(options, head=head, algorithm=algorithm, seed=seed)
        scored = table.actions if everything else None
        trained = train_controller_policy(shown, latency, chosen, scored_actions=scored, progress=bar)
        return policy_scorer(trained.numpy_policy(), table.actions, scale=latency.scale)

    embedding = scorer("embedding", options.algorithm, everything=True)
    scorers: dict[str, Scorer] = {
        REFERENCE: scorer("joint", options.algorithm),
        "embedding, profiled": _limited(embedding, profiled),
        "embedding, all": embedding,
        "joint, all profiled": scorer("joint", options.algorithm, shown=table),
    }
    budgets = budget_grid(fit.configuration_mean_ms, float(fit.configuration_mean_ms[fit.full]))[0]
    contenders = {name: ValueContender(scorer) for name, scorer in scorers.items()}
    shares = {
        name: [one_hot(contender.choose(test, b, 0.0), *test.accuracy.shape) for b in budgets]
        for name, contender in contenders.items()
    }
    known = _columns(fit, profiled), _columns(test, profiled)
    accuracy = {
        name: np.stack([sample_accuracy(test, part) for part in parts], axis=1)
        for name, parts in shares.items()
    }
    accuracy["best static, profiled"] = np.stack(
        [sample_accuracy(known[1], baselines.hard_static(*known, b, 0.05)) for b in budgets], axis=1
    )
    outcome = scorer("embedding", "outcome", everything=True)
    return Draw(
        predicted=outcome(test, None)[:, held_out],
        constant=additive_law(fit_rows, profiled)[held_out],
        actual=test.accuracy[:, held_out],
        accuracy=accuracy,
        held_out_choices=[float(part[:, held_out].sum(axis=1).mean()) for part in shares["embedding, all"]],
        late={"profiled": _late(test, profiled), "held_out": _late(test, held_out)},
    )


def _limited(scorer: Scorer, columns: np.ndarray) -> Scorer:
    """The same scores, for these columns only."""

    def score(problem: Problem, budget_ms: float | None) -> np.ndarray:
        values = np.full(problem.accuracy.shape, -np.inf)
        values[:, columns] = scorer(problem, budget_ms)[:, columns]
        return values

    return score


def _columns(problem: Problem, columns: np.ndarray) -> Problem:
    cells = ("accuracy", "mean_ms", "upper_ms", "measured_ms")
    parts = {name: getattr(problem, name)[:, columns] for name in cells}
    return replace(problem, actions=problem.actions[columns], **parts)


def _late(test: Problem, columns: np.ndarray) -> float | None:
    measured, upper = test.measured_ms[:, columns], test.upper_ms[:, columns]
    timed = np.isfinite(measured)
    return float((measured > upper)[timed].mean()) if timed.any() else None


def prediction_facts(draws: list[Draw], bootstrap: SceneBootstrap) -> dict[str, Any]:
    """How well accuracies of held-out configurations are predicted, for single questions and on the mean."""
    predicted, actual = (np.hstack([getattr(d, name) for d in draws]) for name in ("predicted", "actual"))
    constant = np.hstack([np.broadcast_to(d.constant, d.actual.shape) for d in draws])
    means = actual.mean(axis=0)
    facts: dict[str, Any] = {}
    for name, values in (("embedding", predicted), ("additive_law", constant)):
        facts[name] = {
            "correlation": float(np.corrcoef(values.ravel(), actual.ravel())[0, 1]),
            "correlation_ci": interval(_correlations(values, actual, bootstrap)).tolist(),
            "mean_absolute_error": float(np.abs(values - actual).mean()),
            "mean_squared_error": float(((values - actual) ** 2).mean()),
            "configuration_mean_correlation": float(np.corrcoef(values.mean(axis=0), means)[0, 1]),
            "configuration_mean_absolute_error": float(np.abs(values.mean(axis=0) - means).mean()),
        }
    for name, power in (("mean_absolute_error", 1), ("mean_squared_error", 2)):
        gain = (np.abs(constant - actual) ** power - np.abs(predicted - actual) ** power).mean(axis=1)
        facts[f"{name}_less_by"] = float(gain.mean())
        facts[f"{name}_less_by_ci"] = interval(bootstrap.means(gain)).tolist()
    return facts


def _correlations(values: np.ndarray, actual: np.ndarray, bootstrap: SceneBootstrap) -> np.ndarray:
    """Correlation over questions and configurations in every draw of the bootstrap."""
    moments = (values, actual, values**2, actual**2, values * actual)
    x, y, xx, yy, xy = bootstrap.means(np.stack([part.mean(axis=1) for part in moments], axis=1)).T
    return (xy - x * y) / np.sqrt((xx - x**2) * (yy - y**2))


def choice_facts(draws: list[Draw], bootstrap: SceneBootstrap) -> dict[str, Any]:
    """Accuracy of choosing at every budget and on their mean, and what is gained over the joint head."""
    names = list(draws[0].accuracy)
    accuracy = {name: np.mean([draw.accuracy[name] for draw in draws], axis=0) for name in names}
    facts: dict[str, Any] = {}
    for name, values in accuracy.items():
        gain = values - accuracy[REFERENCE]
        facts[name] = {
            "accuracy": values.mean(axis=0).tolist(),
            "accuracy_mean": float(values.mean()),
            "gain": gain.mean(axis=0).tolist(),
            "gain_ci": interval(bootstrap.means(gain)).T.tolist(),
            "gain_mean": float(gain.mean()),
            "gain_mean_ci": interval(bootstrap.means(gain.mean(axis=1))).tolist(),
            "gain_mean_per_draw": [
                float((draw.accuracy[name] - draw.accuracy[REFERENCE]).mean()) for draw in draws
            ],
        }
    more = (accuracy["embedding, all"] - accuracy["embedding, profiled"]).mean(axis=1)
    return {
        "contenders": facts,
        "untested_gain_mean": float(more.mean()),
        "untested_gain_mean_ci": interval(bootstrap.means(more)).tolist(),
    }


def judge(table: OutcomeTable, seeds: int, options: TrainOptions, bar: Progress) -> dict[str, Any]:
    """All draws, taken together by question."""
    draws = [judge_draw(table, seed, options, bar) for seed in range(seeds)]
    bootstrap = SceneBootstrap(fit_and_test(table)[1].image_hash)
    return {
        "prediction": prediction_facts(draws, bootstrap),
        "choice": choice_facts(draws, bootstrap),
        "held_out_choices": np.mean([draw.held_out_choices for draw in draws], axis=0).tolist(),
        "over_upper_latency": [dict(draw.late) for draw in draws],
    }


def main() -> None:
    """Write benchmarks/results/unseen_configurations.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outcomes", type=Path, nargs="?", default=Path("runs/main_job/outcomes"))
    parser.add_argument("--train-questions", type=int, default=TRAIN_QUESTIONS)
    parser.add_argument("--seeds", type=int, default=3, help="draws of the held-out configurations")
    parser.add_argument("--name", default="unseen_configurations", help="of the result file")
    arguments = parser.parse_args()
    from paceline.outcomes.store import read_table

    one_thread()
    table = read_table(arguments.outcomes)
    train = np.flatnonzero(table.split == "train")[: arguments.train_questions]
    table = table.select(np.sort(np.append(train, np.flatnonzero(table.split != "train"))))
    with Bar() as bar:
        values = judge(table, arguments.seeds, TrainOptions(algorithm="grpo_warm"), bar)
    facts = {
        "train_questions": len(train),
        "test_questions": int((table.split == "test").sum()),
        "configurations": len(table.actions),
        "held_out": len(table.actions) // 3,
        "budgets": "hard: quantiles .1, .25, .5, .75, .9 of the configurations' mean latencies, then the full one's",
    }
    path = write_result(arguments.name, facts | values)
    print(json.dumps(values, indent=1))
    print(path)


if __name__ == "__main__":
    main()
