import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.budgets import HardBudget, checked_ms, encode_budget, parse_budget
from paceline.errors import BudgetError

CLASSES = {"low": 40.0, "medium": 80.0, "high": 160.0}


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        (60, 60.0),
        (0.5, 0.5),
        (np.float32(2.5), 2.5),
        ("60", 60.0),
        ("60ms", 60.0),
        (" 60 MS ", 60.0),
        ("0.06s", 60.0),
        ("6e-2 s", 60.0),
        ("80%", 160.0),
        ("150%", 300.0),
        ("low", 40.0),
        ("Medium", 80.0),
        ("high", 160.0),
    ],
)
def test_parse_budget_reads_every_form(value, expected_ms):
    parsed = parse_budget(value, full_ms=200.0, classes=CLASSES)
    assert type(parsed) is float
    assert parsed == pytest.approx(expected_ms)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -5,
        math.nan,
        math.inf,
        True,
        10**400,
        -(10**400),
        Fraction(10**400),
        "0",
        "-5ms",
        "nan",
        "inf",
        "0%",
        "-10%",
        "",
        "soon",
        "60 min",
        "1.2.3",
        "%",
    ],
)
def test_parse_budget_refuses(value):
    with pytest.raises(BudgetError, match="budget.*expected"):
        parse_budget(value, full_ms=200.0, classes=CLASSES)


@pytest.mark.parametrize("value", ["-80%", "0%", "-5ms", "0.0s", "inf", "1e400", "1e308%"])
def test_a_refused_text_is_said_as_it_was_given(value):
    with pytest.raises(BudgetError, match=f"budget: got '{value}', expected a positive, finite"):
        parse_budget(value, full_ms=200.0, classes=CLASSES)


def test_unknown_class_names_the_known_ones():
    with pytest.raises(BudgetError, match="'tiny'.*'low', 'medium', 'high'"):
        parse_budget("tiny", full_ms=200.0, classes=CLASSES)
    with pytest.raises(BudgetError, match="none defined here"):
        parse_budget("low", full_ms=200.0)


def test_a_share_needs_a_full_latency():
    with pytest.raises(BudgetError, match="full_ms"):
        parse_budget("80%", full_ms=math.nan)


@pytest.mark.parametrize("value", [True, "60", None, np.bool_(True)])
def test_checked_ms_wants_a_number(value):
    with pytest.raises(BudgetError, match="here: got .* expected a positive"):
        checked_ms("here", value)


def test_hard_budget_subtracts_what_is_spent():
    budget = HardBudget(budget_ms=60.0, first_token_budget_ms=20.0)
    assert budget.remaining_ms(25.0) == 35.0
    assert budget.first_token_remaining_ms(25.0) == -5.0
    assert not budget.unlimited
    assert HardBudget().unlimited
    assert HardBudget().remaining_ms(25.0) is None
    assert HardBudget(budget_ms=1.0).first_token_remaining_ms(25.0) is None


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["budget_ms", "first_token_budget_ms"])
def test_hard_budget_refuses(name, value):
    with pytest.raises(BudgetError, match=name):
        HardBudget(**{name: value})


def test_encoding_by_hand():
    # position 0 at the low end: sines 0, cosines 1; position 1 at the high end: first frequency pi / 2
    low = encode_budget(10.0, low_ms=10.0, high_ms=1000.0, dimensions=4)
    high = encode_budget(1000.0, low_ms=10.0, high_ms=1000.0, dimensions=4)
    middle = encode_budget(100.0, low_ms=10.0, high_ms=1000.0, dimensions=4)
    np.testing.assert_allclose(low, [0, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(high, [1, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(middle, [math.sqrt(0.5), 0, math.sqrt(0.5), 1], atol=1e-5)
    assert low.dtype == np.float32


def test_encoding_keeps_leading_axes_and_equals_single_calls():
    budgets = np.array([[5.0, 50.0, 500.0], [20.0, 100.0, np.inf]])
    encoded = encode_budget(budgets, low_ms=10.0, high_ms=200.0)
    assert encoded.shape == (2, 3, 32)
    single = encode_budget(float(budgets[1, 0]), low_ms=10.0, high_ms=200.0)
    np.testing.assert_array_equal(encoded[1, 0], single)


def test_unlimited_and_spent_budgets_take_the_ends():
    def encode(value):
        return encode_budget(value, low_ms=10.0, high_ms=100.0)

    np.testing.assert_array_equal(encode(None), encode(math.inf))
    np.testing.assert_array_equal(encode(None), encode(1e9))
    np.testing.assert_array_equal(encode(0.0), encode(-3.0))
    np.testing.assert_array_equal(encode(0.0), encode(1e-9))
    assert not np.array_equal(encode(None), encode(100.0))
    assert not np.array_equal(encode(0.0), encode(10.0))


@given(st.floats(8, 1000), st.floats(8, 1000))
def test_encoding_keeps_the_order_of_budgets(one, other):
    # the lowest frequency is monotone over the range up to the full configuration's latency
    slow = [encode_budget(value, low_ms=10.0, high_ms=1000.0)[0] for value in (one, other)]
    assert (slow[0] - slow[1]) * (one - other) >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget_ms": math.nan, "low_ms": 1.0, "high_ms": 2.0}, "NaN"),
        ({"budget_ms": 1.0, "low_ms": 2.0, "high_ms": 2.0}, "budget range"),
        ({"budget_ms": 1.0, "low_ms": 0.0, "high_ms": 2.0}, "budget range"),
        ({"budget_ms": 1.0, "low_ms": 1.0, "high_ms": 2.0, "dimensions": 3}, "dimensions"),
    ],
)
def test_encoding_refuses(arguments, message):
    with pytest.raises(BudgetError, match=message):
        encode_budget(**arguments)
