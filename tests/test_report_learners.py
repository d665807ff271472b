"""Names, tables, plots and the page of comparisons of all learners, of runtimes and of cross-validated ones."""

import csv
import json
import re
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import learner_results
from learner_results import GAPS
from paceline.errors import PacelineError
from paceline.evaluation.jobs import CONTENDER
from paceline.learning.learners.registry import LEARNERS
from paceline.report import learner_plots
from paceline.report.html import write_report
from paceline.report.learner_tables import folds_table, par10_table, standings_table
from paceline.report.reading import CONTENDERS, contender_label, modes_of
from paceline.report.standings import RIVALS, gap_modes, rival_of, standings, write_standings
from paceline.report.tables import budget_table, result_tables
from paceline.report.theme import DARK, LIGHT, MARKERS, MONOCHROME_HINTS
from synthetic_results import make_results

NAMES = [CONTENDER.get(name, name) for name in LEARNERS]


@pytest.fixture(scope="module")
def everyone() -> dict[str, Any]:
    return json.loads(json.dumps(learner_results.all_learners()))


@pytest.fixture(scope="module")
def runtimes() -> dict[str, Any]:
    return learner_results.runtimes()


@pytest.fixture(scope="module")
def folded() -> dict[str, Any]:
    return learner_results.cross_validated()


def printed(*tables: Any, width: int = 200) -> str:
    stream = StringIO()
    console = Console(file=stream, width=width, color_system=None)
    for table in tables:
        console.print(table)
    return stream.getvalue()


def words(path: Any) -> str:
    """The text of a page without its markup."""
    body = re.sub(r"<style.*?</style>|<svg.*?</svg>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_every_learner_has_a_name_a_place_a_colour_and_a_look_of_its_own() -> None:
    assert set(NAMES) <= set(CONTENDERS)
    assert list(CONTENDERS)[: len(NAMES)] == NAMES  # in the order of the registry, baselines after them
    labels = [contender_label(name) for name in CONTENDERS]
    assert len(set(labels)) == len(labels)
    keys = [name.replace("_", "-") for name in NAMES]
    for theme in (LIGHT, DARK):
        assert len({theme[key] for key in keys}) == len(keys)
    looks = [MONOCHROME_HINTS[key] for key in keys]
    assert len(set(looks)) == len(looks)


def test_standings_are_ranked_and_carry_costs(everyone: dict[str, Any]) -> None:
    rows = standings(everyone, "hard")
    assert [row.name for row in rows[:4]] == ["grpo_teacher", "paceline", "stacking", "lightgbm"]
    assert [row.name for row in rows[-2:]] == ["random", "cheapest"]
    assert {row.name for row in rows} == set(GAPS) - {"best_static", "oracle", "full"}
    afterwards = standings(everyone | {"par10": {"closed_gaps": {}}}, "hard")  # nobody is held to a deadline
    assert [row.name for row in afterwards[-3:]] == ["full", "random", "cheapest"]
    first = rows[0]
    assert (first.gap, first.gap_ci) == (0.48, pytest.approx((0.42, 0.53)))
    assert (first.over, first.over_ci) == (pytest.approx(0.09), pytest.approx((0.06, 0.11)))
    assert (first.training_s, first.decision_us) == (10.25, 1050.0)
    assert np.isnan(first.by_budget[0])
    assert first.by_budget[1:].tolist() == [0.48] * 5
    assert np.isnan(next(row.over for row in rows if row.name == "lightgbm"))
    assert [row.learned for row in rows] == [row.name in NAMES for row in rows]


def test_equals_stand_in_the_order_of_the_tables(everyone: dict[str, Any]) -> None:
    even = {name: gap | {"mean": 0.5} for name, gap in reversed(everyone["hard"]["closed_gaps"].items())}
    rows = standings({"hard": {"closed_gaps": even}}, "hard")
    assert [row.name for row in rows] == [
        name for name in CONTENDERS if name not in ("best_static", "oracle", "full")
    ]


def test_the_rival_is_the_first_that_was_trained(everyone: dict[str, Any]) -> None:
    gaps = dict(everyone["hard"]["closed_gaps"])
    for name, following in zip(RIVALS, (*RIVALS[1:], None), strict=True):
        assert rival_of({"hard": {"closed_gaps": gaps}}, "hard") == name
        del gaps[name]
        assert rival_of({"hard": {"closed_gaps": gaps}}, "hard") == following


def test_the_table_of_standings(everyone: dict[str, Any]) -> None:
    lines = printed(standings_table(everyone, "hard")).splitlines()
    ours = next(line for line in lines if "Paceline" in line)
    assert re.split(r"\s{2,}", ours.strip()) == [
        "Paceline",
        "0.46 [0.40, 0.51]",
        "+0.07 [+0.04, +0.09]",
        "0.25",
        "50",
    ]
    cheap = next(line for line in lines if "Cheapest" in line)
    assert re.split(r"\s{2,}", cheap.strip())[1:] == [
        "−3.10 [−3.16, −3.05]",
        "−3.49 [−3.52, −3.47]",
        "–",
        "–",
    ]
    assert "over LightGBM" in printed(standings_table(everyone, "hard"))
    alone = {"hard": {"closed_gaps": learner_results.closed_gaps(("paceline", "knn", "oracle"))}}
    assert "over" not in printed(standings_table(alone, "hard"))
    assert "the oracle gains nothing" in printed(standings_table({"hard": {"closed_gaps": {}}}, "hard"))


def test_tables_of_all_learners_lose_nothing_on_a_narrow_terminal(everyone: dict[str, Any]) -> None:
    tables = result_tables(everyone)
    assert len(tables) == 6  # budgets, standings and kinds, for hard and average budgets
    for table in tables:
        narrow, wide = printed(table, width=80), printed(table, width=160)
        assert max(map(len, narrow.splitlines())) <= 80
        assert "…" not in narrow
        assert all(re.sub(r"\s", "", narrow).count(sign) == wide.count(sign) for sign in ".[]")
    text = printed(*tables)
    assert all(CONTENDERS[name] in text for name in NAMES)
    assert len(result_tables(make_results(120))) == 4  # an evaluation has no learners


def test_runtimes_print_par10_and_no_latency(runtimes: dict[str, Any]) -> None:
    assert modes_of(runtimes) == {"hard": "Hard budgets"}
    assert gap_modes(runtimes) == {"hard": "Hard budgets", "par10": "PAR10"}
    text = printed(*result_tables(runtimes))
    assert "latency" not in text.lower()
    assert "Late" not in text
    lines = printed(par10_table(runtimes)).splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines if "87.5" in line]
    assert rows[0] == ["Oracle", "500.0 [410.0, 580.0]", "87.5 %"]
    assert rows[1] == ["GRPO teacher", "760.0 [670.0, 840.0]", "87.5 %"]
    assert [row[0] for row in rows].index("Single best") == sum(gap > 0 for gap in GAPS.values())


