"""Reading a results object (the JSON of `evaluate`) and writing its numbers.

What is absent stays absent: a missing series is `None`, a missing number NaN, and both are shown as a dash. What is
present but of the wrong shape is an error, never padded or cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.errors import PacelineError

Results = Mapping[str, Any]

MODES: Mapping[str, str] = {"hard": "Hard budgets", "average": "Average budgets"}

CONTENDERS: Mapping[str, str] = {
    # in the order of tables; "best static" is a mix of two configurations where the budget is an average
    "paceline": "Paceline",
    "grpo_teacher": "GRPO teacher",
    "stacking": "Stacking",
    "grpo_warm": "GRPO network",
    "grpo_scratch": "GRPO scratch",
    "ppo": "PPO",
    "dpo": "DPO",
    "supervised": "Supervised",
    "outcome": "Outcome prediction",
    "lightgbm": "LightGBM",
    "voting": "Voting forest",
    "knn": "Neighbours",
    "kmeans": "Clusters",
    "best_static": "Best static",
    "lookup": "Lookup by kind",
    "full": "Full",
    "cheapest": "Cheapest",
    "random": "Random feasible",
    "oracle": "Oracle",
}

DASH = "–"
MINUS = "−"


def modes_of(results: Results) -> dict[str, str]:
    """The kinds of budget that such results can have, and their titles: runtimes have no average budgets."""
    return {mode: title for mode, title in MODES.items() if mode == "hard" or "par10" not in results}


def section_of(results: Results, mode: str) -> Mapping[str, Any] | None:
    """The part of one kind of budget, or None when it was not measured."""
    section = results.get(mode)
    if not section:
        return None
    if not isinstance(section, Mapping) or "budgets_ms" not in section:
        raise PacelineError(f"results: {mode} has no budgets_ms; pass the JSON object that evaluate wrote")
    return section


def budgets_of(section: Mapping[str, Any]) -> np.ndarray:
    """The budgets of a section in milliseconds: float64 (budgets,)."""
    return _numbers(section["budgets_ms"], "budgets_ms")


def series_of(section: Mapping[str, Any], metric: str, contender: str | None = None) -> np.ndarray | None:
    """One number per budget, float64 (budgets,) with NaN where not measured; None when the series is absent."""
    values = section.get(metric)
    name = metric
    if contender is not None and values is not None:
        values, name = values.get(contender), f"{metric}.{contender}"
    if values is None:
        return None
    return _per_budget(section, _numbers(values, name), name)


def intervals_of(section: Mapping[str, Any], metric: str) -> np.ndarray | None:
    """Lower and upper end per budget, float64 (budgets, 2); None when absent."""
    values = section.get(metric)
    if values is None:
        return None
    empty = [float("nan")] * 2
    ends = _numbers([empty if pair is None else pair for pair in values], metric)
    if ends.ndim != 2 or ends.shape[1] != 2:
        raise PacelineError(
            f"results: {metric} has shape {ends.shape}, expected (budgets, 2): [low, high] each"
        )
    return _per_budget(section, ends, metric)


def contenders_in(section: Mapping[str, Any], metric: str) -> list[str]:
    """Names with a series for this metric: the known ones in order, then any others."""
    present = section.get(metric) or {}
    return [name for name in CONTENDERS if name in present] + [
        name for name in present if name not in CONTENDERS
    ]


def contender_label(name: str, mode: str = "hard") -> str:
    """How a contender is called in tables and legends."""
    if name == "best_static" and mode == "average":
        return "Best static mix"
    return CONTENDERS.get(name, name.replace("_", " ").capitalize())


def quantile_index(section: Mapping[str, Any], quantile: float) -> int | None:
    """Position of the budget at this quantile of configuration latency, or None if the section has none."""
    for index, value in enumerate(section.get("quantiles") or ()):
        if isinstance(value, int | float) and abs(value - quantile) < 1e-6:
            return index
    return None


def single_number(value: Any) -> float:
    """A float, NaN for anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return float("nan")
    return float(value)


