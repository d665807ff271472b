"""The exported decision against the controller's own, for every form of policy."""

import hashlib
import json
import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest

from paceline.errors import ControllerError, ExportError
from paceline.export.decision_graph import OUTPUTS
from paceline.export.gates import session
from paceline.export.precisions import FILES, PRECISIONS, Source, export_models
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.torch_policy import TorchPolicy
from paceline.runtime.average import PriceTable
from paceline.runtime.controller import Controller
from paceline.runtime.exports import decided_digest
from paceline.runtime.onnx_backend import OnnxWeigher, open_session
from policy_forms import FORMS, TOKENS, form_context, form_controller, form_features

REQUESTS = (
    {"budget_ms": 45.0},
    {"budget_ms": 25.0, "elapsed_ms": 5.0, "slowdown": 1.2},
    {},
    {"average": 20.0},
    {"first_token_budget_ms": 35.0},
    {"budget_ms": 50.0, "first_token_budget_ms": 30.0},
    {"budget_ms": 1.0, "when_infeasible": "best_effort"},
)


def source_of(controller: Controller) -> Source:
    return Source(
        spec=controller.policy.spec,
        arrays=controller.policy.arrays,
        latency=controller.latency,
        first_token_latency=controller.first_token_latency,
        metadata={"made": "by a test"},
    )


def exported_inputs(controller: Controller, form: str, index: int, request: dict) -> dict[str, np.ndarray]:
    """What somebody who holds the file alone would feed it."""
    context = form_context(form, index)
    decision = controller.decide(context, **request)
    unexpected = decision.unexpected_ms
    limits = [
        np.inf if budget is None else budget - unexpected
        for budget in (decision.budget_ms, decision.first_token_budget_ms)
    ]
    estimates = (controller.latency, controller.first_token_latency)
    values = {
        "image_features": context.image_features,
        "question_features": context.question_features,
        "tiles": context.tiles,
        "vision_tokens": context.vision_tokens,
        "prompt_tokens": context.prompt_tokens,
        "limit_ms": limits[0],
        "first_token_limit_ms": limits[1],
        "price": decision.price,
        "time_scale": [decision.slowdown * each.scale for each in estimates],
        "time_margin": [each.margin for each in estimates],
    }
    return {name: np.asarray(value, dtype=np.float32)[None] for name, value in values.items()}


@pytest.mark.parametrize("form", FORMS)
def test_the_file_decides_what_the_controller_decides(form):
    controller = form_controller(form)
    model = export_models(source_of(controller), exported_inputs(controller, form, 0, {}))["fp32"]
    run = session(model)
    for index in range(6):
        for request in REQUESTS:
            decision = controller.decide(form_context(form, index), **request)
            found = dict(
                zip(
                    OUTPUTS,
                    run.run(list(OUTPUTS), exported_inputs(controller, form, index, request)),
                    strict=True,
                )
            )
            seen = decision.candidates
            np.testing.assert_allclose(found["scores"][0], seen.scores, atol=2e-5, rtol=2e-5)
            np.testing.assert_allclose(found["values"][0], seen.values, atol=2e-5, rtol=2e-5)
            np.testing.assert_allclose(found["mean_ms"][0], seen.mean_ms, rtol=1e-5)
            np.testing.assert_allclose(found["upper_ms"][0], seen.upper_ms, rtol=1e-5)
            np.testing.assert_allclose(found["first_token_upper_ms"][0], seen.first_upper_ms, rtol=1e-5)
            np.testing.assert_array_equal(found["feasible"][0], seen.feasible)
            expected = decision.action if decision.reason == "policy" else -1
            assert found["action"][0] == expected, (index, request)


READING = [form for form in FORMS if form_controller(form).policy.spec.output == "logits"]
"""Forms that read the price of time."""


@pytest.mark.parametrize("form", READING)
def test_beyond_what_a_policy_reads_its_file_takes_the_cheapest(form):
    controller = form_controller(form)
    beyond = 2.0 * controller.policy.spec.highest_price
    controller = replace(controller, prices=PriceTable(np.array([15.0]), np.array([beyond])))
    run = session(export_models(source_of(controller), exported_inputs(controller, form, 0, {}))["fp32"])
    for index in range(6):
        request = {"average": 15.0 * controller.scale}
        decision = controller.decide(form_context(form, index), **request)
        given = exported_inputs(controller, form, index, request)
        values, mean_ms, action = run.run(["values", "mean_ms", "action"], given)
        np.testing.assert_array_equal(values, -mean_ms)
        np.testing.assert_allclose(values[0], decision.candidates.values, rtol=1e-5)
        assert action[0] == decision.action == controller.actions[mean_ms[0].argmin()]


@pytest.mark.parametrize("form", ["joint", "joint logits"])
def test_a_file_of_the_rule_before_is_refused_where_the_rule_differs(form):
    """Its digest is that of the policy and the latency laws alone."""
    controller = form_controller(form)
    older = hashlib.sha256(repr(controller.policy.spec).encode())
    for name in sorted(controller.policy.arrays):
        older.update(name.encode() + controller.policy.arrays[name].tobytes())
    for estimate in (controller.latency, controller.first_token_latency):
        for part in (estimate.actions, estimate.rows, estimate.law, estimate.upper_ratio):
            older.update(np.ascontiguousarray(part).tobytes())
        older.update(repr(estimate.floor_ms).encode())
    source = replace(source_of(controller), metadata={"decided_digest": older.hexdigest()})
    model = export_models(source, exported_inputs(controller, form, 0, {}))["fp32"]
    opened = open_session(model, "policy.onnx")
    if form == "joint":
        assert OnnxWeigher(controller, opened, "policy.onnx").backend == "onnx"
        return
    with pytest.raises(ControllerError, match="export the controller again"):
        OnnxWeigher(controller, opened, "policy.onnx")


