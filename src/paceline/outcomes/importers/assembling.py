"""From joined rows to an outcome table: knob space, holes, splits, features, manifest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import paceline
from paceline.errors import OutcomesError
from paceline.knobs import Knob, KnobSpace, Option
from paceline.outcomes.importers.audit import SHOWN, Audit, some
from paceline.outcomes.importers.cells import Cells, make_cells
from paceline.outcomes.importers.core_exp import TIERS
from paceline.outcomes.importers.features import given_features, question_features
from paceline.outcomes.importers.options import ImportOptions
from paceline.outcomes.importers.records import configuration_label
from paceline.outcomes.importers.rows import JoinedRows
from paceline.outcomes.importers.splits import (
    SHARES,
    shared_images,
    splits_by_image,
    splits_from_column,
    stated_splits,
)
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.table import OutcomeTable

LISTED_HOLES = 100
"""How many sample names the audit keeps per configuration, none of logged decisions; outcomes.parquet has them all."""
FEW_COMPLETE = 0.5


def assemble(
    rows: JoinedRows,
    options: ImportOptions,
    audit: Audit,
    *,
    given: tuple[np.ndarray, list[str]] | None = None,
    split: np.ndarray | None = None,
    manifest: dict[str, Any],
) -> OutcomeTable:
    """The table of all rows.

    Args:
        rows: what was read.
        options: of the import.
        audit: gets its facts and warnings.
        given: feature columns float64 (n, f) and their names; None: made from the questions.
        split: text (n,) from the user's column; None: split by image.
        manifest: further fields of the manifest.
    """
    cells = make_cells(rows, audit, manifest["options"]["latency_kind"])
    _refuse_apart(rows, cells, audit)
    order, scored = _scored(rows, cells, audit)
    floats = {name: array[np.ix_(order, scored)] for name, array in cells.floats.items()}
    counts = {name: array[np.ix_(order, scored)] for name, array in cells.counts.items()}
    configurations = [rows.configurations[i] for i in scored.tolist()]
    space = _space(configurations, floats["latency_ms"], audit)
    actions = space.actions(configurations)
    columns = np.argsort(actions)
    names = {
        field: [getattr(rows, field)[i] for i in order.tolist()]
        for field in ("sample_id", "dataset", "image", "question", "kind", "source_split", "split")
    }
    _report_shared(names, audit)
    splits, split_by = _splits(names, None if split is None else split[order], options, audit)
    train = splits == "train"
    if given is None:
        features, described = question_features(names["question"], names["kind"], train, options.seed, audit)
    else:
        features, described = given_features(given[0][order], given[1], train, audit)
    cut = {name: array[:, columns] for name, array in (floats | counts).items()}
    listed = 0 if options.table.propensity else LISTED_HOLES
    _count(names["sample_id"], configurations, columns, cut, listed, audit)
    made_options = {
        **manifest.pop("options"),
        "seed": options.seed,
        "splits": {name: int((splits == name).sum()) for name in ("train", "validation", "test")},
        "split_by": split_by,
        "features": described,
        "latency_known_when_deciding": not options.latency_unknown,
    }
    # Refused here, once every warning is known and nothing is written yet.
    if options.strict:
        audit.refuse_warnings()
    return OutcomeTable(
        space=space,
        actions=actions[columns],
        sample_id=_texts(names["sample_id"]),
        dataset=_texts(names["dataset"]),
        split=splits,
        image_hash=_texts(names["image"]),
        question=np.array(names["question"], dtype=object),
        kind=_texts(names["kind"]),
        **cut,
        features=features,
        image_width=0,
        manifest=Manifest(
            space=space,
            software={"paceline": paceline.__version__},
            options=made_options,
            audit=audit.to_json(),
            **manifest,
        ),
    )


def _splits(
    names: dict[str, list[str]], column: np.ndarray | None, options: ImportOptions, audit: Audit
) -> tuple[np.ndarray, str]:
    """The split of every sample, str (n,), and what says so."""
    if column is not None:
        text = options.table.split or ""
        return splits_from_column(column, text, names["image"], audit), f"column {text}"
    stated = stated_splits(names["split"], names["image"], audit)
    if stated is not None:
        return stated, "exported files"
    audit.note(
        "splits: by image, or by sample where no image is known: "
        f"{'/'.join(f'{100 * share:.0f}' for share in SHARES)} % from seed {options.seed}"
    )
    return splits_by_image(names["image"], options.seed), "image"


def _texts(values: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=np.str_)


def _refuse_apart(rows: JoinedRows, cells: Cells, audit: Audit) -> None:
    """Refuse accuracies and latencies that share no sample and configuration: their names do not match."""
    timed_rows = ~np.isnan(rows.values["latency_ms"])
    both = ~np.isnan(cells.floats["accuracy"]) & ~np.isnan(cells.floats["latency_ms"])
    batched_ids = {rows.sample_id[i] for i in rows.sample[rows.batched].tolist()}
    timed_ids = {rows.sample_id[i] for i in rows.sample[timed_rows & ~rows.batched].tolist()}
    if not batched_ids or not timed_ids:
        return
    if not both.any() or not batched_ids & timed_ids:
        raise OutcomesError(
            f"import: the names do not match: no sample has both accuracy and latency; accuracies are of "
            f"{some(sorted(batched_ids), 3)}, latencies of {some(sorted(timed_ids), 3)}; expected files of the same "
            "dataset and split"
        )
    alone = len(timed_ids - batched_ids)
    audit.facts["samples_with_accuracy_and_latency"] = len(batched_ids & timed_ids)
    if alone:
        audit.warn(
            f"{alone} of {len(timed_ids)} timed samples have no score from batches "
            f"({some(sorted(timed_ids - batched_ids))})"
        )


def _scored(rows: JoinedRows, cells: Cells, audit: Audit) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the samples (by name) and of the configurations that have any score."""
    tested = ~np.isnan(cells.floats["accuracy"])
    samples, configurations = np.flatnonzero(tested.any(axis=1)), np.flatnonzero(tested.any(axis=0))
    if len(samples) < tested.shape[0]:
        lost = sorted({rows.sample_id[i] for i in np.flatnonzero(~tested.any(axis=1)).tolist()})
        audit.warn(f"{len(lost)} samples have no score at all and were left out ({some(lost)})")
    if len(configurations) < tested.shape[1]:
        lost = [
            configuration_label(rows.configurations[i]) for i in np.flatnonzero(~tested.any(axis=0)).tolist()
        ]
        audit.warn(f"{len(lost)} configurations have no score at all and were left out ({some(lost)})")
    by_name = sorted(samples.tolist(), key=lambda i: _natural(rows.sample_id[i]))
    return np.array(by_name, np.int64), configurations


