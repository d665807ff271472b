"""Experts' weights in the order in which a processor reads them: large products on CPUs.

oneDNN multiplies weights that it has put into blocks of its own 1.5 to 3 times as fast as torch's float32 default where
rows are few, and reads them at nearly the memory's speed for a single row. The order is opaque, so packed weights are
held here and the stacked ones are given up.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

PACKED_WEIGHTS = 1 << 18  # numbers in a layer of one expert, from which on packing pays for its calls
PACKED_TYPES = (torch.float32, torch.bfloat16)
TURNED_ROWS = 16
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of a product's standard deviation


def product(rows: Float[Tensor, "rows width"], packed: Tensor) -> Float[Tensor, "rows out"]:
    """rows @ weight.T with a weight that `pack` made."""
    return torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")


def pack(weight: Float[Tensor, "out width"]) -> Tensor:
    """A weight in oneDNN's order."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


@torch.no_grad()
def can_pack(weight: Tensor) -> bool:
    """Whether stacked weights (experts, rows, columns) gain from packing here, tried on the first of them.

    The operators are torch's own, but not documented: their result is compared before they are relied on.
    """
    if (
        weight.device.type != "cpu"
        or weight.dtype not in PACKED_TYPES
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    if weight[0].numel() < PACKED_WEIGHTS:
        return False
    rows = torch.linspace(-1, 1, 3 * weight.shape[2]).view(3, -1).to(weight.dtype)
    plain = functional.linear(rows, weight[0])
    try:
        found = product(rows, pack(weight[0]))
    except (AttributeError, NotImplementedError, RuntimeError):  # a torch without them
        return False
    scale = float(plain.float().std()) or 1.0
    return bool((found.float() - plain.float()).abs().max() <= CLOSE[weight.dtype] * scale)


@lru_cache(maxsize=1)
@torch.no_grad()
def _has_product() -> bool:
    """Whether `product` multiplies plain weights too."""
    if not torch.backends.mkldnn.is_available():
        return False
    rows, weight = torch.linspace(-1, 1, 96).view(3, 32), torch.linspace(-1, 1, 320).view(10, 32).sin()
    try:
        found = [product(rows, weight), product(rows, weight.T.contiguous().T)]
    except (AttributeError, NotImplementedError, RuntimeError):  # a torch without it
        return False
    return all(bool(torch.allclose(one, rows @ weight.T, atol=1e-4)) for one in found)


class ExpertLoop(ABC):
    """The weighted sum over each token's experts, expert by expert."""

    @abstractmethod
    def first(self, expert: int, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows inner2"]:
        """Gate and up, side by side."""

    @abstractmethod
    def second(self, expert: int, rows: Float[Tensor, "rows inner"]) -> Float[Tensor, "rows width"]:
        """Down."""

    def mix(
        self,
        x: Float[Tensor, "tokens width"],
        weights: Float[Tensor, "tokens top_k"],
        experts: Tensor,
    ) -> Float[Tensor, "tokens width"]:
        """The sum; each expert meets the rows of its tokens at once."""
        if len(x) == 1:
            return self._one(x, weights, experts[0].tolist())
        top_k = experts.shape[1]
        chosen, order = experts.flatten().sort()
        tokens = torch.div(order, top_k, rounding_mode="floor")
        rows = x.index_select(0, tokens)
        scale = weights.flatten().index_select(0, order)[:, None]
        numbers, counts = chosen.unique_consecutive(return_counts=True)
        result = torch.zeros(x.shape, dtype=torch.float32)  # summed in float32, as a matrix product would be
        start = 0
        for expert, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            end = start + count
            gate, up = self.first(expert, rows[start:end]).chunk(2, dim=-1)
            hidden = functional.silu(gate).mul_(up).mul_(scale[start:end])
            result.index_add_(0, tokens[start:end], self.second(expert, hidden).float())
            start = end
        return result.to(x.dtype)

    def _one(self, x: Tensor, weights: Tensor, experts: Sequence[int]) -> Tensor:
        """A single token: nothing to sort."""
        inner = torch.cat([self.first(expert, x) for expert in experts])
        gate, up = inner.chunk(2, dim=-1)
        hidden = functional.silu(gate).mul_(up).mul_(weights.T)
        found = [self.second(expert, hidden[place : place + 1]) for place, expert in enumerate(experts)]
        return torch.cat(found).sum(dim=0, keepdim=True)


@dataclass(frozen=True, slots=True, eq=False)
class PlainExperts(ExpertLoop):
    """Stacked weights as they lie."""

    gate_up: Float[Tensor, "experts inner2 width"]
    down: Float[Tensor, "experts inner width"]
    fast: bool = False  # multiply through oneDNN

    @classmethod
    def of(cls, gate_up: Tensor, down: Tensor) -> "PlainExperts":
        """Weights, and which library multiplies them: oneDNN is ahead in float32 where a layer is large."""
        large = gate_up.dtype == torch.float32 and down[0].numel() >= PACKED_WEIGHTS
        return cls(gate_up, down, large and _has_product())

    def first(self, expert: int, rows: Tensor) -> Tensor:
        weight = self.gate_up[expert]
        return product(rows, weight) if self.fast else functional.linear(rows, weight)

    def second(self, expert: int, rows: Tensor) -> Tensor:
        weight = self.down[expert]  # lies the other way round, which takes oneDNN some rows to make up for
        return product(rows, weight.T) if self.fast and len(rows) >= TURNED_ROWS else rows @ weight


@dataclass(frozen=True, slots=True, eq=False)
class PackedExperts(ExpertLoop):
    """Packed weights of every expert."""

    gate_up: tuple[Tensor, ...]
    down: tuple[Tensor, ...]

    @classmethod
    @torch.no_grad()
    def of(
        cls, gate_up: Float[Tensor, "experts inner2 width"], down: Float[Tensor, "experts inner width"]
    ) -> "PackedExperts":
        """Packed copies of stacked weights."""
        return cls(tuple(pack(one) for one in gate_up), tuple(pack(one.T) for one in down))

    def first(self, expert: int, rows: Tensor) -> Tensor:
        return product(rows, self.gate_up[expert])

    def second(self, expert: int, rows: Tensor) -> Tensor:
        return product(rows, self.down[expert])
