"""Lines below the tables of results where budgets are costs."""

from collections.abc import Mapping
from typing import Any

from paceline.latency.quantity import MILLISECONDS


def unit_lines(results: Mapping[str, Any]) -> list[str]:
    """The unit of budgets and means, where it is not milliseconds, and the numbers of a router between two prices."""
    unit = results["provenance"]["unit"]
    lines = []
    if unit != MILLISECONDS:
        budgets = ", ".join(f"{value:.4g}" for value in results["average"]["budgets_ms"])
        lines.append(f"budgets and what choices take are costs in {unit}; average budgets: {budgets} {unit}")
    for name, found in results.get("routing", {}).items():
        if found["APGR"] is None:
            lines.append(f"{name}: no APGR, the dear model is no better than the cheap one")
            continue
        ends = "" if found["APGR_ci"] is None else " [{:.3f}, {:.3f}]".format(*found["APGR_ci"])
        lines.append(
            f"{name}: APGR {found['APGR']:.3f}{ends}, CPT50 {found['CPT50']:.1%}, CPT80 {found['CPT80']:.1%}"
        )
    return lines
