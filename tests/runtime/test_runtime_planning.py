"""Plans for several deadlines on one model, by hand and against trying every order."""

import itertools
import math

import numpy as np
import pytest

from paceline.runtime.planning import Job, Step, allowances, first_allowance, group_fits, on_time


def jobs(*pairs):
    return [Job(index=i, deadline_ms=deadline, least_ms=least) for i, (deadline, least) in enumerate(pairs)]


def test_the_earliest_deadline_comes_first_and_of_equals_the_first():
    order = on_time(jobs((30, 1), (10, 1), (math.inf, 1), (10, 1)), now_ms=0)
    assert [job.index for job in order] == [1, 3, 0, 2]


def test_the_longest_is_left_out_where_not_all_can_be_met():
    assert [job.index for job in on_time(jobs((10, 8), (9, 3), (12, 4)), now_ms=0)] == [1, 2]
    assert [job.index for job in on_time(jobs((10, 8), (9, 3), (12, 4)), now_ms=5)] == [1, 2]
    assert [job.index for job in on_time(jobs((10, 8), (9, 3), (12, 4)), now_ms=6)] == [1]
    assert on_time(jobs((10, 8)), now_ms=3) == []


def test_as_many_are_in_time_as_in_the_best_of_all_orders():
    rng = np.random.default_rng(0)
    for _ in range(60):
        drawn = jobs(*zip(rng.integers(1, 25, 5).tolist(), rng.integers(1, 9, 5).tolist(), strict=True))
        best = 0
        for order in itertools.permutations(drawn):
            end, met = 0.0, 0
            for job in order:  # who is late is left out, which helps the others
                if end + job.least_ms <= job.deadline_ms:
                    end, met = end + job.least_ms, met + 1
            best = max(best, met)
        assert len(on_time(drawn, 0.0)) == best


def test_slack_is_shared_equally():
    assert allowances(jobs((40, 10), (40, 5)), now_ms=5) == [20.0, 15.0]
    # The second deadline is far: the first takes all of its own slack, the second what is left then.
    assert allowances(jobs((20, 10), (100, 10)), now_ms=0) == [20.0, 80.0]
    # And a tight later deadline holds the earlier ones back.
    assert allowances(jobs((20, 2), (22, 10)), now_ms=0) == [7.0, 15.0]


def test_without_a_deadline_there_is_no_limit():
    assert allowances(jobs((10, 4), (math.inf, 4), (math.inf, 1)), now_ms=0) == [10.0, math.inf, math.inf]
    assert allowances([], now_ms=0) == []


def test_allowed_work_meets_every_deadline():
    rng = np.random.default_rng(1)
    for _ in range(100):
        drawn = jobs(*zip(rng.uniform(1, 60, 6).tolist(), rng.uniform(0.5, 9, 6).tolist(), strict=True))
        order = on_time(drawn, 2.0)
        allowed = allowances(order, 2.0)
        ends = 2.0 + np.cumsum(allowed)
        assert all(end <= job.deadline_ms + 1e-6 for end, job in zip(ends, order, strict=True))
        assert all(took >= job.least_ms for took, job in zip(allowed, order, strict=True))
        if order:
            assert first_allowance(order, 2.0) == pytest.approx(allowed[0])


@pytest.mark.parametrize(
    ("group", "after", "fits"),
    [
        ([(5, 10)], [], True),
        ([(5, 2.9)], [], False),  # now is 3
        ([(5, 10), (6, 9)], [], True),  # 3 + 6 <= 10, 3 + 5 <= 9
        ([(5, 8.9), (6, 9)], [], False),
        ([(5, 10)], [(4, 8), (1, 12)], True),
        ([(5, 10)], [(4, 7.9)], False),
        ([(5, 10)], [(4, 8), (1, 11.9)], False),
        ([(5, math.inf)], [(4, math.inf)], True),
    ],
)
def test_a_group_must_hurt_neither_its_members_nor_those_after_it(group, after, fits):
    def steps(pairs):
        return [Step(work_ms=work, latest_start_ms=latest) for work, latest in pairs]

    assert group_fits(steps(group), steps(after), now_ms=3.0) is fits
