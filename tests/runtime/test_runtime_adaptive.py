"""The adaptive model on a fake clock: budgets met, time counted, drift followed, the machine calibrated once."""

import dataclasses
import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from controllers import FakeClock, TimedModel, controller, requests
from fakes import FAKE_SPACE, OVERVIEW_MS, FakeModel, FakeTask
from paceline.errors import BudgetError, ControllerError, InfeasibleBudgetError
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.average import AverageBudget
from paceline.runtime.calibration import MachineCalibration, calibration_key, measure_machine, synthetic_image
from paceline.runtime.hardware import hardware_facts


def adaptive_on(speed: float = 1.0, **options: Any) -> Any:
    clock = FakeClock()
    options.setdefault("calibrate", False)
    return AdaptiveModel(TimedModel(clock, speed), controller(), clock=clock, **options)


NOISE_OF_FOUR = 0.07
"""The fake model's noise depends on the request: four configurations of one request average little of it out."""


@pytest.fixture
def messages():
    return []


@pytest.fixture
def calibrating(tmp_path, messages):
    """Makes adaptive models that calibrate into one cache."""

    def make(speed=1.0):
        return adaptive_on(speed, calibrate=True, cache_dir=tmp_path / "cache", on_message=messages.append)

    return make


def test_an_answer_carries_text_configuration_timings_and_decision():
    adaptive = adaptive_on()
    image, prompt = requests(1)[0]
    answer = adaptive.generate(image, prompt, budget_ms=9.0)
    model = FakeModel()
    direct = model.generate(model.overview(image, prompt), answer.configuration, 4)
    assert answer.text == direct.text
    assert answer.tokens == direct.tokens
    assert answer.timings == direct.timings
    assert answer.workload == direct.workload
    assert answer.configuration == answer.decision.configuration
    assert answer.latency_ms == pytest.approx(OVERVIEW_MS + direct.timings.total_ms)
    assert answer.first_token_ms == pytest.approx(OVERVIEW_MS + direct.timings.first_token_ms)
    assert answer.overview_ms == pytest.approx(OVERVIEW_MS)
    assert answer.overhead_ms == 0.0  # on this clock deciding takes no time
    assert answer.decision.budget_ms == 9.0
    assert answer.decision.elapsed_ms == pytest.approx(OVERVIEW_MS)
    assert answer.within_budget is True
    assert adaptive.generate(image, prompt).within_budget is None


def test_hard_budgets_are_met():
    adaptive = adaptive_on()
    answers = [
        adaptive.generate(image, prompt, budget_ms=6.0 + 0.05 * i)
        for i, (image, prompt) in enumerate(requests(200))
    ]
    fitting = [answer for answer in answers if answer.decision.reason == "policy"]
    assert len(fitting) > 180
    assert np.mean([not answer.within_budget for answer in fitting]) <= 0.05
    assert len({answer.decision.action for answer in answers}) > 5


def test_time_spent_before_the_decision_counts():
    adaptive = adaptive_on()
    image, prompt = requests(1)[0]
    prompt_free = adaptive.generate(image, prompt, budget_ms=12.0)
    waited = adaptive.generate(image, prompt, budget_ms=12.0, waited_ms=5.0)
    assert waited.decision.unexpected_ms == pytest.approx(5.0, abs=0.05)
    assert waited.decision.feasible < prompt_free.decision.feasible
    assert waited.waited_ms + waited.latency_ms <= 12.0
    assert waited.within_budget
    adaptive.model.stall_ms = 5.0
    stalled = adaptive.generate(image, prompt, budget_ms=12.0)
    assert stalled.decision.feasible <= waited.decision.feasible
    assert stalled.latency_ms <= 12.0