def interval_pair(value: Any) -> tuple[float, float] | None:
    """Both ends of an interval, or None when it is absent."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    low, high = (single_number(end) for end in value)
    return None if np.isnan(low) or np.isnan(high) else (low, high)


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PacelineError(
            f"results: {name} is {values!r}, expected a list of numbers (null where absent)"
        ) from error


def _per_budget(section: Mapping[str, Any], values: np.ndarray, name: str) -> np.ndarray:
    expected = len(section["budgets_ms"])
    if values.ndim == 0 or len(values) != expected:
        got = "a single number" if values.ndim == 0 else f"{len(values)} values"
        raise PacelineError(f"results: {name} has {got}, expected {expected} (one per budget)")
    return values


def _missing(value: float | None) -> bool:
    return value is None or not np.isfinite(value)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage.

    >>> percent(0.713), percent(None), percent(-0.0001, 0)
    ('71.3 %', '–', '0 %')
    """
    return DASH if _missing(value) else f"{100 * value:z.{digits}f} %".replace("-", MINUS)  # pyright: ignore


def points(value: float | None) -> str:
    """A difference of fractions in percentage points, always signed.

    >>> points(0.0512), points(-0.004)
    ('+5.1', '−0.4')
    """
    return DASH if _missing(value) else f"{100 * value:+z.1f}".replace("-", MINUS)  # pyright: ignore


def points_interval(pair: tuple[float, float] | np.ndarray | None) -> str:
    """An interval of differences in percentage points, in brackets."""
    return (
        ""
        if pair is None or _missing(pair[0]) or _missing(pair[1])
        else f"[{points(pair[0])}, {points(pair[1])}]"
    )


def share(value: float | None) -> str:
    """A closed gap with two decimals."""
    return DASH if _missing(value) else f"{value:z.2f}".replace("-", MINUS)


def share_interval(pair: tuple[float, float] | np.ndarray | None) -> str:
    """An interval of closed gaps, in brackets."""
    return (
        ""
        if pair is None or _missing(pair[0]) or _missing(pair[1])
        else f"[{share(pair[0])}, {share(pair[1])}]"
    )


def signed_share(value: float | None) -> str:
    """A difference of closed gaps, always signed.

    >>> signed_share(0.0512), signed_share(-0.004)
    ('+0.05', '0.00')
    """
    if _missing(value):
        return DASH
    text = f"{value:+z.2f}".replace("-", MINUS)  # pyright: ignore
    return text.lstrip("+") if text == "+0.00" else text


def signed_share_interval(pair: tuple[float, float] | np.ndarray | None) -> str:
    """An interval of differences of closed gaps, in brackets."""
    return "" if pair is None else f"[{signed_share(pair[0])}, {signed_share(pair[1])}]"


def seconds(value: float) -> str:
    """What training took.

    >>> seconds(0.0312), seconds(7.26), seconds(1234.4)
    ('0.03', '7.3', '1,234')
    """
    return DASH if _missing(value) else f"{value:,.{2 if value < 1 else 1 if value < 100 else 0}f}"


def microseconds(value: float) -> str:
    """What a decision took.

    >>> microseconds(54.98), microseconds(7066.0)
    ('55', '7,066')
    """
    return DASH if _missing(value) else f"{value:,.0f}"


def milliseconds(value: float | None, unit: bool = True) -> str:
    """A time: one decimal below 100 ms, none above.

    >>> milliseconds(41.26), milliseconds(212.4)
    ('41.3 ms', '212 ms')
    """
    if _missing(value):
        return DASH
    text = f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}"  # pyright: ignore
    return f"{text} ms" if unit else text


def budget_text(value: Any) -> str:
    """One budget, or the range of several."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value):
        low, high = min(value), max(value)
        return (
            milliseconds(low) if low == high else f"{milliseconds(low, unit=False)} to {milliseconds(high)}"
        )
    return milliseconds(single_number(value))


def configuration_text(configuration: Mapping[str, Any] | None) -> str:
    """A configuration on one line.

    >>> configuration_text({"max_crops": 4, "top_k": 8})
    'max_crops 4 · top_k 8'
    """
    if not configuration:
        return DASH
    return " · ".join(f"{name} {option}" for name, option in configuration.items())
