"""The comparison of decisions: everybody takes turns, does the same job, and ratios are those of the same rounds."""

import importlib.util
from collections import Counter

import numpy as np
import pytest

import controllers
from benchmarks.decision_backends import (
    DEFAULT,
    batching,
    deciding,
    load_backends,
    weight_bytes,
    with_actions_of,
)
from benchmarks.decision_batches import (
    MULTIPLY,
    judged_batches,
    measure_batches,
    operations,
    per_second,
    products,
)
from benchmarks.decision_job import Batch, Job, Requests, Rival
from benchmarks.decision_overhead import decisions, fits, judged
from benchmarks.decision_rivals import (
    EagerTorch,
    LightgbmOverConfigurations,
    LightgbmPerConfiguration,
    Neighbours,
)
from benchmarks.interleaved import measure, ratio, summary, turns
from benchmarks.memory_limit import Cache, bandwidth, bandwidths, caches, level_of, readers
from paceline.knobs import Configuration
from paceline.policies.native_policy import compiled
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context

needs_libraries = pytest.mark.skipif(
    importlib.util.find_spec("vowpalwabbit") is None or importlib.util.find_spec("stable_baselines3") is None,
    reason="needs the extra `bench`",
)
LEVELS = [Cache(2**25, "L3"), Cache(48 * 2**10, "L1"), Cache(2**20, "L2")]


@pytest.fixture(scope="module")
def controller() -> Controller:
    return controllers.controller()


@pytest.fixture(scope="module")
def requests(controller) -> Requests:
    return Requests(controller, controllers.rows_to_serve(), seed=1)


@pytest.fixture
def quick(monkeypatch):
    """Rivals that are fitted in a second; scikit-learn's settings are put back."""
    import sklearn

    for kind in (LightgbmOverConfigurations, LightgbmPerConfiguration):
        monkeypatch.setattr(kind, "trees", 5)
    with sklearn.config_context():
        yield


def fitted(kind: type[Rival], controller: Controller, requests: Requests) -> Rival:
    train = with_actions_of(controller, controllers.table().split_rows("train"))
    return kind(Job(controller), train, np.array(requests.budgets_ms), 0)


# taking turns


def test_everybody_has_one_turn_a_round_in_an_order_of_its_own():
    names = ["a", "b", "c", "d"]
    order = list(turns(names, 30, seed=3))
    rounds = [[name for number, name in order if number == wanted] for wanted in range(30)]
    assert all(sorted(found) == names for found in rounds)
    assert [number for number, _ in order] == sorted(number for number, _ in order)
    assert len({tuple(found) for found in rounds}) > 10
    firsts = Counter(found[0] for found in rounds)
    assert set(firsts) == set(names)


def test_everybody_gets_the_same_requests_and_warm_ups_are_not_timed():
    asked: dict[str, list[int]] = {"slow": [], "fast": []}
    now = [0]

    def contender(name: str, takes: int):
        def call(request: int) -> None:
            asked[name].append(request)
            now[0] += 10**9 if request % 5 < 2 else takes  # the two warm-ups of a turn of five are dear

        return call

    found = measure(
        {"slow": contender("slow", 4000), "fast": contender("fast", 1500)},
        rounds=3,
        calls=3,
        warm_up=2,
        seed=0,
        clock=lambda: now[0],
    )
    assert asked["slow"] == asked["fast"] == list(range(15))
    np.testing.assert_array_equal(found["slow"], np.full((3, 3), 4.0))
    np.testing.assert_array_equal(found["fast"], np.full((3, 3), 1.5))


def test_percentiles_are_of_all_calls_and_ranges_of_rounds():
    times = np.concatenate([np.full((1, 100), 10.0), np.full((3, 100), 20.0)])
    times[0, :10] = 1000.0
    found = summary(times)
    assert (found["p50_us"], found["p99_us"]) == (20.0, 1000.0)
    assert found["round_p50_us"] == {"lowest": 10.0, "quartiles": [17.5, 20.0], "highest": 20.0}


def test_ratios_are_of_the_same_round():
    slower = np.array([[30.0, 30.0, 900.0], [40.0, 40.0, 40.0], [10.0, 10.0, 10.0]])
    faster = np.array([[10.0, 10.0, 10.0], [20.0, 20.0, 20.0], [10.0, 10.0, 10.0]])
    assert ratio(slower, faster) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}


