"""What was measured of exported files, as text."""

from collections.abc import Mapping
from typing import Any


def export_table(record: Mapping[str, Any]) -> list[str]:
    """Lines of a table: a row per file, and which one decides."""
    lines = [
        f"{'file':<23}{'size':>9}  {'score error':>11}  {'agreement':>9}  {'accuracy':>9}  {'one request':>11}  check"
    ]
    for gate in record["gates"]:
        difference = gate["accuracy_difference"]
        points = "unknown" if difference is None else f"{100 * difference:+.2f} pt"
        lines.append(
            f"{gate['file']:<23}{gate['size_bytes'] / 1e6:>6.2f} MB  {_error(gate):>11}  "
            f"{gate['agreement']:>9.2%}  {points:>9}  {gate['microseconds']:>8.1f} us  {gate['reason']}"
        )
    lines.append(
        f"{record['chosen']} decides: the fastest that passed, of {record['requests']} requests compared with torch; "
        f"opset {record['opset']}"
    )
    return lines


def _error(gate: Mapping[str, Any]) -> str:
    """The largest difference of a score; of a file whose scores are not all finite there is none."""
    return "none" if gate["score_error"] is None else f"{gate['score_error']:.1e}"
