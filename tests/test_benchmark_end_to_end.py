"""The end-to-end benchmark: every pair at one configuration, differences and intervals by hand."""

import numpy as np
import pytest

from benchmarks.end_to_end import (
    Pair,
    compared,
    measure,
    median_interval,
    result,
    spread,
    together_interval,
    turns,
)
from controllers import FakeClock, TimedModel, controller, requests
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.answer import Overhead

CHEAP, DEAR = {"top_k": 4}, {"top_k": 32}


def overhead(total: float) -> Overhead:
    return Overhead(features_ms=0.0, workloads_ms=0.0, decision_ms=total, bookkeeping_ms=0.0)


def pair(request: int, added: float, bare: float = 10.0, budget: str = "50%", configuration=None) -> Pair:
    return Pair(
        request=request,
        budget=budget,
        configuration=CHEAP if configuration is None else configuration,
        adaptive_ms=bare + added,
        bare_ms=bare,
        overhead=overhead(added),
        again=False,
    )


def test_every_question_meets_every_budget_in_a_random_order():
    order = list(turns(40, ["a", "b"], seed=1))
    assert sorted(place[:2] for place in order) == [(i, name) for i in range(40) for name in "ab"]
    assert [place[0] for place in order] != sorted(place[0] for place in order)
    assert 20 < sum(first for *_, first in order) < 60
    assert order == list(turns(40, ["a", "b"], seed=1))


class Deciding:
    """A controller whose decisions take `cost_ms` on the clock."""

    def __init__(self, clock, cost_ms):
        self.clock, self.cost_ms, self.inner = clock, cost_ms, controller()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def decide(self, *args, **options):
        self.clock.pass_ms(self.cost_ms)
        return self.inner.decide(*args, **options)


@pytest.mark.parametrize("cost_ms", [0.0, 0.25])
def test_the_difference_is_what_the_controller_costs(cost_ms):
    clock = FakeClock()
    deciding = Deciding(clock, cost_ms)
    adaptive = AdaptiveModel(
        TimedModel(clock),
        deciding,  # pyright: ignore[reportArgumentType]
        calibrate=False,
        clock=clock,
    )
    asked = requests(6)
    budgets = {"tight": {"budget_ms": 8.0}, "none": {}, "average": {"average_budget_ms": 6.0}}
    pairs = measure(adaptive, asked, budgets, seed=0, warm_up=2, clock=clock)
    assert sorted((p.request, p.budget) for p in pairs) == [
        (i, name) for i in range(6) for name in sorted(budgets)
    ]
    assert [p.added_ms for p in pairs] == pytest.approx([cost_ms] * 18, abs=1e-6)  # at the same configuration
    assert [p.overhead.decision_ms for p in pairs] == pytest.approx([cost_ms] * 18, abs=1e-6)
    assert len({tuple(p.configuration.items()) for p in pairs}) > 2


def test_shares_are_of_the_full_latency():
    pairs = [pair(0, 0.1), pair(0, 0.3, 20.0), pair(1, 0.2, configuration=DEAR)]
    found = compared(pairs, full_ms=40.0)
    assert found["added_ms"]["median"] == 0.2
    assert found["added_share"] == 0.005
    assert found["added_share_interval"] == [end / 40 for end in found["added_ms"]["interval"]]
    assert found["bare_ms"] == {"median": 10.0, "lower_quartile": 10.0, "upper_quartile": 15.0}
    assert (found["pairs"], found["configurations"]) == (3, 2)


def test_the_bar_is_judged_by_the_paired_difference_not_by_the_breakdown():
    split = np.array([[2.1, 2.0]] * 4)
    assert result([pair(i, 0.3) for i in range(4)], 40.0, split)["bar"] == {
        "added_ms": 0.4,
        "added_share": 0.01,
        "added_share_interval": [0.01, 0.01],
        "limit": 0.01,
        "met": True,
    }
    split[:, 0] += 0.1
    assert result([pair(i, 0.3) for i in range(4)], 40.0, split)["bar"]["met"] is False
    slow = [pair(i, 0.5, budget="none") for i in range(30)]
    found = result(slow, 40.0, np.array([[2.0, 2.0]] * 30))
    assert found["bar"]["met"] is False
    assert found["overview_split"]["added_ms"]["median"] == 0.0
    assert found["breakdown_ms"]["decision_ms"] == {
        "median": 0.5,
        "lower_quartile": 0.5,
        "upper_quartile": 0.5,
    }
    assert found["breakdown_ms"]["total_ms"]["median"] == 0.5
    assert list(found["by_budget"]) == ["none"]
    assert list(found["by_configuration"]) == ["top_k=4"]


def test_intervals_draw_whole_requests():
    values = np.concatenate([np.full(50, 1.0), np.full(50, 3.0)])
    two = median_interval(values, np.repeat([0, 1], 50))
    assert two == [1.0, 3.0]  # half of the draws are of one request only
    many = median_interval(np.linspace(0.0, 1.0, 400), np.arange(400))
    assert 0.4 < many[0] < 0.5 < many[1] < 0.6
    assert spread(np.array([2.0]))["median"] == 2.0
    both = together_interval(values, np.repeat([0, 1], 50), np.array([0.5, 0.1]))
    assert both == [1.5, 3.1]  # a request's pairs and its overview are drawn together
