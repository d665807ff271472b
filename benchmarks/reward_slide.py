"""How policies trained with the published rewards slide to cheap configurations, and the default's do not.

    python -m benchmarks.reward_slide --outcomes runs/main_job/outcomes

Policies that differ in nothing but the reward are trained on a part of the train samples and judged under hard budgets
on the test split, all under the same guard: what their choices take, as a share of the budget, and how often they are
right, beside the best static configuration. The default outcomes are those of `benchmarks.main_job`.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, write_result
from benchmarks.reward_slide_plot import save_plot
from paceline.cli.threads import one_thread
from paceline.evaluation import baselines
from paceline.evaluation.budget_grid import budget_grid
from paceline.evaluation.metrics import sample_accuracy
from paceline.evaluation.pricing import one_hot
from paceline.evaluation.splits import fit_and_test
from paceline.evaluation.times import fit_latency
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.learners.contender import Contender
from paceline.learning.learners.policy_contender import policy_contender
from paceline.learning.options import TrainOptions
from paceline.learning.problem import Problem, problem_of
from paceline.learning.train import train_controller_policy
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable
from paceline.rewards import RewardParams

VIOLATION_RATE = 0.05
FULL_MS = 1000.0
"""What the full configuration takes where v1 is tried in its own unit."""
TRAIN = TrainOptions(algorithm="grpo_scratch", members=1, kl_weight=0.15)
"""The published training: from random weights, with groups of sampled actions, held by a KL to where it began."""


def options_of(full_ms: float) -> dict[str, dict[str, Any]]:
    """Options that differ between the policies; `full_ms`: mean latency of the full configuration.

    The published rewards penalise what is over the budget instead of excluding it. The weights of v1 are for
    seconds: on times of milliseconds its penalties vanish. beta k and gamma k^2 do to times t what beta and gamma
    do to k t, so `v1_seconds` is v1 on a machine on which the full configuration takes a second.
    """
    slower = FULL_MS / full_ms
    params = RewardParams()
    scaled = replace(params, beta=params.beta * slower, gamma=params.gamma * slower**2)
    return {
        "masked": {"reward": "masked"},
        "v1": {"reward": "v1", "mask_infeasible": False},
        "v1_seconds": {"reward": "v1", "mask_infeasible": False, "reward_params": scaled},
        "v2": {"reward": "v2", "mask_infeasible": False},
    }


Say = Callable[[str], None]


class Judge:
    """The test samples and budgets that all policies are judged on."""

    def __init__(self, table: OutcomeTable, latency: LatencyEstimator) -> None:
        fit_table, test_table, _ = fit_and_test(table)
        self.fit, self.test = problem_of(fit_table, latency), problem_of(test_table, latency)
        mean_ms = self.fit.configuration_mean_ms
        self.budgets_ms = budget_grid(mean_ms, float(mean_ms[self.fit.full]))[0]

    def means(self, shares_at: Callable[[Problem, float], np.ndarray]) -> dict[str, list[float]]:
        """Per budget: accuracy, and the mean latency of the choices as a share of the budget."""
        chosen = [shares_at(self.test, budget) for budget in self.budgets_ms]
        latency = [float((part * self.test.mean_ms).sum(axis=1).mean()) for part in chosen]
        return {
            "accuracy": [float(sample_accuracy(self.test, part).mean()) for part in chosen],
            "latency_share": [ms / b for ms, b in zip(latency, self.budgets_ms, strict=True)],
        }


def _chosen(contender: Contender, test: Problem, budget_ms: float) -> np.ndarray:
    return one_hot(contender.choose(test, budget_ms, 0.0), *test.accuracy.shape)


def train_subset(table: OutcomeTable, samples: int, seed: int) -> OutcomeTable:
    """The table with at most `samples` of its train samples."""
    train = np.random.default_rng(seed).permutation(np.flatnonzero(table.split == "train"))
    keep = np.ones(table.samples, dtype=bool)
    keep[train[samples:]] = False
    return table.select(keep)


def slide(table: OutcomeTable, samples: int, seeds: int, options: TrainOptions, say: Say) -> dict[str, Any]:
    """Policies of every reward and seed, judged; means and standard deviations over seeds, per budget."""
    latency = fit_latency(table, violation_rate=VIOLATION_RATE)
    judge = Judge(table, latency)
    rewards = options_of(float(judge.fit.configuration_mean_ms[judge.fit.full]))
    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in rewards}
    for seed in range(seeds):
        part = train_subset(table, samples, seed)
        for name, changes in rewards.items():
            policy = train_controller_policy(part, latency, replace(options, seed=seed, **changes))
            chooser = policy_contender(policy.numpy_policy(), table.actions)
            found[name].append(judge.means(lambda test, b, by=chooser: _chosen(by, test, b)))
            one = found[name][-1]
            shares, right = np.mean(one["latency_share"]), np.mean(one["accuracy"])
            say(f"seed {seed}, {name}: {shares:.0%} of the budget, accuracy {right:.3f}")
    static = judge.means(lambda test, b: baselines.hard_static(judge.fit, test, b, VIOLATION_RATE))
    return {
        "budgets_ms": judge.budgets_ms,
        "test_samples": len(judge.test.accuracy),
        "best_static": static,
        "rewards": {name: over_seeds(parts) for name, parts in found.items()},
        "options_per_reward": {
            name: {key: asdict(value) if key == "reward_params" else value for key, value in changes.items()}
            for name, changes in rewards.items()
        },
    }


def over_seeds(parts: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Means and sample standard deviations over seeds, per budget."""
    values = {name: np.array([part[name] for part in parts]) for name in ("accuracy", "latency_share")}
    summary: dict[str, Any] = {}
    for name, per_seed in values.items():
        summary[name] = per_seed.mean(axis=0).tolist()
        summary[f"{name}_deviation"] = per_seed.std(axis=0, ddof=1 if len(parts) > 1 else 0).tolist()
        summary[f"{name}_mean"] = float(per_seed.mean())
    return summary


def main() -> None:
    """Write benchmarks/results/reward_slide.json and the plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=Path, default=Path("runs/main_job/outcomes"))
    parser.add_argument("--samples", type=int, default=1200, help="of the train split, drawn per seed")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    one_thread()
    table = read_table(arguments.outcomes)
    found = slide(table, arguments.samples, arguments.seeds, TRAIN, lambda text: print(text, flush=True))
    kept = {
        "train_samples": arguments.samples,
        "seeds": arguments.seeds,
        "violation_rate": VIOLATION_RATE,
        "train_options": TRAIN.to_json(),
        "profile": table.manifest.options,
        **found,
    }
    print(write_result("reward_slide", kept))
    for theme in ("light", "dark"):
        print(save_plot(found, RESULTS / f"reward_slide_{theme}.svg", theme))


if __name__ == "__main__":
    main()