def test_bars_name_the_fastest_rival_and_are_not_met_by_those_that_are_missing():
    times = {DEFAULT: np.full((2, 4), 20.0), "trees": np.full((2, 4), 50.0)}
    times |= {"neighbours": np.full((2, 4), 90.0), "linear": np.full((2, 4), 30.0)}
    bars = judged(times, ["trees", "neighbours"], ["linear"], limit_us=8.0, missing={})
    assert bars["to_limit"] == {"ratio": 2.5, "required": 3.0, "met": True}
    assert (bars["to_fastest_rival"]["rival"], bars["to_fastest_rival"]["met"]) == ("trees", True)
    assert bars["to_fastest_rival"]["ratio"]["median"] == 2.5
    assert (bars["to_fastest_of_all"]["rival"], bars["to_fastest_of_all"]["met"]) == ("linear", False)
    bars = judged(times, ["trees"], ["linear"], limit_us=6.0, missing={"bandit": "not installed"})
    assert not bars["to_fastest_rival"]["met"]
    assert not bars["to_limit"]["met"]


# batches


def test_batches_are_judged_beside_the_products_and_every_rival():
    def turns_of(*medians: float) -> np.ndarray:
        return np.array(medians)[:, None]

    times = {
        8: {
            DEFAULT: turns_of(6.0, 8.0, 10.0),
            f"{MULTIPLY}numpy": turns_of(3.0, 4.0, 4.0),
            f"{MULTIPLY}torch": turns_of(2.0, 9.0, 9.0),  # slower by its median
            "trees": turns_of(30.0, 32.0, 30.0),
            "small": turns_of(3.0, 3.0, 3.0),
        }
    }
    found = judged_batches(times, ["trees", "small"], to_limit=2.0, to_rival=2.0)["8"]
    limit, rival = found["to_limit"], found["to_fastest_rival"]
    assert (limit["limit"], limit["met"]) == (f"{MULTIPLY}numpy", True)
    assert limit["ratio"] == {"median": 2.0, "lowest": 2.0, "highest": 2.5}
    assert (rival["rival"], rival["ratio"]["median"], rival["met"]) == ("small", 0.375, False)
    assert found["rivals"]["trees"]["median"] == 4.0
    assert judged_batches(times, ["trees"], to_limit=1.9, to_rival=2.0)["8"]["to_limit"]["met"] is False
    assert judged_batches(times, ["trees"], to_limit=1.9, to_rival=2.0)["8"]["to_fastest_rival"]["met"]
    assert per_second(times)["small"] == {"8": 333333.3}


def test_everybody_decides_the_same_batches(requests, monkeypatch):
    monkeypatch.setattr("benchmarks.decision_batches.SIZES", (1, 3))
    monkeypatch.setattr("benchmarks.decision_batches.MOST_CALLS", 2)
    seen: dict[str, list[int]] = {"a": [], "b": []}
    contenders = {name: lambda batch, name=name: seen[name].append(len(batch.contexts)) for name in seen}
    found = measure_batches(contenders, requests, rounds=3, seed=0)
    assert seen["a"] == seen["b"] == [1] * 6 + [3] * 6
    assert list(found) == [1, 3]
    assert all(times.shape == (3, 1) and (times > 0).all() for of in found.values() for times in of.values())


def test_the_products_are_those_of_the_network(controller, requests, monkeypatch):
    multiplied = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b: multiplied.append((a.shape, b.shape)) or matmul(a, b))
    made = products(controller)
    assert set(made) == {f"{MULTIPLY}numpy", f"{MULTIPLY}torch"}
    monkeypatch.setattr("benchmarks.decision_batches.ROWS_AT_ONCE", 20)
    made[f"{MULTIPLY}numpy"](requests.batch(50))
    count = sum(2 * members * rows * inputs * b[-1] for (members, rows, inputs), b in multiplied)
    assert count == 50 * operations(controller)
    assert {a[1] for a, _ in multiplied} == {20, 10}
    made[f"{MULTIPLY}torch"](requests.batch(50))


# reading the weights


def test_a_level_is_the_smallest_that_holds_the_bytes():
    sizes = [1, 48 * 2**10, 48 * 2**10 + 1, 2**20, 2**20 + 1, 2**25 + 1]
    assert [level_of(size, LEVELS) for size in sizes] == ["L1", "L1", "L2", "L2", "L3", "memory"]
    assert level_of(10, []) == "memory"