def test_folds_print_by_learner(folded: dict[str, Any]) -> None:
    text = printed(folds_table(folded, "average"))
    assert "coco (60)" in text
    ours = next(line for line in text.splitlines() if "Paceline" in line)
    assert ours.split() == ["Paceline", "0.46", "0.46"]
    assert len(result_tables(folded)) == 8
    many = folded | {"folds": folded["folds"] * 5}
    assert len(result_tables(many)) == 6


def test_results_without_paceline_print(everyone: dict[str, Any], tmp_path: Any) -> None:
    """A comparison that did not train the student."""
    names = ("lightgbm", "knn", "best_static", "oracle")
    section = {
        "budgets_ms": everyone["hard"]["budgets_ms"],
        "quantiles": everyone["hard"]["quantiles"],
        "accuracy": {name: everyone["hard"]["accuracy"][name] for name in names},
        "closed_gaps": learner_results.closed_gaps(names),
    }
    results = {"hard": section, "average": section, "learners": learner_results.costs(("lightgbm", "knn"))}
    assert "Paceline" not in printed(*result_tables(results))
    assert "Neighbours" in words(write_report(results, tmp_path / "r.html"))


def test_ranked_gaps_stand_where_they_are(everyone: dict[str, Any]) -> None:
    axes = learner_plots.ranked_gaps(everyone, "hard", MARKERS).axes[0]
    rows = standings(everyone, "hard")
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.label for row in rows]
    marks = {float(line.get_ydata()[0]): line for line in axes.get_lines() if line.get_linestyle() == "None"}
    low, high = axes.get_xlim()
    assert [marks[place].get_xdata()[0] for place in range(len(rows))] == [max(row.gap, low) for row in rows]
    assert -0.6 < low < -0.5 < 1 < high < 2  # the cheapest, at -3.1, is an arrow at the edge
    assert marks[len(rows) - 1].get_marker() == "<"
    texts = [text.get_text() for text in axes.texts]
    assert texts[-1].startswith("−3.10")
    with pytest.raises(PacelineError, match="no closed gaps under par10"):
        learner_plots.ranked_gaps(everyone, "par10", MARKERS)


