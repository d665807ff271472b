"""Plots as files and terminal tables."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from paceline.errors import PacelineError
from paceline.report import behaviour_plots, plots
from paceline.report.figures import save_figure
from paceline.report.tables import budget_table, kinds_table, live_table, result_tables, static_table
from paceline.report.theme import DARK, LIGHT, MARKERS
from synthetic_results import make_live, make_results

ROWS = [
    {"knob": knob, "option": option, "accuracy": 0.5 + 0.05 * place, "latency_ms": 10.0 + 7 * place}
    for knob in ("max_crops", "price in $x^{")
    for place, option in enumerate((1, 2, "many"))
]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return make_results(120)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_knob_curves_are_written_in_both_themes(tmp_path: Path, theme: str) -> None:
    path = plots.knob_curves(ROWS, tmp_path / "docs" / "knobs.png", theme)
    with Image.open(path) as picture:
        assert picture.size == (2 * 680, 2 * 420)
        red, green, blue = picture.convert("RGB").getpixel((1, 1))  # type: ignore[misc]
    assert f"#{red:02x}{green:02x}{blue:02x}" == (LIGHT if theme == "light" else DARK)["surface"]


def test_knob_curves_show_every_knob_and_option(tmp_path: Path) -> None:
    text = plots.knob_curves(ROWS, tmp_path / "knobs.svg").read_text()
    for expected in ("max_crops", "price in $x^{", "many", "accuracy", "latency, ms", "50.0 %", "24.0 ms"):
        assert f">{expected}<" in text


@pytest.mark.parametrize(
    ("rows", "path", "theme", "message"),
    [
        ([], "a.png", "light", "got no rows"),
        ([{"knob": "a", "option": 1, "accuracy": 0.5}], "a.png", "light", "row 0 lacks latency_ms"),
        (ROWS, "a.pdf", "light", "got suffix '.pdf', expected one of .png, .svg"),
        (ROWS, "a.png", "sepia", "theme: got 'sepia'"),
    ],
)
def test_knob_curves_refuse(tmp_path: Path, rows: Any, path: str, theme: str, message: str) -> None:
    with pytest.raises(PacelineError, match=message):
        plots.knob_curves(rows, tmp_path / path, theme)


def test_frontier_file_holds_dots_and_three_curves(results: dict[str, Any], tmp_path: Path) -> None:
    text = plots.save_frontier(results, tmp_path / "frontier.svg", "average", "dark").read_text()
    for label in (
        "One configuration",
        "Oracle",
        "Best static mix",
        "Paceline",
        "Accuracy under average budgets",
    ):
        assert f">{label}<" in text
    with pytest.raises(PacelineError, match="got mode 'soft'"):
        plots.save_frontier(results, tmp_path / "f.svg", "soft")
    with pytest.raises(PacelineError, match="hard budgets were not measured"):
        plots.save_frontier({"average": results["average"]}, tmp_path / "f.svg", "hard")


def lines_of(figure: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def test_frontier_places_points_where_they_were_measured(results: dict[str, Any]) -> None:
    figure, hints = plots.frontier(results, "hard", MARKERS)
    lines = lines_of(figure)
    assert lines["Paceline"].get_xdata().tolist() == results["hard"]["budgets_ms"]
    assert lines["Paceline"].get_ydata().tolist() == results["hard"]["accuracy"]["paceline"]
    assert lines["One configuration"].get_xdata().tolist() == [row["latency_ms"] for row in results["static"]]
    assert len(hints) == len(results["static"]) + 3 * 6
    row = results["static"][3]
    assert f"top_k {row['configuration']['top_k']}" in hints["configuration-3"]
    figure, _ = plots.frontier(results, "average", MARKERS)
    drawn = lines_of(figure)["Best static mix"]
    assert drawn.get_xdata().tolist() == results["average"]["mean_latency_ms"]["best_static"]


def test_wide_ranges_of_time_are_logarithmic(results: dict[str, Any]) -> None:
    figure, _ = plots.frontier(results, "hard", MARKERS)
    assert figure.axes[0].get_xscale() == "linear"
    wide = results | {"static": [{"action": 0, "configuration": {}, "accuracy": 0.4, "latency_ms": 1.0}]}
    figure, _ = plots.frontier(wide, "hard", MARKERS)
    assert figure.axes[0].get_xscale() == "log"


def test_latency_curve_reads_the_share_in_time() -> None:
    figure = behaviour_plots.latency_curve(25.0, {"paceline": [10, 20, 30, np.nan, 40]}, MARKERS)
    line = figure.axes[0].get_lines()[1]
    times, shares = line.get_xdata(), line.get_ydata()
    assert shares[times <= 25.0][-1] == 0.5
    assert (times[-1], shares[-1]) == (40.0, 1.0)
    long = (
        behaviour_plots.latency_curve(25.0, {"paceline": np.arange(10_000)}, MARKERS).axes[0].get_lines()[1]
    )
    assert len(long.get_xdata()) <= behaviour_plots.CURVE_POINTS + 1
    assert long.get_ydata()[-1] == 1.0


def test_late_requests_are_counted() -> None:
    budgets, latencies = np.array([10.0, 20.0, 30.0]), np.array([9.0, 20.0, 31.0])
    lines = lines_of(behaviour_plots.live_requests(budgets, latencies, MARKERS))
    assert {"In time (2)", "Late (1)"} <= set(lines)
    running = lines_of(behaviour_plots.live_running_mean(np.array([10.0, 20.0, 30.0]), 18.0, MARKERS))
    assert running["Mean so far"].get_ydata().tolist() == [10.0, 15.0, 20.0]


def test_a_figure_without_numbers_is_refused(results: dict[str, Any]) -> None:
    for draw in (plots.gains, behaviour_plots.latency_ranges):
        with pytest.raises(PacelineError, match="average budgets were not measured"):
            draw({"hard": results["hard"]}, "average", MARKERS)
    with pytest.raises(PacelineError, match="knob_use of 'depth' was not measured"):
        behaviour_plots.knob_use(results, "depth", MARKERS)


def test_characters_that_the_font_lacks_raise_no_warning(tmp_path: Path) -> None:
    rows = [{"knob": "深さ", "option": 1, "accuracy": 0.5, "latency_ms": 3.0}]
    assert ">深さ<" in plots.knob_curves(rows, tmp_path / "knobs.svg").read_text()


def test_saving_twice_gives_the_same_file(results: dict[str, Any], tmp_path: Path) -> None:
    files = [plots.save_frontier(results, tmp_path / f"{number}.svg") for number in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    figure, _ = plots.frontier(results, "hard", LIGHT)
    assert save_figure(figure, tmp_path / "plain.png").stat().st_size > 10_000


def printed(table: Any, width: int = 200) -> str:
    stream = StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return stream.getvalue()


def test_budget_table_lists_contenders_and_intervals(results: dict[str, Any]) -> None:
    section = results["hard"] | {"gain": [0.0512] * 6, "gain_ci": [[0.021, 0.083]] * 6}
    text = printed(budget_table(results | {"hard": section}, "hard"))
    for expected in ("Paceline", "Best static", "Oracle", "+5.1", "[+2.1, +8.3]", "Closed gap", "Late, %"):
        assert expected in text
    assert "not measured" in printed(budget_table({}, "hard"))
    assert "Late" not in printed(budget_table(results, "average"))


def test_tables_lose_no_digit_on_a_narrow_terminal(results: dict[str, Any]) -> None:
    for table in (*result_tables(results, make_live()), static_table(results)):
        lines = printed(table, 80).splitlines()
        assert max(map(len, lines)) <= 80
        assert "…" not in "".join(lines)
    narrow, wide = (printed(result_tables(results)[0], width) for width in (80, 120))
    numbers = [re.sub(r"\s", "", text) for text in (narrow, wide)]
    assert all(numbers[0].count(sign) == numbers[1].count(sign) for sign in ".[]%")


def test_kinds_and_live_tables(results: dict[str, Any]) -> None:
    kinds = {
        "[red]sum": {"count": 7, "accuracy": {"hard": {"paceline": [0.75] * 6, "best_static": [0.5] * 6}}}
    }
    text = printed(kinds_table(results | {"kinds": kinds}, "hard"))
    assert "[red]sum" in text
    assert "75.0 (+25.0)" in text
    live = {"hard": {"requests": 3, "accuracy": 0.5, "best_static_accuracy": 0.25, "budget_ms": [10.0, 30.0]}}
    text = printed(live_table(live))
    assert "+25.0" in text
    assert "10.0 to 30.0" in text
    assert "not measured" in text
    assert len(result_tables(results, make_live())) == 5
    assert result_tables({}) == []
    assert "36 more" in printed(static_table(results))