def test_caches_are_what_the_system_tells(tmp_path):
    for index, (level, kind, size) in enumerate(
        [
            ("1", "Data", "48K"),
            ("1", "Instruction", "32K"),
            ("2", "Unified", "1024K"),
            ("3", "Unified", "32M"),
        ]
    ):
        (tmp_path / f"index{index}").mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (tmp_path / f"index{index}" / name).write_text(text + "\n")
    assert caches(tmp_path) == sorted(LEVELS)
    assert caches(tmp_path / "nothing") == []


def test_readers_go_through_every_byte_once():
    found = {name: read() for name, read in readers(4 * 4096).items()}
    assert found["numpy add.reduce"] == 4096
    assert found["torch sum"] == 4096
    assert found["numpy dot of both halves"] == 2048  # of pairs
    assert np.asarray(found["numpy vector x matrix"]).sum() == 4096
    assert found["numpy maximum.reduce"] == 1


def test_the_limit_is_the_best_bandwidth_within_the_level(monkeypatch):
    speeds = {1000: 2e9, 1500: 4e9, 2000: 9e9, 4000: 1e9}
    monkeypatch.setattr("benchmarks.memory_limit.bandwidth", lambda read, size: speeds[size])
    found = bandwidths(1000, [Cache(1600, "L1"), Cache(9999, "L2")])
    assert (found["level"], found["best_gb_per_s"], found["computed_us"]) == ("L1", 4.0, 0.25)
    assert [line["level"] for line in found["gb_per_s"]] == ["L1", "L1", "L2", "L2"]


