"""The report: one self-contained HTML file, light and dark, that loads nothing from anywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.errors import PacelineError
from paceline.report import behaviour, contenders, evidence, kinds, learners, limits, page
from paceline.report import live as live_section
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import MODES, Results, modes_of, section_of
from paceline.report.theme import import_matplotlib

TITLE = "Paceline report"
NAMING_KEYS = ("name", "processor", "cpu", "device")
"""Which fact of a nested group stands for it under the title; the first one present."""


def write_report(
    results: Results,
    path: Path | str,
    *,
    training_history: Any = None,
    live: Mapping[str, Mapping[str, Any]] | None = None,
    examples: Sequence[Mapping[str, Any]] | None = None,
    latency_samples: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> Path:
    """Write the HTML report of an evaluation and return its path.

    results: the JSON object of `evaluate`. training_history: records or lists per quantity, see `history`.
    live: `hard` and `average`, each with requests, accuracy, best_static_accuracy, violation_rate, mean_latency_ms,
    budget_ms and, optionally, request_budget_ms and request_latency_ms (one number per request).
    examples: see `evidence.examples`. latency_samples: kind of budget -> contender -> one array of measured latencies
    in ms per budget.

    What is absent is named as not measured. Raises `PacelineError` for results of the wrong shape, `DependencyError`
    without matplotlib, `OSError` when the file cannot be written; an existing file is then left as it was.
    """
    if not isinstance(results, Mapping):
        raise PacelineError(
            f"report: results are a {type(results).__name__}, expected the JSON object of evaluate"
        )
    import_matplotlib()
    sections: dict[str, tuple[str, Html]] = {
        "headline": ("In short", contenders.headline(results)),
        "frontier": ("Frontier", contenders.frontiers(results)),
        **({"learners": ("Learners", learners.learners(results))} if results.get("learners") else {}),
        "contenders": ("Contenders", contenders.all_contenders(results)),
        "kinds": ("Kinds", kinds.by_kind(results)),
        "knobs": ("Knobs", behaviour.knobs(results)),
        "latency": ("Latency", behaviour.latencies(results, latency_samples, shown_live=_has_requests(live))),
        "live": ("Live", live_section.live(live)),
        "examples": ("Examples", evidence.examples(examples)),
        "training": ("Training", behaviour.training(training_history)),
        "limits": ("Limits", limits.caveats(results)),
        "provenance": ("Provenance", evidence.provenance(results)),
    }
    footer = "Made by paceline. This page loads nothing: no scripts, no network."
    return page.write(Path(path), page.document(TITLE, _introduction(results), sections, footer))


def _has_requests(live: Mapping[str, Mapping[str, Any]] | None) -> bool:
    return any((live or {}).get(mode, {}).get("request_latency_ms") for mode in MODES)


def _introduction(results: Results) -> Child:
    provenance = results.get("provenance") or {}
    facts = []
    for key in ("model", "task", "hardware", "date", "created"):
        value = provenance.get(key)
        if isinstance(value, Mapping):
            value = next((value[name] for name in NAMING_KEYS if value.get(name)), None)
        if value:
            facts.append(str(value))
    static = len(results.get("static") or ())
    samples = results.get("samples") or {}
    if static:
        facts.append(f"{static} configurations")
    if samples.get("test"):
        facts.append(f"{samples['test']:,} test questions")
    missing = [
        title.lower() for mode, title in modes_of(results).items() if section_of(results, mode) is None
    ]
    notice = page.not_measured(f"These results lack {' and '.join(missing)}.", "") if missing else None
    lead = (
        "Each question gets a latency budget. Paceline looks at picture, question and budget and picks the "
        "configuration of the model that is most likely to answer well within it."
    )
    return [
        tag("p", lead, class_="lead"),
        tag("p", " · ".join(facts), class_="facts") if facts else None,
        notice,
    ]
