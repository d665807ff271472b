"""Lines below the tables of results of a router between two prices."""

from collections.abc import Mapping
from typing import Any


def routing_lines(results: Mapping[str, Any]) -> list[str]:
    """One line per contender: APGR with its interval, and the calls of the dear model that parts of its gain take."""
    lines = []
    for name, found in results.get("routing", {}).items():
        if found["APGR"] is None:
            lines.append(f"{name}: no APGR, the dear model is no better than the cheap one")
            continue
        ends = "" if found["APGR_ci"] is None else " [{:.3f}, {:.3f}]".format(*found["APGR_ci"])
        lines.append(
            f"{name}: APGR {found['APGR']:.3f}{ends}, CPT50 {found['CPT50']:.1%}, CPT80 {found['CPT80']:.1%}"
        )
    return lines
