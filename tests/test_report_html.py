"""The report as a reader's browser sees it: nothing loaded, nothing executed, nothing invented."""

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paceline.errors import DependencyError, ImageError, PacelineError
from paceline.report import page as report_page
from paceline.report.evidence import data_uri, flat
from paceline.report.history import training_panels
from paceline.report.html import write_report
from paceline.report.limits import warnings_from
from paceline.report.markup import Html, tag
from paceline.report.reading import points, share
from paceline.report.theme import DARK, LIGHT
from synthetic_results import (
    make_examples,
    make_history,
    make_latency_samples,
    make_live,
    make_results,
)

HOSTILE = """<script>alert(1)</script><img src=x onerror="a()">&'"$x^{ ]]> -->"""
VOID = {"img", "meta", "br", "hr"}


class Page(HTMLParser):
    """Elements and text of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(part.strip() for part in self.texts if part.strip())


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return json.loads(json.dumps(make_results(200)))


@pytest.fixture(scope="module")
def full_page(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(
        results,
        tmp_path_factory.mktemp("report") / "new" / "report.html",
        training_history=make_history(),
        live=make_live(),
        examples=make_examples(),
        latency_samples=make_latency_samples(results),
    )
    return path.read_text(encoding="utf-8")


def small(results: dict[str, Any]) -> dict[str, Any]:
    """Only hard budgets and no kinds: fewer plots to draw."""
    return {key: copy.deepcopy(results[key]) for key in ("hard", "static", "provenance")}


def test_nothing_is_loaded_or_executed(full_page: str) -> None:
    page = Page(full_page)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for name, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in ("src", "href", "xlink:href", "srcset"):
                assert (value or "").startswith(("data:image/", "#")), (name, key, value)
    assert "@import" not in full_page
    assert set(re.findall(r"url\((.)", full_page)) == {"#"}
    addresses = set(re.findall(r"https?://[^\"'<> ]+", full_page))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in dict(page.tags[[n for n, _ in page.tags].index("meta") + 2][1])["content"]  # type: ignore[operator]


def test_is_small_and_complete(full_page: str) -> None:
    assert len(full_page.encode()) < 2_000_000
    page = Page(full_page)
    headings = [
        value for name, attributes in page.tags if name == "section" and (value := attributes.get("id"))
    ]
    assert headings == [
        "headline", "frontier", "contenders", "kinds", "knobs", "latency", "live", "examples", "training", "limits",
        "provenance",
    ]  # fmt: skip
    plots = sum(name == "svg" and attributes.get("class") == "plot" for name, attributes in page.tags)
    assert plots == 2 + 2 + 2 + 3 + 2 + 12 + 2 + 6
    assert sum(name == "img" for name, _ in page.tags) == 3
    assert "Not measured" not in full_page


def test_ids_are_unique_and_every_reference_resolves(full_page: str) -> None:
    ids = [value for _, attributes in Page(full_page).tags if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', full_page)) | set(re.findall(r"url\(#([^)]+)\)", full_page))
    assert used
    assert used <= set(ids)


def test_every_colour_is_a_variable_that_both_themes_define(full_page: str) -> None:
    body = full_page[full_page.index("</style>") :]
    assert not re.findall(r"(?:fill|stroke|color|background)\s*[:=]\s*\"?#[0-9a-fA-F]{3,8}", body)
    assert "fe01" not in re.sub(r"data:image[^\"]+", "", body)
    used = set(re.findall(r"var\(--([a-z-]+)\)", full_page))
    assert {"paceline", "best-static", "oracle"} <= used
    assert used <= set(LIGHT)
    assert set(LIGHT) == set(DARK)
    dark = full_page[full_page.index("prefers-color-scheme:dark") :]
    assert all(f"--{name}:{colour};" in dark for name, colour in DARK.items())


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_from_their_background(theme: dict[str, str]) -> None:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(theme[one]), luminance(theme[other])))
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "muted"):
        assert min(contrast(text, "surface"), contrast(text, "page")) >= 4.5
    assert contrast("warning", "warning-surface") >= 4.5
    lines = set(theme) - {"page", "surface", "ink", "muted", "line", "warning", "warning-surface", "dot"}
    assert all(contrast(name, "surface") >= 3 for name in lines)


def test_headline_numbers_are_those_of_the_results(results: dict[str, Any], tmp_path: Any) -> None:
    changed = small(results)
    changed["hard"]["quantiles"] = [0.1, 0.25, 0.5, 0.75, 0.9, 1.0]
    changed["hard"]["budgets_ms"] = [10, 21.04, 31, 40, 50, 140.6]
    changed["hard"]["gain"] = [0.0, 0.0512, 0.0763, 0, 0, -0.031]
    changed["hard"]["gain_ci"] = [
        [-0.01, 0.01],
        [0.021, 0.083],
        [0.05, 0.1],
        [-0.01, 0.01],
        [-0.01, 0.01],
        None,
    ]
    changed["hard"]["closed_gap_mean"] = 0.4449
    changed["latency_share_at_full_accuracy"] = 0.4361
    changed["overhead"] = {"share": 0.0123}
    text = Page(write_report(changed, tmp_path / "r.html").read_text()).text
    for expected in (
        "Hard budget 21.0 ms +5.1 points [+2.1, +8.3] over best static; 25 % quantile",
        "Hard budget 31.0 ms +7.6 points [+5.0, +10.0] over best static; 50 % quantile",
        "Average budget, 25 % quantile not measured",
        "Closed gap, hard budgets 0.44",
        "Closed gap, average budgets not measured",
        "44 % of its latency",
        "Overhead of the decision 1.23 % of full's latency; features not counted",
        "141 ms",
        "−3.1",
    ):
        assert expected in text


def test_overhead_measured_live_goes_first(results: dict[str, Any], tmp_path: Any) -> None:
    changed = small(results) | {"overhead": {"share": 0.001}, "overhead_share": 0.0123}
    text = Page(
        write_report(changed, tmp_path / "r.html", live={"average": make_live()["average"]}).read_text()
    ).text
    assert "Overhead 1.23 % of the full configuration's latency, live" in text
    assert "No measured times of single requests" not in text
    assert "Measured times of single requests" in text


def test_live_rows_show_best_static_where_it_was_measured(tmp_path: Any) -> None:
    hard = {"requests": 1200, "accuracy": 0.75, "best_static_accuracy": 0.5, "violation_rate": 0.015}
    hard |= {"best_static_violation_rate": 0.04, "mean_latency_ms": 31.0, "budget_ms": [10.0, 60.0]}
    average = {"requests": 20, "violation_rate": 0.45, "budget_ms": 25.0, "mean_latency_ms": 24.0}
    text = Page(
        write_report({}, tmp_path / "r.html", live={"hard": hard, "average": average}).read_text()
    ).text
    assert "1,200 75.0 % 50.0 % +25.0 1.5 % static 4.0 % 31.0 ms 10.0 to 60.0 ms" in text
    assert "Average budgets 20 – – – no limit 24.0 ms 25.0 ms" in text


def test_a_share_that_is_null_was_not_reached(results: dict[str, Any], tmp_path: Any) -> None:
    changed = small(results) | {"latency_share_at_full_accuracy": None}
    assert (
        "not reached at any price of time"
        in Page(write_report(changed, tmp_path / "r.html").read_text()).text
    )


def test_hostile_text_stays_text(results: dict[str, Any], tmp_path: Any) -> None:
    hostile = small(results)
    section = hostile["hard"]
    section["accuracy"][HOSTILE] = section["accuracy"]["random"]
    section["mean_latency_ms"][HOSTILE] = section["mean_latency_ms"]["random"]
    section["knob_use"] = {HOSTILE: section["knob_use"]["top_k"]}
    section["knob_use_by_kind"] = {HOSTILE: {HOSTILE: section["knob_use_by_kind"]["sum"]["top_k"]}}
    section["configurations"] = {"0": {HOSTILE: 0.7, str(hostile["static"][0]["action"]): 0.3}}
    for row in hostile["static"]:
        row["configuration"] = {HOSTILE: HOSTILE}
    picture = Image.new("RGB", (8, 8))
    keys = ("question", "answer", "expected", "why", "kind")
    page = write_report(
        hostile
        | {
            "kinds": {
                HOSTILE: {"count": 3, "accuracy": {"hard": {"paceline": [0.5] * 6, HOSTILE: [0.4] * 6}}}
            },
            "provenance": {HOSTILE: {HOSTILE: HOSTILE}, "model": HOSTILE},
        },
        tmp_path / "hostile.html",
        training_history=[{"step": 1, HOSTILE: 0.5}, {"step": 2, HOSTILE: 0.4}],
        examples=[{"image": picture, "configuration": {HOSTILE: HOSTILE}} | dict.fromkeys(keys, HOSTILE)],
        latency_samples={"hard": {HOSTILE: [[1.0, 2.0]] * 6}},
    ).read_text()
    parsed = Page(page)
    names = [name for name, _ in parsed.tags]
    assert "script" not in names
    assert names.count("img") == 1
    assert not any(key.startswith("on") for _, attributes in parsed.tags for key in attributes)
    assert parsed.text.count(HOSTILE) >= 15


def test_empty_results_say_so_everywhere(tmp_path: Any) -> None:
    page = Page(write_report({}, tmp_path / "empty.html").read_text())
    assert "These results lack hard budgets and average budgets." in page.text
    assert page.text.count("Not measured.") >= 14
    assert not [name for name, _ in page.tags if name == "svg"]
    assert "These results carry no provenance." in page.text
    assert "There is nothing to judge." in page.text
    assert not re.search(r"\bnan\b|None", page.text)


def test_a_missing_kind_of_budget_and_stream_is_named(results: dict[str, Any], tmp_path: Any) -> None:
    only = {"average": results["average"], "static": results["static"], "provenance": results["provenance"]}
    text = Page(
        write_report(only, tmp_path / "r.html", live={"average": make_live()["average"]}).read_text()
    ).text
    assert "These results lack hard budgets." in text
    assert "There were no live requests under hard budgets." in text
    assert "No examples were handed to this report." in text
    assert "There were no live requests under average budgets." not in text


def test_missing_numbers_are_dashes(results: dict[str, Any], tmp_path: Any) -> None:
    holes = small(results)
    holes["hard"]["accuracy"]["lookup"] = [None] * 6
    holes["hard"]["violation_rate"] = {name: [None] * 6 for name in holes["hard"]["accuracy"]}
    holes["hard"]["gain_over_lookup"] = [float("nan")] * 6
    holes["hard"]["gain_over_lookup_ci"] = [None] * 6
    del holes["hard"]["gain_over_supervised"]
    text = Page(write_report(holes, tmp_path / "r.html").read_text()).text
    assert "Lookup by kind – – – – – –" in text
    assert "Gain over lookup by kind – – – – – –" in text
    assert "Gain over supervised – – – – – –" in text
    assert "late –" in text
    assert not re.search(r"\bnan\b|None", text)


def broken(results: dict[str, Any], change: Any) -> dict[str, Any]:
    value = small(results)
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r["hard"]["accuracy"].update(oracle=[0.5] * 5),
            "accuracy.oracle has 5 values, expected 6",
        ),
        (
            lambda r: r["hard"]["accuracy"].update(paceline=0.5),
            "accuracy.paceline has a single number, expected 6",
        ),
        (lambda r: r["hard"].update(gain_ci=[0.1] * 6), "gain_ci has shape"),
        (
            lambda r: r["hard"]["accuracy"].update(oracle=["high"] * 6),
            "accuracy.oracle is .*high.*expected a list",
        ),
        (lambda r: r["hard"].pop("budgets_ms"), "hard has no budgets_ms"),
        (lambda r: r["hard"]["knob_use"].update(top_k=[1.0]), "knob_use.top_k has 1 values"),
        (
            lambda r: r["hard"]["knob_use_by_kind"]["sum"].update(top_k=[1.0]),
            "knob_use_by_kind.*top_k: expected 6",
        ),
        (lambda r: r.update(kinds={"sum": {"accuracy": {"hard": {"paceline": [1]}}}}), "expected 6 values"),
    ],
)
def test_results_of_the_wrong_shape_are_refused(
    results: dict[str, Any], tmp_path: Any, change: Any, message: str
) -> None:
    with pytest.raises(PacelineError, match=message):
        write_report(broken(results, change), tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_parts_that_do_not_fit_the_results_are_refused(results: dict[str, Any], tmp_path: Any) -> None:
    value, path = small(results), tmp_path / "r.html"
    with pytest.raises(PacelineError, match="expected the JSON object of evaluate"):
        write_report([], path)  # type: ignore[arg-type]
    with pytest.raises(PacelineError, match="latency_samples: hard.paceline has 1 arrays, expected 6"):
        write_report(value, path, latency_samples={"hard": {"paceline": [[1.0]]}})
    with pytest.raises(PacelineError, match="latency_samples: has average budgets, which the results lack"):
        write_report(value, path, latency_samples={"average": {"paceline": [[1.0]] * 6}})
    with pytest.raises(PacelineError, match="latency_samples: got 'soft'"):
        write_report(value, path, latency_samples={"soft": {}})
    with pytest.raises(PacelineError, match="expected one budget per latency"):
        write_report(
            value, path, live={"hard": {"request_latency_ms": [1.0, 2.0], "request_budget_ms": [3.0]}}
        )
    with pytest.raises(ImageError, match="image is a str, expected a PIL image"):
        write_report(value, path, examples=[{"image": "picture.png"}])
    assert not path.exists()


def test_a_failed_write_leaves_the_old_report(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_page.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report({}, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_the_extra_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"paceline\[report\]"):
        write_report({}, tmp_path / "r.html")


def test_importing_the_report_loads_no_matplotlib() -> None:
    code = (
        "import sys, paceline.report.html, paceline.report.plots, paceline.report.tables; "
        "print([m for m in ('matplotlib', 'torch', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_limits_name_where_paceline_does_not_win() -> None:
    section = {
        "budgets_ms": [10, 20], "gain_ci": [[0.01, 0.03], [-0.02, 0.01]],
        "gain_over_supervised_ci": [[-0.04, -0.01], None],
        "static_feasible": [False, True], "violation_rate": {"paceline": [0.08, 0.05]},
    }  # fmt: skip
    assert warnings_from({"hard": section}) == [
        "Hard budgets: no difference to best static beyond noise at 20.0 ms.",
        "Hard budgets: below supervised beyond noise at 10.0 ms.",
        "Hard budgets: no single configuration fits 10.0 ms; best static is then the cheapest one.",
        "Hard budgets: more late answers than the promised 5.0 %: 8.0 % at 10.0 ms.",
    ]
    assert warnings_from({"hard": section, "provenance": {"violation_rate": 0.1}})[-1].startswith(
        "Hard budgets: no single"
    )
    everywhere = {"budgets_ms": [10, 20], "gain_ci": [[-0.01, 0.03], [-0.02, 0.01]]}
    assert warnings_from({"hard": everywhere}) == [
        "Hard budgets: no difference to best static beyond noise at every budget."
    ]
    assert warnings_from({"average": {"budgets_ms": [10], "gain_ci": [[0.01, 0.02]]}}) == []


def test_stages_of_a_history_follow_each_other() -> None:
    history = [
        {"phase": "warm", "epoch": 1, "loss": 0.5, "validation_reward": 0.1},
        {"phase": "warm", "epoch": 2, "loss": 0.4, "validation_reward": 0.2},
        {"phase": "grpo", "epoch": 1, "kl": 0.01, "validation_reward": float("nan")},
        {"phase": "grpo", "epoch": 2, "kl": 0.02, "validation_reward": 0.3, "kept": True},
    ]
    axis, panels = training_panels(history)
    assert axis == "epoch, stages in sequence"
    assert {name: sorted(lines) for name, lines in panels.items()} == {
        "loss": ["warm"], "reward": ["grpo validation", "warm validation"], "kl": ["grpo"],
    }  # fmt: skip
    assert [values.tolist() for values in panels["reward"]["grpo validation"]] == [[4.0], [0.3]]
    assert [values.tolist() for values in panels["kl"]["grpo"]] == [[3.0, 4.0], [0.01, 0.02]]


def test_a_history_may_be_lists() -> None:
    axis, panels = training_panels({"step": [10, 20], "loss": [0.5, 0.4]})
    assert axis == "step"
    assert [values.tolist() for values in panels["loss"]["loss"]] == [[10.0, 20.0], [0.5, 0.4]]
    with pytest.raises(PacelineError, match=r"lists of lengths \[1, 2\]"):
        training_panels({"step": [10, 20], "loss": [0.5]})
    with pytest.raises(PacelineError, match="expected a list of records"):
        training_panels([1.0, 2.0])


def test_pictures_are_shrunk() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (1200, 1800, 3), dtype=np.uint8))
    uri = data_uri(noise)
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 400_000
    assert noise.size == (1800, 1200)
    assert data_uri(Image.new("L", (20, 10), 7)).startswith("data:image/png;base64,")


def test_markup_escapes_what_is_not_markup() -> None:
    assert (
        tag("p", "<b>", Html("<i>x</i>"), [1, None, ["&"]], title='"')
        == '<p title="&quot;">&lt;b&gt;<i>x</i>1&amp;</p>'
    )
    assert tag("img", src="a", class_="b", hidden=True, alt=None) == '<img src="a" class="b" hidden>'


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert points(-0.0004) == "+0.0"
    assert share(-0.001) == "0.00"


def test_facts_are_flattened() -> None:
    assert flat({"a": {"b": 0.123456, "c": [1, 2]}, "d": [{"e": None}], "f": True}) == [
        ("a · b", "0.1235"), ("a · c", "1, 2"), ("d · 0 · e", "–"), ("f", "True"),
    ]  # fmt: skip
