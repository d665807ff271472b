"""From joined rows to an outcome table: knob space, holes, splits, features, manifest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import paceline
from paceline.errors import OutcomesError
from paceline.knobs import Knob, KnobSpace, Option
from paceline.outcomes.feature_makers import FeatureMaker
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.cells import Cells, make_cells
from paceline.outcomes.importers.core_exp import TIERS
from paceline.outcomes.importers.counting import LISTED_HOLES, count_outcomes
from paceline.outcomes.importers.features import given_features, question_features, read_questions
from paceline.outcomes.importers.made_before import made_before
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
from paceline.outcomes.preparation import KEY, Preparation, balanced_weights, group_labels
from paceline.outcomes.progress import Progress
from paceline.outcomes.table import OutcomeTable


def assemble(
    rows: JoinedRows,
    options: ImportOptions,
    audit: Audit,
    *,
    progress: Progress,
    given: tuple[np.ndarray, list[str]] | None = None,
    maker: FeatureMaker | None = None,
    split: np.ndarray | None = None,
    manifest: dict[str, Any],
) -> OutcomeTable:
    """The table of all rows.

    Args:
        rows: what was read.
        options: of the import.
        audit: gets its facts and warnings.
        progress: shown the steps.
        given: feature columns float64 (n, f) and their names; None: made by `maker`, or from the questions.
        maker: makes features of images and questions; None: nobody.
        split: text (n,) from the user's column; None: split by image.
        manifest: further fields of the manifest.
    """
    progress.start(2, f"checking {len(rows.sample)} outcomes")
    cells = make_cells(rows, audit, manifest["options"]["latency_kind"])
    _refuse_apart(rows, cells, audit)
    progress.advance(1)
    order, scored = _scored(rows, cells, audit)
    configurations = [rows.configurations[i] for i in scored.tolist()]
    space = _space(configurations, cells.floats["latency_ms"][:, scored], audit)
    actions = space.actions(configurations)
    if space.size - 1 not in actions:
        audit.warn(
            f"the full configuration {space.full} has no outcomes; training needs them, since its time is the unit of "
            "all times"
        )
    columns = np.argsort(actions)
    everything = np.ix_(order, scored[columns])
    cut = {}
    for group in (cells.floats, cells.counts):
        cut |= {name: group.pop(name)[everything] for name in list(group)}
    names = {
        field: [getattr(rows, field)[i] for i in order.tolist()]
        for field in ("sample_id", "dataset", "image", "picture", "question", "kind", "source_split", "split")
    }
    _report_shared(names, audit)
    progress.advance(1)
    splits, split_by = _splits(names, None if split is None else split[order], options, audit)
    train = splits == "train"
    image_width, text = 0, None
    like = None if options.features_from is None else made_before(options.features_from, given is not None)
    if like is not None and given is None and not any(map(str.strip, names["question"])):
        raise OutcomesError(
            "--features-from: the samples have no question's text to make features of; name its column with --question"
        )
    if maker is not None:
        features, image_width, described = maker.make(names["dataset"], names["picture"], names["question"])
    elif given is not None:
        before = None if like is None else like[0]
        features, described = given_features(given[0][order], given[1], train, audit, before)
    elif like is not None and like[1] is not None:
        described, text = like[0], like[1]
        features = read_questions(text, names["question"], np.ones(len(order), bool), audit)
    else:
        features, described, text = question_features(
            names["question"], names["kind"], train, options.seed, audit
        )
    if given is None and maker is None:
        _note_repeated(names, splits, audit)
    listed = 0 if options.table.propensity else LISTED_HOLES
    count_outcomes(names["sample_id"], configurations, columns, cut, listed, audit)
    made_options = {
        **manifest.pop("options"),
        "seed": options.seed,
        "splits": {name: int((splits == name).sum()) for name in ("train", "validation", "test")},
        "split_by": split_by,
        "features": described,
        "latency_known_when_deciding": not options.latency_unknown,
    } | _prepared(options.preparation, names, train, audit)
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
        image_width=image_width,
        text_features=text,
        manifest=Manifest(
            space=space,
            software={"paceline": paceline.__version__},
            options=made_options,
            image_width=image_width,
            audit=audit.to_json(),
            **manifest,
        ),
        fold=None if split is None else _texts(split[order].tolist()),
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
        "splits: by image or group, or by sample where neither is known, every data set in the same shares: "
        f"{'/'.join(f'{100 * share:.0f}' for share in SHARES)} % from seed {options.seed}"
    )
    by = "image" if options.table.group is None else "group"
    return splits_by_image(names["image"], names["dataset"], options.seed), by


def _note_repeated(names: dict[str, list[str]], splits: np.ndarray, audit: Audit) -> None:
    """Note the questions that are all a policy sees of their samples and are in more than one split."""
    asked = [
        (question, split)
        for question, split, picture in zip(names["question"], splits.tolist(), names["picture"], strict=True)
        if question.strip() and not picture
    ]
    repeated = shared_images([question for question, _ in asked], [split for _, split in asked])
    if repeated:
        audit.note(
            f"questions: {len(repeated)} are in more than one split, and all samples of one look alike to a policy; "
            "--group keeps the samples of a group in one split"
        )


def _prepared(
    recipe: Preparation, names: dict[str, list[str]], train: np.ndarray, audit: Audit
) -> dict[str, Any]:
    """The recipe for the manifest's options, with the weights of the groups; nothing where none was asked for."""
    if recipe.balance:
        labels = group_labels(recipe.balance, names["dataset"], names["kind"])[train]
        recipe = replace(recipe, weights=balanced_weights(labels))
        light, heavy = min(recipe.weights.values()), max(recipe.weights.values())
        audit.note(
            f"balance: {len(recipe.weights)} groups by {' and '.join(recipe.balance)}; a train sample counts "
            f"{light:.2g} to {heavy:.2g} times the average"
        )
        if len(recipe.weights) == 1:
            audit.warn(
                f"balance: all train samples are of one {' and '.join(recipe.balance)}, nothing changes"
            )
    if recipe.augments:
        audit.note("augment: training changes the features of train samples; the files hold them as they are")
    return {KEY: recipe.to_json()} if recipe.balance or recipe.augments else {}


def _texts(values: Sequence[str]) -> np.ndarray:
    return np.array(values, dtype=np.str_)


def _refuse_apart(rows: JoinedRows, cells: Cells, audit: Audit) -> None:
    """Refuse accuracies and latencies that share no sample and configuration: their names do not match."""
    if not rows.batched.any() or "latency_ms" not in rows.values:
        return
    timed_rows = ~np.isnan(rows.values["latency_ms"]) & ~rows.batched
    batched_ids, timed_ids = (
        {rows.sample_id[i] for i in np.unique(rows.sample[chosen]).tolist()}
        for chosen in (rows.batched, timed_rows)
    )
    if not timed_ids:
        return
    both = ~np.isnan(cells.floats["accuracy"]) & ~np.isnan(cells.floats["latency_ms"])
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