@pytest.mark.parametrize("form", FORMS)
def test_the_backend_takes_the_file_of_every_form(form):
    controller = form_controller(form)
    source = replace(source_of(controller), metadata={"decided_digest": decided_digest(controller)})
    model = export_models(source, exported_inputs(controller, form, 0, {}))["fp32"]
    weigher = OnnxWeigher(controller, open_session(model, "policy.onnx"), "policy.onnx")
    made = replace(controller, make_weigher=lambda _: weigher)
    assert made.backend == "onnx"
    for request in ({"budget_ms": 45.0}, {}):
        expected = controller.decide(form_context(form), **request)
        assert made.decide(form_context(form), **request).action == expected.action


@pytest.mark.parametrize("form", FORMS)
def test_torch_and_the_short_way_score_as_numpy_does(form):
    policy = form_controller(form).policy
    torch_policy = TorchPolicy(policy.spec, policy.arrays)
    image, question = form_features(form, 7)
    budgets, prices = np.geomspace(5.0, 100.0, 7), np.array([0.0, 0.1, 0.0, 0.9, 0.01, 3.0, 0.0])
    whole = policy.scores(image, question, budgets, prices)
    np.testing.assert_allclose(
        torch_policy.scores(image, question, budgets, prices), whole, rtol=1e-5, atol=1e-5
    )
    temperature = policy.spec.temperature
    for i, (budget, price) in enumerate(zip(budgets.tolist(), prices.tolist(), strict=True)):
        for each in (policy, torch_policy):
            values = each.values(image[i], question[i], budget, price)
            np.testing.assert_allclose(values, temperature * whole[i], rtol=1e-5, atol=1e-6)
    free = policy.values(image[0], question[0], None, 0.0)
    np.testing.assert_allclose(
        free, temperature * policy.scores(image[0], question[0], None, 0.0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(free, policy.values(image[0], question[0], np.inf, 0.0))


def test_only_pooled_features_and_linear_heads_have_the_short_way():
    """So that the tests above compare two ways, and not one with itself."""
    short = [form for form in FORMS if form_controller(form).policy._one is not None]
    assert set(FORMS) - set(short) == {"autoregressive", "continuous", *TOKENS}


@pytest.mark.parametrize("budget", [-3.0, 0.0, 1e-9, 10.0, 60.0, 1e9])
def test_the_short_way_codes_every_budget_as_the_long_one(budget):
    policy = form_controller("joint").policy
    image, question = form_features("joint", 1)
    long = NumpyPolicy(policy.spec, policy.arrays).scores(image, question, np.array([budget]))[0]
    np.testing.assert_allclose(
        policy.values(image[0], question[0], budget, 0.0), 0.05 * long, rtol=1e-5, atol=1e-6
    )


def test_batches_of_any_size_and_every_precision():
    controller = form_controller("joint")
    rows = [exported_inputs(controller, "joint", i, REQUESTS[i % len(REQUESTS)]) for i in range(9)]
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the quantiser, about ranges without end
        models = export_models(source_of(controller), batch)
    assert tuple(models) == PRECISIONS
    assert set(FILES) == set(PRECISIONS)
    exact = session(models["fp32"]).run(["scores"], batch)[0]
    for precision, model in models.items():
        run = session(model)
        together = run.run(["scores"], batch)[0]
        if not precision.startswith("int8"):  # ranges found while running are those of the whole batch
            alone = np.concatenate([run.run(["scores"], row)[0] for row in rows])
            np.testing.assert_allclose(together, alone, atol=1e-3)
        np.testing.assert_allclose(together, exact, atol=0.1)
        loaded = onnx.load_from_string(model)
        facts = {entry.key: entry.value for entry in loaded.metadata_props}
        assert facts["made"] == "by a test"
        assert facts["precision"] == precision
        assert json.loads(facts["actions"]) == [0, 1, 3, 5]
        assert facts["opset"] == "18"
        assert {entry.domain: entry.version for entry in loaded.opset_import}[""] == 18
        shapes = [
            [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in loaded.graph.input
        ]
        assert all(shape[0] == "batch" for shape in shapes)
    kinds = {p: {t.data_type for t in onnx.load_from_string(m).graph.initializer} for p, m in models.items()}
    assert onnx.TensorProto.FLOAT16 in kinds["fp16"]
    assert onnx.TensorProto.INT8 in kinds["int8_dynamic"] & kinds["int8_static"]
    assert onnx.TensorProto.INT8 not in kinds["fp32"] | kinds["fp16"]


@pytest.mark.parametrize("opset", [17, 99, 18.0, True])
def test_an_unknown_opset_is_refused(opset):
    controller = form_controller("joint")
    with pytest.raises(ExportError, match=rf"opset: got {opset}, expected an integer from 18 to \d+"):
        export_models(source_of(controller), {}, opset=opset)