def test_a_few_lines_stand_in_front_of_the_others(everyone: dict[str, Any]) -> None:
    figure, hints = learner_plots.accuracy_by_budget(everyone, "hard", MARKERS)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["Oracle", "LightGBM", "Stacking", "GRPO teacher", "Paceline", "Others"]
    section = everyone["hard"]
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "Paceline")
    expected = np.subtract(section["accuracy"]["paceline"], section["accuracy"]["best_static"])
    assert line.get_ydata() == pytest.approx(100 * expected)
    assert len(hints) == 6 * (
        len(GAPS) - 4
    )  # best static is the zero line; full, cheapest and random are left out
    assert hints["knn-0"].startswith("Neighbours at ")
    with pytest.raises(PacelineError, match="hard has no accuracy of best static"):
        learner_plots.accuracy_by_budget({"hard": {"budgets_ms": [1.0], "accuracy": {}}}, "hard", MARKERS)


def test_the_spread_over_seeds(everyone: dict[str, Any]) -> None:
    axes = learner_plots.seed_spread(everyone, "average", MARKERS).axes[0]
    assert [text.get_text() for text in axes.texts][:2] == ["0.48 ± 0.02", "0.46 ± 0.02"]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots[1].get_xdata() == pytest.approx([0.44, 0.46, 0.48])
    assert list(learner_plots.curves_of(everyone)) == ["ppo", "dpo"]
    curves = learner_plots.seed_curves(learner_plots.curves_of(everyone)["ppo"], "ppo", MARKERS).axes[0]
    assert [line.get_ydata()[-1] for line in curves.get_lines()] == pytest.approx([0.2, 0.3, 0.4])
    with pytest.raises(PacelineError, match="run: paceline compare --seeds 5"):
        learner_plots.seed_spread({}, "hard", MARKERS)


def test_files_of_plots_and_the_table(
    everyone: dict[str, Any], runtimes: dict[str, Any], tmp_path: Any
) -> None:
    made = [path.name for path in learner_plots.save_learner_plots(runtimes, tmp_path / "new")]
    assert made == [
        "closed_gap_hard.svg", "accuracy_hard.svg", "seeds_hard.svg", "closed_gap_par10.svg", "curves_ppo.svg",
        "curves_dpo.svg",
    ]  # fmt: skip
    assert all((tmp_path / "new" / name).stat().st_size > 1000 for name in made)
    with write_standings(everyone, tmp_path / "x" / "learners.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * (len(GAPS) - 3)
    first = rows[0]
    assert (first["budgets"], first["contender"], first["closed_gap"]) == ("hard", "grpo_teacher", "0.48")
    assert (first["over"], first["rival"], first["training_s"]) == ("0.09", "lightgbm", "10.25")
    assert next(row["over_low"] for row in rows if row["contender"] == "lightgbm") == ""


def test_the_page_of_all_learners(everyone: dict[str, Any], tmp_path: Any) -> None:
    path = write_report(everyone, tmp_path / "r.html")
    page, text = path.read_text(), words(path)
    assert page.index('id="learners"') < page.index('id="contenders"')
    assert page.count('id="ranked-') >= 2
    for expected in (
        "Closed gap, hard budgets",
        "Over LightGBM",
        "Over seeds",
        "Validation reward",
        "12,050",
    ):
        assert expected in text
    assert re.search(r"Paceline 0\.46 \[0\.40, 0\.51\] \+0\.07 \[\+0\.04, \+0\.09\] 0\.25 50", text)
    assert not re.search(r"\bnan\b|None", text)
    assert len(page) < 2_000_000
    assert set(re.findall(r"var\(--([a-z-]+)\)", page)) <= set(LIGHT)


def test_the_page_of_runtimes(runtimes: dict[str, Any], tmp_path: Any) -> None:
    text = words(write_report(runtimes, tmp_path / "r.html"))
    assert "Closed gap, PAR10 0.46 [0.40, 0.51] without a deadline" in text
    assert "known only afterwards" in text
    assert "lack average budgets" not in text
    assert "There are no results for average budgets" not in text
    assert "Without a deadline: PAR10 in seconds" in text
    assert not re.search(r"\bnan\b|None", text)


def test_the_page_of_folds(folded: dict[str, Any], tmp_path: Any) -> None:
    path = write_report(folded, tmp_path / "r.html")
    assert "closed gap by fold" in words(path)
    assert "text &lt;b&gt;" in path.read_text()
    assert "Over seeds" not in words(path)


def test_where_the_oracle_gains_nothing_the_page_says_so(everyone: dict[str, Any], tmp_path: Any) -> None:
    results = {"hard": everyone["hard"] | {"closed_gaps": {}}, "learners": everyone["learners"]}
    assert "The oracle gains nothing over best static at any budget." in words(
        write_report(results, tmp_path / "r.html")
    )
    assert "Paceline" in printed(budget_table(results, "hard"))
