"""Rivals that learn by reward: Vowpal Wabbit's contextual bandit, its linear regression of costs, and PPO."""

from typing import Any

import gymnasium  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
from vowpalwabbit import Example, Workspace  # pyright: ignore[reportMissingImports]

from benchmarks.decision_job import Batch, Rival, standardised
from benchmarks.ppo_env import logits_of
from paceline.knobs import Configuration
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.decision import Context

BITS = 20
"""Of Vowpal Wabbit's weight table: 192 features x 64 configurations fit without many collisions."""


class _VowpalWabbit(Rival):
    """Features are namespace x with integer names, as text and as pairs alike."""

    packages = ("vowpalwabbit",)
    samples = 1000
    workspace: Workspace

    def names_features(self, width: int) -> None:
        """Hash the features' names once; pairs of hash and value are the fastest way into an example."""
        space = self.workspace.hash_space("x")
        self.hashes = [self.workspace.hash_feature(str(index), space) for index in range(width)]

    def example(self, context: Context, label: str) -> Example:
        """A parsed example of the request's features."""
        made = Example(self.workspace, None)
        values = context.image_features.tolist() + context.question_features.tolist()
        made.push_features("x", list(zip(self.hashes, values, strict=True)))
        made.set_label_string(label)
        made.setup_example()
        return made


class BanditText(_VowpalWabbit):
    """`--cb_explore_adf` with `-q xa`: a shared line and a line of knobs per configuration that fits, all as text."""

    name = "vowpal wabbit contextual bandit, text"

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        del budgets_ms
        arguments = f"--cb_explore_adf --epsilon 0 -q xa -b {BITS}"
        self.workspace = Workspace(f"{arguments} --random_seed {seed} --quiet")
        self.lines = [
            "|a " + " ".join(f"{knob}={option}" for knob, option in configuration.items())
            for configuration in self.job.configurations
        ]
        rng, count = np.random.default_rng(seed), min(self.samples, train.samples)
        for row in range(count):
            tried = int(rng.choice(np.flatnonzero(train.tested[row])))
            cost = 1.0 - float(train.accuracy[row, tried])
            lines = list(self.lines)
            lines[tried] = f"0:{cost:g}:{1 / len(lines):g} {lines[tried]}"
            self.workspace.learn([_shared(train.features[row]), *lines])
        self.names_features(train.features.shape[1])
        return {"arguments": arguments, "columns": train.features.shape[1], "fitted_samples": count}

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        places = self.job.fitting(context, budget_ms)
        features = np.concatenate([context.image_features, context.question_features])
        shares = self.workspace.predict([_shared(features), *(self.lines[place] for place in places)])
        return self.job.configurations[places[shares.index(max(shares))]]


class BanditParsed(BanditText):
    """The same bandit; the configurations' lines are parsed once, a request's features are pushed by their hashes."""

    name = "vowpal wabbit contextual bandit, parsed"

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        model = super().fit(train, budgets_ms, seed)
        self.parsed = self.workspace.parse([_shared(train.features[0]), *self.lines])[1:]
        return model

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        places = self.job.fitting(context, budget_ms)
        shared = self.example(context, "shared")
        shares = self.workspace.predict([shared, *(self.parsed[place] for place in places)])
        self.workspace.finish_example([shared])
        return self.job.configurations[places[shares.index(max(shares))]]


class CostSensitive(_VowpalWabbit):
    """`--csoaa`: a linear regression of cost per configuration; the label names the configurations that fit.

    No contextual bandit: it learns from the costs of all configurations, which an outcome table has.
    """

    name = "vowpal wabbit cost-sensitive, linear"
    named = False

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        del budgets_ms
        arguments = f"--csoaa {len(self.job.actions)} -b {BITS}"
        self.workspace = Workspace(f"{arguments} --random_seed {seed} --quiet")
        self.labels = [str(place + 1) for place in range(len(self.job.actions))]
        count = min(self.samples, train.samples)
        for row in range(count):
            known = np.flatnonzero(train.tested[row])
            costs = " ".join(f"{place + 1}:{1.0 - float(train.accuracy[row, place]):g}" for place in known)
            self.workspace.learn(f"{costs} {_features(train.features[row])}")
        self.names_features(train.features.shape[1])
        return {"arguments": arguments, "columns": train.features.shape[1], "fitted_samples": count}

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        labels = self.labels
        places = self.job.fitting(context, budget_ms).tolist()
        example = self.example(context, " ".join([labels[place] for place in places]))
        label = self.workspace.predict(example)
        self.workspace.finish_example(example)
        return self.job.configurations[label - 1]


