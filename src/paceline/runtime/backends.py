"""What computes a controller's decisions: own compiled code, numpy, ONNX Runtime or torch; or the fastest of them."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline import __version__
from paceline.errors import ControllerError, DependencyError
from paceline.runtime.decision import Context
from paceline.runtime.weighing import ScoredWeigher, Weigher

if TYPE_CHECKING:
    from paceline.runtime.controller import Controller

BACKENDS = ("auto", "native", "numpy", "onnx", "torch")
ROUNDS, RUNS = 5, 20
"""The candidates of "auto" take turns in rounds of so many decisions; the median over rounds counts. The first load of
a controller waits for it, and candidates are far apart."""
ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""Distributions that hold the module `onnxruntime`."""
SMALL_WEIGHTS = 2 * 2**20
"""Compiled code reads as many bytes of weights in less time than ONNX Runtime takes to begin."""

logger = logging.getLogger(__name__)


def with_backend(
    controller: "Controller",
    backend: str = "auto",
    *,
    provider: str = "cpu",
    precision: str | None = None,
    cache_dir: str | Path | None = None,
) -> "Controller":
    """The controller with another backend.

    Args:
        backend: of `BACKENDS`. "auto" is the fastest on this machine of numpy, the compiled code and, unless the policy
            is small, the exported file; it measures once and keeps what it found under `cache_dir`, by default the
            user's cache directory.
        provider: of "onnx": "cpu", "cuda" or "tensorrt".
        precision: of "onnx": which exported file; None: the one that its checks chose.

    Raises:
        ControllerError: an unknown backend, provider or precision, a controller that was not exported, or a policy that
            the compiled code does not serve.
        DependencyError: the library is not installed, or the package was installed without a C compiler.
    """
    if not isinstance(cache_dir, str | os.PathLike | None):
        raise ControllerError(f"cache_dir: got {cache_dir!r}, expected a directory")
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ControllerError(f"backend: got {backend!r}, expected one of {list(BACKENDS)}")
    if backend != "onnx" and (provider != "cpu" or precision is not None):
        raise ControllerError(
            f"backend {backend!r}: got provider {provider!r} and precision {precision!r}, "
            "which only backend 'onnx' reads"
        )
    if backend == "auto":
        backend = _fastest(controller, cache_dir)
    if backend == "numpy":
        return replace(controller, make_weigher=None)
    if backend == "native":
        return replace(controller, make_weigher=_native_weigher)
    if backend == "torch":
        return replace(controller, make_weigher=_torch_weigher)
    return replace(controller, make_weigher=_onnx_maker(controller, provider, precision))


def _native_weigher(controller: "Controller") -> Weigher:
    from paceline.policies.native_policy import NativePolicy

    policy = NativePolicy(controller.policy)
    return ScoredWeigher(
        policy,
        "native",
        space=controller.space,
        actions=controller.actions,
        scale=controller.scale,
        choose=policy.choose,
        choose_rows=policy.choose_rows,
    )


def _torch_weigher(controller: "Controller") -> Weigher:
    try:
        from paceline.policies.torch_policy import TorchPolicy
    except ImportError as error:
        raise DependencyError(
            f"backend 'torch' needs torch ({error}); install it, or use backend 'numpy'"
        ) from error
    policy = TorchPolicy(controller.policy.spec, controller.policy.arrays)
    return ScoredWeigher(
        policy, "torch", space=controller.space, actions=controller.actions, scale=controller.scale
    )


def _onnx_maker(
    controller: "Controller", provider: str, precision: str | None
) -> "Callable[[Controller], Weigher]":
    """Makes weighers that share one session, also for this controller on another machine's scale."""
    from paceline.runtime.onnx_backend import OnnxWeigher, import_onnxruntime, open_session

    import_onnxruntime()
    if controller.exports is None:
        raise ControllerError(
            "backend 'onnx': the controller has no exported files; export it with paceline export, or use backend "
            "'numpy'"
        )
    name = controller.exports.file_of(precision)
    session = open_session(controller.exports.read(name), name, provider)
    return lambda owner: OnnxWeigher(owner, session, name)


def _fastest(controller: "Controller", cache_dir: str | Path | None) -> str:
    """The candidate that is fastest here, measured or kept; of one candidate there is nothing to measure."""
    candidates = _candidates(controller)
    if controller.exports is not None:  # damaged, it is refused whoever decides
        controller.exports.read(controller.exports.record["chosen"])
    if len(candidates) == 1:
        return candidates[0]
    directory = _default_directory() if cache_dir is None else Path(cache_dir)
    path = directory / f"{_key(controller, candidates)}.json"
    kept = _read(path, candidates)
    if kept is not None:
        return kept
    microseconds = _measure(controller, candidates)
    backend = min(microseconds, key=lambda name: microseconds[name])
    _keep(path, {"backend": backend, "microseconds": microseconds})
    return backend


