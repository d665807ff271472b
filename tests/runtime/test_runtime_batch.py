"""Lists of requests on a fake clock: deadlines, groups, order, rejections, average budgets, drift."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from controllers import FakeClock, TimedModel, controller, requests
from fakes import OVERVIEW_MS, FakeModel
from paceline.errors import BudgetError, ImageError, InfeasibleBudgetError, PacelineError, PromptError
from paceline.models.protocol import AnswersTogether
from paceline.runtime.adaptive import AdaptiveModel
from paceline.runtime.average import AverageBudget
from paceline.runtime.batch import RejectedRequestsError

FULL_MS = 20.0
"""About what the full configuration takes on the fake model's largest images."""


class TogetherModel(TimedModel):
    """Answers groups in `share` of the time that its requests take one after the other; keeps what was called."""

    def __init__(self, clock, speed=1.0, ranking=None, share=1.0):
        super().__init__(clock, speed, ranking)
        self.share = share
        self.groups: list[int] = []
        self.log: list[str] = []

    def overview(self, image, prompt):
        self.log.append(f"look {prompt}")
        return super().overview(image, prompt)

    def generate(self, overview, configuration, max_new_tokens):
        self.groups.append(1)
        self.log.append(f"run {overview.state[2]}")
        return super().generate(overview, configuration, max_new_tokens)

    def generate_together(self, overviews, configuration, max_new_tokens):
        self.groups.append(len(overviews))
        self.log.append("run " + " + ".join(overview.state[2] for overview in overviews))
        made = [FakeModel.generate(self, overview, configuration, max_new_tokens) for overview in overviews]
        self.clock.pass_ms(self.share * self.speed * sum(item.timings.total_ms for item in made))
        return made

    def with_block_ranking(self, ranking):
        return TogetherModel(self.clock, self.speed, list(ranking), self.share)


def serving(model_type: Any = TogetherModel, **options: Any) -> Any:
    clock = FakeClock()
    return AdaptiveModel(model_type(clock, **options), controller(), calibrate=False, clock=clock)


def ask(adaptive, asked, **options):
    return adaptive.generate([image for image, _ in asked], [prompt for _, prompt in asked], **options)


def work(count, seed=7):
    return requests(count, seed)


def test_answers_come_in_the_order_of_the_requests():
    adaptive, asked = serving(), work(12)
    budgets = np.linspace(400.0, 150.0, 12)  # the last is due first
    answers = ask(adaptive, asked, budget_ms=budgets)
    for answer, (image, prompt), budget_ms in zip(answers, asked, budgets, strict=True):
        model = FakeModel()
        direct = model.generate(model.overview(image, prompt), answer.configuration, 4)
        assert (answer.text, answer.tokens, answer.workload) == (direct.text, direct.tokens, direct.workload)
        assert answer.decision.budget_ms == budget_ms
        assert answer.within_budget


def test_requests_of_one_choice_run_together():
    adaptive, asked = serving(), work(12)
    answers = ask(adaptive, asked)
    actions = [answer.decision.action for answer in answers]
    assert len(set(actions)) < 12
    assert sorted(adaptive.model.groups) == sorted(actions.count(action) for action in set(actions))
    assert [answer.group for answer in answers] == [actions.count(action) for action in actions]
    ends = {answer.decision.action: answer.latency_ms for answer in answers}
    assert [answer.latency_ms for answer in answers] == [ends[action] for action in actions]


def test_without_budgets_each_choice_is_that_of_a_single_request():
    asked = work(10)
    single = [serving().generate(*request).decision.action for request in asked]
    assert [answer.decision.action for answer in ask(serving(), asked)] == single


def test_lengths_of_answers_are_not_mixed():
    adaptive, asked = serving(), work(1) * 4
    answers = ask(adaptive, asked, max_new_tokens=[1, 2, None, 1])
    assert [len(answer.tokens) for answer in answers] == [1, 2, 2, 1]
    assert sorted(adaptive.model.groups) == [1, 1, 2]


