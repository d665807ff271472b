"""Time to the same validation reward: Paceline's `grpo_warm` and Stable-Baselines3's PPO over one outcome table.

    pip install -e '.[bench]'
    python -m benchmarks.ppo_speed                      # a generated table of 5,000 samples x 64 configurations
    python -m benchmarks.ppo_speed --outcomes OUTCOMES  # any other

Both learn from the same train samples, features (standardised alike) and contexts (hard budgets and prices of time,
drawn alike), in one process and on one thread, taking turns by seed. Both are judged alike: mean validation reward of
the best feasible configuration by their scores, over 16 contexts, with the clock stopped. Paceline runs `grpo_warm`
(one network; not the default learner `grpo`) with the default options of everything else; its own validation after
every epoch counts. PPO gets all requests of a step at once from numpy. Its settings are tried on one seed first, for
the same time as a run; the one with the best reward is taken.

The target is the lowest, over seeds, of the best rewards that PPO reaches within its time: every run of PPO gets there.
Time is of the processor, as it does not depend on what else the machine does; the wall clock is recorded too.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]

from benchmarks.generated_table import SPACE, write_generated
from benchmarks.ppo_env import OutcomeBatch, logits_of
from benchmarks.ppo_requests import observations
from benchmarks.record import write_result
from benchmarks.time_to_target import Curve, Stopwatch, compared
from paceline.cli.threads import one_thread
from paceline.evaluation.times import fit_latency
from paceline.learning.contexts import ContextRanges, context_ranges, validation_contexts
from paceline.learning.dataset import DecisionProblem, training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.inputs import fit_inputs
from paceline.learning.options import TrainOptions
from paceline.learning.progress import ScalarWriter, SilentProgress
from paceline.learning.train import spec_of
from paceline.learning.trainer import Trainer
from paceline.outcomes.store import read_table
from paceline.outcomes.table import OutcomeTable
from paceline.policies.network import PolicyNetwork

ALGORITHM = "grpo_warm"
SAMPLES, CONFIGURATIONS = 5000, 64
REQUIRED_RATIO = 20.0
STEPS = 8  # batches of Paceline between judgements
SHARES = (0.5, 0.8, 0.9, 0.95, 1.0)  # of the way from best static to the target
DEFAULTS: dict[str, Any] = {
    "n_envs": 256,
    "n_steps": 8,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 3e-4,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults of the library, 256 requests a step": {"batch_size": 64},
    "larger batches": {},
    "larger batches, fewer epochs": {"n_epochs": 4},
    "faster": {"learning_rate": 1e-3},
    "faster, fewer epochs": {"learning_rate": 1e-3, "n_epochs": 4},
    "faster, fewer epochs, entropy": {"learning_rate": 1e-3, "n_epochs": 4, "ent_coef": 0.01},
    "faster, fewer epochs, wider": {"learning_rate": 1e-3, "n_epochs": 4, "hidden": 256},
}


@dataclass(frozen=True, kw_only=True)
class World:
    """What both learn from."""

    table: OutcomeTable
    train: DecisionProblem
    validation: DecisionProblem
    ranges: ContextRanges

    @classmethod
    def read(cls, path: Path) -> "World":
        table = read_table(path)
        train, validation = training_problems(table, fit_latency(table))
        return cls(table=table, train=train, validation=validation, ranges=context_ranges(train))

    def sources(self, options: TrainOptions) -> tuple[GroupSource, GroupSource]:
        spec = spec_of(self.table, self.train, self.ranges, options)
        inputs = fit_inputs(self.train.features, self.table.image_width, self.table.feature_choice)
        first, second = (
            GroupSource(problem, spec, self.table.space, options, inputs)
            for problem in (self.train, self.validation)
        )
        return first, second


@torch.no_grad()
def judge(
    source: GroupSource, ranges: ContextRanges, scores: Callable[[torch.Tensor, torch.Tensor, float], Any]
) -> float:
    """Mean validation reward of the best feasible configuration by `scores(features, codes, price)`, over contexts."""
    rows, means = torch.arange(len(source)), []
    for budget, price in validation_contexts(ranges):
        groups = source.groups(rows, torch.full((len(rows),), budget), torch.full((len(rows),), price))
        possible = groups.feasible.any(dim=-1)
        if possible.any():
            found = torch.as_tensor(scores(groups.features, groups.codes, price)).expand(groups.rewards.shape)
            chosen = torch.where(groups.feasible, found, -torch.inf).argmax(dim=-1, keepdim=True)
            means.append(groups.rewards.gather(-1, chosen)[possible].double().mean().item())
    return sum(means) / len(means)


def static_reward(world: World) -> float:
    """Of the configuration with the highest mean accuracy less the price, among the feasible."""
    options = TrainOptions(algorithm=ALGORITHM)
    _, source = world.sources(options)
    accuracy = torch.from_numpy(world.train.configuration_means(world.train.accuracy))
    share = torch.from_numpy(
        world.train.configuration_means(world.train.mean_ms) / world.train.full_latency_ms
    )
    return judge(
        source, world.ranges, lambda features, codes, price: accuracy - (price + options.tie_break) * share
    )


class JudgedTrainer(Trainer):
    """Paceline's trainer, judged after every STEPS batches with the clock stopped."""

    def follow(self, curve: Curve, watch: Stopwatch) -> None:
        self.curve, self.watch, self.batches = curve, watch, 0

    def _update(self, *arguments: Any) -> dict[str, float]:
        found = super()._update(*arguments)
        self.batches += 1
        if self.batches % STEPS == 0:
            self.watch.note(self.curve, lambda: self.score().reward)
        return found


