"""What the training loop does with the options of a stage: contexts, references, warm starts, the value network."""

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch

from fakes import fake_table
from paceline.latency.estimate import LatencyEstimator
from paceline.learning.contexts import context_ranges
from paceline.learning.dataset import training_problems
from paceline.learning.groups import GroupSource
from paceline.learning.inputs import fit_inputs
from paceline.learning.options import TrainOptions
from paceline.learning.trainer import Trainer
from paceline.outcomes.table import OutcomeTable
from paceline.policies.network import PolicyNetwork
from paceline.policies.spec import PolicySpec

TINY = TrainOptions(algorithm="grpo_warm", members=2, hidden=8, batch_size=32, warm_epochs=1, epochs=2)


@cache
def make_table() -> OutcomeTable:
    return fake_table(80, 30, 0, seed=0)


def make_trainer(options: TrainOptions) -> Trainer:
    table = make_table()
    rows = table.split_rows("train")
    work = (rows.tiles, rows.vision_tokens, rows.prompt_tokens, rows.output_tokens)
    latency = LatencyEstimator.fit(rows.space, rows.actions, *work, rows.latency_ms)
    train, validation = training_problems(table, latency)
    ranges = context_ranges(train)
    reads_price = options.output == "logits"
    spec = PolicySpec(
        head="joint",
        members=options.members,
        image_width=table.image_width,
        question_width=table.features.shape[1] - table.image_width,
        hidden=options.hidden,
        budget_low_ms=4.0,
        budget_high_ms=16.0,
        full_latency_ms=train.full_latency_ms,
        actions=tuple(table.actions.tolist()),
        temperature=1.0 if reads_price else options.temperature,
        output=options.output,
        price_low=ranges.price_low if reads_price else None,
        price_high=ranges.price_high if reads_price else None,
    )
    scaling = fit_inputs(train.features, table.image_width, table.feature_choice)
    source, other = (GroupSource(part, spec, table.space, options, scaling) for part in (train, validation))
    generator = torch.Generator().manual_seed(options.seed)
    network = PolicyNetwork(spec, table.space, dropout=0.0, generator=generator)
    return Trainer(network, source, other, ranges, options, generator)


@pytest.mark.parametrize("algorithm", ["grpo_warm", "grpo_scratch"])
def test_without_relabelling_every_sample_keeps_its_context(algorithm):
    kept = dataclasses.replace(TINY, algorithm=algorithm, relabel=False)
    drawn = {}
    for options in (kept, dataclasses.replace(kept, relabel=True), dataclasses.replace(kept, seed=1)):
        trainer = make_trainer(options)
        source, generator = trainer.train_source, torch.Generator().manual_seed(5)
        rows = torch.arange(len(source)).expand(2, -1)
        first, second = (source.random_groups(rows, trainer.ranges, generator) for _ in range(2))
        drawn[options] = first
        assert torch.equal(first.codes, second.codes) != options.relabel
        assert torch.equal(first.rewards, second.rewards) != options.relabel
        assert torch.equal(first.codes[0], first.codes[1]) != options.relabel  # members share the context
    first, _, other_seed = drawn.values()
    assert not torch.equal(first.codes, other_seed.codes)
    seen = torch.cat([first.codes[0], first.rewards[0]], dim=-1)
    assert seen.unique(dim=0).shape[0] > 60  # each sample its own context


def test_without_relabelling_one_order_of_samples_is_as_good_as_another():
    trainer = make_trainer(dataclasses.replace(TINY, relabel=False))
    source, generator = trainer.train_source, torch.Generator()
    rows = torch.tensor([[3, 7, 11]])
    straight = source.random_groups(rows, trainer.ranges, generator)
    turned = source.random_groups(rows.flip(1), trainer.ranges, generator)
    torch.testing.assert_close(turned.rewards.flip(1), straight.rewards)


def run_epochs(trainer: Trainer, count: int) -> list[float]:
    """KL of each epoch."""
    for _ in range(count):
        trainer._run_epoch(trainer.stages[-1])
    return [entry["kl"] for entry in trainer.history]


