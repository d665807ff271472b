"""The learned reward: fitted to samples of v1 it recovers v1; its files; training with it; what is refused."""

import dataclasses
import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from command_line import put_fakes, run, run_json
from fakes import FAKE_SPACE
from paceline.errors import OutcomesError, TrainError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.learning.options import TrainOptions
from paceline.learning.reward_examples import (
    JudgedOutcomes,
    PreferredOutcomes,
    ScoredOutcomes,
    read_reward_examples,
)
from paceline.learning.reward_fitting import RewardModelOptions, bradley_terry_loss, fit_reward_model
from paceline.learning.reward_model import RewardModel, RewardNetwork, load_reward_model
from paceline.learning.train import train_controller_policy
from paceline.outcomes.store import write_table
from paceline.rewards import RewardParams, option_shares, reward_v1
from small_training import SMALL, make_latency, make_source, make_table

QUICK = RewardModelOptions(updates=1500, score_loss="absolute")
ROUTER = KnobSpace((Knob(name="model", options=("small", "large")), Knob(name="k", options=(1, 4))))


def seconds(actions, rng):
    crops, top_k, blocks = option_shares(SEED_SPACE, actions).T
    return (0.15 + 0.5 * crops + 0.6 * top_k * blocks + 0.2 * blocks) * rng.lognormal(0, 0.1, len(actions))


def drawn(count, rng, budget_ms=None):
    actions = rng.integers(0, SEED_SPACE.size, count)
    return JudgedOutcomes(
        space=SEED_SPACE,
        actions=actions,
        accuracy=rng.integers(0, 2, count).astype(float),
        latency_ms=1000 * seconds(actions, rng),
        budget_ms=rng.uniform(300, 1300, count) if budget_ms is None else budget_ms,
    )


def v1_of(outcomes):
    params = RewardParams()
    return reward_v1(outcomes.accuracy, outcomes.latency_ms / 1000, outcomes.budget_ms / 1000, params)


def chosen(first, second, where):
    names = ("actions", "accuracy", "latency_ms", "budget_ms")
    values = {name: np.where(where, getattr(first, name), getattr(second, name)) for name in names}
    return JudgedOutcomes(space=first.space, **values)


def scored_by_v1(count=3000):
    outcomes = drawn(count, np.random.default_rng(0))
    return ScoredOutcomes(outcomes=outcomes, scores=v1_of(outcomes))


def preferred_by_v1(count=3000, scale=math.inf):
    """Pairs under one budget each; `scale`: preferences follow sigmoid(scale * difference)."""
    rng = np.random.default_rng(0)
    first = drawn(count, rng)
    second = drawn(count, rng, first.budget_ms)
    difference = v1_of(first) - v1_of(second)
    if scale == math.inf:
        wins = difference > 0
    else:
        wins = rng.random(count) < 1 / (1 + np.exp(-np.clip(scale * difference, -50, 50)))
    return PreferredOutcomes(preferred=chosen(first, second, wins), rejected=chosen(second, first, wins))


def groups_of(model, groups=150, size=16):
    """Learned rewards and v1 of new groups: outcomes of `size` configurations under one budget, (groups, size)."""
    rng = np.random.default_rng(1)
    learned, true = [], []
    for _ in range(groups):
        actions = rng.choice(SEED_SPACE.size, size, replace=False)
        budget = rng.uniform(400, 1200)
        outcomes = JudgedOutcomes(
            space=SEED_SPACE,
            actions=actions,
            accuracy=rng.integers(0, 2, size).astype(float),
            latency_ms=1000 * seconds(actions, rng),
            budget_ms=np.full(size, budget),
        )
        true.append(v1_of(outcomes))
        arrays = (
            outcomes.accuracy,
            outcomes.latency_ms,
            np.array([budget]),
            model.shares(SEED_SPACE, actions),
        )
        learned.append(model.rewards(*(torch.from_numpy(array).float() for array in arrays)).numpy())
    return np.stack(learned), np.stack(true)


def ranks(values):
    return values.argsort(axis=-1).argsort(axis=-1).astype(float)


