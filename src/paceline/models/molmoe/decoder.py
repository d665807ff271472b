"""MolmoE's decoder: pre-norm attention with QK norm and rotary positions, then a token-choice mixture of experts.

Muennighoff et al. 2024, "OLMoE" (arXiv 2409.02060), section 2, and Deitke et al. 2024, "Molmo" (arXiv 2409.17146).
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from paceline.models.molmoe import knob_state
from paceline.models.molmoe.options import MolmoEOptions
from paceline.models.molmoe.packed import PackedExperts, PlainExperts, can_pack
from paceline.models.molmoe.placement import Route

SMALL_WEIGHTS = 1 << 19  # so many weights stay in a core's cache: copying or reading all of them is cheap
PIECE = 8  # rows of a piece; with fewer rows than this per expert, pieces beat groups
LOOPED_WEIGHTS = (
    1 << 17
)  # numbers in an expert's first layer, from which on a call per expert is nothing to speak of
ALIGNMENT = 16  # bytes: what grouped products ask of a row
CHUNK = 512  # tokens: batches are cut, so that what the experts make of them stays in cache too


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:  # no rounding before the weight: one call does both, twice as fast
            return functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return rms_normalise(x, self.eps) * self.weight


def rms_normalise(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis, in float32, back in x's type."""
    return functional.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


@lru_cache(maxsize=16)
def _angles(length: int, head_dim: int, base: float, device: torch.device) -> Tensor:
    """Cosines, and sines with the sign of the first half folded in: (length, 2, head_dim), float32."""
    with torch.inference_mode(False):  # the table is shared with training
        # As the public code writes it: another way differs by a rounding, which a thousand positions widen.
        frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
        angles = torch.arange(length, device=device).float()[:, None] * frequencies
        cosines, sines = angles.cos(), angles.sin()
        return torch.stack((torch.cat((cosines, cosines), -1), torch.cat((-sines, sines), -1)), dim=1)


def rotary_table(
    positions: Int[Tensor, "batch time"], head_dim: int, base: float, length: int
) -> tuple[Tensor, Tensor]:
    """What `rotate` needs at these positions (below `length`), each (batch, time, 1, head_dim)."""
    found = _angles(length, head_dim, base, positions.device)[positions]
    return found[:, :, :1], found[:, :, 1:]


