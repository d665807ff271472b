"""One ONNX file per precision: float32, float16, int8 with ranges found while running, int8 with calibrated ranges."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import DependencyError, ExportError
from paceline.latency.estimate import LatencyEstimator
from paceline.policies.spec import PolicySpec

PRECISIONS = ("fp32", "fp16", "int8_dynamic", "int8_static")
FILES = {
    "fp32": "policy.onnx",
    "fp16": "policy.fp16.onnx",
    "int8_dynamic": "policy.int8.onnx",
    "int8_static": "policy.int8_static.onnx",
}
DEFAULT_OPSET = 18
OLDEST_OPSET = 18
"""Reductions take their axes as an input from here on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """What is exported: a policy and the latency estimates of whole call and first token."""

    spec: PolicySpec
    arrays: Mapping[str, np.ndarray]
    latency: LatencyEstimator
    first_token_latency: LatencyEstimator
    metadata: Mapping[str, str]  # stored in every file


def import_onnx() -> Any:
    """The onnx module, or a `DependencyError` that names the extra."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"export needs onnx and onnxruntime ({error}); install them with: pip install 'paceline[onnx]'"
        ) from error
    return onnx


def check_opset(opset: int) -> None:
    """Raise ExportError for an operator set that the exporter or the installed ONNX does not know."""
    newest = import_onnx().defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST_OPSET <= opset <= newest:
        raise ExportError(
            f"opset: got {opset!r}, expected an integer from {OLDEST_OPSET} to {newest}, the newest that the installed "
            "onnx knows"
        )


def export_models(
    source: Source, calibration: Mapping[str, np.ndarray], *, opset: int = DEFAULT_OPSET
) -> dict[str, bytes]:
    """The decision as ONNX files, bytes by precision of `PRECISIONS`.

    Args:
        source: what to export.
        calibration: inputs of the graph by name, rows of real requests, for the ranges of "int8_static".
        opset: version of the operator set.

    Raises:
        DependencyError: onnx or onnxruntime is missing.
        ExportError: an opset that is not known.
    """
    check_opset(opset)
    full = _model(source, "fp32", opset).SerializeToString()
    return {
        "fp32": full,
        "fp16": _model(source, "fp16", opset).SerializeToString(),
        "int8_dynamic": _quantised(full, source, "int8_dynamic", opset, _dynamic),
        "int8_static": _quantised(full, source, "int8_static", opset, _static(calibration)),
    }


def _model(source: Source, precision: str, opset: int) -> Any:
    from paceline.export.decision_graph import DecisionGraph
    from paceline.export.graph import GraphBuilder

    graph = GraphBuilder()
    DecisionGraph(
        graph,
        source.spec,
        source.arrays,
        source.latency,
        source.first_token_latency,
        half=precision == "fp16",
    )
    description = DecisionGraph.__doc__ or ""
    return graph.model(opset=opset, description=description, metadata=_metadata(source, precision, opset))


def _metadata(source: Source, precision: str, opset: int) -> dict[str, str]:
    return {
        **source.metadata,
        "precision": precision,
        "opset": str(opset),
        "actions": json.dumps([int(action) for action in source.spec.actions]),
    }


def _quantised(
    model: bytes, source: Source, precision: str, opset: int, quantise: Callable[[Any, str], None]
) -> bytes:
    """The model with the products `QUANTISED` in int8."""
    onnx = import_onnx()
    import onnxruntime

    with tempfile.TemporaryDirectory() as directory, _quiet():
        path = str(Path(directory) / "model.onnx")
        try:
            quantise(onnx.load_from_string(model), path)  # a copy: the quantiser changes what it is given
            made = onnx.load(path)
        except Exception as error:  # what ONNX Runtime and onnx raise has no common base but this
            raise ExportError(
                f"export: ONNX Runtime {onnxruntime.__version__} cannot make {precision} of it with onnx "
                f"{onnx.__version__} and opset {opset} ({error}); upgrade onnxruntime, or choose an opset that it knows"
            ) from error
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, _metadata(source, precision, opset))
    return made.SerializeToString()


def _dynamic(model: Any, path: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from paceline.export.policy_graph import QUANTISED

    quantize_dynamic(model, path, weight_type=QuantType.QInt8, nodes_to_quantize=list(QUANTISED))


def _static(calibration: Mapping[str, np.ndarray]) -> Callable[[Any, str], None]:
    def quantise(model: Any, path: str) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        from paceline.export.policy_graph import QUANTISED

        class Rows(CalibrationDataReader):
            """The calibration inputs, all at once."""

            left = [dict(calibration)]  # noqa: RUF012

            def get_next(self) -> dict[str, np.ndarray] | None:
                return self.left.pop() if self.left else None

        quantize_static(
            model,
            path,
            Rows(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(QUANTISED),
        )

    return quantise


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantiser gives through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