def _natural(name: str) -> tuple[str, int, str]:
    """A key that puts vqa/2 before vqa/10."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return (stem, int(digits) if digits else -1, name)


def _space(configurations: list[dict[str, Option]], latency: np.ndarray, audit: Audit) -> KnobSpace:
    """Options as found: numbers ascending, tiers by size, other text by mean latency where every option is timed."""
    knobs = []
    for name in configurations[0]:
        chosen = [configuration[name] for configuration in configurations]
        found = list(dict.fromkeys(chosen))
        if all(not isinstance(option, str) for option in found):
            ordered = sorted(found)  # pyright: ignore[reportArgumentType]
        elif name == "tier" and set(found) <= set(TIERS):
            ordered = [tier for tier in TIERS if tier in found]
        else:
            ordered = sorted(found, key=str)
            columns = {option: [i for i, other in enumerate(chosen) if other == option] for option in found}
            if all(np.isfinite(latency[:, part]).any() for part in columns.values()):
                ordered = sorted(ordered, key=lambda option: float(np.nanmean(latency[:, columns[option]])))
                audit.note(f"knob {name}: options from the lowest to the highest mean latency or cost")
            else:
                audit.note(f"knob {name}: options by name, no latency or cost says which is the cheapest")
        knobs.append(Knob(name=name, options=tuple(ordered)))
    return KnobSpace(tuple(knobs))


def _report_shared(names: dict[str, list[str]], audit: Audit) -> None:
    shared = shared_images(names["image"], names["source_split"])
    audit.facts["images_shared_by_source_splits"] = len(shared)
    if shared:
        audit.warn(
            f"{len(shared)} images are in more than one of the files' splits ({some(shared)}); "
            "all samples of an image went into one split here"
        )


def _count(
    sample_id: list[str],
    configurations: list[dict[str, Option]],
    columns: np.ndarray,
    cut: dict[str, np.ndarray],
    listed: int,
    audit: Audit,
) -> None:
    """Counts of samples per configuration, and the holes."""
    tested, timed = ~np.isnan(cut["accuracy"]), ~np.isnan(cut["latency_ms"])
    labels = [configuration_label(configurations[i]) for i in columns.tolist()]
    holes = {}
    for column, label in enumerate(labels):
        missing = np.flatnonzero(~tested[:, column])
        if len(missing):
            holes[label] = {
                "missing": len(missing),
                "samples": [sample_id[i] for i in missing[:listed].tolist()],
            }
    complete = int(tested.all(axis=1).sum())
    audit.facts |= {
        "samples": len(sample_id),
        "configurations": len(labels),
        "rows": int(tested.sum()),
        "timed_samples": int(timed.any(axis=1).sum()),
        "timed_rows": int(timed.sum()),
        "complete_samples": complete,
        "samples_per_configuration": dict(zip(labels, tested.sum(axis=0).tolist(), strict=True)),
        "timed_per_configuration": dict(zip(labels, timed.sum(axis=0).tolist(), strict=True)),
        "holes": holes,
    }
    if holes:
        worst = max(holes, key=lambda label: holes[label]["missing"])
        audit.warn(
            f"{int((~tested).sum())} of {tested.size} outcomes are missing in {len(holes)} configurations, most under "
            f"{worst}: {holes[worst]['missing']} samples, as "
            f"{', '.join(holes[worst]['samples'][:SHOWN]) or 'in any log'}"
        )
    if complete < FEW_COMPLETE * len(sample_id):
        audit.warn(
            f"only {complete} of {len(sample_id)} samples have an outcome under all {len(labels)} configurations; "
            "comparisons use only these"
        )