def _features(values: np.ndarray) -> str:
    return "|x " + " ".join([f"{index}:{value:.6g}" for index, value in enumerate(values.tolist())])


def _shared(values: np.ndarray) -> str:
    return f"shared {_features(values)}"


class RequestEnv(gymnasium.Env):
    """A request per episode: standardised features and the budget's place in, its accuracy back, 0 if it is late."""

    def __init__(
        self, seen: np.ndarray, accuracy: np.ndarray, upper_ms: np.ndarray, budgets: np.ndarray
    ) -> None:
        self.seen, self.accuracy, self.upper_ms, self.budgets = seen, accuracy, upper_ms, budgets
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (seen.shape[1] + 1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(accuracy.shape[1])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.row = int(self.np_random.integers(len(self.seen)))
        self.budget_ms = float(self.np_random.choice(self.budgets))
        place = np.float32(np.log(self.budget_ms / self.budgets.min()))
        return np.append(self.seen[self.row], place), {}

    def step(self, action: Any) -> Any:
        late = self.upper_ms[self.row, action] > self.budget_ms
        reward = 0.0 if late else float(self.accuracy[self.row, action])
        return np.append(self.seen[self.row], np.float32(0.0)), reward, True, False, {}


class MaskedPpo(Rival):
    """PPO's policy of the library's default size; what does not fit is masked after its distribution."""

    name = "stable-baselines3 PPO, masked distribution"
    packages = ("stable-baselines3", "gymnasium")
    steps = 4096

    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        self.mean, self.scale = standardised(train.features)
        work = (train.tiles, train.vision_tokens, train.prompt_tokens)
        upper_ms = self.job.latency.upper(self.job.actions, *work)
        seen = (train.features - self.mean) * self.scale
        env = RequestEnv(seen, np.where(train.tested, train.accuracy, 0.0), upper_ms, budgets_ms)
        self.least_ms = float(budgets_ms.min())
        self.ppo = PPO("MlpPolicy", env, n_steps=512, seed=seed, device="cpu").learn(self.steps)
        self.ppo.policy.set_training_mode(False)
        return {"network": "64 x 64 tanh, the library's default", "fitted_steps": self.steps}

    def observed(self, context: Context, budget_ms: float) -> np.ndarray:
        """What the policy reads of a request, float32 (f + 1,)."""
        features = np.concatenate([context.image_features, context.question_features])
        return np.append((features - self.mean) * self.scale, np.float32(np.log(budget_ms / self.least_ms)))

    def masked(self, seen: np.ndarray, context: Context, budget_ms: float) -> Configuration:
        """The likeliest configuration among those that fit."""
        with torch.inference_mode():
            found = logits_of(self.ppo, torch.from_numpy(seen[None]))
        return self.job.best(found.numpy()[0], context, budget_ms)

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        return self.masked(self.observed(context, budget_ms), context, budget_ms)

    def decide_batch(self, batch: Batch) -> list[Configuration]:
        place = np.log(batch.budget_ms / self.least_ms)[:, None]
        seen = np.concatenate([(batch.features - self.mean) * self.scale, place], axis=1, dtype=np.float32)
        with torch.inference_mode():
            found = logits_of(self.ppo, torch.from_numpy(seen))
        return self.job.best_of_batch(found.numpy(), batch)


class PpoPredict(MaskedPpo):
    """`model.predict`, whose choice stands where it fits; only else the distribution is asked and masked."""

    name = "stable-baselines3 PPO, predict"

    def decide(self, context: Context, budget_ms: float) -> Configuration:
        seen = self.observed(context, budget_ms)
        action, _ = self.ppo.predict(seen, deterministic=True)
        _, upper_ms = self.job.times(context)
        if upper_ms[action] <= budget_ms:
            return self.job.configurations[action]
        return self.masked(seen, context, budget_ms)

    def decide_batch(self, batch: Batch) -> None:
        """That of `MaskedPpo` would be the same."""