def _candidates(controller: "Controller") -> list[str]:
    """What "auto" chooses from: numpy, the compiled code if it is there and serves the policy, an exported file.

    Where compiled code decides by few weights, no exported file could be faster, and ONNX Runtime takes long to import.
    """
    from paceline.policies.native_policy import NativePolicy, compiled

    found = ["numpy"]
    if NativePolicy.serves(controller.policy.spec) and compiled() is not None:
        found.append("native")
    small = sum(array.nbytes for array in controller.policy.arrays.values()) <= SMALL_WEIGHTS
    exported = controller.exports is not None and find_spec("onnxruntime") is not None
    if exported and not (small and "native" in found):
        found.append("onnx")
    return found


def _default_directory() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("paceline")) / "backends"


def _key(controller: "Controller", candidates: Sequence[str]) -> str:
    """Hash of what the speed depends on: policy, files, processor and versions of the libraries."""
    from paceline.runtime.hardware import hardware_facts

    facts: dict[str, Any] = {
        "policy": repr(controller.policy.spec),
        "candidates": list(candidates),
        "processor": hardware_facts()["processor"],
        "libraries": [__version__, np.__version__],
    }
    if "onnx" in candidates:
        assert controller.exports is not None
        facts |= {
            "files": {name: file["sha256"] for name, file in controller.exports.files.items()},
            "chosen": controller.exports.record["chosen"],
            "onnxruntime": _onnxruntime_builds(),
        }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _measure(controller: "Controller", candidates: Sequence[str]) -> dict[str, float]:
    """Median microseconds of a decision by backend, taking turns."""
    controllers = {name: made for name in candidates if (made := _made(controller, name)) is not None}
    context, budgets = _some_request(controller)
    rounds: dict[str, list[float]] = {name: [] for name in controllers}
    for turn in range(ROUNDS + 1):
        for name, candidate in controllers.items():
            started = time.thread_time()
            for budget in budgets:
                candidate.decide(context, budget=budget)
            if turn:  # the first round warms up
                rounds[name].append((time.thread_time() - started) / len(budgets) * 1e6)
    return {name: float(np.median(taken)) for name, taken in rounds.items()}


def _made(controller: "Controller", backend: str) -> "Controller | None":
    """The controller with a candidate; None, and a warning, where its library is there and cannot be imported."""
    try:
        return with_backend(controller, backend)
    except DependencyError as error:
        logger.warning("%s; choosing among the others", error)
        return None


def _onnxruntime_builds() -> list[str]:
    """What is installed of ONNX Runtime, without importing it: builds for other devices go by other names."""
    found = []
    for name in ONNXRUNTIME:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _some_request(controller: "Controller") -> tuple[Context, list[Any]]:
    """A request of plausible size under budgets over the trained range; what it says does not matter for time."""
    spec, count = controller.policy.spec, len(controller.actions)
    rng = np.random.default_rng(0)
    widths = (spec.image_width, spec.question_width)
    features = [
        rng.normal(size=width).astype(np.float32)
        if wanted is not None
        else np.append(rng.normal(size=16 * width), 16).astype(np.float32)
        for wanted, width in zip(spec.columns, widths, strict=True)
    ]
    ones = np.ones(count, dtype=np.int64)
    context = Context(
        image_features=features[0],
        question_features=features[1],
        tiles=5 * ones,
        vision_tokens=64 * ones,
        prompt_tokens=96 * ones,
    )
    budgets = np.geomspace(spec.budget_low_ms, spec.budget_high_ms, RUNS) * controller.scale
    return context, budgets.tolist()


def _read(path: Path, candidates: Sequence[str]) -> str | None:
    """The kept backend, or None; a damaged file is reported and measured again."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["backend"] not in candidates:
            raise ValueError(f"backend is {value['backend']!r}")
        return value["backend"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("the kept choice of backend in %s cannot be used (%s); measuring again", path, error)
        return None


def _keep(path: Path, value: dict[str, Any]) -> None:
    """Keep a choice; a directory that cannot be written is reported, not fatal."""
    from paceline.runtime.storage import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(value, indent=1).encode())
    except OSError as error:
        logger.warning("the choice of backend could not be kept in %s (%s)", path.parent, error)
