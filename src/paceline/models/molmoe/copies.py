"""Pooled features on their way to the host: on a CUDA stream of their own, while the model goes on."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paceline.errors import ModelError
from paceline.models.protocol import Overview

ARRIVING = ("image_features", "question_features", "elapsed_ms")
"""Fields of an overview that are there when its pooled features are."""


class CopyStream:
    """A CUDA stream beside the model's own, on which features travel to the host. Safe to share between threads."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """`cuda`: where streams and events come from.

        Raises ModelError unless `device` is a CUDA device.
        """
        if device.type != "cuda":
            raise ModelError(
                f"overlap_copies: the model is on {device.type!r}, expected a CUDA device: only there a copy can go on "
                "beside other work; load the model with device='cuda' or leave the option out"
            )
        self.device = device
        self.cuda = cuda
        self.stream = cuda.Stream(device)

    def begin(self) -> "Copy":
        """A copy of something that the device begins to compute now."""
        return Copy(self)


class Copy:
    """One tensor on its way to the host. Times are the device's own: they hold whenever they are read."""

    def __init__(self, side: CopyStream) -> None:
        self._side = side
        self._started, self._arrived = (side.cuda.Event(enable_timing=True) for _ in range(2))
        self._started.record(side.cuda.current_stream(side.device))

    def send(self, tensor: Tensor) -> None:
        """Copy `tensor` on the side stream once it is computed, without waiting for either."""
        self._host = self._pinned(tensor)
        self._side.stream.wait_stream(self._side.cuda.current_stream(self._side.device))
        with self._side.cuda.stream(self._side.stream):
            self._host.copy_(tensor, non_blocking=True)
            self._arrived.record(self._side.stream)
        tensor.record_stream(self._side.stream)  # else its memory could be given away before the copy read it

    def receive(self) -> tuple[np.ndarray, float]:
        """What was sent, once it is there, and the milliseconds since `begin`."""
        self._arrived.synchronize()
        return self._host.numpy(), self._started.elapsed_time(self._arrived)

    @staticmethod
    def _pinned(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


class PendingOverview(Overview):
    """An overview whose pooled features are still on their way; the first to read them, or its time, waits."""

    __slots__ = ("_copy", "_image_width")

    def __init__(
        self,
        copy: Copy,
        *,
        image_width: int,
        image_size: tuple[int, int],
        state: Any,
        feature_sets: Mapping[str, Callable[[], np.ndarray]],
        workload_key: Hashable = None,
    ) -> None:
        self._set(_copy=copy, _image_width=image_width)
        self._set(image_size=image_size, state=state, feature_sets=feature_sets, workload_key=workload_key)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # overviews are frozen

    def __getattr__(self, name: str) -> Any:
        """Only asked for what is not there yet."""
        if name not in ARRIVING:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        values, elapsed_ms = self._copy.receive()
        width = self._image_width
        self._set(image_features=values[:width], question_features=values[width:], elapsed_ms=elapsed_ms)
        return object.__getattribute__(self, name)
