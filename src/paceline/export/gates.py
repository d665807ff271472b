"""What every exported file must show before it may decide: agreement with torch, and speed."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from paceline.errors import ExportError
from paceline.export.contexts import Requests
from paceline.export.precisions import Source
from paceline.policies.decision import action_logits, choose

SCORE_TOLERANCE = 1e-5
"""Of fp32 scores: accuracy, or of logits the difference over the larger of 1 and the logit."""
LEAST_AGREEMENT = 0.99
LARGEST_LOSS = 0.002
"""Accuracy that the other precisions' decisions may differ by, in either direction."""
ROUNDS, RUNS = 15, 100
"""Files take turns in rounds of so many runs of one request each; the median over rounds counts."""
TOGETHER = (1, 500)
"""Requests that a file decides at once: each gate is of the worse. Ranges of dynamic int8 are of what runs together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What was measured of one file and whether it may decide."""

    precision: str
    file: str
    size_bytes: int
    score_error: (
        float | None
    )  # largest difference of a score from torch's, see SCORE_TOLERANCE; None: some are not finite
    agreement: float  # share of requests with torch's decision, one by one or together, whichever is less
    accuracy_difference: (
        float | None
    )  # of its decisions less that of torch's; None where nothing tested was chosen
    microseconds: float  # median of one request, one thread
    passed: bool
    reason: str  # what it failed at, or "passed"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able value from which `from_json` makes an equal gate."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What torch says of the requests."""

    scores: np.ndarray  # (n, actions): accuracies, or logits
    column: np.ndarray  # int64 (n,): the decision, -1 where nothing fits

    @classmethod
    def of(cls, source: Source, requests: Requests) -> "Reference":
        """Scores by eager torch, limits and choice in numpy at double precision."""
        from paceline.policies.torch_policy import TorchPolicy

        spec, inputs = source.spec, requests.inputs
        policy = TorchPolicy(spec, source.arrays)
        actions = np.asarray(spec.actions, dtype=np.int64)
        loads = [inputs[name] for name in ("tiles", "vision_tokens", "prompt_tokens")]
        mean_ms, upper_ms = source.latency.mean_and_upper(actions, *loads)
        _, first_ms = source.first_token_latency.mean_and_upper(actions, *loads)
        feasible = (upper_ms <= inputs["limit_ms"][:, None]) & (
            first_ms <= inputs["first_token_limit_ms"][:, None]
        )
        scale, full = source.latency.scale, source.latency.space.size - 1
        full_ms = mean_ms[:, np.searchsorted(actions, full)] if full in actions else mean_ms.max(axis=1)
        told_ms = spec.told_ms(inputs["limit_ms"].astype(np.float64) / scale, full_ms / scale)
        price = inputs["price"].astype(np.float64)
        scores = policy.scores(inputs["image_features"], inputs["question_features"], told_ms, price)
        logits = action_logits(spec, scores, mean_ms, price, full_latency_ms=spec.full_latency_ms * scale)
        return cls(np.float32(spec.temperature) * scores, choose(logits, mean_ms, feasible))


