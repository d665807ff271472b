"""The policy's image projection begins with the model's own projector: shared, fixed, folded away at export."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import run_json
from fakes import FakeModel, fake_table
from paceline.errors import TrainError
from paceline.evaluation.times import fit_latency
from paceline.learning import sharing
from paceline.learning.options import TrainOptions
from paceline.learning.sharing import projector_digest, shared_projector
from paceline.learning.train import train_controller_policy
from paceline.models.registry import load_model
from paceline.outcomes.store import write_table
from paceline.outcomes.table import OutcomeTable
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.network import PolicyNetwork, export_arrays
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.shared_projection import SharedLinear, SharedProjector
from paceline.policies.spec import PolicySpec


@cache
def tiny() -> torch.Tensor:
    return load_model("tiny").projector  # pyright: ignore[reportAttributeAccessIssue]


@cache
def tiny_table() -> OutcomeTable:
    """The fake table with its difficulty told by features as `tiny` makes them: sums of the projector's columns."""
    table, rng = fake_table(150, 60, 10), np.random.default_rng(0)
    inner = np.abs(rng.normal(size=(table.samples, tiny().shape[1])))
    inner[:, :8] += 4 * table.features[:, :1]
    image = inner @ tiny().numpy().T
    manifest = dataclasses.replace(
        table.manifest, model=load_model("tiny").describe(), image_width=image.shape[1]
    )
    return dataclasses.replace(
        table,
        features=np.concatenate([image, table.question_features], axis=1).astype(np.float32),
        image_width=image.shape[1],
        manifest=manifest,
    )


def test_the_projector_is_the_models_own_memory():
    model = load_model("tiny")
    weight = model.model.vision.project_down.weight  # pyright: ignore[reportAttributeAccessIssue]
    assert model.projector.data_ptr() == weight.data_ptr()  # pyright: ignore[reportAttributeAccessIssue]
    projector = SharedProjector.of(weight.detach(), np.ones(len(weight)))
    layer = SharedLinear(3, projector, 8, torch.Generator().manual_seed(0))
    assert layer.matrix.data_ptr() == weight.data_ptr()
    assert {name for name, _ in layer.named_parameters()} == {"linear.weight", "linear.bias"}
    assert set(layer.state_dict()) == {"linear.weight", "linear.bias"}
    assert layer.linear.weight.shape == (3, weight.shape[1], 8)


def test_image_features_of_the_model_lie_in_what_the_projector_keeps():
    """Passing them back through the projector loses nothing: it has as many independent columns as features."""
    matrix = tiny().double()
    assert matrix.shape == (96, 128)
    features = matrix @ torch.randn(128, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    restored = torch.linalg.pinv(matrix.T) @ (matrix.T @ features)
    torch.testing.assert_close(restored, features)


def test_what_comes_out_has_unit_size_for_independent_features():
    std = np.linspace(0.5, 3.0, 96)
    projector = SharedProjector.of(tiny(), std)
    features = torch.randn(20_000, 96, generator=torch.Generator().manual_seed(0))  # standardised
    out = (features * projector.unit) @ projector.matrix
    assert out.square().mean().item() == pytest.approx(1.0, rel=0.03)
    ratio = projector.unit / torch.from_numpy(std).float()
    torch.testing.assert_close(ratio, ratio[:1].expand(96))
    assert SharedProjector.of(tiny(), np.zeros(96)).unit.abs().max() == 0


def test_the_layer_equals_its_folded_weight():
    projector = SharedProjector.of(tiny(), np.linspace(0.5, 3.0, 96))
    layer = SharedLinear(2, projector, 8, torch.Generator().manual_seed(0))
    rows = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(rows), rows @ layer.weight + layer.bias, rtol=1e-4, atol=1e-5)


def test_the_exported_policy_equals_the_network():
    table = tiny_table()
    spec = PolicySpec(
        head="joint", members=2, image_width=96, question_width=5, hidden=16, budget_low_ms=4.0, budget_high_ms=16.0,
        full_latency_ms=16.0, actions=tuple(range(27)),
    )  # fmt: skip
    scaling = FeatureScaling.fit(table.features, "standard")
    projector = shared_projector("tiny", table, scaling.second)
    network = PolicyNetwork(
        spec, table.space, dropout=0.0, generator=torch.Generator().manual_seed(0), projector=projector
    )
    policy = NumpyPolicy(spec, export_arrays(network, scaling))
    scores = policy.scores(table.image_features[:9], table.question_features[:9], 8.0)
    standard = torch.from_numpy(scaling.apply(table.features[:9]))
    code = torch.from_numpy(np.asarray(_code(spec, 8.0)))
    with torch.no_grad():
        outputs = network(standard.expand(2, -1, -1), code.expand(2, 9, -1))
        expected = network.mean_scores(outputs)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-3, atol=1e-3)


def _code(spec: PolicySpec, budget_ms: float) -> np.ndarray:
    from paceline.policies.context_code import encode_context

    return encode_context(spec, np.array([budget_ms]))


def test_training_leaves_the_projector_as_it_is_and_learns():
    before = tiny().clone()
    options = TrainOptions(
        algorithm="grpo_warm",
        hidden=16,
        members=2,
        batch_size=64,
        warm_epochs=10,
        epochs=2,
        share_projector="tiny",
    )
    table = tiny_table()
    found = train_controller_policy(table, fit_latency(table), options)
    assert found.facts["validation_reward"] > found.history[0]["validation_reward"] + 0.02
    assert found.facts["options"]["share_projector"] == "tiny"
    assert torch.equal(before, tiny())
    own = train_controller_policy(
        table, fit_latency(table), dataclasses.replace(options, share_projector=None)
    )
    assert found.facts["parameters"] == own.facts["parameters"] + 2 * (128 - 96) * 16
    assert found.arrays["input.weight"].shape == own.arrays["input.weight"].shape


def test_a_checkpoint_belongs_to_its_projector():
    one, other = (SharedProjector.of(tiny() * factor, np.ones(96)) for factor in (1, 2))
    assert projector_digest(one) == projector_digest(SharedProjector.of(tiny(), np.full(96, 3.0)))
    assert projector_digest(one) != projector_digest(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "other"}}, "made by the model other, expected the model tiny .*; name the model"),
        ({"options": {"features": {"kind": "columns"}}}, "made by columns, expected the model tiny"),
    ],
)
def test_features_of_another_maker_are_refused(changes, message):
    table = tiny_table()
    table = dataclasses.replace(table, manifest=dataclasses.replace(table.manifest, **changes))
    with pytest.raises(TrainError, match=f"share_projector: the features were {message}"):
        shared_projector("tiny", table, np.ones(101))


def test_features_from_before_the_projector_are_refused():
    table = dataclasses.replace(tiny_table(), image_width=40)
    with pytest.raises(TrainError, match="writes 96 numbers, but the outcomes have 40 image features"):
        shared_projector("tiny", table, np.ones(101))


def test_a_model_without_a_projector_is_named(monkeypatch):
    monkeypatch.setattr(sharing, "load_model", lambda name: FakeModel())
    with pytest.raises(TrainError, match="model 'fake' has no projector to share"):
        shared_projector("fake", fake_table(2, 1, 0), np.ones(8))


def test_the_command_line_shares_a_projector(tmp_path: Path):
    write_table(tmp_path / "outcomes", tiny_table())
    words = ("--algorithm", "outcome", "--epochs", 1, "--share-projector", "tiny")
    found = run_json("train", tmp_path / "outcomes", "--out", tmp_path / "c", *words)
    assert found["facts"]["options"]["share_projector"] == "tiny"
