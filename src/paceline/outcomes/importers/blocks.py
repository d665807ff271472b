"""Which blocks a number of active blocks means; it must mean the same in all files."""

from collections.abc import Sequence

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit
from paceline.outcomes.importers.records import Run

BLOCKS = "num_active_blocks"


def block_sets(runs: Sequence[Run], audit: Audit) -> dict[int, tuple[int, ...]]:
    """The active blocks of each count, where files list them.

    Raises:
        OutcomesError: two sets under one count: these are different configurations.
    """
    first: dict[int, tuple[tuple[int, ...], str]] = {}
    for run in runs:
        if run.blocks is None:
            continue
        count = len(run.blocks)
        blocks, file = first.setdefault(count, (run.blocks, run.file))
        if blocks != run.blocks:
            raise OutcomesError(
                f"{run.file}: {count} active blocks are {list(run.blocks)}, in {file} they are {list(blocks)}; "
                "these are different configurations under one name, expected one set per count; import the folders "
                "apart"
            )
    sets = {count: blocks for count, (blocks, _) in sorted(first.items())}
    silent = sum(run.blocks is None for run in runs if BLOCKS in run.configuration)
    if sets and silent:
        audit.warn(
            f"{silent} files do not list active_block_indices; that they used the same blocks cannot be checked"
        )
    audit.facts["block_sets"] = {str(count): list(blocks) for count, blocks in sets.items()}
    return sets


def block_ranking(sets: dict[int, tuple[int, ...]], total: int | None, audit: Audit) -> list[int]:
    """Blocks so that the first n are the active ones of each imported n; empty where no such order exists.

    >>> block_ranking({2: (0, 3), 3: (0, 1, 3)}, 4, Audit())
    [0, 3, 1, 2]
    """
    if not sets or total is None:
        return []
    ranking: list[int] = []
    for _, blocks in sorted(sets.items()):
        if not set(ranking) <= set(blocks):
            audit.note(
                "active blocks are not nested (fewer blocks are not a part of more): no block ranking is kept"
            )
            return []
        ranking += sorted(set(blocks) - set(ranking))
    rest = sorted(set(range(total)) - set(ranking))
    return ranking + rest if len(ranking) + len(rest) == total else []


def one_model(runs: Sequence[Run]) -> dict[str, object]:
    """What the files say of the model.

    Raises:
        OutcomesError: files of two models.
    """
    facts: dict[str, tuple[object, str]] = {}
    for run in runs:
        if "model" in run.configuration:
            continue
        for key, value in run.model.items():
            there, file = facts.setdefault(key, (value, run.file))
            if there != value:
                raise OutcomesError(
                    f"{run.file}: is of a model with {key} {value!r}, {file} of one with {there!r}; "
                    "expected files of one model, import each model's folder apart"
                )
    return {key: value for key, (value, _) in facts.items()}