@pytest.mark.parametrize("count", [3, 10, 24])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_deadlines_hold_for_everybody(count, share):
    rng = np.random.default_rng(count)
    late = served = 0
    for seed in range(5):
        budgets = rng.uniform(9.0, 9.0 + 9.0 * count, count)
        answers = ask(serving(share=share), work(count, seed), budget_ms=budgets)
        planned = [answer for answer in answers if answer.decision.reason == "policy"]
        late += sum(not answer.within_budget for answer in planned)
        served += len(planned)
    assert served > 3.5 * count
    assert late <= 0.05 * served  # what the upper latencies promise


def test_first_tokens_are_in_time_too():
    rng = np.random.default_rng(0)
    answers = ask(serving(), work(12), first_token_budget_ms=rng.uniform(20.0, 120.0, 12))
    assert [answer.decision.reason for answer in answers] == ["policy"] * 12
    assert np.mean([not answer.within_budget for answer in answers]) <= 0.05


def test_a_tight_budget_runs_first_and_alone_before_others_are_looked_at():
    asked = work(6)
    adaptive = serving()
    answers = ask(adaptive, asked, budget_ms=[None, None, None, None, 7.0, None])
    tight = asked[4][1]
    assert adaptive.model.log[:2] == [f"look {tight}", f"run {tight}"]
    assert answers[4].within_budget
    assert answers[4].group == 1
    loose = serving()
    ask(loose, asked, budget_ms=[None, None, None, None, 500.0, None])
    assert loose.model.log[0] == f"look {tight}"
    assert [line[:4] for line in loose.model.log[:6]] == ["look"] * 6


def test_a_request_that_would_make_others_late_does_not_come_along():
    """Three of one choice: the urgent one goes alone where their work together would not fit its budget."""
    asked = work(1) * 3
    one = serving().generate(*asked[0])
    alone_ms = one.decision.upper_ms
    adaptive = serving()
    answers = ask(adaptive, asked, budget_ms=[500.0, alone_ms * 1.2 + 2 * OVERVIEW_MS, 500.0])
    assert answers[1].group == 1
    assert adaptive.model.groups == [1, 2]
    together = ask(serving(), asked, budget_ms=[500.0, 3 * alone_ms, 500.0])
    assert [answer.group for answer in together] == [3, 3, 3]


def test_slack_is_shared_and_time_saved_goes_to_those_still_waiting():
    """Twelve requests due at the same time: none takes it all, and a model that is quicker in groups does better."""
    asked = work(12)
    serial = ask(serving(), asked, budget_ms=90.0)
    quick = ask(serving(share=0.3), asked, budget_ms=90.0)
    for answers in (serial, quick):
        assert [answer.decision.reason for answer in answers] == ["policy"] * 12
        assert max(answer.latency_ms for answer in answers) <= 90.0
        spent = [answer.decision.predicted_ms for answer in answers]
        assert max(spent) < 0.5 * sum(spent)
    assert sum(a.decision.score for a in quick) > sum(a.decision.score for a in serial)
    assert sum(a.decision.predicted_ms for a in quick) > sum(a.decision.predicted_ms for a in serial)


def test_one_that_cannot_fit_is_served_last_and_hurts_nobody():
    asked = work(6)
    answers = ask(serving(), asked, budget_ms=[2.0, *[80.0] * 5])
    assert answers[0].decision.reason == "cheapest"
    assert answers[0].within_budget is False
    assert answers[0].latency_ms >= max(answer.latency_ms for answer in answers[1:])
    assert all(answer.within_budget for answer in answers[1:])
    effort = ask(serving(), asked, budget_ms=[2.0, *[80.0] * 5], when_infeasible="best_effort")
    assert effort[0].decision.reason == "best_effort"