def test_rejection_costs_no_generation():
    adaptive = adaptive_on()
    image, prompt = requests(1)[0]
    with pytest.raises(InfeasibleBudgetError, match="none of 27 configurations fits"):
        adaptive.generate(image, prompt, budget_ms=1.0, when_infeasible="reject")
    assert adaptive.model.calls["generate"] == 0
    assert adaptive.generate(image, prompt, budget_ms=1.0).decision.reason == "cheapest"
    effort = adaptive.generate(image, prompt, first_token_budget_ms=0.5, when_infeasible="best_effort")
    assert effort.decision.reason == "best_effort"
    assert effort.within_budget is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget_ms": math.nan}, "budget_ms: got nan"),
        ({"budget": "80%", "budget_ms": 3.0}, "got both"),
        ({"budget": "soon"}, "'soon'"),
        ({"average_budget_ms": -2}, "average_budget_ms: got -2 ms"),
        ({"average_budget_ms": True}, "average_budget_ms: got True"),
        ({"when_infeasible": "pray"}, "when_infeasible: got 'pray'"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"max_new_tokens": True}, "max_new_tokens: got True"),
        ({"waited_ms": -1}, "waited_ms: got -1, expected a finite number from 0 on"),
        ({"waited_ms": True}, "waited_ms: got True"),
        ({"waited_ms": False}, "waited_ms: got False"),
        ({"waited_ms": "x"}, "waited_ms: got 'x'"),
        ({"waited_ms": None}, "waited_ms: got None"),
        ({"waited_ms": []}, r"waited_ms: got \[\]"),
        ({"waited_ms": math.nan}, "waited_ms: got nan"),
        ({"waited_ms": 10**400}, "waited_ms: got 1000"),
        ({"budget_ms": 10**400}, "budget_ms: got a number beyond the largest float"),
    ],
)
def test_bad_arguments_cost_no_overview(arguments, message):
    adaptive = adaptive_on()
    image, prompt = requests(1)[0]
    with pytest.raises(BudgetError, match=message):
        adaptive.generate(image, prompt, **arguments)
    assert adaptive.model.calls["overview"] == 0


def test_the_longest_answer_is_the_profiles_by_default():
    adaptive = adaptive_on()
    asked = []
    generate = adaptive.model.generate
    adaptive.model.generate = lambda o, c, n: asked.append(n) or generate(o, c, n)
    adaptive.generate(*requests(1)[0])
    adaptive.generate(*requests(1)[0], max_new_tokens=1)
    assert asked == [4, 1]


@pytest.mark.parametrize("speed", [1 / 1.15, 1.0, 1.15])
def test_average_budgets_hold_live(speed):
    adaptive = adaptive_on(speed)
    answers = [adaptive.generate(image, prompt, average_budget_ms=6.0) for image, prompt in requests(200)]
    assert np.mean([answer.latency_ms for answer in answers]) == pytest.approx(6.0, rel=0.03)
    assert adaptive.average(6.0).count == 200
    assert adaptive.average(6.0).mean_ms == pytest.approx(np.mean([answer.latency_ms for answer in answers]))


def test_hard_and_average_budgets_together():
    adaptive = adaptive_on()
    stream = AverageBudget(7.0)
    answers = [
        adaptive.generate(image, prompt, average_budget_ms=stream, budget_ms=11.0)
        for image, prompt in requests(200)
    ]
    assert stream.count == 200
    assert stream.mean_ms <= 7.0 * 1.03
    assert np.mean([answer.latency_ms > 11.0 for answer in answers]) <= 0.05


def test_a_failed_request_leaves_the_stream_as_it_was():
    adaptive = adaptive_on()
    before = adaptive.average(6.0).price(controller().prices)

    def fail(*_):
        raise RuntimeError("out of memory")

    adaptive.model.generate = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        adaptive.generate(*requests(1)[0], average_budget_ms=6.0)
    assert adaptive.average(6.0).count == 0
    assert adaptive.average(6.0).price(controller().prices) == before


def test_drift_shifts_choices_to_cheaper_configurations():
    adaptive = adaptive_on()
    feasible = []
    for speed in (1.0, 1.6):
        adaptive.model.speed = speed
        served = [adaptive.generate(image, prompt, budget_ms=10.0) for image, prompt in requests(80)]
        feasible.append(np.mean([answer.decision.feasible for answer in served]))
    assert adaptive.drift.factor == pytest.approx(1.6, rel=0.03)
    assert feasible[1] < 0.8 * feasible[0]
    late = served[30:]
    assert np.mean([a.within_budget is False for a in late if a.decision.reason == "policy"]) <= 0.06


def test_the_controllers_block_ranking_is_installed():
    ranked = dataclasses.replace(controller(), block_ranking=(0, *range(15, 0, -1)))
    model = FakeModel()
    adaptive: Any = AdaptiveModel(model, ranked, calibrate=False)
    assert adaptive.model.ranking == [0, *range(15, 0, -1)]
    assert model.ranking == list(range(16))

    class Ranked(FakeModel):
        block_ranking = tuple(ranked.block_ranking)

    same = Ranked()
    assert AdaptiveModel(same, ranked, calibrate=False).model is same
    unranked = dataclasses.replace(controller(), block_ranking=())
    assert AdaptiveModel(model, unranked, calibrate=False).model is model


