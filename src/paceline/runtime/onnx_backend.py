"""Decisions by an exported file in ONNX Runtime."""

import math
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
    if provider not in PROVIDERS:
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
        return onnxruntime.InferenceSession(data, options, providers=[PROVIDERS[provider]])
    except Exception as error:  # what ONNX Runtime raises has no common base but this
        raise ControllerError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} cannot run it ({_first_line(error)}); export the "
            "controller again, or upgrade onnxruntime if the file needs a newer operator set"
        ) from error


class OnnxWeigher:
    """Weighs a request by one run of the exported decision. Any number of threads may use it at once."""

    backend = "onnx"

    def __init__(self, controller: "Controller", session: Any, name: str) -> None:
        """`session`: of an exported file called `name`; ControllerError where it belongs to another controller."""
        digest = session.get_modelmeta().custom_metadata_map.get("decided_digest")
        if digest != decided_digest(controller):
            raise ControllerError(
                f"{name}: it was exported from another policy or latency estimate than this controller's; export the "
                "controller again"
            )
        self.session, self.name = session, name
        self.space, self.actions, self.spec = controller.space, controller.actions, controller.policy.spec
        whole, first = controller.latency, controller.first_token_latency
        self.scales = np.array([[whole.scale, first.scale]])
        self.margins = np.array([[whole.margin, first.margin]], dtype=np.float32)

    def __call__(self, context: Context, times: Times, limits: Limits) -> Candidates:
        """Weigh one request."""
        image, question = context.image_features, context.question_features
        self._check(image, question)
        scores, values, mean_ms, upper_ms, first_ms, feasible, action = self.session.run(
            OUTPUTS,
            {
                "image_features": _row(image),
                "question_features": _row(question),
                "tiles": _row(context.tiles),
                "vision_tokens": _row(context.vision_tokens),
                "prompt_tokens": _row(context.prompt_tokens),
                "limit_ms": _number(limits.whole_ms),
                "first_token_limit_ms": _number(limits.first_ms),
                "price": _number(limits.price),
                "time_scale": (limits.slowdown * self.scales).astype(np.float32),
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
            chosen=chosen if chosen < 0 else int(np.searchsorted(self.actions, chosen)),
        )

    def weigh_batch(self, controller: "Controller", batch: ContextBatch, limits: BatchLimits) -> Weighed:
        """Weigh many requests in one run."""
        self._check(batch.image_features, batch.question_features)
        scores, _, mean_ms, upper_ms, first_ms, feasible, action = self.session.run(
            OUTPUTS,
            {
                **{name: _typed(getattr(batch, name)) for name in FIELDS},
                "limit_ms": _typed(limits.whole_ms),
                "first_token_limit_ms": _typed(limits.first_ms),
                "price": _typed(limits.price),
                "time_scale": np.repeat(_typed(limits.slowdown * self.scales), len(batch), axis=0),
                "time_margin": np.repeat(self.margins, len(batch), axis=0),
            },
        )
        return Weighed(
            scores=scores,
            mean_ms=mean_ms,
            upper_ms=upper_ms,
            first_upper_ms=first_ms,
            feasible=feasible,
            chosen=np.where(action < 0, -1, np.searchsorted(self.actions, action)),
        )

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
    return values.astype(np.float32, copy=False)


def _number(value: float | None) -> np.ndarray:
    return np.array([math.inf if value is None else value], dtype=np.float32)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
