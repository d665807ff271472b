"""Small controllers of every form: heads, outputs, feature scalings, packed tokens, budget forms. Random weights."""

from typing import Any

import numpy as np

from paceline.knobs import Knob, KnobSpace
from paceline.latency.estimate import LatencyEstimator
from paceline.policies.feature_scaling import METHODS, FeatureScaling
from paceline.policies.inputs import InputSpec
from paceline.policies.numpy_policy import NumpyPolicy
from paceline.policies.spec import HEADS, KNOBWISE_HEADS, PolicySpec
from paceline.policies.token_pooling import pack_tokens
from paceline.runtime.average import PriceTable
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context
from paceline.runtime.guard import Guard

SPACE = KnobSpace((Knob(name="crops", options=(2, 4, 12)), Knob(name="top_k", options=(4, 8))))
IMAGE, QUESTION, ROOM = 3, 2, 5

FORMS: dict[str, dict[str, Any]] = {
    **{head: {"head": head} for head in HEADS},
    "joint logits": {"head": "joint", "output": "logits"},
    "one member": {"members": 1},
    "linear budget": {"budget_dimensions": 1},
    "linear budget and price": {"budget_dimensions": 1, "output": "logits"},
    "quantile": {"inputs": InputSpec(feature_scaling="quantile")},
    "tokens": {"inputs": InputSpec(image_features="attention", question_features="attention")},
    "image tokens": {"inputs": InputSpec(image_features="attention"), "output": "logits"},
    "share": {"inputs": InputSpec(budget_form="share")},
    "class": {"inputs": InputSpec(budget_form="class", class_shares=(0.3, 0.5, 0.8))},
    "full untested": {"actions": (0, 1, 3)},
    "no image": {"image_width": 0},
    "no question": {"question_width": 0, "inputs": InputSpec(feature_scaling="quantile")},
    "question tokens alone": {"image_width": 0, "inputs": InputSpec(question_features="attention")},
}
TOKENS = ("tokens", "image tokens", "question tokens alone")
"""Forms that pool tokens."""


def form_spec(form: str) -> PolicySpec:
    changes = dict(FORMS[form])
    head = changes.get("head", "joint")
    output = "logits" if head in KNOBWISE_HEADS else changes.pop("output", "accuracy")
    logits = output == "logits"
    values: dict[str, Any] = {
        "head": head,
        "members": 2,
        "image_width": IMAGE,
        "question_width": QUESTION,
        "hidden": 6,
        "budget_low_ms": 10.0,
        "budget_high_ms": 60.0,
        "full_latency_ms": 60.0,
        "actions": (0, 1, 3, 5),
        "budget_dimensions": 8,
        "temperature": 1.0 if logits else 0.05,
        "output": output,
        "price_low": 0.05 if logits else None,
        "price_high": 1.0 if logits else None,
        "knob_options": SPACE.shape if head in KNOBWISE_HEADS else None,
    }
    return PolicySpec(**{**values, **changes, "output": output})


def form_arrays(spec: PolicySpec, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=shape) for name, shape in spec.array_shapes().items()}
    if "head.precision" in arrays:
        arrays["head.precision"] = np.abs(arrays["head.precision"]) + 1.0
    scaling = FeatureScaling.fit(rng.normal(size=(200, spec.feature_width)), spec.inputs.feature_scaling)
    assert spec.inputs.feature_scaling in METHODS
    return {name: np.asarray(array, np.float32) for name, array in (arrays | scaling.to_arrays()).items()}


def form_latency(spec: PolicySpec, seed: int = 0) -> LatencyEstimator:
    """Rows of plausible size; upper latencies 10 to 40 % above the mean."""
    rng = np.random.default_rng(seed)
    actions = np.array(spec.actions, dtype=np.int64)
    estimate = LatencyEstimator.constant(SPACE, actions, 8.0 + 9.0 * actions, upper_ratio=1.0, facts={})
    rows = estimate.rows.copy()
    rows[:, 1:] = rng.uniform([0.2, 0.01, 0.02], [0.6, 0.03, 0.05], (len(actions), 3))
    return LatencyEstimator(
        space=SPACE,
        actions=actions,
        rows=rows,
        law=estimate.law,
        product_order=1,
        upper_ratio=rng.uniform(1.1, 1.4, len(actions)),
        floor_ms=5.0,
        scale=1.3,
        margin=1.05,
        facts={},
    )


def form_controller(form: str) -> Controller:
    spec = form_spec(form)
    return Controller(
        space=SPACE,
        policy=NumpyPolicy(spec, form_arrays(spec)),
        latency=form_latency(spec),
        first_token_latency=form_latency(spec, seed=1),
        guard=Guard(overview_ms=2.0),
        prices=PriceTable(np.array([15.0, 40.0]), np.array([0.4, 0.0])),
    )


def form_features(form: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image and question features of `count` requests; of tokens, from one to ROOM of them."""
    rng = np.random.default_rng(seed)
    parts = []
    for wanted, width in zip(form_spec(form).columns, (IMAGE, QUESTION), strict=True):
        if wanted is not None:
            parts.append(rng.normal(size=(count, wanted)).astype(np.float32))
        else:
            tokens = rng.normal(size=(count, ROOM, width)).astype(np.float32)
            parts.append(pack_tokens(tokens, 1 + np.arange(count) % ROOM))
    return parts[0], parts[1]


def form_context(form: str, index: int = 0) -> Context:
    image, question = form_features(form, index + 1)
    count = len(form_spec(form).actions)
    rng = np.random.default_rng(index)
    tiles, vision, prompt = (rng.integers(1, most, count) for most in (13, 150, 200))
    return Context(
        image_features=image[index],
        question_features=question[index],
        tiles=tiles,
        vision_tokens=vision,
        prompt_tokens=prompt,
    )
