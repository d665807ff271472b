"""How networks are computed while they learn: device, precision, and what is kept for the backward pass."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paceline.errors import TrainError
from paceline.learning.groups import Groups


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """Runs forward passes of training; weights, losses and optimiser stay float32.

    Raises:
        TrainError: a GPU is asked for where there is none.
    """

    device: str = "cpu"  # "cuda" needs a GPU; tables stay on the CPU, batches go to the device
    precision: str = "float32"  # "bfloat16" multiplies matrices in it (mixed precision)
    gradient_checkpointing: bool = False  # hidden activations are computed again instead of kept

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise TrainError(
                "device: got 'cuda', but torch finds no GPU; expected one with its driver and a CUDA build of torch, "
                "or train with --device cpu"
            )

    def placed(self, groups: Groups) -> Groups:
        """A batch on the device."""
        if self.device == "cpu":
            return groups
        return replace(
            groups, **{item.name: getattr(groups, item.name).to(self.device) for item in fields(groups)}
        )

    def outputs(self, network: nn.Module, *inputs: Any) -> Tensor:
        """`network(*inputs)` in float32; tensors of `inputs`, also in tuples, may be on the CPU."""
        placed = [self._on_device(value) for value in inputs]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # Networks draw nothing at random themselves, so there is no random state to keep.
                found = checkpoint(network, *placed, use_reentrant=False, preserve_rng_state=False)
            else:
                found = network(*placed)
        return found.float()

    def _on_device(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._on_device(part) for part in value)
        return value.to(self.device) if isinstance(value, Tensor) else value
