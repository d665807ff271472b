"""What a table must have so that anything can be learned from it, asked before anything expensive."""

import numpy as np

from paceline.errors import TrainError
from paceline.learning.options import TrainOptions
from paceline.outcomes.chunks import row_chunks
from paceline.outcomes.table import OutcomeTable

MOST_CONFIGURATIONS = 4096
"""Tested configurations that learners take: there are trees, an output and a column of every array per configuration,
and each needs samples of its own. Reference models take minutes at a few hundred and days at ten thousand."""

MOST_REFERENCE_OUTCOMES = 5_000_000
"""Train samples x configurations that a reference policy is fitted on: its forest keeps about 800 bytes for each, and
predictions of several models are held beside it."""


def check_reference_size(samples: int, configurations: int) -> None:
    """Raise TrainError for a table whose reference policy would not fit into memory."""
    outcomes = samples * configurations
    if outcomes > MOST_REFERENCE_OUTCOMES:
        raise TrainError(
            f"outcomes: got {samples:,} train samples x {configurations:,} configurations = {outcomes:,} outcomes, "
            f"expected at most {MOST_REFERENCE_OUTCOMES:,} for GRPO on a reference policy, which holds predictions of "
            "several models in memory; train with --algorithm grpo_warm, which reads any table in pieces"
        )


def check_learnable(table: OutcomeTable, split: str | None = "train") -> None:
    """Raise TrainError for a table from which nothing can be learned.

    Args:
        split: whose accuracies must differ; None: those of all samples.
    """
    check_size(table)
    if table.samples < 2:
        raise TrainError(
            f"outcomes: got {table.samples} sample, expected many, in a train and a validation split; "
            "profile more samples"
        )
    if table.manifest.options.get("latency_kind") == "runtime":
        return  # what is solved sooner is worth more, though all is solved
    constant = constant_accuracy(table, split)
    if constant is not None:
        where = "sample" if split is None else f"{split} sample"
        raise TrainError(
            f"accuracy is {constant:g} for every {where} and configuration: nothing to learn; always choose the "
            "cheapest configuration, or profile samples whose answers depend on the configuration"
        )


def check_reward(table: OutcomeTable, options: TrainOptions) -> None:
    """Raise TrainError for a reward that compares times with budgets, where that makes no sense.

    It makes none where times are known only afterwards, and under v1, whose weights are per second, none for costs.
    """
    kind = table.manifest.options.get("latency_kind")
    if kind == "cost" and options.reward == "v1":
        unit = table.manifest.options.get("latency_unit", "")
        raise TrainError(
            f"reward: got 'v1', whose weights are per second, with outcomes that cost {unit}; expected 'masked', 'v2', "
            "which weighs shares of the budget, or 'learned'"
        )
    if kind == "runtime" and options.reward != "masked":
        raise TrainError(
            f"reward: got {options.reward!r} with outcomes whose times are known only afterwards, expected 'masked', "
            "under which an outcome is worth its accuracy if it came in time and PAR10 without a deadline"
        )


def check_size(table: OutcomeTable) -> None:
    """Raise TrainError for too few or too many configurations, or features that are no numbers."""
    count = len(table.actions)
    if count < 2:
        raise TrainError(
            f"outcomes: got {count} tested configuration, expected at least 2, since with one there is nothing to "
            "choose; profile more configurations"
        )
    if count > MOST_CONFIGURATIONS:
        raise TrainError(
            f"outcomes: got {count:,} tested configurations, expected at most {MOST_CONFIGURATIONS:,}, since every "
            "one has a model of its own; profile a plan with fewer (paceline profile --configurations) and decide "
            "among the others too (--head embedding --score-untested), or describe them by fewer knobs and options"
        )
    broken = np.flatnonzero(~np.isfinite(table.features).all(axis=1))
    if len(broken):
        raise TrainError(
            f"features: {len(broken)} samples have NaN or infinite features (rows {broken[:5].tolist()}), expected "
            "finite numbers; extract the features again"
        )


def constant_accuracy(table: OutcomeTable, split: str | None) -> float | None:
    """The accuracy that every tested outcome of a split has; None if they differ or there are none."""
    samples = np.arange(table.samples) if split is None else np.flatnonzero(table.split == split)
    value = None
    for rows in row_chunks(len(samples), len(table.actions)):
        accuracy = table.accuracy[samples[rows]]
        known = accuracy[np.isfinite(accuracy)]
        if not len(known):
            continue
        value = float(known[0]) if value is None else value
        if (known != value).any():
            return None
    return value
