"""Decisions by an exported file in ONNX Runtime."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.errors import ControllerError, DependencyError
from paceline.policies.numpy_policy import check_features
from paceline.policies.token_pooling import unpack_tokens
from paceline.runtime.decision import Candidates, Context
from paceline.runtime.exports import decided_digest
from paceline.runtime.many import FIELDS, BatchLimits, ContextBatch, Weighed
from paceline.runtime.weighing import Limits, Times

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
ITS_OWN = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:\S+:\d+ .*?\)(?: const)? (?=[A-Z]))?")
"""What its messages begin with: codes, then a file, a line and the signature of a function."""
LONGEST_REASON = 500
OUTPUTS = ["scores", "values", "mean_ms", "upper_ms", "first_token_upper_ms", "feasible", "action"]


def import_onnxruntime() -> Any:
    """The onnxruntime module, or a `DependencyError` that names the extra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "backend 'onnx' needs onnxruntime, which is not installed; install it with: pip install 'paceline[onnx]', "
            "or use backend 'numpy'"
        ) from error
    return onnxruntime


def open_session(data: bytes, name: str, provider: str = "cpu") -> Any:
    """A session on one thread.

    Raises:
        DependencyError: onnxruntime is not installed.
        ControllerError: an unknown provider or one that is not present, or a file that cannot be run.
    """
    onnxruntime = import_onnxruntime()
    if not isinstance(provider, str) or provider not in PROVIDERS:
        raise ControllerError(f"provider: got {provider!r}, expected one of {list(PROVIDERS)}")
    present = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in present:
        raise ControllerError(
            f"provider {provider!r}: {PROVIDERS[provider]} is not present in this ONNX Runtime, which has {present}; "
            "install a build of onnxruntime with it, or use provider 'cpu'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        # Without fallback: else ONNX Runtime prints a line and runs on the processor when a provider does not load.
        session = onnxruntime.InferenceSession(
            data, options, providers=[PROVIDERS[provider]], enable_fallback=0
        )
        used = session.get_providers()
    except Exception as error:  # what ONNX Runtime raises has no common base but this
        raise ControllerError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} cannot run it ({_reason(error)}); export the "
            "controller again, or upgrade onnxruntime if the file needs a newer operator set"
        ) from error
    if PROVIDERS[provider] not in used:
        raise ControllerError(
            f"provider {provider!r}: {PROVIDERS[provider]} was built into this ONNX Runtime but could not be loaded "
            f"here, {used} would run instead; install its libraries and driver, or use provider 'cpu'"
        )
    return session