def test_workloads_are_kept_per_image_size_and_prompt_length():
    adaptive = adaptive_on()
    asked = []
    workload = adaptive.model.workload
    adaptive.model.workload = lambda o, c: asked.append(1) or workload(o, c)
    image, prompt = requests(1)[0]
    adaptive.generate(image, prompt)
    adaptive.generate(image, prompt)
    first, again = 1 + 27 + 1, 1 + 1  # the model's own generate asks once
    assert len(asked) == first + again
    adaptive.generate(image, f"{prompt} now")
    assert len(asked) == 2 * first + again


def test_many_threads_answer_as_one():
    work = requests(60)
    adaptive: Any = AdaptiveModel(FakeModel(), controller(), calibrate=False, clock=lambda: 0.0)
    adaptive.drift.update = lambda **_: 1.0  # time stands still on this clock

    def one(index):
        answer = adaptive.generate(*work[index], budget_ms=8.0)
        return answer.text, answer.decision.action

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(one, range(60)))
    assert together == [one(index) for index in range(60)]


def test_first_use_calibrates_once_and_says_so(calibrating, messages):
    adaptive = calibrating(speed=1.5)
    image, prompt = requests(1)[0]
    answer = adaptive.generate(image, prompt, budget_ms=12.0)
    assert len(messages) == 2
    assert "fake: calibrating the controller to this machine" in messages[0]
    assert f"takes {adaptive.calibration.ratio:.2f} x the profile's time" in messages[1]
    assert "12 measurements" in messages[1]
    assert adaptive.controller.scale == pytest.approx(1.5, rel=NOISE_OF_FOUR)
    assert adaptive.controller.guard.overview_ms == pytest.approx(1.5)
    assert answer.decision.unexpected_ms == pytest.approx(0.0, abs=1e-6)
    assert answer.latency_ms < 13  # calibration is not part of the answer's time
    calls = adaptive.model.calls["generate"]
    adaptive.generate(image, prompt, budget_ms=12.0)
    assert adaptive.model.calls["generate"] == calls + 1
    assert len(messages) == 2


def test_calibrated_budgets_are_met_on_a_slower_machine(calibrating):
    adaptive = calibrating(speed=1.5)
    served = [adaptive.generate(image, prompt, budget_ms=12.0) for image, prompt in requests(100)]
    fitting = [answer for answer in served if answer.decision.reason == "policy"]
    assert len(fitting) > 90
    assert np.mean([not answer.within_budget for answer in fitting]) <= 0.05
    assert adaptive.drift.factor == pytest.approx(1.0, abs=0.05)


def test_the_next_process_uses_the_kept_calibration(calibrating, messages):
    first = calibrating(speed=1.5)
    made = first.calibrate()
    messages.clear()
    second = calibrating(speed=1.5)
    assert second.calibrate() == made
    assert second.model.calls["generate"] == 0
    assert second.controller.scale == first.controller.scale
    assert len(messages) == 1
    assert "using the calibration of" in messages[0]


def test_force_measures_again_from_the_profiles_scale(calibrating, messages):
    adaptive = calibrating(speed=1.5)
    adaptive.calibrate()
    adaptive.model.speed = 3.0
    adaptive.calibrate(force=True)
    assert adaptive.controller.scale == pytest.approx(3.0, rel=NOISE_OF_FOUR)
    assert calibrating().calibrate().ratio == pytest.approx(3.0, rel=NOISE_OF_FOUR)


def test_calibrating_forgets_the_drift_it_explains(calibrating):
    adaptive = calibrating(speed=1.5)
    for _ in range(10):
        adaptive.drift.update(measured_ms=15.0, predicted_ms=10.0)
    adaptive.calibrate()
    assert adaptive.drift.factor == 1.0


def test_concurrent_first_uses_calibrate_once(calibrating):
    adaptive = calibrating()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda r: adaptive.generate(*r, budget_ms=10.0), requests(8)))
    assert adaptive.model.calls["generate"] == 16 + 8  # 4 warm-up and 12 measured, then the requests


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 9}', "[1]"])
def test_a_damaged_calibration_is_reported_and_measured_again(calibrating, messages, tmp_path, text):
    made = calibrating().calibrate()
    path = tmp_path / "cache" / f"{made.key}.json"
    path.write_text(text)
    messages.clear()
    again = calibrating()
    again.calibrate()
    assert "cannot be used" in messages[0]
    assert again.model.calls["generate"] == 16
    assert MachineCalibration.from_json(json.loads(path.read_text())).key == made.key


def test_a_calibration_of_something_else_is_not_used(calibrating, messages, tmp_path):
    made = calibrating().calibrate()
    path = tmp_path / "cache" / f"{made.key}.json"
    path.write_text(json.dumps(made.to_json() | {"key": "0" * 32}))
    messages.clear()
    calibrating().calibrate()
    assert "belongs to another" in messages[0]


