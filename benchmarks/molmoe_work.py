"""What a MolmoE request makes a device read and compute, counted from the sizes."""

from dataclasses import dataclass

from paceline.models.molmoe.options import MolmoEOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Counts for one configuration of blocks and experts."""

    options: MolmoEOptions
    top_k: int
    blocks: int

    @property
    def block_weights(self) -> int:
        """Numbers of a block that one token meets: attention, router, its experts."""
        o = self.options
        return 4 * o.width**2 + o.num_experts * o.width + self.top_k * 3 * o.width * o.expert_hidden

    def decode_bytes(self, positions: int, itemsize: int) -> int:
        """Bytes read for one further token after `positions`: weights it meets, output layer, keys and values."""
        o = self.options
        cached = 2 * o.width * positions
        return itemsize * (self.blocks * (self.block_weights + cached) + o.vocabulary * o.width)

    def prefill_operations(self, tokens: int) -> int:
        """Multiplications and additions of a prefill that answers for its last position; attention is causal.

        The last block makes queries, keys and values of all positions, and the rest of the last one only.
        """
        o = self.options
        attention = 2 * o.width * tokens * (tokens + 1)
        per_block = 2 * tokens * self.block_weights + attention
        every = 3 * o.width**2  # queries, keys and values are one product, of all positions
        last = 2 * tokens * every + 2 * (self.block_weights - every) + 4 * o.width * tokens
        return (self.blocks - 1) * per_block + last + 2 * o.vocabulary * o.width

    def vision_operations(self, crops: int) -> int:
        """Those of the vision tower and the connector for some crops."""
        o = self.options
        patches, wide = o.grid**2, o.vit_width
        positions = patches + 1
        block = 2 * positions * (4 * wide**2 + 2 * wide * o.vit_mlp) + 4 * wide * positions**2
        features = wide * len(o.vit_features)
        pooled = patches // 4
        connector = 2 * patches * 2 * features * o.pool_width
        connector += 2 * pooled * (features * o.pool_width + o.pool_width**2)
        connector += 2 * pooled * (2 * o.pool_width * o.projector_hidden + o.projector_hidden * o.width)
        return crops * (2 * patches * o.patch_dim * wide + o.vit_blocks * block + connector)