def test_the_reference_stays_at_the_start_or_follows():
    options = dataclasses.replace(TINY, algorithm="grpo_scratch", group_size=0, learning_rate=0.02, epochs=40)
    trainer = make_trainer(options)
    start = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    from_start = run_epochs(trainer, 8)
    for name, tensor in trainer.reference.items():
        assert torch.equal(tensor, start[name])
    from_previous = run_epochs(make_trainer(dataclasses.replace(options, kl_reference="previous")), 8)
    assert from_previous[0] == from_start[0]
    assert from_start[-1] > 2 * from_start[0]  # it keeps moving away from where it began
    assert from_previous[-1] < 0.7 * from_start[-1]


def test_the_first_update_of_a_batch_is_never_clipped_and_later_ones_are():
    fast = dataclasses.replace(TINY, algorithm="grpo_scratch", learning_rate=0.05)
    clipped = {}
    for inner in (1, 4):
        trainer = make_trainer(dataclasses.replace(fast, inner_epochs=inner))
        trainer._run_epoch(trainer.stages[-1])
        clipped[inner] = trainer.history[-1]["clipped"]
    assert clipped[1] == 0.0
    assert clipped[4] > 0.0


def test_without_a_warm_start_the_reference_is_random_weights():
    class Nowhere:
        def __getattr__(self, name):
            return lambda *arguments: None

    for algorithm, last in (("grpo_warm", "grpo"), ("dpo", "dpo")):
        trainer = make_trainer(dataclasses.replace(TINY, algorithm=algorithm, warm_epochs=0, epochs=1))
        start = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
        trainer.run(None, "", Nowhere(), Nowhere())  # pyright: ignore[reportArgumentType]
        assert [entry["phase"] for entry in trainer.history] == [last]
        for name, tensor in trainer.reference.items():
            assert torch.equal(tensor, start[name])


def test_ppo_trains_a_value_network_and_checkpoints_it():
    options = dataclasses.replace(TINY, algorithm="ppo", epochs=30)
    trainer = make_trainer(options)
    for _ in range(15):
        trainer._run_epoch(trainer.stages[0])
    losses = [entry["value_loss"] for entry in trainer.history]
    assert losses[-1] < 0.6 * losses[0]
    saved = trainer.checkpoint("run")
    names = [name for name in saved.tensors if name.startswith("value/")]
    assert len(names) == 6
    other = make_trainer(dataclasses.replace(options, seed=9))
    other.restore(saved)
    again = other.checkpoint("run")
    for name, tensor in saved.tensors.items():
        assert torch.equal(tensor, again.tensors[name]), name
    assert make_trainer(TINY).value is None


@pytest.mark.parametrize("algorithm", ["grpo_scratch", "ppo", "dpo", "supervised"])
def test_validation_of_a_logits_policy_uses_its_own_rule(algorithm):
    """Its outputs at that budget and price decide; the price is charged to the reward, not to the outputs."""
    trainer = make_trainer(dataclasses.replace(TINY, algorithm=algorithm))
    for budget, price in ((9.0, 0.0), (math.inf, 2.0)):
        trainer.contexts = [(budget, price)]
        source, network = trainer.validation_source, trainer.network
        rows = torch.arange(len(source))
        groups = source.groups(rows, torch.full((len(rows),), budget), torch.full((len(rows),), price))
        with torch.no_grad():
            outputs = network(groups.features.expand(2, -1, -1), groups.codes.expand(2, -1, -1)).mean(0)
        chosen = torch.where(groups.feasible, outputs, -torch.inf).argmax(-1)
        possible = groups.feasible.any(-1)
        expected = groups.rewards[rows, chosen][possible].mean().item()
        assert trainer.score().reward == pytest.approx(expected, abs=1e-6)


def test_members_and_steps_of_ppo_use_all_parameters():
    trainer = make_trainer(dataclasses.replace(TINY, algorithm="ppo"))
    held = sum(parameter.numel() for group in trainer.optimiser.param_groups for parameter in group["params"])
    assert trainer.value is not None
    networks = (trainer.network, trainer.value)
    assert held == sum(parameter.numel() for network in networks for parameter in network.parameters())
    assert np.isfinite(trainer.score().reward)
