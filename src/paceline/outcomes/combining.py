"""Several outcome tables as one, to train on all of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.aligning import aligned
from paceline.outcomes.feature_makers import difference, feature_maker, maker_label
from paceline.outcomes.feature_sets import with_room
from paceline.outcomes.preparation import KEY
from paceline.outcomes.table import CELL_FIELDS, SAMPLE_FIELDS, OutcomeTable


def combine_tables(tables: Sequence[OutcomeTable], names: Sequence[str]) -> OutcomeTable:
    """The samples of all tables in one; the manifest is the first one's, its options list the others.

    Args:
        tables: one or more, of one knob space and the same tested configurations.
        names: of each, for errors and the manifest.

    Raises:
        OutcomesError: features of different makers, other knobs, configurations, models or kinds of latency, a
            sample that is in two tables, or an image that is in two splits.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    tables = [first, *(aligned(table, first.space) for table in tables[1:])]
    for table, name in zip(tables[1:], names[1:], strict=True):
        _refuse_other_features(first, table, names[0], name)
        _refuse_other_measures(first, table, names[0], name)
    if first.feature_choice.image_token or first.feature_choice.question_token:
        tables = _with_equal_room(tables)
        first = tables[0]
    fields = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in (*SAMPLE_FIELDS, *CELL_FIELDS, "features")
    }
    _refuse_shared(fields)
    manifest = dataclasses.replace(
        first.manifest, options={**first.manifest.options, "combined": list(names)}
    )
    folds = [table.fold for table in tables if table.fold is not None]
    fold = np.concatenate(folds) if len(folds) == len(tables) else None
    return dataclasses.replace(first, **fields, fold=fold, manifest=manifest)


def _refuse_other_features(first: OutcomeTable, table: OutcomeTable, where: str, name: str) -> None:
    makers = [feature_maker(item.manifest.model, item.manifest.options) for item in (first, table)]
    widths = [(_widths(item), item.features.shape[1]) for item in (first, table)]
    if makers[0] != makers[1] or widths[0][0] != widths[1][0]:
        raise OutcomesError(
            f"{name}: its features were made by {maker_label(makers[1])} ({widths[1][1]} columns), those of {where} by "
            f"{maker_label(makers[0])} ({widths[0][1]} columns){difference(*makers)}; numbers of different makers mean "
            "different things, expected one; import again with --features MODEL --images DIR, or train on one of them"
        )


def _widths(table: OutcomeTable) -> tuple[object, int, int]:
    """What the features are, and how many numbers of an image and of a question, or of a token of them."""
    columns = (table.image_width, table.features.shape[1] - table.image_width)
    return (table.feature_choice, *table.feature_choice.widths(*columns))


def _with_equal_room(tables: Sequence[OutcomeTable]) -> list[OutcomeTable]:
    """The tables, packed tokens with the room of the longest."""
    choice = tables[0].feature_choice
    image = max(table.image_width for table in tables)
    question = max(table.features.shape[1] - table.image_width for table in tables)
    padded = []
    for table in tables:
        parts = (
            with_room(table.image_features, choice.image_token, image),
            with_room(table.question_features, choice.question_token, question),
        )
        padded.append(
            dataclasses.replace(table, features=np.concatenate(parts, axis=1), image_width=parts[0].shape[1])
        )
    return padded


def _refuse_other_measures(first: OutcomeTable, table: OutcomeTable, where: str, name: str) -> None:
    pairs = {
        "knobs": [item.space.to_json() for item in (first, table)],
        "tested configurations": [item.actions.tolist() for item in (first, table)],
        "model": [item.manifest.model.get("name") for item in (first, table)],
        "processor": [item.manifest.hardware.get("processor") for item in (first, table)],
        "kind of latency": [
            (options.get("latency_kind", "latency"), options.get("latency_unit", "ms"))
            for options in (first.manifest.options, table.manifest.options)
        ],
        "preparation": [item.manifest.options.get(KEY) for item in (first, table)],
        "block ranking": [item.manifest.block_ranking for item in (first, table)],
    }
    for what, (one, other) in pairs.items():
        if one != other:
            raise OutcomesError(
                f"{name}: its {what} is {str(other)[:200]}, that of {where} is {str(one)[:200]}; expected them "
                "to be equal in all directories; train on one of them"
            )


def _refuse_shared(fields: dict[str, np.ndarray]) -> None:
    ids, counts = np.unique(fields["sample_id"], return_counts=True)
    again = ids[counts > 1].tolist()
    if again:
        raise OutcomesError(
            f"outcomes: {len(again)} samples are in two of the directories ({', '.join(again[:8])}), expected each in "
            "one; leave one directory out"
        )
    split_of: dict[str, str] = {}
    for image, split in zip(fields["image_hash"].tolist(), fields["split"].tolist(), strict=True):
        if split_of.setdefault(image, split) != split:
            raise OutcomesError(
                f"outcomes: image {image} is in {split_of[image]} of one directory and in {split} of another, expected "
                "one split; import them together, which splits by image"
            )