def test_a_cache_that_cannot_be_written_is_reported(messages, tmp_path):
    (tmp_path / "file").write_text("in the way")
    adaptive = adaptive_on(calibrate=True, cache_dir=tmp_path / "file", on_message=messages.append)
    adaptive.calibrate()
    assert "could not be kept" in messages[-1]
    assert adaptive.controller.scale == pytest.approx(1.0, rel=NOISE_OF_FOUR)


def test_a_cache_may_be_named_by_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adaptive_on(calibrate=True, cache_dir="cache").calibrate()
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1


def test_without_a_callback_calibration_is_logged(tmp_path, caplog):
    adaptive = adaptive_on(calibrate=True, cache_dir=tmp_path)
    with caplog.at_level(logging.WARNING, logger="paceline"):
        adaptive.calibrate()
    assert "calibrating the controller" in caplog.text


def test_calibration_corrects_for_answer_length():
    """Answers of the profile have 2 tokens; a calibration whose answers have 1 must not look faster."""
    short = dataclasses.replace(
        controller(), guard=dataclasses.replace(controller().guard, output_tokens=2.0, max_new_tokens=4)
    )

    class Terse(TimedModel):
        def generate(self, overview, configuration, max_new_tokens):
            return super().generate(overview, configuration, 1)

    clock = FakeClock()
    made = measure_machine(Terse(clock, 1.3), short, clock=clock)
    assert made.ratio == pytest.approx(1.3, rel=NOISE_OF_FOUR)
    assert made.apply(short).scale == pytest.approx(1.3, rel=NOISE_OF_FOUR)
    assert made.overview_ms == pytest.approx(1.3)


def test_calibration_on_a_very_slow_model_stops_early():
    clock = FakeClock()
    made = measure_machine(TimedModel(clock, 1000.0), controller(), clock=clock)
    assert len(made.measured_ms) == 4
    assert made.ratio == pytest.approx(1000.0, rel=NOISE_OF_FOUR)


def test_calibration_times_spread_configurations():
    clock = FakeClock()
    made = measure_machine(TimedModel(clock), controller(), clock=clock)
    assert len(made.measured_ms) == 12
    assert len({round(time, 6) for time in made.predicted_ms}) == 4
    assert max(made.measured_ms) > 3 * min(made.measured_ms)
    with pytest.raises(ControllerError, match="damaged"):
        MachineCalibration.from_json(made.to_json() | {"measured_ms": [1.0]})
    with pytest.raises(ControllerError, match="damaged"):
        MachineCalibration.from_json(made.to_json() | {"overview_ms": -1.0})
    assert MachineCalibration.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_the_key_depends_on_model_controller_and_machine(monkeypatch):
    class Other(FakeModel):
        def describe(self):
            return {"name": "fake", "weights": "other"}

    key = calibration_key(FakeModel(), controller())
    assert key == calibration_key(FakeModel(), dataclasses.replace(controller()))
    assert key != calibration_key(Other(), controller())
    moved = dataclasses.replace(controller().guard, output_tokens=3.0)
    assert key != calibration_key(FakeModel(), dataclasses.replace(controller(), guard=moved))
    assert {"processor", "cores", "torch_threads"} <= set(hardware_facts())
    monkeypatch.setattr("paceline.runtime.calibration.hardware_facts", lambda: {"cores": 512})
    assert key != calibration_key(FakeModel(), controller())


def test_synthetic_image_is_deterministic():
    first, second = synthetic_image(), synthetic_image((224, 160))
    assert first.size == (224, 160)
    assert first.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    assert np.asarray(first).std() > 20


def test_answers_are_better_than_the_best_static_ones():
    adaptive = adaptive_on()
    task = FakeTask()
    samples = task.samples("test", 200, 11)
    asked = [(task.image(sample), sample.question) for sample in samples]
    right = [
        task.score(sample, adaptive.generate(*request, average_budget_ms=6.0).text)
        for sample, request in zip(samples, asked, strict=True)
    ]
    static = []
    for action in range(0, FAKE_SPACE.size):
        model, configuration = FakeModel(), FAKE_SPACE.configuration(action)
        overviews = [model.overview(*request) for request in asked]
        spent = [OVERVIEW_MS + model.generate(o, configuration, 4).timings.total_ms for o in overviews[:50]]
        if np.mean(spent) <= 6.0:
            texts = model.generate_batch(overviews, configuration, 4)
            static.append(np.mean([task.score(s, text) for s, text in zip(samples, texts, strict=True)]))
    assert np.mean(right) > max(static) + 0.05
