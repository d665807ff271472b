import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import KnobError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace

options = st.lists(
    st.one_of(st.integers(-1000, 1000), st.text(min_size=1, max_size=8)), min_size=1, max_size=6, unique=True
)
spaces = st.lists(
    st.tuples(st.text(min_size=1, max_size=8), options),
    min_size=1,
    max_size=4,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: KnobSpace(tuple(Knob(name=name, options=tuple(values)) for name, values in pairs)))


@given(spaces, st.data())
def test_actions_and_configurations_are_a_bijection(space, data):
    action = data.draw(st.integers(0, space.size - 1))
    assert space.action(space.configuration(action)) == action
    configuration = {knob.name: data.draw(st.sampled_from(knob.options)) for knob in space.knobs}
    assert space.configuration(space.action(configuration)) == configuration
    shuffled = dict(reversed(configuration.items()))
    assert space.action(shuffled) == space.action(configuration)


@given(spaces)
def test_every_action_is_reached_once(space):
    configurations = [space.configuration(action) for action in range(space.size)]
    assert len({tuple(configuration.items()) for configuration in configurations}) == space.size
    np.testing.assert_array_equal(space.actions(configurations), np.arange(space.size))


@given(spaces)
def test_json_round_trip(space):
    assert KnobSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@given(spaces)
def test_ends_and_indices(space):
    assert space.action(space.cheapest) == 0
    assert space.action(space.full) == space.size - 1
    indices = space.option_indices(np.arange(space.size))
    assert indices.shape == (space.size, len(space.knobs))
    assert space.shape == tuple(indices.max(axis=0) + 1)
    for action in range(min(space.size, 20)):
        listed = [knob.options[index] for knob, index in zip(space.knobs, indices[action], strict=True)]
        assert listed == list(space.configuration(action).values())


def test_the_default_space():
    assert SEED_SPACE.names == ("max_crops", "top_k", "num_active_blocks")
    assert SEED_SPACE.shape == (6, 8, 9)
    assert SEED_SPACE.size == 432
    assert SEED_SPACE.cheapest == {"max_crops": 2, "top_k": 4, "num_active_blocks": 8}
    assert SEED_SPACE.full == {"max_crops": 12, "top_k": 32, "num_active_blocks": 16}
    # the last knob varies fastest: 2 * 72 + 1 * 9 + 3
    assert SEED_SPACE.action({"max_crops": 6, "top_k": 8, "num_active_blocks": 11}) == 156


def test_one_knob_of_names_works():
    router = KnobSpace((Knob(name="model", options=("small", "medium", "large")),))
    assert router.configuration(1) == {"model": "medium"}
    assert router.actions([{"model": "large"}, {"model": "small"}]).tolist() == [2, 0]


CROPS = Knob(name="crops", options=(2, 4))
SPACE = KnobSpace((CROPS, Knob(name="top_k", options=(4, 8))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Knob(name="", options=(1,)), "expected a non-empty string"),
        (lambda: Knob(name="crops", options=()), "crops: got no options"),
        (lambda: Knob(name="crops", options=(2, 2)), r"crops: options \[2, 2\] repeat"),
        (lambda: KnobSpace(()), "got no knobs"),
        (lambda: KnobSpace((CROPS, CROPS)), "names .* repeat"),
        (lambda: SPACE.action({"crops": 2}), r"missing knobs \['top_k'\]"),
        (lambda: SPACE.action({"crops": 2, "top_k": 4, "depth": 1}), r"unknown knobs \['depth'\]"),
        (
            lambda: SPACE.action({"crops": 3, "top_k": 4}),
            r"knob crops: got option 3, expected one of \[2, 4\]",
        ),
        (lambda: SPACE.configuration(4), "action 4: .* expected 0 to 3"),
        (lambda: SPACE.configuration(-1), "action -1: .* expected 0 to 3"),
        (lambda: KnobSpace.from_json(None), "expected a list of"),
        (lambda: KnobSpace.from_json([{"name": "crops"}]), "expected a list of"),
        (lambda: KnobSpace.from_json([]), "got no knobs"),
    ],
)
def test_faults_are_named(call, message):
    with pytest.raises(KnobError, match=message):
        call()