def test_rejection_of_one_keeps_the_answers_of_the_others():
    adaptive, asked = serving(), work(5)
    with pytest.raises(
        RejectedRequestsError, match=r"requests \[1, 3\] of 5 were rejected.*request 1: "
    ) as raised:
        ask(adaptive, asked, budget_ms=[80.0, 1.0, 80.0, 1.5, None], when_infeasible="reject")
    answers = raised.value.answers
    assert [answer is None for answer in answers] == [False, True, False, True, False]
    assert all(answer is None or answer.within_budget is not False for answer in answers)
    assert list(raised.value.rejected) == [1, 3]
    assert raised.value.rejected[3].decision.budget_ms == 1.5
    assert isinstance(raised.value, InfeasibleBudgetError)
    assert adaptive.model.calls["generate"] == 3


def test_rejection_may_be_asked_for_by_some_only():
    with pytest.raises(RejectedRequestsError, match=r"requests \[1\] of 3") as raised:
        ask(serving(), work(3), budget_ms=1.0, when_infeasible=["cheapest", "reject", "best_effort"])
    reasons = [answer and answer.decision.reason for answer in raised.value.answers]
    assert reasons == ["cheapest", None, "best_effort"]


def kept_of_ten(share, times):
    """The answers to ten equal plain questions, due after so many times the least upper latency, else rejected."""
    asked = [next(request for request in work(12) if request[1].startswith("plain"))] * 10
    least_ms = serving().generate(*asked[0], budget_ms=1.0).decision.upper_ms
    try:
        answers = ask(serving(share=share), asked, budget_ms=times * least_ms, when_infeasible="reject")
    except RejectedRequestsError as error:
        answers = error.answers
    return [answer for answer in answers if answer is not None]


@pytest.mark.parametrize("times", [1, 2, 4, 7, 9])
def test_as_many_are_in_time_as_their_upper_latencies_allow(times):
    """The model takes as long for a group as for one after the other; overviews of the others cost nobody the place."""
    kept = kept_of_ten(1.0, times)
    assert len(kept) == times
    assert all(answer.within_budget and answer.decision.reason == "policy" for answer in kept)


@pytest.mark.parametrize("times", [2, 4, 6])
def test_a_request_in_danger_of_rejection_waits_for_time_saved(times):
    kept = kept_of_ten(0.2, times)
    assert len(kept) > times
    assert all(answer.within_budget and answer.decision.reason == "policy" for answer in kept)


def test_a_model_without_groups_serves_one_after_the_other():
    adaptive, asked = serving(TimedModel), work(8)
    assert not isinstance(adaptive.model, AnswersTogether)
    answers = ask(adaptive, asked, budget_ms=[100.0] * 8)
    assert [answer.group for answer in answers] == [1] * 8
    assert adaptive.model.calls["generate"] == 8
    assert all(answer.within_budget for answer in answers)
    assert sorted(answer.latency_ms for answer in answers) == sorted(
        {answer.latency_ms for answer in answers}
    )


def test_the_time_of_an_answer_adds_up():
    adaptive, asked = serving(), work(6)
    for answer in ask(adaptive, asked, budget_ms=90.0):
        group = [
            other for other in ask(serving(), asked, budget_ms=90.0) if other.latency_ms == answer.latency_ms
        ]
        generated = sum(other.timings.total_ms for other in group)
        assert answer.overview_ms == pytest.approx(OVERVIEW_MS)
        assert answer.overhead_ms == pytest.approx(0.0, abs=1e-9)
        assert answer.latency_ms == pytest.approx(answer.overview_ms + answer.others_ms + generated)
        begun = answer.latency_ms - generated
        assert answer.first_token_ms == pytest.approx(begun + answer.timings.first_token_ms)


# Arguments


