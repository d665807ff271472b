"""The adaptive plans as functions of a table: what they add, when they stop, on tables whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import ProfileError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.profiling.options import ADAPTIVE_PLANS, ProfileOptions
from paceline.profiling.plans import plan_actions
from paceline.profiling.rounds import Round, first_actions, next_round
from paceline.profiling.scouted import Scouted, frontier_columns, frontier_steps
from paceline.profiling.surface import knob_levels, predict

LINE = KnobSpace((Knob(name="top_k", options=tuple(range(1, 10))),))
SAMPLES = 40


def space_of(*sizes: int) -> KnobSpace:
    return KnobSpace(tuple(Knob(name=f"k{i}", options=tuple(range(size))) for i, size in enumerate(sizes)))


def truth(space: KnobSpace, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (samples, space) and latency (space,): both grow with every knob, the last one pays least."""
    levels = knob_levels(space, np.arange(space.size))
    worth = np.arange(len(space.knobs), 0, -1) ** 2.0
    mean = 0.2 + 0.7 * np.sqrt(levels @ (worth / worth.sum()))
    hardness = np.random.default_rng(seed).random(SAMPLES)
    return (hardness[:, None] < mean).astype(np.float32), 10 + 30 * levels.mean(axis=1)


def table(space: KnobSpace, actions: np.ndarray, accuracy: np.ndarray, latency: np.ndarray) -> Scouted:
    return Scouted(
        space=space,
        actions=actions,
        accuracy=accuracy[:, actions],
        latency_ms=np.where(np.arange(len(accuracy))[:, None] < 8, latency[actions], np.nan),
        scene=np.array([f"{i // 2}" for i in range(len(accuracy))]),
    )


def run(space: KnobSpace, options: ProfileOptions, seed: int = 0) -> tuple[np.ndarray, list[Round]]:
    """All rounds against the truth."""
    known = truth(space, seed)
    rounds = [next_round(space, options, None)]
    tested = rounds[0].actions
    while len(rounds[-1].actions):
        rounds.append(next_round(space, options, table(space, tested, *known)))
        assert not np.intersect1d(tested, rounds[-1].actions).size
        assert (np.diff(rounds[-1].actions) > 0).all()
        tested = np.sort(np.concatenate([tested, rounds[-1].actions]))
    return tested, rounds


def test_a_plane_is_continued_exactly():
    space = space_of(3, 4, 5)
    values = 1 + knob_levels(space, np.arange(space.size)) @ np.array([2.0, -1.0, 0.5])
    known = np.array([0, 7, 21, 33, 48, 59])
    mean, _ = predict(space, known, values[known], np.arange(space.size))
    np.testing.assert_allclose(mean, values, atol=1e-9)


def test_a_bend_is_followed_near_what_was_measured_and_unsure_away_from_it():
    values = (np.arange(9.0) / 8) ** 2
    known = np.array([0, 1, 2, 3, 8])
    mean, spread = predict(LINE, known, values[known], np.arange(9))
    np.testing.assert_allclose(mean[known], values[known], atol=0.05)
    assert spread[6] > 1.5 * spread[2]


@pytest.mark.parametrize("plan", ADAPTIVE_PLANS)
def test_values_that_are_all_equal_are_no_problem(plan: str):
    accuracy = np.ones((SAMPLES, 27))
    flat = table(space_of(3, 3, 3), np.arange(0, 27, 4), accuracy, np.full(27, 5.0))
    chosen = next_round(flat.space, ProfileOptions(plan=plan, configurations=9), flat)
    assert len(chosen.actions) == (0 if plan == "successive" else 2)


def test_the_frontier_by_hand():
    latency, accuracy = np.array([3.0, 1.0, 2.0, 2.0, 4.0]), np.array([0.5, 0.3, 0.6, 0.2, 0.6])
    assert frontier_columns(latency, accuracy).tolist() == [1, 2]


def test_steps_of_certain_outcomes_are_their_differences():
    accuracy = np.tile([0.25, 0.5, 1.0], (6, 1))
    scouted = table(
        LINE, np.array([0, 1, 2]), np.pad(accuracy, ((0, 2), (0, 0)), "edge"), np.array([1.0, 2.0, 5.0])
    )
    steps = frontier_steps(scouted)
    assert steps.height.tolist() == [0.25, 0.5]
    assert (steps.low_ms.tolist(), steps.high_ms.tolist()) == ([1.0, 2.0], [2.0, 5.0])
    assert (steps.base.tolist(), steps.top.tolist()) == ([0.25, 0.5], [0.5, 1.0])


