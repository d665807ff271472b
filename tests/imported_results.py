"""What the tests of imported result files share: layouts, and a table held against its world."""

import pytest

from command_line import run_json
from paceline.outcomes.store import read_table
from result_files import (
    Layout,
)

LAYOUTS = [
    Layout(),
    Layout(metadata=False),
    Layout(ranks=4, merged=True),
    Layout(ranks=4, merged=False),
    Layout(ranks=4, merged=True, metadata=False),
    Layout(ranks=4, merged=False, metadata=False),
]
NAMES = ["1 rank", "1 rank, bare", "4 merged", "4 ranks", "4 merged, bare", "4 ranks, bare"]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)


def imported(*words):
    """The audit and the table of an import that must succeed."""
    out = words[words.index("--out") + 1]
    value = run_json("import", *words)
    return value["audit"], read_table(out)


def number_of(world, sample_id):
    """Which of the world's samples a name means: by question id, or by position."""
    key = int(sample_id.rsplit("/", 1)[1])
    return key if key < world.count else (9000 - key) // 7


def check_values(table, world, *, timed=True):
    """Every cell holds the score and the time of its own sample and configuration."""
    for row, name in enumerate(table.sample_id.tolist()):
        i = number_of(world, name)
        for column, action in enumerate(table.actions.tolist()):
            configuration = tuple(table.space.configuration(action).values())
            assert table.accuracy[row, column] == world.score(i, configuration)
            if timed:
                assert table.latency_ms[row, column] == pytest.approx(
                    world.latency(i, configuration), rel=1e-5
                )
