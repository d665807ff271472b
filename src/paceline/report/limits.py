"""Section on what the numbers cannot say, and where Paceline does not win."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.evaluation.results import RIVALS
from paceline.report import page
from paceline.report.amounts import Amounts, amounts_of
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import (
    CONTENDERS,
    MODES,
    Results,
    budgets_of,
    intervals_of,
    percent,
    section_of,
    series_of,
    single_number,
)

PROMISED_VIOLATION_RATE = 0.05
"""What evaluation promises unless the provenance says otherwise."""


def warnings_from(results: Results) -> list[str]:
    """What in these results speaks against Paceline, in words; empty when nothing does."""
    found = []
    for mode, title in MODES.items():
        section = section_of(results, mode)
        if section is None:
            continue
        budgets = budgets_of(section)
        for metric, name in RIVALS.items():
            rival = CONTENDERS[name].lower()
            ends = intervals_of(section, f"{metric}_ci")
            if ends is None:
                continue
            open_ = (ends[:, 0] <= 0) & (ends[:, 1] >= 0)
            for held, verdict in (
                (ends[:, 1] < 0, "below {} beyond noise"),
                (open_, "no difference to {} beyond noise"),
            ):
                if held.any():
                    found.append(
                        f"{title}: {verdict.format(rival)} at {_at(budgets, held, amounts_of(results))}."
                    )
    section = section_of(results, "hard")
    return found if section is None else found + _hard_warnings(section, results)


def _at(budgets: np.ndarray, chosen: np.ndarray, amounts: Amounts) -> str:
    if chosen.all():
        return "every budget"
    return ", ".join(amounts.number(budget) for budget in budgets[chosen]) + f" {amounts.unit}"


def _hard_warnings(section: Mapping[str, Any], results: Results) -> list[str]:
    found, amounts, facts = [], amounts_of(results), results.get("provenance") or {}
    budgets = [amounts.text(budget) for budget in budgets_of(section)]
    fits = section.get("static_feasible")
    if fits is not None and not all(fits):
        unfit = _at(budgets_of(section), ~np.asarray(fits, dtype=bool), amounts)
        found.append(
            f"Hard budgets: no single configuration fits {unfit}; best static is then the cheapest one."
        )
    late = series_of(section, "violation_rate", "paceline")
    promised = single_number(facts.get("violation_rate", PROMISED_VIOLATION_RATE))
    if late is not None:
        over = [
            f"{percent(rate)} at {budget}"
            for budget, rate in zip(budgets, late, strict=True)
            if rate > promised
        ]
        if over:
            found.append(
                f"Hard budgets: more late answers than the promised {percent(promised)}: {', '.join(over)}."
            )
    return found


CAVEATS = (
    "Latency of a question under a configuration is an estimate from its crops and tokens, fitted on the timed part of "
    "the questions; the shares of late answers are measured on timed test questions only. Live numbers are measured.",
    "What is feasible is decided for every contender, best static included, by the same calibrated upper latency.",
    "The oracle sees every answer before it chooses. It also collects answers that were right by luck, so nobody "
    "can reach it and a closed gap of 1 is not a goal.",
    "Intervals are paired bootstraps over pictures: they carry the choice of questions, not of training seeds, "
    "machines or tasks.",
    "Times belong to the machine below; on another one, calibrate before trusting a budget.",
)


def caveats(results: Results) -> Html:
    """What the numbers do not show, and where Paceline does not win."""
    found = warnings_from(results)
    if not section_of(results, "hard") and not section_of(results, "average"):
        verdict: Child = page.not_measured("There is nothing to judge.", "Run: paceline evaluate")
    elif found:
        verdict = tag(
            "div", tag("strong", "Where it does not win"), tag("ul", [tag("li", line) for line in found]),
            class_="warnings",
        )  # fmt: skip
    else:
        verdict = tag(
            "p", "Every interval of a gain lies above zero and no budget was broken more often than promised."
        )
    return page.section(
        "limits", "Limits", verdict, tag("ul", [tag("li", line) for line in CAVEATS], class_="caveats")
    )
