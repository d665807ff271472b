"""Terminal tables of many learners: closed gaps, what they cost, and PAR10."""

from functools import partial
from itertools import islice

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from paceline.report.fitting import NARROW_CELL, Fitted, empty_table
from paceline.report.reading import (
    CONTENDERS,
    DASH,
    Results,
    contender_label,
    microseconds,
    percent,
    seconds,
    share,
    share_interval,
    signed_share,
    signed_share_interval,
)
from paceline.report.standings import Standing, gap_modes, rival_of, standings

MOST_FOLDS = 8
"""Folds shown in columns of their own; the results hold all."""


def learner_tables(results: Results) -> list[RenderableType]:
    """Closed gaps and costs of every contender, per kind of budget; PAR10; folds. Nothing where no learner is named."""
    if not results.get("learners"):
        return []
    modes = gap_modes(results)
    tables: list[RenderableType] = [Fitted(partial(standings_table, results, mode)) for mode in modes]
    if results.get("par10"):
        tables.append(Fitted(partial(par10_table, results)))
    if results.get("folds") and len(results["folds"]) <= MOST_FOLDS:
        tables += [Fitted(partial(folds_table, results, mode)) for mode in modes]
    return tables


def standings_table(results: Results, mode: str, narrow: bool = False) -> Table:
    """Mean closed gap with its interval, the difference to a rival, and what training and a decision take."""
    rows, rival = standings(results, mode), rival_of(results, mode)
    table = empty_table(f"{gap_modes(results).get(mode, mode)}: closed gap, ranked", "contender")
    table.add_column("closed gap", justify="right")
    if rival is not None:
        table.add_column(f"over {contender_label(rival)}", justify="right")
    table.add_column("training, s", justify="right", max_width=NARROW_CELL + 2 if narrow else None)
    table.add_column("decision, µs", justify="right", max_width=NARROW_CELL + 2 if narrow else None)
    gap = "\n" if narrow else " "
    for row in rows:
        cells = [_joined(share(row.gap), share_interval(row.gap_ci), gap)]
        if rival is not None:
            cells.append(_joined(signed_share(row.over), signed_share_interval(row.over_ci), gap))
        cells += [Text(seconds(row.training_s)), Text(microseconds(row.decision_us))]
        table.add_row(Text(row.label), *cells, style=_emphasis(row))
    if not rows:
        table.caption = "not measured: the oracle gains nothing over best static"
    return table


def par10_table(results: Results, narrow: bool = False) -> Table:
    """Mean PAR10 in seconds with its interval and the share of samples solved without a deadline."""
    section = results["par10"]
    times, solved = section.get("par10_s") or {}, section.get("solved") or {}
    table = empty_table("Without a deadline: PAR10 in s, lowest first", "contender")
    for name in ("PAR10", "solved"):
        table.add_column(name, justify="right")
    gap = "\n" if narrow else " "
    for name in sorted(times, key=lambda name: times[name]):
        ends = (section.get("par10_s_ci") or {}).get(name)
        between = "" if ends is None else f"[{ends[0]:,.1f}, {ends[1]:,.1f}]"
        label = "Single best" if name == "best_static" else contender_label(name)
        table.add_row(
            Text(label), _joined(f"{times[name]:,.1f}", between, gap), Text(percent(solved.get(name))),
            style="bold" if name == "paceline" else None,
        )  # fmt: skip
    return table


def folds_table(results: Results, mode: str, narrow: bool = False) -> Table:
    """Mean closed gap of every learner, fold by fold."""
    table = empty_table(f"{gap_modes(results)[mode]}: closed gap by fold", "learner")
    folds = list(islice(results["folds"], MOST_FOLDS))
    for fold in folds:
        title = Text(f"{fold['fold']} ({fold['samples']})", overflow="fold")
        table.add_column(title, justify="right", max_width=NARROW_CELL if narrow else None)
    for name in (name for name in CONTENDERS if name in results["learners"]):
        gaps = [((fold["closed_gaps"].get(mode) or {}).get(name) or {}).get("mean") for fold in folds]
        style = "bold" if name == "paceline" else None
        table.add_row(Text(contender_label(name)), *(Text(share(gap)) for gap in gaps), style=style)
    return table


def _joined(number: str, interval: str, gap: str) -> Text:
    return Text(number if number == DASH or not interval else f"{number}{gap}{interval}", justify="right")


def _emphasis(row: Standing) -> str | None:
    if row.name == "paceline":
        return "bold"
    return None if row.learned else "dim"
