"""What a policy may read of an overview: pooled on the model's device, copied to the host only when it is read."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from paceline.errors import ModelError
from paceline.models.protocol import Overview

ARRIVING = ("image_features", "question_features", "elapsed_ms")
"""Fields of an overview that are there when its pooled features are."""


def to_host(tensor: Tensor) -> np.ndarray:
    """One copy to the host, as float32; it waits for what the device has to compute before."""
    return tensor.float().cpu().numpy()


def pooled(
    tokens: Float[Tensor, "image_tokens width"], question: Float[Tensor, "prompt_tokens width"]
) -> Float[Tensor, " both"]:
    """The mean of the image's tokens, then that of the question's: one tensor, so that one copy takes both."""
    return torch.cat((tokens.mean(dim=0), question.mean(dim=0))).float()


def token_statistics(tokens: Float[Tensor, "tokens width"]) -> Float[Tensor, " statistics"]:
    """Mean, standard deviation and maximum over tokens, one after the other.

    >>> token_statistics(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).tolist()
    [1.0, 1.0, 1.0, 0.0, 2.0, 1.0]
    """
    wide = tokens.float()
    return torch.cat((wide.mean(dim=0), wide.std(dim=0, correction=0), wide.amax(dim=0)))


def feature_sets(
    tokens: Float[Tensor, "image_tokens width"],
    question: Float[Tensor, "prompt_tokens width"],
    class_token: Float[Tensor, " features"] | None = None,
) -> dict[str, Callable[[], np.ndarray]]:
    """All sets of an overview by name; each is computed on the device and copied when it is read."""
    sets = {
        "image.mean": lambda: to_host(tokens.mean(dim=0)),
        "image.statistics": lambda: to_host(token_statistics(tokens)),
        "image.tokens": lambda: to_host(tokens),
        "question.mean": lambda: to_host(question.mean(dim=0)),
        "question.first": lambda: to_host(question[0]),
        "question.tokens": lambda: to_host(question),
    }
    if class_token is not None:
        sets["image.cls"] = lambda: to_host(class_token)
    return sets


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
    ) -> None:
        self._set(_copy=copy, _image_width=image_width)
        self._set(image_size=image_size, state=state, feature_sets=feature_sets)

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
