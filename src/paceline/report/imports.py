"""The audit of an import as terminal tables."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

SHOWN_CONFIGURATIONS = 40


def audit_tables(audit: Mapping[str, Any]) -> list[RenderableType]:
    """What was found, samples per configuration, warnings and notes."""
    return [_facts(audit), _configurations(audit), *_lines(audit)]


def _facts(audit: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Audit", title_justify="left")
    table.add_column("checked")
    table.add_column("found", overflow="fold")
    formats: dict[str, int] = {}
    for item in audit["files"]:
        formats[item["format"]] = formats.get(item["format"], 0) + 1
    holes = audit["holes"]
    disagreement = audit["disagreement"]
    rows = {
        "files read": ", ".join(f"{count} {name}" for name, count in formats.items()),
        "joined by": ", ".join(f"{name}: {how}" for name, how in audit["joined_by"].items()),
        "samples": f"{audit['samples']}, {audit['complete_samples']} under every configuration",
        "timed": f"{audit['timed_rows']} outcomes of {audit['timed_samples']} samples",
        "holes": f"{sum(item['missing'] for item in holes.values())} in {len(holes)} configurations",
        "duplicates": str(audit["duplicates"]),
        "ids that restart": f"{audit.get('restarted_ids', {}).get('files', 0)} files",
        "accuracies that differ": "one source" if disagreement is None else f"{disagreement:.2%}",
        "impossible times": str(audit["impossible_times"] + audit["impossible_first_token_times"]),
        "spikes": f"{audit['spikes']}, worst {audit['worst_spike']:.1f} x usual",
        "block sets": ", ".join(f"{count}: {blocks}" for count, blocks in audit.get("block_sets", {}).items())
        or "none",
        "scores copied over a batch": str(sum(audit.get("copied_scores", {}).values())),
        "images shared by splits": str(audit["images_shared_by_source_splits"]),
    }
    for name, found in rows.items():
        table.add_row(name, Text(found))
    return table


def _configurations(audit: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("configuration")
    for name in ("scored", "timed", "missing"):
        table.add_column(name, justify="right")
    counts, timed, holes = (
        audit[name] for name in ("samples_per_configuration", "timed_per_configuration", "holes")
    )
    for label in list(counts)[:SHOWN_CONFIGURATIONS]:
        missing = holes.get(label, {}).get("missing", 0)
        table.add_row(Text(label), str(counts[label]), str(timed[label]), str(missing))
    if len(counts) > SHOWN_CONFIGURATIONS:
        table.add_row(f"... {len(counts)} in all", "", "", "")
    return table


def _lines(audit: Mapping[str, Any]) -> list[RenderableType]:
    warnings = [Text(f"warning: {line}") for line in audit["warnings"]]
    notes = [Text(f"note: {line}") for line in audit["notes"]]
    return [*warnings, *notes]
