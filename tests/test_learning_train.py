"""Training end to end on a table with a known structure: options, what is learned, and what cannot be."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.errors import TrainError
from paceline.knobs import KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.contexts import context_ranges, sample_contexts, validation_contexts
from paceline.learning.dataset import training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.options import ALGORITHMS, TrainOptions
from paceline.learning.progress import Progress
from paceline.learning.train import train_controller_policy
from paceline.learning.trained import TrainedPolicy
from paceline.learning.trainer import stages_of
from paceline.learning.validation import validate
from paceline.outcomes.table import OutcomeTable
from paceline.policies.decision import choose
from paceline.rewards import RewardParams, reward_v1, reward_v2
from quick_options import QUICK_REFERENCE
from small_training import (
    SMALL,
    Recorder,
    inputs_of,
    make_latency,
    make_source,
    make_spec,
    make_table,
    make_trainer,
)


def test_progress_reaches_its_total_and_facts_add_up():
    recorder = Recorder()
    assert isinstance(recorder, Progress)
    trained = train_controller_policy(make_table(), make_latency(), SMALL, progress=recorder)
    assert recorder.done == recorder.total == 7
    facts = trained.facts
    assert facts["groups"] == 3 * 2 * 150  # epochs x members x samples
    assert facts["zero_variance_groups"] + facts["infeasible_groups"] < facts["groups"]
    assert [entry["phase"] for entry in trained.history] == ["warm"] * 4 + ["grpo"] * 3


def test_best_epoch_is_of_the_smoothed_validation_reward_and_the_warm_start_may_win():
    options = dataclasses.replace(
        SMALL, epochs=8, policy_learning_rate=3e-2, clip_eps_low=0.9, clip_eps_high=0.9
    )  # unstable on purpose
    trained = train_controller_policy(make_table(), make_latency(), options)
    facts = trained.facts
    rewards = [facts["warm_start_validation_reward"]]
    rewards += [entry["validation_reward"] for entry in trained.history if entry["phase"] == "grpo"]
    smoothed = [np.mean(rewards[max(0, i - 2) : i + 1]) for i in range(len(rewards))]
    best = int(np.argmax(smoothed))
    assert facts["best_epochs"]["grpo"] == best
    assert facts["validation_reward"] == pytest.approx(rewards[best])
    worse = dataclasses.replace(options, warm_epochs=25, policy_learning_rate=1.0)
    assert train_controller_policy(make_table(), make_latency(), worse).facts["best_epochs"]["grpo"] == 0


def test_every_algorithm_takes_the_same_number_of_updates():
    counts = {
        name: sum(s.epochs * s.updates for s in stages_of(TrainOptions(algorithm=name)))
        for name in ALGORITHMS
        if name != "grpo"
    }
    assert len(set(counts.values())) == 1


def chosen_accuracy(trained: TrainedPolicy, budget_ms: float) -> float:
    """Accuracy on the test split of the decision rule under a hard budget."""
    table, latency = make_table().split_rows("test"), make_latency()
    work = (table.tiles, table.vision_tokens, table.prompt_tokens)
    mean, upper = latency.mean_and_upper(table.actions, *work)
    scores = trained.numpy_policy().scores(table.image_features, table.question_features, budget_ms)
    chosen = choose(scores, mean, upper <= budget_ms)
    assert (chosen >= 0).all()
    return float(table.accuracy[np.arange(len(chosen)), chosen].mean())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policies_beat_the_best_static_configuration_by_far(algorithm):
    warm = 80 if algorithm == "ppo" else 40  # it knows the fewest rewards per update and is the slowest
    options = TrainOptions(reference=QUICK_REFERENCE)
    if algorithm != "grpo":
        options = TrainOptions(
            algorithm=algorithm, hidden=32, members=1, batch_size=50, warm_epochs=warm, epochs=4
        )
    trained = train_controller_policy(make_table(), make_latency(), options)
    table = make_table().split_rows("test")
    budget = 9.0
    work = (table.tiles, table.vision_tokens, table.prompt_tokens)
    fits = (make_latency().upper(table.actions, *work) <= budget).mean(axis=0) >= 0.95
    static = table.accuracy[:, fits].mean(axis=0).max()
    assert chosen_accuracy(trained, budget) > static + 0.08


def test_outcome_head_learns_probabilities():
    options = TrainOptions(algorithm="outcome", hidden=32, members=1, batch_size=50, warm_epochs=40, epochs=0)
    trained = train_controller_policy(make_table(), make_latency(), options)
    table = make_table().split_rows("test")
    predicted = trained.numpy_policy().scores(table.image_features, table.question_features) * 0.05
    assert predicted.mean() == pytest.approx(table.accuracy.mean(), abs=0.06)
    assert np.corrcoef(predicted.ravel(), table.accuracy.ravel())[0, 1] > 0.5


def test_published_reward_slides_to_cheaper_configurations():
    options = TrainOptions(
        algorithm="grpo_warm", hidden=16, members=1, batch_size=50, warm_epochs=6, epochs=8, kl_weight=0.0
    )
    slide = RewardParams(delta=3.0)

    def mean_latency(trained: TrainedPolicy) -> float:
        table, latency = make_table().split_rows("test"), make_latency()
        work = (table.tiles, table.vision_tokens, table.prompt_tokens)
        mean, upper = latency.mean_and_upper(table.actions, *work)
        scores = trained.numpy_policy().scores(table.image_features, table.question_features, 12.0)
        chosen = choose(scores, mean, upper <= 12.0)
        return float(mean[np.arange(len(chosen)), chosen].mean())

    masked = mean_latency(train_controller_policy(make_table(), make_latency(), options))
    paid = dataclasses.replace(options, reward="v1", reward_params=slide)
    assert mean_latency(train_controller_policy(make_table(), make_latency(), paid)) < 0.8 * masked


@pytest.mark.parametrize(("budget", "price"), [(8.0, 0.0), (math.inf, 0.0), (math.inf, 0.4)])
def test_validation_scores_the_deployed_decision(budget, price):
    trainer = make_trainer()
    network, source = trainer.network, trainer.validation_source
    with torch.no_grad():
        network.head.weight.zero_()  # pyright: ignore[reportCallIssue]
        network.head.bias.copy_(torch.linspace(-1.0, 1.0, 27).expand(1, 1, 27))  # dearer looks better  # pyright: ignore[reportCallIssue]
    score = validate(network, source, [(budget, price)])
    table = make_table().split_rows("train")
    mean, upper = make_latency().mean_and_upper(table.actions, *work_of(table))
    full = source.spec.full_latency_ms
    logits = (1 / (1 + np.exp(-np.linspace(-1.0, 1.0, 27))) - price * mean / full) / 0.05
    feasible = upper <= budget
    rewards = table.accuracy - (price + 0.01) * mean / full
    chosen, possible = choose(logits, mean, feasible), feasible.any(axis=1)
    picked = rewards[np.arange(len(rewards)), chosen][possible].mean()
    probability = np.where(feasible, np.exp(logits - logits.max()), 0.0)
    probability /= np.maximum(probability.sum(axis=1, keepdims=True), 1e-12)
    assert score.reward == pytest.approx(picked, abs=1e-5)
    assert score.expected_reward == pytest.approx((probability * rewards).sum(1)[possible].mean(), abs=1e-5)
    assert (score.hard_reward, score.average_reward) == (
        (score.reward, 0.0) if budget < math.inf else (0.0, score.reward)
    )


def test_groups_hold_one_sample_and_context_each():
    source, table = make_source(TrainOptions())
    rows = torch.tensor([[3, 7]])
    groups = source.groups(rows, torch.tensor([[6.0, math.inf]]), torch.tensor([[0.0, 0.5]]))
    train = table.split_rows("train")
    np.testing.assert_array_equal(groups.accuracy[0, 1], train.accuracy[7])
    work = [part[[3, 7]] for part in (train.tiles, train.vision_tokens, train.prompt_tokens)]
    mean, upper = make_latency().mean_and_upper(train.actions, *work)
    np.testing.assert_array_equal(groups.feasible[0, 0], upper[0] <= 6.0)
    assert groups.feasible[0, 1].all()
    full = source.spec.full_latency_ms
    assert full == pytest.approx(float(make_latency().mean(train.actions, *work_of(train))[:, -1].mean()))
    np.testing.assert_allclose(groups.charge[0, 1], 0.5 * mean[1] / full, rtol=1e-5)
    expected = train.accuracy[7] - (0.5 + 0.01) * mean[1] / full
    np.testing.assert_allclose(groups.rewards[0, 1], expected, rtol=1e-4, atol=1e-5)


def work_of(table: OutcomeTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return table.tiles, table.vision_tokens, table.prompt_tokens


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_published_rewards_of_groups(version):
    source, table = make_source(TrainOptions(algorithm="grpo_warm", reward=version, mask_infeasible=False))
    groups = source.groups(torch.tensor([0, 0]), torch.tensor([6.0, math.inf]), torch.tensor([0.0, 0.25]))
    accuracy, latency, full = source.accuracy[0], source.mean_ms[0], source.spec.full_latency_ms
    params = RewardParams()
    for row, (budget, price) in enumerate([(6.0, 0.0), (full, 0.25)]):
        if version == "v1":
            expected = reward_v1(accuracy, latency / 1000, budget / 1000, params)
        else:
            expected = reward_v2(accuracy, latency, budget, source.rewards.complexity, params)
        torch.testing.assert_close(groups.rewards[row], expected - price * latency / full)
    assert groups.feasible.all()
    assert source.rewards.complexity[-1].item() == pytest.approx(1.0)
    assert table.space.size == len(source.rewards.complexity)


def test_untested_cells_are_never_feasible_and_never_a_target():
    table = make_table()
    accuracy = table.accuracy.copy()
    accuracy[0, 3] = np.nan
    train, _ = training_problems(dataclasses.replace(table, accuracy=accuracy), make_latency())
    assert not train.tested[0, 3]
    assert train.upper_ms[0, 3] == np.inf
    source = GroupSource(
        train,
        make_spec(table, train.full_latency_ms),
        table.space,
        TrainOptions(),
        inputs_of(table, train.features),
    )
    groups = source.groups(torch.tensor([0]), torch.tensor([math.inf]), torch.tensor([0.0]))
    assert not groups.feasible[0, 3]
    assert groups.feasible[0].sum() == 26


@pytest.mark.parametrize("algorithm", ["grpo_warm", "grpo"])
def test_configurations_of_equal_time_are_told_apart_by_accuracy_alone(algorithm):
    table = make_table()
    same = np.full(len(table.actions), 20.0)
    latency = LatencyEstimator.constant(table.space, table.actions, same, upper_ratio=1.5, facts={})
    ranges = context_ranges(training_problems(table, latency)[0])
    assert (ranges.budget_low_ms, ranges.budget_high_ms) == pytest.approx((30.0, 30.3))
    options = (
        dataclasses.replace(SMALL, algorithm=algorithm)
        if algorithm == "grpo_warm"
        else TrainOptions(algorithm=algorithm, reference=QUICK_REFERENCE)
    )
    trained = train_controller_policy(table, latency, options)
    assert (trained.spec.budget_low_ms, trained.spec.budget_high_ms) == (10.0, 20.0)


def test_contexts_are_hard_or_priced_and_cover_their_ranges():
    train, _ = training_problems(make_table(), make_latency())
    ranges = context_ranges(train)
    budget, price = sample_contexts((4000,), ranges, 0.5, torch.Generator().manual_seed(0))
    hard = budget < math.inf
    assert hard.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (price[hard] == 0).all()
    assert (price[~hard] >= ranges.price_low * 0.999).all()
    assert budget[hard].log().median().exp().item() == pytest.approx(
        math.sqrt(ranges.budget_low_ms * ranges.budget_high_ms), rel=0.05
    )
    grid = validation_contexts(ranges)
    assert len([b for b, _ in grid if b < math.inf]) == len(grid) / 2
    assert all((price > 0) == (budget == math.inf) for budget, price in grid)


def one_configuration(table: OutcomeTable) -> OutcomeTable:
    cells = (
        "accuracy",
        "latency_ms",
        "first_token_ms",
        "tiles",
        "vision_tokens",
        "prompt_tokens",
        "output_tokens",
    )
    kept = {name: getattr(table, name)[:, -1:] for name in cells}
    return dataclasses.replace(table, actions=table.actions[-1:], **kept)


def without_action(table: OutcomeTable, split: str, column: int) -> OutcomeTable:
    accuracy = table.accuracy.copy()
    accuracy[table.split == split, column] = np.nan
    return dataclasses.replace(table, accuracy=accuracy)


def without_sample(table: OutcomeTable) -> OutcomeTable:
    accuracy = table.accuracy.copy()
    accuracy[0] = np.nan
    return dataclasses.replace(table, accuracy=accuracy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_configuration, "got 1 tested configuration, expected at least 2"),
        (lambda table: table.select(table.split != "validation"), "no samples in the validation split"),
        (lambda table: table.select(table.split != "train"), "no samples in the train split"),
        (
            lambda table: without_action(table, "train", 5),
            r"actions \[5\] have no outcome in the train split",
        ),
        (without_sample, "have no tested configuration"),
    ],
)
def test_tables_that_teach_nothing(change, message):
    with pytest.raises(TrainError, match=message):
        train_controller_policy(change(make_table()), make_latency(), SMALL)


def test_full_configuration_must_be_tested():
    table = make_table()
    knob = dataclasses.replace(table.space.knobs[0], options=(2, 6, 12, 24))
    wider = KnobSpace((knob, *table.space.knobs[1:]))
    with pytest.raises(TrainError, match="the full configuration .* was not tested"):
        training_problems(dataclasses.replace(table, space=wider), make_latency())


def test_features_that_are_not_numbers():
    table = make_table()
    broken = dataclasses.replace(table, features=table.features.copy())
    broken.features[2, 1] = np.nan
    with pytest.raises(TrainError, match=r"1 samples have NaN or infinite features \(rows \[2\]\)"):
        train_controller_policy(broken, make_latency(), SMALL)


class NeverFeasible:
    """A latency estimate whose upper bound is infinite: nothing fits any budget."""

    def mean(self, actions, tiles, vision_tokens, prompt_tokens):
        return np.where(tiles < 0, np.nan, 10.0 + np.zeros((len(tiles), len(actions))))

    def upper(self, actions, tiles, vision_tokens, prompt_tokens):
        return np.full((len(tiles), len(actions)), np.inf)


def test_nothing_feasible_at_any_budget():
    with pytest.raises(TrainError, match="not a positive finite time for .* fit it on this table"):
        training_problems(make_table(), NeverFeasible())


def test_constant_accuracy_is_refused():
    """Of the train split, whatever the others hold."""
    accuracy = np.where(make_table().split[:, None] == "train", 1.0, make_table().accuracy)
    table = dataclasses.replace(make_table(), accuracy=accuracy.astype(np.float32))
    with pytest.raises(TrainError, match="accuracy is 1 for every train sample and configuration: nothing"):
        train_controller_policy(table, make_latency(), SMALL)


def test_tensorboard_writes_curves(tmp_path):
    pytest.importorskip("tensorboard")
    train_controller_policy(make_table(), make_latency(), SMALL, tensorboard_dir=tmp_path)
    assert list(Path(tmp_path).glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "magic"}, "algorithm: got 'magic', expected one of"),
        ({"head": "tree"}, "head: got 'tree'"),
        ({"reward": "v3"}, "reward: got 'v3'"),
        ({"members": 0}, "members: got 0, expected a whole number of at least 1"),
        ({"group_size": 1}, "group_size: got 1, expected a whole number of at least 2"),
        ({"clip_eps_low": 1.5}, "clip_eps_low: got 1.5, expected a number above 0 and at most 1"),
        ({"clip_eps_high": 0.0}, "clip_eps_high: got 0.0, expected a number above 0"),
        ({"kl_weight": -0.1}, "kl_weight: got -0.1"),
        ({"kl_reference": "best"}, "kl_reference: got 'best', expected one of"),
        ({"relabel": "no"}, "relabel: got 'no', expected true or false"),
        ({"dpo_beta": 0.0}, "dpo_beta: got 0.0"),
        ({"dpo_pairs": 0}, "dpo_pairs: got 0"),
        ({"mixed_share": 2.0}, "mixed_share: got 2.0"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"dropout": 1.0}, "dropout: got 1.0, expected a number at least 0 and below 1"),
        ({"average_share": 1.5}, "average_share: got 1.5"),
        ({"epochs": 0, "warm_epochs": 0}, "expected at least one epoch"),
        ({"batch_size": True}, "batch_size: got True"),
    ],
)
def test_options_are_validated(changes, message):
    with pytest.raises(TrainError, match=message):
        TrainOptions(**{"algorithm": "grpo_warm", **changes})


def test_options_round_trip_and_refuse_unknown_names():
    options = TrainOptions(
        algorithm="grpo_warm", reward="v1", reward_params=RewardParams(alpha=2.0), group_size=8
    )
    assert TrainOptions.from_json(options.to_json()) == options
    with pytest.raises(TrainError, match=r"got unknown \['learning_rat'\]"):
        TrainOptions.from_json({"learning_rat": 1.0})
