"""From outcomes to a controller: latency estimates, policy, prices."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyarrow import parquet

from paceline.evaluation.times import fit_latency
from paceline.learning.options import TrainOptions
from paceline.learning.progress import Progress
from paceline.learning.table_checks import check_learnable, check_reward
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.outcomes.store import OUTCOMES
from paceline.outcomes.table import OutcomeTable
from paceline.runtime.controller import Controller


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedController:
    """A controller and how it was learned."""

    controller: Controller
    policy: TrainedPolicy


def profiled_overview_ms(outcomes: Path) -> float | None:
    """Median time of the overview among the timed calls of an outcomes directory; None if it holds no such times.

    The controller needs it to tell an overview that took its usual time from an unexpected delay.
    """
    path = outcomes / OUTCOMES
    if "overview_ms" not in parquet.read_schema(path).names:
        return None
    times = parquet.read_table(path, columns=["overview_ms"]).column(0).drop_null().to_numpy()
    return float(np.median(times)) if len(times) else None


def train_controller(
    table: OutcomeTable,
    options: TrainOptions,
    *,
    violation_rate: float = 0.05,
    overview_ms: float | None = None,
    checkpoint_dir: Path | None = None,
    tensorboard_dir: Path | None = None,
    progress: Progress | None = None,
) -> TrainedController:
    """Fit the latency estimates, train the policy and put both into a controller.

    `violation_rate`: the share of requests that may take longer than their calibrated upper latency.
    `overview_ms`: see `profiled_overview_ms`.

    Raises OutcomesError without timed samples, TrainError for data from which no policy can be learned.
    """
    check_learnable(table)
    check_reward(table, options)
    latency, first_token_latency = (
        fit_latency(table, first_token=first, violation_rate=violation_rate, seed=options.seed)
        for first in (False, True)
    )
    policy = train_controller_policy(
        table,
        latency,
        options,
        checkpoint_dir=checkpoint_dir,
        tensorboard_dir=tensorboard_dir,
        progress=progress,
    )
    metrics = {key: value for key, value in policy.facts.items() if key.startswith("validation_")}
    controller = Controller.from_training(
        policy, table, latency, first_token_latency, overview_ms=overview_ms, metrics=metrics
    )
    return TrainedController(controller=controller, policy=policy)
