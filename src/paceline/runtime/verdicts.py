"""A decision in words: what was chosen, under which limits, and why each other configuration lost."""

from typing import TYPE_CHECKING

from paceline.knobs import Configuration
from paceline.latency.quantity import COST, LATENCY, ONLY_AFTERWARDS

if TYPE_CHECKING:
    from paceline.runtime.decision import Decision

ABOUT_EQUAL = 5e-4
"""Differences of value that an explanation with three digits would show as 0.000."""


def named(configuration: Configuration) -> str:
    """A configuration in a line.

    >>> named({"crops": 4, "top_k": 8})
    'crops=4 top_k=8'
    """
    return " ".join(f"{knob}={option}" for knob, option in configuration.items())


def headline(decision: "Decision") -> str:
    """The choice and out of what it was made."""
    name, tested = named(decision.configuration), decision.tested
    match decision.reason:
        case "policy" if not decision.quantity.known_before:
            return f"{name}: the best of {tested} configurations; what each takes is {ONLY_AFTERWARDS}"
        case "policy":
            return f"{name}: the best of {decision.feasible} configurations that fit, out of {tested}"
        case "cheapest":
            return f"{name}: nothing fits, so the cheapest of {tested} configurations"
        case "best_effort":
            return f"{name}: nothing fits, so the one of {tested} configurations that is least late"
        case "rejected":
            return f"rejected: none of {tested} configurations fits; {name} comes closest"


def limits(decision: "Decision") -> list[str]:
    """A line per limit that the choice was under."""
    quantity, lines = decision.quantity, []
    text = quantity.text
    if not quantity.known_before:
        return [_deadline(decision)]
    for label, budget in (
        ("budget", decision.budget_ms),
        ("first-token budget", decision.first_token_budget_ms),
    ):
        if budget is not None:
            lines.append(
                f"{label} {text(budget)}; {decision.elapsed_ms:.1f} ms spent, {decision.unexpected_ms:.1f} ms of it "
                f"beyond the overview's: {text(budget - decision.unexpected_ms)} for upper latencies"
                if quantity.kind == LATENCY
                else f"{label} {text(budget)}"
            )
    if decision.average_budget_ms is not None:
        what = "cost" if quantity.kind == COST else "time"
        lines.append(
            f"average budget {text(decision.average_budget_ms)}: "
            + f"{decision.price:.4f} of accuracy is the price of the full configuration's {what}"
            + (f", more than the policy reads, so only {what} counts" if decision.only_time_counts else "")
        )
    if decision.slowdown != 1.0:
        lines.append(
            f"the machine now takes {decision.slowdown:.2f} x the calibrated time; predictions include it"
        )
    return lines or ["no budget: every configuration fits"]


def verdict(decision: "Decision", position: int) -> str:
    """Why the configuration at a position of the candidates was chosen or lost."""
    seen, quantity = decision.candidates, decision.quantity
    if position == seen.chosen:
        return "chosen"
    late, spent = [], decision.unexpected_ms
    fits = bool(seen.feasible[position])
    if decision.budget_ms is not None and not fits:
        over = float(seen.upper_ms[position]) - (decision.budget_ms - spent)
        if over > 0:
            late.append(
                f"{quantity.text(over)} over the budget"
                if quantity.known_before
                else "the deadline has passed"
            )
    if decision.first_token_budget_ms is not None and not fits:
        over = float(seen.first_upper_ms[position]) - (decision.first_token_budget_ms - spent)
        if over > 0:
            late.append(f"first token {over:.1f} ms late")
    if late:
        return ", ".join(late)
    if not fits and decision.reason == "policy":  # by less than its backend's float32 tells apart
        return f"{quantity.text(0.0)} over the budget"
    if decision.reason != "policy":
        return "over the average budget" if decision.average_budget_ms is not None else "does not fit"
    if decision.only_time_counts:
        return f"takes {quantity.text(float(seen.mean_ms[position] - seen.mean_ms[seen.chosen]))} more"
    worse = float(seen.values[seen.chosen] - seen.values[position])
    if worse < ABOUT_EQUAL:
        cheaper = seen.mean_ms[position] < seen.mean_ms[seen.chosen]
        return "value less than 0.001 lower" if cheaper else "as good, not cheaper"
    score_gap = float(seen.scores[seen.chosen] - seen.scores[position])
    if score_gap >= ABOUT_EQUAL or decision.price == 0.0:
        return f"value {worse:.3f} lower"
    what = "time costs" if quantity.kind == LATENCY else "cost takes"
    return f"scores {-score_gap:.3f} more, its {what} {worse - score_gap:.3f} more"


def rejection(decision: "Decision") -> str:
    """The message of a rejected request."""
    limits, text, needs = [], decision.quantity.text, ""
    left = f"after {decision.unexpected_ms:.1f} ms of delay" if decision.unexpected_ms else "before any delay"
    if decision.quantity.known_before:
        needs = f" (needs {text(decision.upper_ms)})"
    if decision.budget_ms is not None:
        limits.append(f"{decision.budget_ms:g} {decision.quantity.unit} for the call{needs}")
    if decision.first_token_budget_ms is not None:
        limits.append(
            f"{decision.first_token_budget_ms:g} ms to the first token (needs {decision.first_token_upper_ms:.1f} ms)"
        )
    if decision.average_budget_ms is not None:
        limits.append(f"{decision.average_budget_ms:g} {decision.quantity.unit} on average")
    return (
        f"budget: got {' and '.join(limits)}, {left}; none of {decision.tested} configurations fits, not even "
        f"{decision.configuration}; allow more time or pass when_infeasible='cheapest'"
    )


def _deadline(decision: "Decision") -> str:
    """The deadline of a choice whose time is known only afterwards."""
    if decision.budget_ms is None:
        return "no deadline: nothing is excluded"
    left = decision.budget_ms - decision.unexpected_ms
    spent = f", {decision.unexpected_ms:.1f} ms of it spent" if decision.unexpected_ms else ""
    meaning = "an answer after it counts nothing" if left >= 0 else "it has passed"
    return f"deadline {decision.quantity.text(decision.budget_ms)}{spent}: {meaning}"