def rotate(x: Float[Tensor, "batch time heads dim"], rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate halves: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), in float32."""
    cosines, signed_sines = rotary
    wide = x.float()
    return torch.addcmul(wide * cosines, wide.roll(x.shape[-1] // 2, dims=-1), signed_sines).to(x.dtype)


class KeyValueCache:
    """Keys and values per block, (batch, heads, time, head_dim); blocks that are skipped hold nothing."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # positions, the prompt's and all new ones
        self._blocks: dict[int, tuple[Tensor, Tensor, int]] = {}

    def extend(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append along time and return everything so far."""
        if block in self._blocks:
            all_keys, all_values, length = self._blocks[block]
        else:
            batch, heads, _, head_dim = keys.shape
            all_keys, all_values = keys.new_empty(2, batch, heads, self.capacity, head_dim).unbind(0)
            length = 0
        end = length + keys.shape[2]
        all_keys[:, :, length:end] = keys
        all_values[:, :, length:end] = values
        self._blocks[block] = (all_keys, all_values, end)
        return all_keys[:, :, :end], all_values[:, :, :end]

    def read(self, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a block so far."""
        keys, values, length = self._blocks[block]
        return keys[:, :, :length], values[:, :, :length]

    @property
    def length(self) -> int:
        """Positions so far."""
        return next(iter(self._blocks.values()))[2] if self._blocks else 0

    def repeat(self, rows: Int[Tensor, " requests"]) -> "KeyValueCache":
        """A cache whose n-th row is this one's row `rows[n]`: requests that share what has been read so far."""
        repeated = KeyValueCache(self.capacity)
        repeated._blocks = {
            block: (keys[rows.to(keys.device)], values[rows.to(keys.device)], length)
            for block, (keys, values, length) in self._blocks.items()
        }
        return repeated


class Attention(nn.Module):
    """Causal self-attention; queries and keys are RMS-normalised over the full width before the split into heads."""

    def __init__(self, options: MolmoEOptions) -> None:
        super().__init__()
        self.heads = options.num_heads
        self.norm = RMSNorm(options.width, options.norm_eps)
        self.q_norm = RMSNorm(options.width, options.norm_eps)
        self.k_norm = RMSNorm(options.width, options.norm_eps)
        self.qkv = nn.Linear(options.width, 3 * options.width, bias=False)
        self.out = nn.Linear(options.width, options.width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        rotary: tuple[Tensor, Tensor],
        mask: Bool[Tensor, "batch 1 time keys"] | None,
        cache: KeyValueCache | None,
        block: int,
        last_only: bool = False,
    ) -> Float[Tensor, "batch queries width"]:
        batch, time, width = x.shape
        query_key, value = self.qkv(self.norm(x)).split((2 * width, width), dim=-1)
        # Queries and keys side by side: normalised and rotated at once.
        query_key = rms_normalise(query_key.unflatten(-1, (2, width)), self.q_norm.eps)
        query_key = query_key * torch.stack((self.q_norm.weight, self.k_norm.weight))
        query_key = rotate(query_key.view(batch, time, 2 * self.heads, width // self.heads), rotary)
        query, key = query_key.transpose(1, 2).split(self.heads, dim=1)
        value = value.view(batch, time, self.heads, width // self.heads).transpose(1, 2)
        if last_only:
            query, mask, time = query[:, :, -1:], None if mask is None else mask[:, :, -1:], 1
        if cache is not None:
            key, value = cache.extend(block, key, value)
        causal = mask is None and time > 1
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, width))


class MixtureOfExperts(nn.Module):
    """Each token goes to its top_k experts, weighted by a softmax over ALL experts that is not renormalised."""

    def __init__(self, options: MolmoEOptions) -> None:
        super().__init__()
        experts, hidden, width = options.num_experts, options.expert_hidden, options.width
        self.top_k = options.top_k
        self.cap = options.router_cap
        self.norm = RMSNorm(width, options.norm_eps)
        self.router = nn.Linear(width, experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * hidden, width))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self.small = 3 * self.down.numel() <= SMALL_WEIGHTS
        self.packed: PackedExperts | None = None

    def pack(self) -> bool:
        """Put the experts' weights into the processor's order where that pays; the stacked ones are then given up."""
        if not (can_pack(self.gate_up) and can_pack(self.down.mT)):
            return False
        self.packed = PackedExperts.of(self.gate_up, self.down)
        # Their shapes stay, for whoever counts parameters.
        self.gate_up = nn.Parameter(self.gate_up.to("meta"), requires_grad=False)
        self.down = nn.Parameter(self.down.to("meta"), requires_grad=False)
        return True

    def route(self, x: Float[Tensor, "tokens width"], top_k: int) -> tuple[Tensor, Tensor]:
        """Weights in x's type and expert ids, both (tokens, top_k)."""
        logits = self.router(x).float()
        if self.cap is not None:
            logits = (logits / self.cap).tanh() * self.cap
        weights, experts = logits.softmax(dim=-1).topk(top_k, dim=-1, sorted=False)
        return weights.to(x.dtype), experts

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        flat = self.norm(x).reshape(-1, x.shape[-1])
        state = knob_state.current()
        weights, experts = self.route(flat, state.top_k or self.top_k)
        if self.training:
            return self._dense(flat, weights, experts).view_as(x)
        if self.packed is not None:
            method = self.packed.mix
        elif len(flat) == 1 and flat.is_cuda and not self.small:
            method = self._grouped_single
        elif (state.every_expert and self.small) or self.down.shape[1] * x.element_size() % ALIGNMENT:
            method = self._dense
        elif len(flat) == 1 and 3 * experts.shape[1] * self.down[0].numel() <= SMALL_WEIGHTS:
            method = self._single
        elif not flat.is_cuda and (len(flat) == 1 or self.gate_up[0].numel() >= LOOPED_WEIGHTS):
            method = PlainExperts.of(self.gate_up, self.down).mix
        elif experts.numel() < PIECE * len(self.down) and self.small:
            method = self._pieces
        else:
            method = self._grouped
        if len(flat) <= CHUNK:
            return method(flat, weights, experts).view_as(x)
        parts = zip(flat.split(CHUNK), weights.split(CHUNK), experts.split(CHUNK), strict=True)
        return torch.cat([method(*part) for part in parts]).view_as(x)

    def _single(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """One token: the weights of its experts side by side, as if they were one."""
        chosen = experts[0]
        width = x.shape[1]
        inner = self.gate_up.index_select(0, chosen).view(-1, width).mv(x[0]).view(len(chosen), -1)
        gate, up = inner.chunk(2, dim=-1)
        hidden = functional.silu(gate) * up * weights.T
        return hidden.view(1, -1) @ self.down.index_select(0, chosen).view(-1, width)

    def _grouped_single(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """One token on a device: its experts' weights are read where they lie, in few kernels and without waiting."""
        chosen, order = experts[0].sort()
        every = torch.arange(len(self.down), device=x.device)
        ends = torch.searchsorted(chosen, every, right=True, out_int32=True)
        rows = x.repeat(len(chosen), 1)
        gate, up = functional.grouped_mm(rows, self.gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        hidden = functional.silu(gate) * up * weights[0].index_select(0, order)[:, None]
        return functional.grouped_mm(hidden, self.down, offs=ends).sum(dim=0, keepdim=True)

    def _grouped(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """Tokens sorted by expert, one grouped matrix product per layer of the experts."""
        top_k = experts.shape[1]
        chosen, order = experts.flatten().sort()
        every = torch.arange(len(self.down), device=x.device)
        ends = torch.searchsorted(
            chosen, every, right=True, out_int32=True
        )  # counted without waiting for the device
        rows = x.index_select(0, order // top_k)
        gate, up = functional.grouped_mm(rows, self.gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        found = functional.grouped_mm(functional.silu(gate) * up, self.down, offs=ends)
        # The weighted sum over each token's experts, which lie scattered in the sorted order.
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=x.device)
        return functional.embedding_bag(
            places.view_as(experts), found, mode="sum", per_sample_weights=weights
        )

    def _pieces(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """Few tokens: each expert's rows in pieces of equal size, padded with zeros, all pieces in one product.

        A grouped product costs a call per expert, which at a few rows each is most of its time; and padding all
        experts to the largest load would multiply mostly zeros, for alike tokens choose alike.
        """
        count, width = len(self.down), x.shape[1]
        top_k, flat = experts.shape[1], experts.flatten()
        order = flat.argsort()
        loads = torch.bincount(flat, minlength=count)
        pieces = (loads + PIECE - 1) // PIECE
        owner = torch.repeat_interleave(pieces)
        # Rows of an expert lie together in sorted order; its pieces begin elsewhere, by as much as padding came before.
        shift = PIECE * (pieces.cumsum(0) - pieces) - (loads.cumsum(0) - loads)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=x.device) + shift[flat[order]]
        rows = x.new_zeros(PIECE * len(owner), width)
        rows[places] = x.repeat_interleave(top_k, dim=0)
        gate_up = self.gate_up.index_select(0, owner).mT
        gate, up = torch.bmm(rows.view(-1, PIECE, width), gate_up).chunk(2, dim=-1)
        found = torch.bmm(functional.silu(gate) * up, self.down.index_select(0, owner)).flatten(0, 1)
        return functional.embedding_bag(
            places.view_as(experts), found, mode="sum", per_sample_weights=weights
        )

    def _dense(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """Every expert on every token, unchosen ones weighted 0: the same sum, faster to train at large top_k."""
        count, hidden, width = self.down.shape
        scale = torch.zeros(x.shape[0], count, dtype=x.dtype, device=x.device).scatter(1, experts, weights)
        gate, up = (
            functional.linear(x, self.gate_up.view(-1, width)).view(-1, count, 2 * hidden).chunk(2, dim=-1)
        )
        return (functional.silu(gate) * up * scale[..., None]).flatten(1) @ self.down.view(-1, width)


class Block(nn.Module):
    """One decoder block."""

    def __init__(self, options: MolmoEOptions) -> None:
        super().__init__()
        self.attention = Attention(options)
        self.moe = MixtureOfExperts(options)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValueCache | None,
        index: int,
        last_only: bool = False,
    ) -> Tensor:
        mixed = self.attention(x, rotary, mask, cache, index, last_only)
        x = (x[:, -1:] if last_only else x) + mixed
        return x + self.moe(x)


class Decoder(nn.Module):
    """Embeddings, blocks, final norm and output."""

    def __init__(self, options: MolmoEOptions) -> None:
        super().__init__()
        self.options = options
        self.embedding = nn.Parameter(
            torch.empty(options.vocabulary + options.added_vocabulary, options.width)
        )
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.num_blocks))
        self.norm = RMSNorm(options.width, options.norm_eps)
        self.head = nn.Linear(options.width, options.vocabulary, bias=False)
        self.route: Route | None = None  # where the parts are on several devices

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Input embeddings of token ids."""
        return functional.embedding(ids, self.embedding)

    def rotary(self, positions: Int[Tensor, "batch time"]) -> tuple[Tensor, Tensor]:
        """Rotary angles at these positions, for the blocks."""
        options = self.options
        return rotary_table(
            positions, options.width // options.num_heads, options.rope_base, options.max_positions
        )

    def forward(
        self,
        embeddings: Float[Tensor, "batch time width"],
        positions: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch 1 time keys"] | None = None,
        cache: KeyValueCache | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch queries width"]:
        """Final hidden states, or only the last position's: then the last block answers for that one alone.

        `mask` is True where attention is allowed; None means causal from position 0.
        """
        rotary = self.rotary(positions)
        active = knob_state.current().active_blocks or tuple(range(len(self.blocks)))
        x = self.through(embeddings, active, rotary, mask, cache, last_only)
        return self.norm(x if self.route is None else x.to(self.route.head))

    def through(
        self,
        x: Tensor,
        active: Sequence[int],
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValueCache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Hidden states after these blocks."""
        for index in active:
            if self.route is not None:
                x, rotary, mask = self.route.enter(index, x, rotary, mask)
            x = self.blocks[index](x, rotary, mask, cache, index, last_only and index == active[-1])
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, on the device of the embeddings."""
        if self.route is None:
            return self.head(hidden)
        return self.head(hidden.to(self.route.head)).to(self.embedding.device)