def session(model: bytes, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """An ONNX Runtime session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=list(providers), enable_fallback=0)


def check_models(
    source: Source, models: Mapping[str, bytes], files: Mapping[str, str], requests: Requests
) -> list[Gate]:
    """Measure every file against torch on real requests.

    A file passes when its decisions agree with torch's on `LEAST_AGREEMENT` of the requests and their accuracy differs
    by `LARGEST_LOSS` at most; fp32 when besides its scores are torch's within `SCORE_TOLERANCE`, another precision when
    besides one request takes less time than with fp32.

    Raises:
        ExportError: ONNX Runtime cannot read a file, for example one of an opset that it lacks.
    """
    try:
        sessions = {precision: session(model) for precision, model in models.items()}
    except Exception as error:  # what ONNX Runtime raises has no common base but this
        raise ExportError(
            f"export: ONNX Runtime cannot run the exported file ({error}); choose an opset that the installed "
            "onnxruntime knows, or upgrade it"
        ) from error
    reference = Reference.of(source, requests)
    microseconds = _speeds(sessions, requests)
    return [
        _gate(
            source,
            precision,
            files[precision],
            len(models[precision]),
            [_run(sessions[precision], requests, count) for count in TOGETHER],
            reference,
            requests,
            microseconds,
        )
        for precision in models
    ]


def fastest(gates: Sequence[Gate]) -> Gate:
    """The fastest file that passed; ExportError where none did."""
    passed = [gate for gate in gates if gate.passed]
    if not passed:
        raise ExportError(
            "export: no exported file passed its checks: "
            + "; ".join(f"{gate.file} {gate.reason}" for gate in gates)
            + "; this is a defect, please report it with the controller"
        )
    return min(passed, key=lambda gate: gate.microseconds)


def _run(found: Any, requests: Requests, together: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, actions) and actions (n,) of a session, so many requests at once."""
    parts = []
    for start in range(0, requests.count, together):
        chunk = {name: values[start : start + together] for name, values in requests.inputs.items()}
        parts.append(found.run(["scores", "action"], chunk))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _gate(
    source: Source,
    precision: str,
    file: str,
    size_bytes: int,
    found: Sequence[tuple[np.ndarray, np.ndarray]],
    reference: Reference,
    requests: Requests,
    microseconds: Mapping[str, float],
) -> Gate:
    known = np.asarray(source.spec.actions, dtype=np.int64)
    chosen = [np.where(actions < 0, -1, np.searchsorted(known, actions)) for _, actions in found]
    errors = [_score_error(source, scores, reference.scores) for scores, _ in found]
    error = None if None in errors else max(each for each in errors if each is not None)
    agreement = min(float(np.mean(columns == reference.column)) for columns in chosen)
    differences = [_accuracy_difference(requests.accuracy, columns, reference.column) for columns in chosen]
    difference = max(differences, key=lambda each: math.inf if each is None else abs(each))
    reason = _reason(precision, error, agreement, difference, microseconds)
    return Gate(
        precision=precision,
        file=file,
        size_bytes=size_bytes,
        score_error=error,
        agreement=agreement,
        accuracy_difference=difference,
        microseconds=microseconds[precision],
        passed=reason == "passed",
        reason=reason,
    )


def _score_error(source: Source, scores: np.ndarray, reference: np.ndarray) -> float | None:
    """Largest difference of a score from the reference's; None where some are not finite."""
    if not np.isfinite(scores).all():
        return None
    gap = np.abs(scores - reference)
    if source.spec.output == "logits":
        gap = gap / np.maximum(1.0, np.abs(reference))
    return float(gap.max())


def _accuracy_difference(accuracy: np.ndarray, ours: np.ndarray, reference: np.ndarray) -> float | None:
    """Mean accuracy of our decisions less that of the reference's, over requests where both are known."""
    rows = np.arange(len(ours))
    fits = (ours >= 0) & (reference >= 0)
    gap = accuracy[rows, np.maximum(ours, 0)] - accuracy[rows, np.maximum(reference, 0)]
    known = fits & np.isfinite(gap)
    return float(gap[known].mean()) if known.any() else None


def _reason(
    precision: str,
    error: float | None,
    agreement: float,
    difference: float | None,
    microseconds: Mapping[str, float],
) -> str:
    """What a file fails at, or "passed"."""
    exact = precision == "fp32"
    if error is None:
        return "scores: some are not finite, the policy's numbers are too large for this precision"
    if exact and not error <= SCORE_TOLERANCE:
        return f"differs from torch: scores by up to {error:.2g}, expected {SCORE_TOLERANCE:g} at most"
    if agreement < LEAST_AGREEMENT:
        return (
            f"disagrees: {agreement:.2%} of its decisions are torch's, expected {LEAST_AGREEMENT:.0%} or more"
        )
    if difference is None and not exact:
        return "accuracy: not known of any of its decisions"
    if difference is not None and abs(difference) > LARGEST_LOSS:
        return (
            f"accuracy: its decisions are {100 * difference:+.2f} points from torch's, expected "
            f"{100 * LARGEST_LOSS:.1f} at most"
        )
    own, fp32 = microseconds[precision], microseconds["fp32"]
    if not exact and own >= fp32:
        return f"slower: {own:.1f} us per request against {fp32:.1f} us of fp32"
    return "passed"


def _speeds(sessions: Mapping[str, Any], requests: Requests) -> dict[str, float]:
    """Median microseconds of one request, all files taking turns."""
    names = [output.name for output in next(iter(sessions.values())).get_outputs()]
    rows = [requests.row(index) for index in range(min(RUNS, requests.count))]
    rounds: dict[str, list[float]] = {precision: [] for precision in sessions}
    for turn in range(ROUNDS + 1):
        for precision, found in sessions.items():
            started = time.thread_time()  # sessions have one thread, this one: a busy machine does not matter
            for row in rows:
                found.run(names, row)
            if turn:  # the first round warms up
                rounds[precision].append((time.thread_time() - started) / len(rows) * 1e6)
    return {precision: float(np.median(taken)) for precision, taken in rounds.items()}