def test_a_step_is_higher_than_its_difference_by_what_few_samples_leave_open():
    accuracy = np.zeros((400, 9), dtype=np.float32)
    accuracy[:100, 8] = 1
    heights = [
        frontier_steps(table(LINE, np.array([0, 8]), accuracy[::every], np.arange(1.0, 10.0))).height[0]
        for every in (1, 10)
    ]
    assert 0.28 < heights[0] < 0.33 < heights[1] < 0.5


def test_an_even_slope_is_halved():
    accuracy = np.tile(np.linspace(0.1, 0.9, 9), (SAMPLES, 1))
    scouted = table(LINE, np.array([0, 8]), accuracy, np.arange(31.0, 40.0))
    chosen = next_round(LINE, ProfileOptions(plan="successive", configurations=9, bound=0.3), scouted)
    assert chosen.actions.tolist() == [4]
    assert chosen.widest == pytest.approx(0.8)


def test_successive_halves_a_slope_until_the_bound():
    accuracy = np.tile(np.linspace(0.1, 0.9, 9), (SAMPLES, 1))
    tested = np.array([0, 8])
    options = ProfileOptions(plan="successive", configurations=9, bound=0.25)
    widest = []
    while True:
        chosen = next_round(LINE, options, table(LINE, tested, accuracy, np.arange(31.0, 40.0)))
        widest.append(chosen.widest)
        if not len(chosen.actions):
            break
        tested = np.union1d(tested, chosen.actions)
    assert tested.tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(widest, [0.8, 0.4, 0.2])
    assert chosen.reason == "no step of the frontier is over 0.25"


def test_successive_tests_more_for_a_smaller_bound_and_says_why_it_stops():
    counts = []
    for bound in (0.9, 0.4, 0.2):
        tested, rounds = run(
            space_of(5, 5, 5), ProfileOptions(plan="successive", configurations=60, bound=bound)
        )
        counts.append(len(tested))
        assert rounds[-1].widest is not None
        assert (rounds[-1].widest <= bound) == rounds[-1].reason.startswith("no step of the frontier is over")
    assert counts[0] == 8 < counts[1] < counts[2] < 60
    tested, rounds = run(space_of(5, 5, 5), ProfileOptions(plan="successive", configurations=12, bound=0.01))
    assert (len(tested), rounds[-1].reason) == (12, "the most configurations are reached")


def test_successive_leaves_a_cliff_that_nothing_can_split():
    accuracy = np.tile(0.01 * np.arange(9) + 0.9 * (np.arange(9) > 4), (SAMPLES, 1))
    scouted = table(LINE, np.array([0, 3, 4, 5, 8]), accuracy, np.arange(31.0, 40.0))
    chosen = next_round(LINE, ProfileOptions(plan="successive", configurations=9, bound=0.1), scouted)
    assert (len(chosen.actions), chosen.widest) == (0, pytest.approx(0.91))
    assert chosen.reason == "no untested configuration is expected to split a step over 0.1"


def test_stratified_gives_every_stratum_of_latency_the_same():
    tested, rounds = run(SEED_SPACE, ProfileOptions(plan="stratified", configurations=48))
    latency = truth(SEED_SPACE)[1]
    edges = np.geomspace(10, 40, 9)[1:-1]
    held = np.bincount(np.digitize(latency[tested], edges), minlength=8)
    everything = np.bincount(np.digitize(latency, edges), minlength=8)
    assert [len(r.actions) for r in rounds] == [8, 6, 6, 6, 6, 6, 6, 4, 0]
    assert (held >= np.minimum(5, everything)).all()
    assert everything.max() > 3 * everything.min()
    lhs = plan_actions(SEED_SPACE, "lhs", 48)
    assert np.bincount(np.digitize(latency[lhs], edges), minlength=8).min() < held.min()


def test_boundary_tests_the_corners_and_then_the_frontier():
    space = space_of(6, 6, 6)
    tested, rounds = run(space, ProfileOptions(plan="boundary", configurations=32))
    assert rounds[0].actions.tolist() == [0, 5, 30, 35, 180, 185, 210, 215]
    accuracy, latency = (part.mean(axis=0) if part.ndim == 2 else part for part in truth(space))
    best = np.array([accuracy[latency <= ms].max() for ms in latency])

    def lost(actions: np.ndarray) -> float:
        return float((best - accuracy)[actions].mean())

    added = np.setdiff1d(tested, rounds[0].actions)
    assert lost(added) < 0.5 * lost(plan_actions(space, "lhs", 32))
    assert np.ptp(latency[added]) > 0.6 * np.ptp(latency)