def mean_rank_correlation(first, second):
    """Spearman's, per group, then the mean."""
    return np.mean([np.corrcoef(ranks(a), ranks(b))[0, 1] for a, b in zip(first, second, strict=True)])


def test_scores_of_v1_are_recovered():
    learned, true = groups_of(fit_reward_model(scored_by_v1(), QUICK))
    assert 1 - np.mean((learned - true) ** 2) / true.var() > 0.995
    assert mean_rank_correlation(learned, true) > 0.97
    assert np.mean(learned.argmax(1) == true.argmax(1)) > 0.75


def test_preferences_of_v1_are_recovered_within_groups():
    model = fit_reward_model(preferred_by_v1(), QUICK)
    learned, true = groups_of(model)
    assert model.facts["ordered"] > 0.95
    assert mean_rank_correlation(learned, true) > 0.97
    assert np.mean(learned.argmax(1) == true.argmax(1)) > 0.75


def test_noisy_preferences_give_the_scale_of_the_log_odds():
    scale = 5.0
    model = fit_reward_model(preferred_by_v1(6000, scale), QUICK)
    learned, true = groups_of(model)
    below = true.max(axis=1, keepdims=True) - true
    best = np.take_along_axis(learned, true.argmax(axis=1)[:, None], axis=1)
    fitted = model.facts["preference_scale"] * (best - learned)
    near = below < 0.6  # farther apart, preferences are all but certain and say little of the scale
    slope = (fitted[near] @ below[near]) / (scale * below[near] @ below[near])
    assert slope == pytest.approx(1.0, abs=0.3)


def test_rewards_of_pairs_have_mean_0_and_deviation_1():
    pairs = preferred_by_v1(300)
    model = fit_reward_model(pairs, dataclasses.replace(QUICK, updates=200))
    inputs = np.concatenate([pairs.preferred.inputs(), pairs.rejected.inputs()])
    with torch.no_grad():
        rewards = model.network(torch.from_numpy(inputs).float())
    assert rewards.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert rewards.std().item() == pytest.approx(1.0, abs=1e-4)


def test_bradley_terry_by_hand():
    loss = bradley_terry_loss(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 3.0]))
    expected = [math.log(2), math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    torch.testing.assert_close(loss, torch.tensor(expected))


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5))
def test_a_constant_changes_no_preference(first, second, constant):
    a, b = torch.tensor([first]), torch.tensor([second])
    torch.testing.assert_close(
        bradley_terry_loss(a + constant, b + constant), bradley_terry_loss(a, b), atol=1e-5, rtol=1e-5
    )


def test_the_network_is_the_published_one():
    shapes = [tuple(parameter.shape) for parameter in RewardNetwork(3).parameters()]
    assert shapes == [(64, 6), (64,), (32, 64), (32,), (1, 32), (1,)]
    outcomes = JudgedOutcomes(
        space=SEED_SPACE,
        actions=SEED_SPACE.actions([{"max_crops": 6, "top_k": 8, "num_active_blocks": 12}]),
        accuracy=np.array([1.0]),
        latency_ms=np.array([250.0]),
        budget_ms=np.array([500.0]),
    )
    np.testing.assert_allclose(outcomes.inputs(), [[1.0, 0.25, 0.5, 6 / 12, 8 / 32, 12 / 16]])


def small_model(space=SEED_SPACE):
    torch.manual_seed(0)
    network = RewardNetwork(len(space.knobs)).requires_grad_(False)
    return RewardModel(space=space, network=network, facts={"source": "scores"})


def test_rewards_broadcast_a_configuration_per_action():
    model = small_model()
    actions = np.array([3, 100, 431])
    accuracy, latency = torch.rand(2, 4, 3), 1000 * torch.rand(2, 4, 3)
    budget, shares = 1000 * torch.rand(2, 4, 1), torch.from_numpy(model.shares(SEED_SPACE, actions)).float()
    rewards = model.rewards(accuracy, latency, budget, shares)
    row = torch.cat(
        [torch.stack([accuracy[1, 2, 1], latency[1, 2, 1] / 1000, budget[1, 2, 0] / 1000]), shares[1]]
    )
    torch.testing.assert_close(rewards[1, 2, 1], model.network(row))