class OnnxWeigher:
    """Weighs a request by one run of the exported decision. Any number of threads may use it at once."""

    backend = "onnx"

    def __init__(self, controller: "Controller", session: Any, name: str) -> None:
        """`session`: of an exported file called `name`; ControllerError where it belongs to another controller."""
        try:
            digest = session.get_modelmeta().custom_metadata_map.get("decided_digest")
            parts = [*session.get_inputs(), *session.get_outputs()]
            found = {part.name: (part.type, tuple(part.shape)) for part in parts}
        except UnicodeDecodeError as error:
            raise _damaged(name, f"its description is no text, {error}") from error
        if digest != decided_digest(controller):
            raise ControllerError(
                f"{name}: it was exported from another policy or latency estimate than this controller's; export the "
                "controller again"
            )
        _check_graph(found, name, controller)
        self.session, self.name = session, name
        self.space, self.actions, self.spec = controller.space, controller.actions, controller.policy.spec
        whole, first = controller.latency, controller.first_token_latency
        self.scales = np.array([[whole.scale, first.scale]])
        self.margins = np.array([[whole.margin, first.margin]], dtype=np.float32)

    def __call__(self, context: Context, times: Times, limits: Limits) -> Candidates:
        """Weigh one request."""
        image, question = context.image_features, context.question_features
        self._check(image, question)
        scores, values, mean_ms, upper_ms, first_ms, feasible, action = self._run(
            {
                "image_features": _row(image),
                "question_features": _row(question),
                "tiles": _row(context.tiles),
                "vision_tokens": _row(context.vision_tokens),
                "prompt_tokens": _row(context.prompt_tokens),
                "limit_ms": _number(limits.whole_ms),
                "first_token_limit_ms": _number(limits.first_ms),
                "price": _number(limits.price),
                "time_scale": _typed(limits.slowdown * self.scales),
                "time_margin": self.margins,
            },
        )
        chosen = int(action[0])
        if not limits.reachable:
            feasible[:], chosen = False, -1
        return Candidates(
            space=self.space,
            actions=self.actions,
            scores=scores[0],
            values=values[0],
            mean_ms=mean_ms[0],
            upper_ms=upper_ms[0],
            first_upper_ms=first_ms[0],
            feasible=feasible[0],
            chosen=int(self._columns(np.array([chosen]))[0]),
        )

    def weigh_batch(self, controller: "Controller", batch: ContextBatch, limits: BatchLimits) -> Weighed:
        """Weigh many requests in one run."""
        self._check(batch.image_features, batch.question_features)
        scores, _, mean_ms, upper_ms, first_ms, feasible, action = self._run(
            {
                **{name: _typed(getattr(batch, name)) for name in FIELDS},
                "limit_ms": _typed(limits.whole_ms),
                "first_token_limit_ms": _typed(limits.first_ms),
                "price": _typed(limits.price),
                "time_scale": np.repeat(_typed(limits.slowdown * self.scales), len(batch), axis=0),
                "time_margin": np.repeat(self.margins, len(batch), axis=0),
            },
        )
        columns = self._columns(action)
        if not limits.reachable:
            feasible[:], columns[:] = False, -1
        return Weighed(
            scores=scores,
            mean_ms=mean_ms,
            upper_ms=upper_ms,
            first_upper_ms=first_ms,
            feasible=feasible,
            chosen=columns,
        )

    def _run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self.session.run(OUTPUTS, inputs)
        except Exception as error:  # what ONNX Runtime raises has no common base but this
            raise _damaged(self.name, f"ONNX Runtime stopped in it: {_reason(error)}") from error

    def _columns(self, action: np.ndarray) -> np.ndarray:
        """Positions of action ids, -1 where nothing fits."""
        column = np.minimum(np.searchsorted(self.actions, action), len(self.actions) - 1)
        strange = (action >= 0) & (self.actions[column] != action)
        if strange.any():
            raise _damaged(self.name, f"it chose action {int(action[strange][0])}, which the policy lacks")
        return np.where(action < 0, -1, column)

    def _check(self, image: np.ndarray, question: np.ndarray) -> None:
        """Refuse features that the graph would not: of another width, not finite, tokens that do not fit."""
        check_features(self.spec, image, question)
        widths = (self.spec.image_width, self.spec.question_width)
        for features, wanted, width in zip((image, question), self.spec.columns, widths, strict=True):
            if wanted is None:
                unpack_tokens(features, width)


def _row(values: np.ndarray) -> np.ndarray:
    return _typed(values)[None]


def _typed(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, as no limit is
        return values.astype(np.float32, copy=False)


def _number(value: float | None) -> np.ndarray:
    return _typed(np.array([math.inf if value is None else value]))


def _check_graph(
    given: Mapping[str, tuple[str, tuple[Any, ...]]], name: str, controller: "Controller"
) -> None:
    """Raise ControllerError for a file whose inputs and outputs are not those of a decision of this controller.

    given: name -> (type, sizes) of each; a size that is no number may be any.
    """
    spec, count = controller.policy.spec, len(controller.actions)
    columns = dict.fromkeys(("tiles", "vision_tokens", "prompt_tokens", *OUTPUTS[:-1]), (count,))
    columns |= dict.fromkeys(("limit_ms", "first_token_limit_ms", "price", "action"), ())
    columns |= dict.fromkeys(("time_scale", "time_margin"), (2,))
    columns |= {
        feature: (None,) if width is None else (width,)
        for feature, width in zip(FIELDS[:2], spec.columns, strict=True)
    }
    kinds = {"feasible": "tensor(bool)", "action": "tensor(int64)"}
    expected = {
        part: (kinds.get(part, "tensor(float)"), (None, *shape)) for part, shape in sorted(columns.items())
    }
    found = {
        part: (kind, tuple(size if isinstance(size, int) else None for size in shape))
        for part, (kind, shape) in given.items()
    }
    wrong = sorted(part for part in expected.keys() | found.keys() if found.get(part) != expected.get(part))
    if wrong:
        part = wrong[0]
        raise _damaged(
            name, f"{part} is {found.get(part, 'missing')}, expected {expected.get(part, 'no such part')}"
        )


def _damaged(name: str, what: str) -> ControllerError:
    return ControllerError(
        f"{name}: {what}; the file was changed or is of another controller, export the controller again"
    )


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its codes and the place in its own source."""
    lines = str(error).splitlines()
    return ITS_OWN.sub("", lines[0])[:LONGEST_REASON] if lines else type(error).__name__