def test_one_image_serves_many_prompts_and_one_prompt_many_images():
    adaptive = serving()
    images, prompts = zip(*work(3), strict=True)
    assert len(adaptive.generate(images[0], list(prompts))) == 3
    assert len(adaptive.generate(list(images), prompts[0])) == 3
    assert len(adaptive.generate(list(images[:1]), [prompts[0]], budget_ms=[30.0])) == 1
    assert (
        adaptive.generate(images[0], prompts[0]).text == adaptive.generate(list(images), prompts[0])[0].text
    )


IMAGE, PROMPT = work(1)[0]


@pytest.mark.parametrize(
    ("images", "prompts", "options", "error", "message"),
    [
        ([], [], {}, ImageError, "empty list"),
        (IMAGE, [], {}, PromptError, "empty list"),
        ([IMAGE], [PROMPT, PROMPT], {}, ImageError, r"different lengths, \{'images': 1, 'prompts': 2\}"),
        ([IMAGE] * 2, PROMPT, {"budget_ms": [1.0]}, ImageError, r"'images': 2, 'budget_ms': 1"),
        ([IMAGE, None], PROMPT, {}, ImageError, "request 1: image: got a NoneType"),
        ([IMAGE, "x.png"], PROMPT, {}, ImageError, "request 1: image: got a str"),
        (IMAGE, [PROMPT, 3], {}, PromptError, "request 1: prompt: got a int"),
        ([IMAGE] * 2, PROMPT, {"budget_ms": [5.0, math.nan]}, BudgetError, "request 1: budget_ms: got nan"),
        ([IMAGE] * 2, PROMPT, {"budget": ["80%", "soon"]}, BudgetError, "request 1: budget: got 'soon'"),
        ([IMAGE] * 2, PROMPT, {"budget": "80%", "budget_ms": [None, 3.0]}, BudgetError, "request 1: .*both"),
        ([IMAGE] * 2, PROMPT, {"waited_ms": [0.0, -1.0]}, BudgetError, "request 1: waited_ms: got -1.0"),
        ([IMAGE] * 2, PROMPT, {"max_new_tokens": [3, 0]}, BudgetError, "request 1: max_new_tokens: got 0"),
        (
            [IMAGE] * 2,
            PROMPT,
            {"when_infeasible": ["reject", "pray"]},
            BudgetError,
            "request 1: when_infeasible",
        ),
        ([IMAGE] * 2, PROMPT, {"average_budget_ms": -1}, BudgetError, "average_budget_ms: got -1"),
        (IMAGE, PROMPT, {"budget_ms": [5.0]}, BudgetError, r"budget_ms: got \[5.0\]"),
    ],
)
def test_wrong_lists_are_refused_before_any_work(images, prompts, options, error, message):
    adaptive = serving()
    with pytest.raises(error, match=message):
        adaptive.generate(images, prompts, **options)
    assert adaptive.model.calls["overview"] == 0


def test_what_the_model_refuses_names_the_request():
    adaptive = serving()
    overview = adaptive.model.overview

    def refuse(image, prompt):
        if prompt == "wide bad":
            raise PromptError("prompt: too long")
        return overview(image, prompt)

    adaptive.model.overview = refuse
    stream = AverageBudget(6.0)
    with pytest.raises(PromptError, match="^request 1: prompt: too long$"):
        adaptive.generate(IMAGE, [PROMPT, "wide bad", PROMPT], average_budget_ms=stream)
    assert (stream.count, stream._pending, stream._pending_ms) == (0, 0, 0.0)


def test_shares_and_classes_of_the_full_latency():
    answers = ask(serving(), work(4), budget=["50%", "300%", "900%", None])
    assert [answer.within_budget for answer in answers[1:]] == [True, True, None]
    assert answers[0].decision.budget_ms == pytest.approx(0.5 * answers[0].decision.full_ms)


def test_time_waited_before_the_call_counts():
    asked = work(1) * 2
    fresh = ask(serving(), asked, budget_ms=20.0)
    waited = ask(serving(), asked, budget_ms=[20.0, 26.0], waited_ms=[0.0, 6.0])
    assert [a.decision.action for a in waited] == [a.decision.action for a in fresh]
    assert waited[1].waited_ms == 6.0
    assert waited[1].waited_ms + waited[1].latency_ms <= 26.0


