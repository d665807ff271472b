"""Who closed how much of the gap: every contender of a results object, with what its training and deciding took."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paceline.report.reading import (
    CONTENDERS,
    MODES,
    Results,
    contender_label,
    interval_pair,
    single_number,
)

GAP_MODES: Mapping[str, str] = {**MODES, "par10": "PAR10"}
"""What closed gaps are measured under, with titles."""

FIXED = ("best_static", "oracle")
"""Closed gaps of 0 and 1 by definition: axes, not rows."""

OVER_BUDGET = "full"
"""Takes its time whatever the budget, so that its closed gap says nothing beside those that keep to it."""

RIVALS = ("lightgbm", "stacking", "grpo_teacher")
"""From the first of these that was trained, every other contender is told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One contender under one kind of budget."""

    name: str
    label: str
    learned: bool  # was trained, and is no baseline
    gap: float  # mean closed gap over budgets
    gap_ci: tuple[float, float] | None
    by_budget: np.ndarray  # float64 (budgets,), NaN where there is no gap to close
    over: float  # gap less the rival's, NaN for the rival
    over_ci: tuple[float, float] | None
    training_s: float  # NaN where not measured
    decision_us: float


def gap_modes(results: Results) -> dict[str, str]:
    """The kinds of budget with closed gaps, and their titles."""
    return {mode: title for mode, title in GAP_MODES.items() if (results.get(mode) or {}).get("closed_gaps")}


def rival_of(results: Results, mode: str) -> str | None:
    """Whom the others are told apart from; None where nobody of `RIVALS` was trained."""
    gaps = (results.get(mode) or {}).get("closed_gaps") or {}
    return next((name for name in RIVALS if name in gaps), None)


def standings(results: Results, mode: str) -> list[Standing]:
    """All contenders that are held to budgets, but `FIXED`, from the highest mean closed gap; equals as in tables.

    Where times are known only afterwards nothing can be held to a budget, and everybody is ranked.
    """
    left_out = FIXED if "par10" in results else (*FIXED, OVER_BUDGET)
    gaps = (results.get(mode) or {}).get("closed_gaps") or {}
    costs, rival = results.get("learners") or {}, rival_of(results, mode)
    known = [*CONTENDERS, *(name for name in gaps if name not in CONTENDERS)]
    rows = [
        _standing(name, gaps[name], mode, rival, costs.get(name))
        for name in known
        if name in gaps and name not in left_out
    ]
    return sorted(rows, key=lambda row: -row.gap)


COLUMNS = (
    "budgets", "contender", "closed_gap", "closed_gap_low", "closed_gap_high", "over", "over_low", "over_high", "rival",
    "training_s", "decision_us",
)  # fmt: skip


def write_standings(results: Results, path: Path) -> Path:
    """The standings under every kind of budget as a CSV file, empty where not measured; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for mode in gap_modes(results):
            for row in standings(results, mode):
                numbers = [
                    row.gap,
                    *(row.gap_ci or (np.nan, np.nan)),
                    row.over,
                    *(row.over_ci or (np.nan, np.nan)),
                ]
                cells = ["" if np.isnan(value) else f"{value:.6g}" for value in numbers]
                costs = [
                    "" if np.isnan(value) else f"{value:.6g}" for value in (row.training_s, row.decision_us)
                ]
                writer.writerow([mode, row.name, *cells, rival_of(results, mode) or "", *costs])
    return path


def _standing(
    name: str, gap: Mapping[str, Any], mode: str, rival: str | None, cost: Mapping[str, Any] | None
) -> Standing:
    return Standing(
        name=name,
        label=contender_label(name, mode),
        learned=cost is not None,
        gap=single_number(gap.get("mean")),
        gap_ci=interval_pair(gap.get("mean_ci")),
        by_budget=np.array([single_number(value) for value in gap.get("by_budget") or ()], dtype=np.float64),
        over=single_number(gap.get(f"over_{rival}")),
        over_ci=interval_pair(gap.get(f"over_{rival}_ci")),
        training_s=single_number((cost or {}).get("training_s")),
        decision_us=single_number((cost or {}).get("decision_us")),
    )