def run_paceline(world: World, seed: int) -> Curve:
    """`train_controller_policy` from its arrays on, with the algorithm's default options."""
    options, curve, watch = TrainOptions(algorithm=ALGORITHM, seed=seed), Curve(), Stopwatch()
    train, validation = world.sources(options)
    generator = torch.Generator().manual_seed(seed)
    network = PolicyNetwork(train.spec, world.table.space, dropout=options.dropout, generator=generator)
    trainer = JudgedTrainer(network, train, validation, world.ranges, options, generator)
    trainer.follow(curve, watch)
    trainer.run(None, "", SilentProgress(), ScalarWriter(None))
    return curve


class JudgedRollouts(BaseCallback):
    """Judges PPO about every `every` seconds, and ends it after `limit` seconds of its own processor time."""

    def __init__(
        self, curve: Curve, watch: Stopwatch, judge: Callable[[], float], every: float, limit: float
    ) -> None:
        super().__init__()
        self.curve, self.watch, self.judge, self.every, self.limit = curve, watch, judge, every, limit

    def _on_rollout_start(self) -> None:
        spent = self.watch.spent[0] + time.process_time() - self.watch.started[0]
        if spent >= self.every * (len(self.curve.reward) + 1):
            self.watch.note(self.curve, self.judge)

    def _on_step(self) -> bool:
        return bool(self.watch.spent[0] < self.limit)


def run_ppo(world: World, seed: int, setting: dict[str, Any], seconds: float, every: float) -> Curve:
    """PPO on the table for some seconds of the processor."""
    options = TrainOptions(algorithm="grpo_scratch")  # its policies read the price of time, as PPO's has to
    chosen, curve, watch = DEFAULTS | setting, Curve(), Stopwatch()
    train, validation = world.sources(options)
    hidden = chosen.pop("hidden", 64)
    env = OutcomeBatch(train, world.ranges, chosen.pop("n_envs"), seed)
    model = PPO(
        "MlpPolicy", env, seed=seed, device="cpu", policy_kwargs={"net_arch": [hidden, hidden]}, **chosen
    )

    def scores(features: torch.Tensor, codes: torch.Tensor, price: float) -> torch.Tensor:
        seen = torch.from_numpy(observations(features.numpy(), codes.numpy()))
        return logits_of(model, seen)

    def judged() -> float:
        return judge(validation, world.ranges, scores)

    model.learn(10**12, callback=JudgedRollouts(curve, watch, judged, every, seconds))
    return curve


def main() -> None:
    """Print the ratio and write benchmarks/results/ppo_speed.json, an entry per table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outcomes", type=Path, help="outcomes directory; by default a generated one")
    parser.add_argument("--name", default="generated", help="of the table in the result file")
    parser.add_argument("--work", type=Path, default=Path("runs/ppo_speed"), help="for the generated table")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the processor, per run of PPO")
    parser.add_argument(
        "--every", type=float, default=1.0, help="seconds of the processor between judgements of PPO"
    )
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    one_thread()
    path = arguments.outcomes or arguments.work / "outcomes"
    if not (path / "manifest.json").exists():
        actions = np.unique(np.linspace(0, SPACE.size - 1, CONFIGURATIONS).astype(int)).tolist()
        write_generated(path, SAMPLES, actions=actions)
    world = World.read(path)
    tuning = {}
    for name, setting in SETTINGS.items():
        curve = run_ppo(world, 100, setting, arguments.seconds, arguments.every)
        tuning[name] = {"setting": DEFAULTS | setting, "best_reward": round(max(curve.reward), 5)}
        print(f"PPO, {name}: {tuning[name]['best_reward']}", flush=True)
    best = max(tuning, key=lambda name: tuning[name]["best_reward"])
    ours, theirs = [], []
    for seed in range(arguments.seeds):
        ours.append(run_paceline(world, seed))
        theirs.append(run_ppo(world, seed, SETTINGS[best], arguments.seconds, arguments.every))
        print(
            f"seed {seed}: best reward {max(ours[-1].reward):.4f}, PPO {max(theirs[-1].reward):.4f}",
            flush=True,
        )
    static, target = static_reward(world), min(max(curve.reward) for curve in theirs)
    found = {clock: compared(ours, theirs, target, clock) for clock in ("processor", "wall")}
    entry = {
        "algorithm": ALGORITHM,
        "train_samples": len(world.train.features),
        "configurations": len(world.table.actions),
        "features": world.table.features.shape[1],
        "seconds_per_ppo_run": arguments.seconds,
        "tuning": tuning,
        "ppo_setting": best,
        "best_static_reward": round(static, 5),
        "best_reward": {
            "paceline": [round(max(curve.reward), 5) for curve in ours],
            "ppo": [round(max(curve.reward), 5) for curve in theirs],
        },
        "to_target": found,
        "on_the_way": [
            compared(ours, theirs, static + share * (target - static), "processor") | {"share": share}
            for share in SHARES
        ],
    }
    written = Path(__file__).parent / "results" / "ppo_speed.json"
    tables = json.loads(written.read_text())["tables"] if written.exists() else {}
    write_result("ppo_speed", {"required_ratio": REQUIRED_RATIO, "tables": tables | {arguments.name: entry}})
    ratio = found["processor"]["ratio"]
    print(
        f"{arguments.name}: {ratio} times faster to a validation reward of {target:.4f} (required: {REQUIRED_RATIO:g})"
    )


if __name__ == "__main__":
    main()