# Streams, drift and threads


def test_an_average_budget_holds_over_lists():
    adaptive = serving(share=1.0)
    stream = AverageBudget(6.0)
    asked = work(240)
    for start in range(0, 240, 12):
        ask(adaptive, asked[start : start + 12], average_budget_ms=stream)
    assert stream.count == 240
    assert stream._pending == 0
    assert stream.mean_ms == pytest.approx(6.0, rel=0.03)
    # Together the requests' shares are all the time that went by.
    assert stream.mean_ms * 240 == pytest.approx(1000.0 * adaptive.clock(), rel=1e-6)


def test_every_request_is_reserved_and_recorded_once():
    class Watched(AverageBudget):
        reserved = recorded = cancelled = 0

        def reserve(self, predicted_ms):
            self.reserved += 1
            super().reserve(predicted_ms)

        def record(self, **times):
            self.recorded += 1
            super().record(**times)

        def cancel(self, predicted_ms):
            self.cancelled += 1
            super().cancel(predicted_ms)

    stream = Watched(6.0)
    ask(serving(share=0.5), work(10), average_budget_ms=stream, budget_ms=60.0)
    assert stream.recorded == 10
    assert stream.reserved - stream.cancelled == 10
    free = Watched(6.0)
    ask(serving(), work(10), average_budget_ms=free)
    assert (free.reserved, free.recorded, free.cancelled) == (10, 10, 0)


def test_a_failed_group_leaves_the_stream_as_it_was():
    adaptive, stream = serving(), AverageBudget(6.0)
    before = stream.price(controller().prices)

    def fail(*_):
        raise RuntimeError("out of memory")

    adaptive.model.generate = adaptive.model.generate_together = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(adaptive, work(6), average_budget_ms=stream)
    assert stream.count == 0
    assert stream.price(controller().prices) == before


def test_groups_teach_the_tracker_nothing_and_single_requests_what_they_took():
    adaptive = serving(share=0.3)
    ask(adaptive, work(1) * 8)
    assert (adaptive.drift.observations, adaptive.drift.factor) == (0, 1.0)
    slow = serving(TimedModel, speed=1.5)
    for seed in range(6):
        ask(slow, work(8, seed))
    assert slow.drift.observations == 48
    assert slow.drift.factor == pytest.approx(1.5, rel=0.04)  # others' time is none of a request's own


def test_many_threads_answer_as_one():
    asked = work(60)
    adaptive: Any = AdaptiveModel(FakeModel(), controller(), calibrate=False, clock=lambda: 0.0)
    adaptive.drift.update = lambda **_: 1.0  # time stands still on this clock

    def some(start):
        answers = ask(adaptive, asked[start : start + 6], budget_ms=40.0)
        return [(answer.text, answer.decision.action) for answer in answers]

    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(some, range(0, 60, 6)))
    assert together == [some(start) for start in range(0, 60, 6)]


def test_first_use_calibrates_outside_the_answers_time(tmp_path):
    clock = FakeClock()
    model = TogetherModel(clock, 1.5)
    adaptive: Any = AdaptiveModel(
        model, controller(), clock=clock, cache_dir=tmp_path, on_message=lambda _: None
    )
    answers = ask(adaptive, work(3))
    assert adaptive.calibration is not None
    assert max(answer.latency_ms for answer in answers) < 3 * 1.5 * FULL_MS


def test_a_message_keeps_the_type_of_the_error():
    adaptive = serving()

    def refuse(*_):
        raise PacelineError("no")

    adaptive.model.generate = adaptive.model.generate_together = refuse
    with pytest.raises(PacelineError, match="^request 0: no$"):
        adaptive.generate([Image.new("RGB", (160, 32))], ["small x"])