def test_bandwidth_is_bytes_over_the_fastest_block(monkeypatch):
    monkeypatch.setattr("benchmarks.memory_limit.BLOCK_BYTES", 4000)
    now, steps = [0.0], iter([9.0, 5.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    calls = []

    def read() -> None:
        calls.append(1)
        if len(calls) % 4 == 0:
            now[0] += next(steps)

    monkeypatch.setattr("benchmarks.memory_limit.time.perf_counter", lambda: now[0])
    assert bandwidth(read, 1000) == 4 * 1000 / 2.0


# the job


def test_budgets_always_leave_something_to_choose_from(controller, requests):
    budgets = []
    for index in range(500):
        context, budget_ms = requests[index]
        work = (context.tiles, context.vision_tokens, context.prompt_tokens)
        upper = controller.latency.upper(controller.actions, *work)
        assert upper.min() < budget_ms < upper.max()
        budgets.append(budget_ms)
    assert len(set(budgets)) == 500


def test_the_job_is_the_guards(controller, requests):
    job = Job(controller)
    for index in range(60):
        context, budget_ms = requests[index]
        decision = controller.decide(context, budget_ms=budget_ms)
        assert job.best(decision.candidates.scores, context, budget_ms) == decision.configuration
        assert len(job.fitting(context, budget_ms)) == decision.feasible
    context, _ = requests[0]
    cheapest = controller.decide(context, budget_ms=0.001)
    assert cheapest.reason == "cheapest"
    assert job.best(np.arange(len(job.actions)), context, 0.001) == cheapest.configuration
    assert [job.configurations[i] for i in job.fitting(context, 0.001)] == [cheapest.configuration]


def test_allowed_of_a_batch_is_what_fits_each_request(controller, requests):
    job, batch = Job(controller), requests.batch(40)
    batch.budget_ms[3] = 0.001
    allowed = job.allowed(batch)
    for row in range(40):
        places = job.fitting(batch.contexts[row], float(batch.budget_ms[row]))
        np.testing.assert_array_equal(np.flatnonzero(allowed[row]), places)


def test_batches_of_paceline_are_its_decisions(controller, requests):
    batch = requests.batch(50)
    batch.budget_ms[7] = 0.001
    singly = [
        controller.decide(context, budget_ms=float(budget)).configuration
        for context, budget in zip(batch.contexts, batch.budget_ms, strict=True)
    ]
    assert batching(controller)(batch) == singly


def test_backends_are_those_that_load(tmp_path, controller):
    controller.save(tmp_path / "made")
    found, missing = load_backends(str(tmp_path / "made"))
    there = ["numpy", "torch"] if compiled() is None else ["native", "numpy", "torch"]
    assert list(found) == [DEFAULT, *(f"{DEFAULT} {name}" for name in there)]
    assert [backend.backend for backend in found.values()][1:] == there
    assert found[DEFAULT].backend in ("native", "numpy")
    assert found[DEFAULT].fingerprint == controller.fingerprint
    assert "no exported files" in missing[f"{DEFAULT} onnx"]
    assert weight_bytes(found[DEFAULT]) == sum(array.nbytes for array in controller.policy.arrays.values())


@pytest.mark.parametrize(
    "kind", [LightgbmOverConfigurations, LightgbmPerConfiguration, Neighbours, EagerTorch]
)
def test_rivals_choose_what_fits_singly_and_in_batches(kind, controller, requests, quick):
    rival = fitted(kind, controller, requests)
    decide = decisions({}, [rival], requests)[rival.name]
    assert fits(controller, decide, requests, 60)
    batch = requests.batch(30)
    together = rival.decide_batch(batch)
    if together is not None:
        assert together == [decide(index) for index in range(30)]
    context, _ = requests[0]
    assert rival.decide(context, 0.001) == controller.decide(context, budget_ms=0.001).configuration


def test_rivals_choose_by_their_predictions(controller, requests, quick):
    """With no budget to speak of, the best prediction wins, whose mean accuracy is above a random choice's."""
    table = controllers.table().split_rows("test")
    for kind in (LightgbmOverConfigurations, Neighbours):
        rival = fitted(kind, controller, requests)
        chosen = [rival.decide(context, 1e9) for context in requests.contexts]
        columns = np.searchsorted(controller.actions, [controller.space.action(found) for found in chosen])
        reached = table.accuracy[np.arange(len(columns)), columns].mean()
        assert reached > table.accuracy.mean() + 0.1


def test_eager_torch_is_the_controllers_network(controller, requests):
    rival = fitted(EagerTorch, controller, requests)
    assert isinstance(rival, EagerTorch)
    batch = requests.batch(30)
    expected = controller.policy.scores(batch.image_features, batch.question_features, batch.budget_ms)
    found = rival.scores(batch.features, batch.budget_ms) / controller.policy.spec.temperature
    np.testing.assert_allclose(found, expected, atol=1e-4)
    decide, ours = decisions({}, [rival], requests)[rival.name], deciding(controller, requests)
    assert [decide(index) for index in range(30)] == [ours(index) for index in range(30)]


def test_a_choice_that_ignores_the_budget_is_noticed(controller, requests):
    class Careless(Rival):
        name = "careless"

        def fit(self, train, budgets_ms, seed):
            return {}

        def decide(self, context: Context, budget_ms: float) -> Configuration:
            return self.job.configurations[-1]

    careless = fitted(Careless, controller, requests)
    assert not fits(controller, lambda index: careless.decide(*requests[index]), requests, 60)
    assert careless.decide_batch(requests.batch(2)) is None


def test_stacked_batches_hold_the_requests_in_order(requests):
    batch = requests.batch(1000)
    assert isinstance(batch, Batch)
    for row in (0, 199, 200, 999):
        context, budget_ms = requests[row]
        width = len(context.image_features)
        np.testing.assert_array_equal(batch.features[row, :width], context.image_features)
        np.testing.assert_array_equal(batch.features[row, width:], context.question_features)
        np.testing.assert_array_equal(batch.prompt_tokens[row], context.prompt_tokens)
        assert batch.budget_ms[row] == budget_ms


@needs_libraries
@pytest.mark.filterwarnings("ignore")  # of those libraries
def test_bandits_choose_what_fits_and_parsed_examples_are_the_text(controller, requests, monkeypatch):
    from benchmarks.decision_bandits import BanditParsed, BanditText, CostSensitive, MaskedPpo, PpoPredict

    monkeypatch.setattr(MaskedPpo, "steps", 512)
    made = {
        kind: fitted(kind, controller, requests)
        for kind in (BanditText, BanditParsed, CostSensitive, MaskedPpo, PpoPredict)
    }
    for rival in made.values():
        assert fits(controller, lambda index, rival=rival: rival.decide(*requests[index]), requests, 60)
    text, parsed = (
        [made[kind].decide(*requests[i]) for i in range(60)] for kind in (BanditText, BanditParsed)
    )
    assert text == parsed
    batch = requests.batch(30)
    singly = [made[MaskedPpo].decide(*requests[index]) for index in range(30)]
    assert made[MaskedPpo].decide_batch(batch) == singly
