"""From a trained policy to a controller: prices of time, named budgets and what the guard must know."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.errors import TrainError
from paceline.latency.estimate import LatencyEstimator
from paceline.latency.quantity import COST, Quantity
from paceline.latency.spending import spent_costs
from paceline.learning.price import cheapest_columns, fit_price, mean_chosen_latency
from paceline.learning.price_curve import PriceCurve
from paceline.outcomes.chunks import row_chunks
from paceline.outcomes.table import OutcomeTable
from paceline.outcomes.workloads import over_actions
from paceline.policies.decision import choose
from paceline.policies.inputs import named_shares
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.runtime.average import PriceTable
from paceline.runtime.controller import Controller
from paceline.runtime.guard import Guard, Trained

PRICED_BUDGETS = 24
"""Rows of the price table, geometric between the cheapest and the unpriced mean latency."""
LOWEST_MARGIN = 1.001
"""The lowest priced budget over the mean of the cheapest choices, where the price would be unbounded."""
BEYOND, JUST_BELOW = 2.0, 1.0 - 1e-6
"""Budgets below what a policy that reads prices reaches have this many times its highest price."""
PRICED_CELLS = 1 << 20
"""Outcomes of validation samples that prices are fitted on, samples evenly spaced: means settle long before."""


def build_controller(
    trained: Trained,
    table: OutcomeTable,
    latency: LatencyEstimator,
    first_token_latency: LatencyEstimator,
    *,
    overview_ms: float | None,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Controller:
    """See `Controller.from_training`."""
    policy = NumpyPolicy(trained.spec, trained.arrays)
    scored = np.asarray(trained.spec.actions, dtype=np.int64)
    tested = trained.facts.get("tested_configurations", len(scored))
    if len(table.actions) != tested or not np.isin(table.actions, scored).all():
        raise TrainError(
            f"policy: it scores {len(scored)} configurations and was trained on {tested}, the table tested "
            f"{len(table.actions)} others; build the controller from the table it was trained on"
        )
    decided = table if len(scored) == tested else _widened(table, scored)
    manifest, quantity = table.manifest, Quantity.of(latency.facts)
    lengths = table.output_tokens[np.isfinite(table.output_tokens)]
    if overview_ms is None:
        overview_ms = float(manifest.audit.get("overview_ms") or 0.0)
    longest = manifest.options.get("max_new_tokens")
    return Controller(
        space=table.space,
        policy=policy,
        latency=latency,
        first_token_latency=first_token_latency,
        guard=Guard(
            overview_ms=overview_ms,
            output_tokens=float(lengths.mean()) if len(lengths) else 1.0,
            max_new_tokens=int(longest or max(1.0, np.ceil(lengths.max(initial=1.0)))),
            classes=class_shares(decided, latency) if quantity.known_before else {},
        ),
        prices=fit_prices(policy, decided, latency)
        if quantity.known_before
        else PriceTable(np.array([trained.spec.full_latency_ms]), np.array([0.0])),
        block_ranking=tuple(int(block) for block in manifest.block_ranking),
        text_features=None if _has_images(table) else table.text_features,
        metrics=metrics,
        provenance={
            "task": manifest.task,
            "model": manifest.model,
            "hardware": manifest.hardware,
            "software": manifest.software,
            "profile": manifest.options,
            "training": dict(trained.facts),
            "latency": latency.facts,
            "first_token_latency": first_token_latency.facts,
            **provenance,
        },
    )


def _has_images(table: OutcomeTable) -> bool:
    """Whether requests are more than a text: some configuration processed crops or tokens that were counted."""
    counts = (table.tiles, table.vision_tokens, table.prompt_tokens)
    return any(
        bool((count[part] > 0).any()) for count in counts for part in row_chunks(*table.accuracy.shape)
    )


def fit_prices(policy: NumpyPolicy, table: OutcomeTable, latency: LatencyEstimator) -> PriceTable:
    """Price of time for a grid of average budgets, fitted on the validation split without a hard limit."""
    validation = _some_rows(table, "validation", PRICED_CELLS)
    mean_ms = latency.mean(
        table.actions, validation.tiles, validation.vision_tokens, validation.prompt_tokens
    )
    priced = Quantity.of(latency.facts).kind == COST
    spent_ms = spent_costs(validation.latency_ms, mean_ms) if priced else mean_ms
    if policy.spec.output == "logits":
        return _read_prices(policy, validation, mean_ms, spent_ms, latency.scale)
    full_ms, temperature = policy.spec.full_latency_ms * latency.scale, policy.spec.temperature
    scores = policy.scores(validation.image_features, validation.question_features, None)
    charged = {"full_latency_ms": full_ms, "temperature": temperature, "spent_ms": spent_ms}
    cheapest = cheapest_columns(mean_ms)
    lowest = LOWEST_MARGIN * float(spent_ms[np.arange(len(cheapest)), cheapest].mean())
    unpriced = mean_chosen_latency(scores, mean_ms, 0.0, **charged)
    if unpriced <= lowest:
        return PriceTable(np.array([lowest / latency.scale]), np.array([0.0]))
    budgets = np.geomspace(lowest, unpriced, PRICED_BUDGETS)
    prices = [fit_price(scores, mean_ms, float(budget), **charged) for budget in budgets[:-1]]
    return PriceTable(budgets / latency.scale, np.minimum.accumulate(np.array([*prices, 0.0])))


def _some_rows(table: OutcomeTable, split: str, cells: int) -> OutcomeTable:
    """The samples of a split; where they have more than `cells` outcomes, as many of them evenly spaced."""
    rows = np.flatnonzero(table.split == split)
    some = _evenly_spaced(rows, cells // max(1, len(table.actions)))
    return table.split_rows(split) if len(some) == len(rows) else table.select(some)


def _evenly_spaced(rows: np.ndarray, most: int) -> np.ndarray:
    """All rows, or `most` of them (at least one) where they are more."""
    if len(rows) <= max(1, most):
        return rows
    return rows[np.linspace(0, len(rows) - 1, max(1, most)).astype(np.int64)]


def _widened(table: OutcomeTable, actions: np.ndarray) -> OutcomeTable:
    """The train and validation samples over `actions`; of a large table as many as `PRICED_CELLS` allow."""
    rows = [
        _evenly_spaced(np.flatnonzero(table.split == split), PRICED_CELLS // len(actions))
        for split in ("train", "validation")
    ]
    return over_actions(table.select(np.sort(np.concatenate(rows))), actions)


def _read_prices(
    policy: NumpyPolicy, validation: OutcomeTable, mean_ms: np.ndarray, spent_ms: np.ndarray, scale: float
) -> PriceTable:
    """Prices of a policy that reads them; `mean_ms`, `spent_ms` (samples, actions) on this machine."""
    low, high = policy.spec.price_low, policy.spec.price_high
    if low is None or high is None:
        raise TrainError("policy: it reads no price, expected a trained range of prices; train it again")

    def choose_at(price: float) -> np.ndarray:
        logits = policy.scores(validation.image_features, validation.question_features, None, price)
        return choose(logits, mean_ms, np.isfinite(mean_ms))

    curve = PriceCurve.measure(choose_at, spent_ms, low, high)
    lowest, unpriced = float(curve.mean_ms.min()), float(curve.mean_ms[0])
    if unpriced <= LOWEST_MARGIN * lowest:
        budgets, prices = np.array([unpriced]), np.array([0.0])
    else:
        budgets = np.geomspace(lowest, unpriced, PRICED_BUDGETS)
        budgets[[0, -1]] = lowest, unpriced  # powers may round below what is reached
        # A price that meets a smaller budget meets this one too, so prices may be made never to rise.
        prices = np.minimum.accumulate([curve.price(float(budget)) for budget in budgets])
    cheapest = spent_ms[np.arange(len(mean_ms)), cheapest_columns(mean_ms)].mean()
    below = np.array([LOWEST_MARGIN * cheapest, JUST_BELOW * budgets[0]])
    # What the policy itself does not go down to is left to the cheapest configuration.
    if below[0] < below[1]:
        beyond = BEYOND * policy.spec.highest_price
        budgets, prices = np.concatenate([below, budgets]), np.concatenate([[beyond, beyond], prices])
    return PriceTable(budgets / scale, prices)


def class_shares(table: OutcomeTable, latency: LatencyEstimator) -> dict[str, float]:
    """Named budgets as shares of the slowest configuration's mean latency on the training split."""
    total, count = np.zeros(len(table.actions)), np.zeros(len(table.actions))
    for part in row_chunks(*table.accuracy.shape):
        rows = part.start + np.flatnonzero(table.split[part] == "train")
        mean_ms = latency.mean(
            table.actions, table.tiles[rows], table.vision_tokens[rows], table.prompt_tokens[rows]
        )
        total += np.nansum(mean_ms, axis=0)
        count += np.isfinite(mean_ms).sum(axis=0)
    return named_shares(total / count)
