"""What a policy is, as JSON: the sizes, the budget range and the configurations that its arrays belong to."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from paceline.budgets import POSITION_RANGE
from paceline.errors import ControllerError
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.inputs import ATTENTION, InputSpec
from paceline.policies.prefix_tree import PrefixTree

HEADS = ("joint", "independent", "embedding", "autoregressive", "continuous")
UNTESTED_HEADS = ("embedding", "independent", "continuous")
"""Heads that can score configurations which were never tested."""
KNOBWISE_HEADS = ("autoregressive", "continuous")
"""Heads that decide knob by knob: their outputs are log-probabilities and cannot be predicted accuracies."""
LINEAR_HEADS = ("joint", "independent", "embedding")
"""Heads that are exported as one linear layer, a column per configuration."""
OUTPUTS = ("accuracy", "logits")
NUMBERS = ("budget_low_ms", "budget_high_ms", "full_latency_ms", "temperature", "price_low", "price_high")
ADDED = ("output", "price_low", "price_high", "knob_options", "inputs")
"""Keys that specifications of older controllers lack; they take the default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySpec:
    """Sizes and meaning of a policy's inputs and outputs.

    The network of an "accuracy" policy predicts the logit of every configuration's accuracy; the decision rule
    divides the accuracy by the temperature and charges the price of time. That of a "logits" policy reads the
    price and its outputs are what the decision rule maximises: log-probabilities up to a constant, temperature 1.

    >>> spec = PolicySpec(head="joint", members=1, image_width=2, question_width=1, hidden=4, budget_low_ms=10.0,
    ...                   budget_high_ms=40.0, full_latency_ms=40.0, actions=(0, 3))
    >>> PolicySpec.from_json(spec.to_json()) == spec
    True
    """

    head: str  # how the network's outputs come about; its arrays are the same but for `KNOBWISE_HEADS`
    members: int  # networks whose scores are averaged
    image_width: int  # image features come first in a feature vector; under attention the width of a token
    question_width: int  # likewise
    hidden: int
    budget_low_ms: float  # encoded as position 0
    budget_high_ms: float  # encoded as position 1; no limit is position 1.25
    full_latency_ms: float  # mean latency of the full configuration: the unit of the price of time
    actions: tuple[int, ...]  # action ids in the order of the scores
    budget_dimensions: int = 32  # 1: the linear encoding, see `budgets.encode_budget`
    temperature: float = 0.05  # accuracy units: a score difference of 1 is this much accuracy; 1 for "logits"
    output: str = "accuracy"  # "accuracy" or "logits": what the network's outputs mean
    price_low: float | None = None  # accuracy per full latency, encoded as position 0; "logits" only
    price_high: float | None = (
        None  # encoded as position 1; prices beyond the range are clipped a little outside
    )
    knob_options: tuple[int, ...] | None = None  # number of options per knob; `KNOBWISE_HEADS` only
    inputs: InputSpec = field(default_factory=InputSpec)

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ControllerError(f"policy head: got {self.head!r}, expected one of {list(HEADS)}")
        counts = {
            "members": self.members,
            "image_width + question_width": self.image_width + self.question_width,
            "hidden": self.hidden,
            "budget_dimensions": self.budget_dimensions,
            "actions": len(self.actions),
        }
        for name, count in counts.items():
            if count < 1:
                raise ControllerError(f"policy {name}: got {count}, expected at least 1")
        if self.budget_dimensions > 1 and self.budget_dimensions % 2:
            raise ControllerError(
                f"policy budget_dimensions: got {self.budget_dimensions}, expected 1 or an even number, "
                "since sines and cosines come in pairs"
            )
        if len(set(self.actions)) != len(self.actions):
            raise ControllerError("policy actions: an action id repeats; expected each configuration once")
        if not 0 < self.budget_low_ms < self.budget_high_ms < float("inf"):
            raise ControllerError(
                f"policy budgets: got {self.budget_low_ms} to {self.budget_high_ms} ms, expected 0 < low < high"
            )
        for name, value in (("temperature", self.temperature), ("full_latency_ms", self.full_latency_ms)):
            if not 0 < value < float("inf"):
                raise ControllerError(f"policy {name}: got {value}, expected a positive finite number")
        self._check_output()
        self._check_knobs()

    def _check_knobs(self) -> None:
        if self.head not in KNOBWISE_HEADS:
            if self.knob_options is not None:
                raise ControllerError(
                    f"policy knob_options: got {self.knob_options}, head {self.head!r} has none"
                )
            return
        if self.output != "logits":
            raise ControllerError(
                f"policy head: got {self.head!r} with output {self.output!r}, expected 'logits'; it gives probabilities"
            )
        counts = self.knob_options or ()
        size = math.prod(counts)
        if not counts or min(counts) < 1 or not all(0 <= action < size for action in self.actions):
            raise ControllerError(
                f"policy knob_options: got {self.knob_options}, expected the number of options of every knob, so that "
                f"actions up to {max(self.actions)} exist"
            )

    def _check_output(self) -> None:
        if self.output not in OUTPUTS:
            raise ControllerError(f"policy output: got {self.output!r}, expected one of {list(OUTPUTS)}")
        low, high = self.price_low, self.price_high
        if self.output == "accuracy":
            if low is not None or high is not None:
                raise ControllerError(
                    f"policy prices: got {low} to {high}, expected none; an accuracy policy does not read the price"
                )
        elif low is None or high is None or not 0 < low < high < float("inf"):
            raise ControllerError(f"policy prices: got {low} to {high}, expected 0 < low < high")
        elif self.temperature != 1.0:
            raise ControllerError(
                f"policy temperature: got {self.temperature}, expected 1 for outputs that are logits already"
            )

    @property
    def code_width(self) -> int:
        """Numbers that encode a context: the budget, then for a logits policy the price and its flag."""
        return self.budget_dimensions if self.output == "accuracy" else 2 * self.budget_dimensions + 1

    @property
    def highest_price(self) -> float:
        """The highest price of time that a logits policy tells from others; infinite where none is read."""
        if self.price_low is None or self.price_high is None:
            return math.inf
        return self.price_low * (self.price_high / self.price_low) ** POSITION_RANGE[1]

    @property
    def columns(self) -> tuple[int | None, int | None]:
        """Numbers in the image and the question features of a request; None: packed tokens, any number of them."""
        image = None if self.inputs.image_features == ATTENTION else self.image_width
        return image, None if self.inputs.question_features == ATTENTION else self.question_width

    @property
    def feature_width(self) -> int:
        """Image and question features together, as the first layer reads them."""
        return self.image_width + self.question_width

    def told_ms(
        self, budget_ms: np.ndarray | float | None, full_ms: np.ndarray | float
    ) -> np.ndarray | float | None:
        """The budget to give `NumpyPolicy.scores`, see `InputSpec.told_ms`; `full_ms`: of the request."""
        return self.inputs.told_ms(budget_ms, full_ms, self.full_latency_ms)

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes an equal spec."""
        actions = [int(action) for action in self.actions]
        return asdict(self) | {"actions": actions, "inputs": self.inputs.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "PolicySpec":
        """The spec written by `to_json`; unknown and missing keys are errors, but for those `ADDED` later."""
        names = {item.name for item in fields(cls)}
        if not isinstance(value, dict) or set(value) | set(ADDED) != names:
            got = sorted(value) if isinstance(value, dict) else value
            raise ControllerError(
                f"policy specification: got {got}, expected exactly the keys {sorted(names)}"
            )
        values = {**value, "actions": tuple(int(action) for action in value["actions"])}
        if value.get("knob_options") is not None:
            values["knob_options"] = tuple(int(count) for count in value["knob_options"])
        for name in NUMBERS:
            if type(value.get(name)) is int:
                values[name] = float(value[name])  # OverflowError for what no time could be
        if "inputs" in value:
            values["inputs"] = InputSpec.from_json(value["inputs"])
        return cls(**values)

    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every exported array (all float32)."""
        width, hidden, members = self.feature_width, self.hidden, self.members
        shapes: dict[str, tuple[int, ...]] = {}
        if self.inputs.image_features == ATTENTION:
            shapes["image.query"] = (members, self.image_width)
        if self.inputs.question_features == ATTENTION:
            shapes["question.query"] = (members, self.question_width)
        return shapes | {
            **FeatureScaling.array_shapes(self.inputs.feature_scaling, width),
            "input.weight": (members, width + self.code_width, 2 * hidden),
            "input.bias": (members, 1, 2 * hidden),
            "fusion.weight": (members, 2 * hidden, hidden),
            "fusion.bias": (members, 1, hidden),
            **self._head_shapes(),
        }

    def _head_shapes(self) -> dict[str, tuple[int, ...]]:
        counts, outputs = self.knob_options or (), len(self.actions)
        if self.head == "autoregressive":
            outputs = len(PrefixTree.of(counts, np.array(self.actions, dtype=np.int64)).groups)
        elif self.head == "continuous":
            outputs = len(counts)
        shapes: dict[str, tuple[int, ...]] = {
            "head.weight": (self.members, self.hidden, outputs),
            "head.bias": (self.members, 1, outputs),
        }
        if self.head == "continuous":
            shapes["head.precision"] = (self.members, 1, outputs)
            shapes["head.places"] = (len(self.actions), outputs)
        return shapes

    def check_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Raise ControllerError unless the arrays are exactly those of this spec, finite and float32."""
        shapes = self.array_shapes()
        if set(arrays) != set(shapes):
            raise ControllerError(f"policy arrays: got {sorted(arrays)}, expected {sorted(shapes)}")
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float32:
                raise ControllerError(
                    f"policy array {name}: got {array.dtype} {array.shape}, expected float32 {shape}"
                )
            if not np.isfinite(array).all():
                raise ControllerError(
                    f"policy array {name}: holds NaN or infinity; train the controller again"
                )
