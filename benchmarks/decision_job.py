"""The job that every contender of `decision_overhead` does, and what it is given: requests, time estimates, budgets.

The job: features and workload of a request and its hard budget in, a configuration out: the one that scores best among
those whose upper latency fits the budget, the one of least expected latency where none does.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from paceline.knobs import Configuration
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context

LEAST_ROOM = 1.02
"""Budgets start at this much of the cheapest configuration's upper latency, so that something always fits."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Requests of a batch as stacked arrays, n requests and m configurations; stacking them is nobody's work."""

    image_features: np.ndarray  # float32 (n, image_width)
    question_features: np.ndarray  # float32 (n, question_width)
    tiles: np.ndarray  # int (n, m)
    vision_tokens: np.ndarray  # int (n, m)
    prompt_tokens: np.ndarray  # int (n, m)
    budget_ms: np.ndarray  # float64 (n,)
    contexts: Sequence[Context]  # the same, one by one

    @property
    def features(self) -> np.ndarray:
        """float32 (n, image_width + question_width)."""
        return np.concatenate([self.image_features, self.question_features], axis=1)

    @property
    def workload(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As latency estimators take it."""
        return self.tiles, self.vision_tokens, self.prompt_tokens


class Job:
    """Time estimates and the choice, as cheap for every rival as they are in Paceline: times are kept by workload."""

    def __init__(self, controller: Controller) -> None:
        self.space, self.actions, self.latency = controller.space, controller.actions, controller.latency
        self.policy = controller.policy
        self.configurations: list[Configuration] = [
            self.space.configuration(int(action)) for action in self.actions
        ]
        self._kept: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def times(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Expected and upper latencies (m,) of a request."""
        key = context.tiles.tobytes() + context.vision_tokens.tobytes() + context.prompt_tokens.tobytes()
        kept = self._kept.get(key)
        if kept is None:
            work = (context.tiles, context.vision_tokens, context.prompt_tokens)
            kept = self._kept[key] = self.latency.mean_and_upper(self.actions, *work)
        return kept

    def best(self, scores: np.ndarray, context: Context, budget_ms: float) -> Configuration:
        """The configuration of the best score (m,) among those that fit."""
        mean_ms, upper_ms = self.times(context)
        fits = upper_ms <= budget_ms
        chosen = int(np.where(fits, scores, -np.inf).argmax())
        return self.configurations[chosen if fits[chosen] else int(mean_ms.argmin())]

    def fitting(self, context: Context, budget_ms: float) -> np.ndarray:
        """Positions of the configurations to choose from: those that fit, or the cheapest alone."""
        mean_ms, upper_ms = self.times(context)
        places = (upper_ms <= budget_ms).nonzero()[0]
        return places if len(places) else np.array([mean_ms.argmin()])

    def allowed(self, batch: Batch) -> np.ndarray:
        """What `fitting` allows, for a batch: bool (n, m)."""
        mean_ms, upper_ms = self.latency.mean_and_upper(self.actions, *batch.workload)
        fits = upper_ms <= batch.budget_ms[:, None]
        rows = np.flatnonzero(~fits.any(axis=1))
        fits[rows, mean_ms[rows].argmin(axis=1)] = True
        return fits

    def best_of_batch(self, scores: np.ndarray, batch: Batch) -> list[Configuration]:
        """`best` of every request, from scores (n, m)."""
        chosen = np.where(self.allowed(batch), scores, -np.inf).argmax(axis=1)
        return [self.configurations[i] for i in chosen.tolist()]


class Rival(ABC):
    """Another way to do the job, as a user of its library would write it."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()  # whose versions the result names
    named = True  # whether it is one of the libraries of the bar; others are measured all the same
    model: dict[str, Any]  # what was fitted: speed depends on it

    def __init__(self, job: Job, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> None:
        """Fit on the samples of `train`, whose columns are the job's; `budgets_ms` are what requests may ask."""
        self.job = job
        self.model = self.fit(train, budgets_ms, seed)

    @abstractmethod
    def fit(self, train: OutcomeTable, budgets_ms: np.ndarray, seed: int) -> dict[str, Any]:
        """Fit; what was fitted, for the result."""

    @abstractmethod
    def decide(self, context: Context, budget_ms: float) -> Configuration:
        """The job, once."""

    def decide_batch(self, batch: Batch) -> list[Configuration] | None:
        """The job for a batch; None where the library has no way to do several at once."""
        del batch
        return None


class Requests:
    """Contexts of recorded samples, and a budget for each that differs from call to call."""

    def __init__(self, controller: Controller, table: OutcomeTable, seed: int) -> None:
        columns = np.searchsorted(table.actions, controller.actions)
        work = {
            name: getattr(table, name)[:, columns] for name in ("tiles", "vision_tokens", "prompt_tokens")
        }
        images, questions = table.image_features, table.question_features
        self.contexts = [
            Context(
                image_features=images[row].copy(),
                question_features=questions[row].copy(),
                **{name: part[row].copy() for name, part in work.items()},
            )
            for row in range(table.samples)
        ]
        upper = controller.latency.upper(controller.actions, *work.values())
        low, high = LEAST_ROOM * upper.min(axis=1), upper.max(axis=1)
        shares = np.random.default_rng(seed).random(16 * table.samples + 1)
        rows = np.arange(len(shares)) % table.samples
        self.budgets_ms: list[float] = (low[rows] + shares * (high - low)[rows]).tolist()

    def __getitem__(self, index: int) -> tuple[Context, float]:
        """Request `index`; indices go on for ever."""
        return self.contexts[index % len(self.contexts)], self.budgets_ms[index % len(self.budgets_ms)]

    def batch(self, size: int) -> Batch:
        """The first `size` requests."""
        contexts, budgets = zip(*(self[index] for index in range(size)), strict=True)
        names = ("image_features", "question_features", "tiles", "vision_tokens", "prompt_tokens")
        stacked = {name: np.stack([getattr(context, name) for context in contexts]) for name in names}
        return Batch(**stacked, budget_ms=np.array(budgets), contexts=contexts)


def standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / standard deviation of features (n, f), for rivals whose library does not scale them."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    return mean, (1.0 / np.maximum(spread, 1e-6)).astype(np.float32)