def test_shares_are_of_the_models_own_largest_options():
    shares = small_model().shares(FAKE_SPACE, FAKE_SPACE.actions([FAKE_SPACE.cheapest, FAKE_SPACE.full]))
    np.testing.assert_allclose(shares, [[2 / 12, 4 / 32, 8 / 16], [1, 1, 1]])
    fewer = KnobSpace(
        (FAKE_SPACE.knobs[0], FAKE_SPACE.knobs[1], Knob(name="num_active_blocks", options=(8, 12)))
    )
    np.testing.assert_allclose(small_model().shares(fewer, np.array([fewer.size - 1])), [[1, 1, 12 / 16]])


def test_files_hold_the_model(tmp_path):
    model = fit_reward_model(scored_by_v1(200), dataclasses.replace(QUICK, updates=50))
    model.save(tmp_path / "r")
    read = load_reward_model(tmp_path / "r")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "reward_model.json",
        "reward_model.safetensors",
    ]
    assert (read.space, read.facts, read.digest()) == (model.space, model.facts, model.digest())
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, read.network.state_dict()[name])
    assert small_model().digest() != model.digest()


def change_json(**changes):
    def change(path):
        file = path / "reward_model.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def other_weights(path):
    save_file({"net.0.weight": torch.zeros(2, 2)}, path / "reward_model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: (path / "reward_model.json").unlink(),
            "reward_model.json is missing; expected a directory",
        ),
        (lambda path: (path / "reward_model.json").write_text("{"), "not JSON .* damaged"),
        (
            lambda path: (path / "reward_model.json").write_text("[]"),
            "not a reward model; expected a JSON object",
        ),
        (change_json(schema_version=2), "schema version 2 is newer than 1"),
        (change_json(schema_version="1"), "schema_version is '1', expected an integer"),
        (change_json(more=1), r"unknown keys \['more'\]"),
        (change_json(knobs=[{"name": "k"}]), "knob space: got"),
        (change_json(knobs=ROUTER.to_json()), r"got arrays .*, expected .*\(64, 5\)"),
        (lambda path: (path / "reward_model.safetensors").unlink(), "the file is missing; fit"),
        (other_weights, "do not match the hash"),
    ],
)
def test_damaged_files_are_named(tmp_path, change, message):
    small_model().save(tmp_path)
    change(tmp_path)
    with pytest.raises(TrainError, match=message):
        load_reward_model(tmp_path)


def test_training_takes_the_models_rewards(tmp_path):
    small_model().save(tmp_path)
    options = TrainOptions(
        algorithm="grpo_warm", reward="learned", reward_model=str(tmp_path), mask_infeasible=False
    )
    source, table = make_source(options)
    groups = source.groups(torch.tensor([0, 0]), torch.tensor([6.0, math.inf]), torch.tensor([0.0, 0.25]))
    full, latency = source.spec.full_latency_ms, source.mean_ms[0]
    model = load_reward_model(tmp_path)
    shares = torch.from_numpy(model.shares(table.space, table.actions)).float()
    for row, (budget, price) in enumerate([(6.0, 0.0), (full, 0.25)]):
        expected = model.rewards(source.accuracy[0], latency, torch.tensor([budget]), shares)
        torch.testing.assert_close(groups.rewards[row], expected - price * latency / full)