def test_corners_take_at_most_half_of_the_places():
    space = space_of(*[3] * 6)
    assert len(first_actions(space, ProfileOptions(plan="boundary", configurations=100))) == 50
    assert len(first_actions(space, ProfileOptions(plan="boundary", configurations=500))) == 64
    assert len(first_actions(space, ProfileOptions(plan="boundary", configurations=20))) == 14
    assert len(first_actions(space, ProfileOptions(plan="boundary", configurations=9))) == 4


spaces = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(lambda sizes: space_of(*sizes))


@settings(deadline=None, max_examples=60)
@given(space=spaces, plan=st.sampled_from(ADAPTIVE_PLANS), data=st.data())
def test_any_plan_ends_with_the_number_asked_for_and_both_ends(
    space: KnobSpace, plan: str, data: st.DataObject
):
    count = data.draw(st.integers(min(2, space.size), space.size))
    options = ProfileOptions(plan=plan, configurations=count, seed=data.draw(st.integers(0, 9)))
    tested, rounds = run(space, options, options.seed)
    assert len(tested) <= count if plan == "successive" else len(tested) == count
    assert (tested[0], tested[-1]) == (0, space.size - 1)
    again = run(space, options, options.seed)[1]
    assert [r.actions.tolist() for r in rounds] == [r.actions.tolist() for r in again]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": "successive", "bound": 0}, "bound: got 0, expected a difference in accuracy, above 0"),
        ({"plan": "successive", "bound": -0.1}, "bound: got -0.1"),
        ({"plan": "successive", "bound": 1.0}, "bound: got 1.0"),
        ({"plan": "successive", "bound": float("nan")}, "bound: got nan"),
        ({"plan": "successive", "bound": True}, "bound: got True"),
        (
            {"plan": "boundary", "bound": 0.1},
            "bound: plan boundary has none, leave it out or use plan successive",
        ),
        ({"plan": "lhs", "scout_samples": 100}, "scout_samples: plan lhs needs none, leave it out"),
        ({"plan": "stratified", "scout_samples": 7}, "scout_samples: got 7, expected an integer from 8 on"),
        (
            {"plan": "stratified", "timed_samples": 7},
            "timed_samples: got 7, expected 8 or more: plan stratified",
        ),
    ],
)
def test_options_of_another_plan_or_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ProfileError, match=message):
        ProfileOptions(**options)


@pytest.mark.parametrize("plan", ADAPTIVE_PLANS)
@pytest.mark.parametrize("count", [1, 433])
def test_more_configurations_than_the_space_are_refused(plan: str, count: int):
    with pytest.raises(ProfileError, match=f"configurations: got {count}, expected 2 to 432"):
        first_actions(SEED_SPACE, ProfileOptions(plan=plan, configurations=count))


def test_rounds_of_a_plan_without_rounds_are_refused():
    with pytest.raises(ProfileError, match="plan: 'lhs' has no rounds, expected one of"):
        next_round(SEED_SPACE, ProfileOptions(), None)
    with pytest.raises(ProfileError, match="plan: got 'successive', expected one of .*lhs"):
        plan_actions(SEED_SPACE, "successive", None)


def test_more_tested_configurations_than_asked_for_are_refused():
    scouted = table(LINE, np.arange(5), np.ones((SAMPLES, 9)), np.arange(1.0, 10.0))
    with pytest.raises(ProfileError, match="5 were tested in the rounds so far, expected at most 4"):
        next_round(LINE, ProfileOptions(plan="boundary", configurations=4), scouted)


def test_scouting_without_scores_or_times_is_refused():
    accuracy, latency = np.ones((SAMPLES, 9)), np.arange(1.0, 10.0)
    holes = accuracy.copy()
    holes[3, 2] = np.nan
    with pytest.raises(ProfileError, match="some configurations lack a score"):
        table(LINE, np.arange(9), holes, latency)
    with pytest.raises(ProfileError, match="not timed on any scouting sample"):
        table(LINE, np.arange(9), accuracy, np.full(9, np.nan))
