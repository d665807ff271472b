"""An outcome table as one-step environments: a sample and a context in, a configuration out, its reward back.

`OutcomeEnv` is the plain gymnasium environment. `OutcomeBatch` is the same for many requests at once, as a vector
environment of Stable-Baselines3 in numpy, without a loop over requests: the fastest that library can be fed.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv  # pyright: ignore[reportMissingImports]

from benchmarks.ppo_requests import Requests
from paceline.learning.contexts import ContextRanges
from paceline.learning.groups import GroupSource


def spaces(requests: Requests) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Discrete]:
    """Observations and actions."""
    box = gymnasium.spaces.Box(-np.inf, np.inf, (requests.width,), np.float32)
    return box, gymnasium.spaces.Discrete(requests.actions)


def logits_of(model: Any, seen: torch.Tensor) -> torch.Tensor:
    """What a model of Stable-Baselines3 says of every action, (n, actions)."""
    return model.policy.get_distribution(seen).distribution.logits


class OutcomeEnv(gymnasium.Env):
    """One request per episode, one step long."""

    def __init__(self, source: GroupSource, ranges: ContextRanges, seed: int = 0) -> None:
        self.requests = Requests(source, ranges, seed)
        self.observation_space, self.action_space = spaces(self.requests)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.requests.generator.manual_seed(seed)
        self.seen = self.requests.draw(1)[0]
        return self.seen, {}

    def step(self, action: Any) -> Any:
        reward = float(self.requests.rewards(np.array([action]))[0])
        return self.seen.copy(), reward, True, False, {}


class OutcomeBatch(VecEnv):
    """`count` requests side by side; every step ends all episodes."""

    def __init__(self, source: GroupSource, ranges: ContextRanges, count: int, seed: int = 0) -> None:
        self.requests = Requests(source, ranges, seed)
        super().__init__(count, *spaces(self.requests))
        self.done, self.infos = np.ones(count, bool), [{} for _ in range(count)]

    def reset(self) -> np.ndarray:
        return self.requests.draw(self.num_envs)

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        rewards = self.requests.rewards(self.actions)
        return self.requests.draw(self.num_envs), rewards, self.done, self.infos

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError(f"{attr_name}: requests have no attributes of their own")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError(f"{method_name}: requests have no methods of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[None]:
        if seed is not None:
            self.requests.generator.manual_seed(seed)
        return [None] * self.num_envs