def test_a_policy_is_learned_from_it_and_resumes_with_the_same_model_only(tmp_path):
    small_model().save(tmp_path / "r")
    options = dataclasses.replace(SMALL, reward="learned", reward_model=str(tmp_path / "r"))
    trained = train_controller_policy(make_table(), make_latency(), options, checkpoint_dir=tmp_path / "c")
    assert trained.facts["options"]["reward_model"] == str(tmp_path / "r")
    fit_reward_model(scored_by_v1(100), dataclasses.replace(QUICK, updates=5)).save(tmp_path / "r")
    with pytest.raises(TrainError, match="another run, reward_model_weights .* changed"):
        train_controller_policy(make_table(), make_latency(), options, checkpoint_dir=tmp_path / "c")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (ROUTER, r"it knows the knobs \['model', 'k'\], the outcomes have \['max_crops'"),
        (
            KnobSpace((Knob(name="max_crops", options=(2, 6)), *FAKE_SPACE.knobs[1:])),
            "max_crops: got option 12, expected one of .* knows this option",
        ),
    ],
)
def test_models_of_other_knobs_are_refused(tmp_path, space, message):
    small_model(space).save(tmp_path)
    with pytest.raises(TrainError, match=message):
        make_source(TrainOptions(algorithm="grpo_warm", reward="learned", reward_model=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": "learned"}, "reward_model: got None with reward 'learned'"),
        ({"reward_model": "somewhere"}, "reward_model: got 'somewhere' with reward 'masked'"),
    ],
)
def test_options_name_a_model_exactly_when_it_is_used(changes, message):
    with pytest.raises(TrainError, match=message):
        TrainOptions(**{"algorithm": "grpo_warm", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates: got 0"),
        ({"batch_size": 1.5}, "batch_size: got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0, expected a number above 0"),
        ({"validation_share": 1.0}, "validation_share: got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
        ({"score_loss": "cubed"}, "score_loss: got 'cubed', expected one of"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_fit_options_are_validated(changes, message):
    with pytest.raises(TrainError, match=message):
        RewardModelOptions(**changes)


def test_examples_that_teach_nothing():
    few = scored_by_v1(19)
    with pytest.raises(TrainError, match="got 19, expected at least 20"):
        fit_reward_model(few)
    many = scored_by_v1(50)
    with pytest.raises(TrainError, match="all 50 scores are 0.5, expected scores that differ"):
        fit_reward_model(ScoredOutcomes(outcomes=many.outcomes, scores=np.full(50, 0.5)))
    with pytest.raises(TrainError, match="both sides of all 50 pairs are equal"):
        fit_reward_model(PreferredOutcomes(preferred=many.outcomes, rejected=many.outcomes))
    with pytest.raises(TrainError, match="leaves none to learn from"):
        fit_reward_model(many, RewardModelOptions(validation_share=0.999))


def test_numbers_of_rows_must_agree():
    many, few = scored_by_v1(50), scored_by_v1(40)
    with pytest.raises(TrainError, match="got 40 scores of 50 outcomes"):
        ScoredOutcomes(outcomes=many.outcomes, scores=few.scores)
    with pytest.raises(TrainError, match="got 50 preferred and 40 rejected"):
        PreferredOutcomes(preferred=many.outcomes, rejected=few.outcomes)
    with pytest.raises(TrainError, match=r"columns have \[40, 50\] rows"):
        dataclasses.replace(many.outcomes, accuracy=few.outcomes.accuracy)


def knob_columns(outcomes, prefix=""):
    configurations = [outcomes.space.configuration(int(action)) for action in outcomes.actions]
    return {prefix + name: [c[name] for c in configurations] for name in outcomes.space.names}


def score_table(examples):
    outcomes = examples.outcomes
    measures = {name: getattr(outcomes, name) for name in ("accuracy", "latency_ms", "budget_ms")}
    return pa.table({**measures, **knob_columns(outcomes), "score": examples.scores})


def pair_table(pairs):
    columns = {"budget_ms": pairs.preferred.budget_ms}
    for prefix, side in (("preferred_", pairs.preferred), ("rejected_", pairs.rejected)):
        columns |= {f"{prefix}accuracy": side.accuracy, f"{prefix}latency_ms": side.latency_ms}
        columns |= knob_columns(side, prefix)
    return pa.table(columns)


def write(path, table):
    pyarrow.csv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path)
    return path


def assert_same(first, second):
    for name in ("actions", "accuracy", "latency_ms", "budget_ms"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-12)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_are_read_back(tmp_path, suffix):
    scored, pairs = scored_by_v1(40), preferred_by_v1(30)
    read = read_reward_examples(write(tmp_path / f"s{suffix}", score_table(scored)), SEED_SPACE)
    assert isinstance(read, ScoredOutcomes)
    assert_same(read.outcomes, scored.outcomes)
    np.testing.assert_allclose(read.scores, scored.scores)
    read = read_reward_examples(write(tmp_path / f"p{suffix}", pair_table(pairs)), SEED_SPACE)
    assert isinstance(read, PreferredOutcomes)
    assert_same(read.preferred, pairs.preferred)
    assert_same(read.rejected, pairs.rejected)


def test_options_that_are_words(tmp_path):
    rows = {"accuracy": [1.0, 0.0], "latency_ms": [5, 9], "budget_ms": [8, 8], "score": [2, 1]}
    table = pa.table({**rows, "model": ["large", "small"], "k": [1, 4]})
    read = read_reward_examples(write(tmp_path / "s.csv", table), ROUTER)
    assert isinstance(read, ScoredOutcomes)
    assert read.outcomes.actions.tolist() == [2, 1]
    np.testing.assert_allclose(read.outcomes.inputs()[0], [1.0, 0.005, 0.008, 1.0, 0.25])


def with_column(name, values):
    def change(table):
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(values(table.column(name).to_pylist())))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop_columns(["score", "top_k"]),
            r"columns \['top_k', 'score'\] are missing.* for pairs",
        ),
        (
            with_column("accuracy", lambda v: [50.0, *v[1:]]),
            r"accuracy has 1 values .*fraction.*rows \[0\], first 50",
        ),
        (with_column("latency_ms", lambda v: [None, *v[1:]]), "latency_ms has 1 values .*first nan"),
        (with_column("budget_ms", lambda v: [math.inf, *v[1:]]), "budget_ms has 1 values .*first inf"),
        (with_column("budget_ms", lambda v: [0.0, *v[1:]]), "budget_ms has 1 values .*above 0"),
        (with_column("score", lambda v: [math.nan, *v[1:]]), "score has 1 values that are not a number"),
        (with_column("top_k", lambda v: [5, *v[1:]]), "knob top_k: got option 5, expected one of"),
    ],
)
def test_tables_with_faults(tmp_path, change, message):
    path = write(tmp_path / "s.parquet", change(score_table(scored_by_v1(30))))
    with pytest.raises(TrainError, match=message):
        read_reward_examples(path, SEED_SPACE)


