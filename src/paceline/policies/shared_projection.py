"""An image projection that begins with the model's own projector, shared and fixed. torch."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.policies.stacked import StackedLinear


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SharedProjector:
    """The model's projector as it stands in the model, and what undoes the standardisation before it."""

    matrix: Float[Tensor, "feature inner"]  # the projector's last layer: features are its outputs
    unit: Float[Tensor, " feature"]  # standard deviations of the features, over the size of what comes out

    @classmethod
    def of(cls, matrix: Tensor, std: np.ndarray) -> "SharedProjector":
        """`std` (features,): of the training samples; what comes out has a mean square of 1 if they are independent."""
        deviation = torch.from_numpy(np.asarray(std, dtype=np.float32)).to(matrix.device)
        square = (deviation.unsqueeze(-1) * matrix.float()).square().sum(dim=0).mean()
        return cls(matrix=matrix, unit=deviation / square.sqrt().clamp(min=1e-12))


class SharedLinear(nn.Module):
    """features -> projector (shared by all members, fixed) -> a learned linear layer per member.

    Image features after the projector are sums of its columns, so that passing them back through it, transposed as in
    tied autoencoders, loses nothing; the learned layer then has `inner` inputs. Deciding needs the product alone, which
    `weight` and `bias` are. The projector is not part of the module's state: no checkpoint or controller holds it.
    """

    matrix: Tensor
    unit: Tensor

    def __init__(
        self, members: int, projector: SharedProjector, outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.linear = StackedLinear(members, projector.matrix.shape[1], outputs, generator)
        self.register_buffer("matrix", projector.matrix, persistent=False)
        self.register_buffer("unit", projector.unit, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "member i o"]:
        """Of the one layer that all of it is."""
        dtype = self.linear.weight.dtype
        return (self.unit.unsqueeze(-1) * self.matrix).to(dtype) @ self.linear.weight

    @property
    def bias(self) -> Float[Tensor, "member 1 o"]:
        """Likewise."""
        return self.linear.bias

    def forward(self, inputs: Float[Tensor, "member batch i"]) -> Float[Tensor, "member batch o"]:
        """Project every member's rows."""
        return self.linear((inputs * self.unit) @ self.matrix.to(inputs.dtype))
