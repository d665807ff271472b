"""The numbers of a MolmoE model. `tiny` and `molmoe-1b` differ in nothing else."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from paceline.errors import ModelError

MAX_CROPS = 12
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class MolmoEOptions:
    """Sizes of the decoder, the vision tower and the image geometry."""

    # Decoder
    width: int
    num_blocks: int
    num_heads: int
    num_experts: int
    top_k: int  # experts per token unless a request says otherwise
    expert_hidden: int
    vocabulary: int  # rows of the output and of the base embedding
    added_vocabulary: int  # further input embeddings, for special tokens
    max_positions: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    router_cap: float | None = None  # router logits become cap * tanh(logits / cap): a flat router

    # Vision tower
    vit_width: int
    vit_blocks: int
    vit_heads: int
    vit_mlp: int
    vit_features: tuple[int, ...]  # Python indices of the blocks whose outputs are concatenated
    pool_heads: int
    pool_width: int
    projector_hidden: int

    # Image geometry
    crop_size: int
    patch_size: int
    margins: tuple[int, int]  # patches of overlap, left/top and right/bottom
    max_crops: int = MAX_CROPS
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    resize_bits: int = 32  # 32: images are resized in float32; 8: in integers, five times faster
    mask_row_shift: int = 1  # 1: padding masks are off by a row, as in the public code; 0: each its own

    def __post_init__(self) -> None:
        for name, total, parts in (
            ("num_heads", self.width, self.num_heads),
            ("vit_heads", self.vit_width, self.vit_heads),
            ("pool_heads", self.pool_width, self.pool_heads),
            ("patch_size", self.crop_size, self.patch_size),
        ):
            if parts <= 0 or total % parts:
                raise ModelError(f"{name}: got {parts}, expected a divisor of {total}")
        if not 1 <= self.top_k <= self.num_experts:
            raise ModelError(f"top_k: got {self.top_k}, expected 1 to num_experts = {self.num_experts}")

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.crop_size // self.patch_size

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch."""
        return self.patch_size * self.patch_size * 3

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "MolmoEOptions":
        """Options from a JSON object; unknown and missing keys are errors."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ModelError(f"model options: unknown keys {unknown}; expected some of {sorted(known)}")
        tuples: dict[str, Any] = {
            key: tuple(item) if isinstance(item, list) else item for key, item in value.items()
        }
        try:
            return cls(**tuples)
        except TypeError as error:
            raise ModelError(f"model options: {error}") from error


TINY = MolmoEOptions(
    width=96,
    num_blocks=16,
    num_heads=4,
    num_experts=64,
    top_k=32,
    expert_hidden=16,
    vocabulary=256,
    added_vocabulary=8,
    max_positions=512,
    router_cap=0.8,
    vit_width=64,
    vit_blocks=4,
    vit_heads=4,
    vit_mlp=256,
    vit_features=(-1, -3),
    pool_heads=4,
    pool_width=64,
    projector_hidden=128,
    crop_size=32,
    patch_size=4,
    margins=(1, 1),
    image_mean=(0.25, 0.25, 0.25),
    image_std=(0.25, 0.25, 0.25),
    resize_bits=8,
    mask_row_shift=0,
)
"""The embedded model: MolmoE's shape at a size that two CPU cores train and run."""

MOLMOE_1B = MolmoEOptions(
    width=2048,
    num_blocks=16,
    num_heads=16,
    num_experts=64,
    top_k=8,
    expert_hidden=1024,
    vocabulary=50_304,
    added_vocabulary=128,
    max_positions=4096,
    vit_width=1024,
    vit_blocks=23,
    vit_heads=16,
    vit_mlp=4096,
    vit_features=(-2, -9),
    pool_heads=16,
    pool_width=1024,
    projector_hidden=1024,
    crop_size=336,
    patch_size=14,
    margins=(4, 4),
)
"""The sizes of allenai/MolmoE-1B-0924."""

PRESETS = {"tiny": TINY, "molmoe-1b": MOLMOE_1B}