def test_pairs_with_a_missing_side(tmp_path):
    path = write(tmp_path / "p.csv", pair_table(preferred_by_v1(30)).drop_columns(["rejected_accuracy"]))
    with pytest.raises(TrainError, match=r"columns \['rejected_accuracy'\] are missing"):
        read_reward_examples(path, SEED_SPACE)


def test_no_table(tmp_path):
    with pytest.raises(OutcomesError, match="no such file"):
        read_reward_examples(tmp_path / "s.csv", SEED_SPACE)


def test_from_a_table_to_a_controller_on_the_command_line(tmp_path, monkeypatch):
    put_fakes(monkeypatch)
    write_table(tmp_path / "o", make_table(60, 20, 20))
    examples = write(tmp_path / "s.csv", score_table(scored_by_v1(200)))
    value = run_json("reward-model", examples, "--out", tmp_path / "r", "--updates", 50)
    assert value["facts"]["source"] == "scores"
    assert value["facts"]["examples"] == 200
    words = ["train", tmp_path / "o", "--out", tmp_path / "c", "--epochs", 1, "--reward", "learned"]
    trained = run_json(*words, "--reward-model", tmp_path / "r")
    assert trained["facts"]["options"]["reward_model"] == str(tmp_path / "r")
    refused = run(*words)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "reward_model: got None" in refused.stderr
    pairs = write(tmp_path / "p.parquet", pair_table(preferred_by_v1(100)))
    said = run("reward-model", pairs, "--out", tmp_path / "r", "--updates", 20)
    assert "fitted to 100 pairs; explains" in said.stdout
    rows = scored_by_v1(60)
    noise = score_table(rows).set_column(
        score_table(rows).column_names.index("score"),
        "score",
        pa.array(np.random.default_rng(0).normal(size=60)),
    )
    said = run("reward-model", write(tmp_path / "n.csv", noise), "--out", tmp_path / "r", "--updates", 200)
    assert "no more than guessing" in said.stdout
    refused = run("reward-model", examples, "--out", tmp_path / "q", "--outcomes", tmp_path / "o")
    assert refused.exit_code == 2
    assert re.search(r"knob \w+: got option \d+, expected one of \[\d+, \d+, \d+\]", refused.stderr)
