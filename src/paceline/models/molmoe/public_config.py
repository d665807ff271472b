"""Sizes of a public MolmoE checkpoint, from its config.json and preprocessor_config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.errors import ModelError
from paceline.models.molmoe.options import CLIP_MEAN, CLIP_STD, MAX_CROPS, MolmoEOptions

MODEL_TYPE = "molmo"
NORM_EPS = 1e-5  # of the vision tower; the language model's is read
POOLING = 2  # patches along the side of a pooled window

# What the public code can also be told to do, and this implementation cannot: key -> values that are fine. Keys that
# the public code has and does not read are not here.
LANGUAGE = {
    "attention_layer_norm": (True,),
    "bias_for_layer_norm": (None, False),
    "clip_qkv": (None,),
    "final_logit_softcapping": (None,),
    "image_padding_embed": ("pad_and_partial_pad",),
    "image_pooling_2d": ("attention-meanq", "attention_meanq"),
    "image_pooling_h": (POOLING,),
    "image_pooling_w": (POOLING,),
    "image_projector": ("mlp",),
    "include_bias": (False,),
    "layer_norm_with_affine": (True,),
    "norm_after": (False,),
    "normalize_input_embeds": (False,),
    "qkv_bias": (False,),
    "rope": (True,),
    "rope_impl": ("llama",),
    "scale_logits": (False,),
    "unconditioned": (False,),
    "use_cls_feature": (False,),
    "use_position_ids": (True,),
    "weight_tying": (False,),
}
VISION = {
    "image_model_type": ("openai",),
    "image_norm_eps": (NORM_EPS,),
}
ALIASES = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "mlp_hidden_size": "intermediate_size",
    "n_kv_heads": "num_key_value_heads",
    "embedding_size": "vocab_size",
    "max_position_embeddings": "max_sequence_length",
}
"""Second names of keys, read where the first is not there."""


def is_public(config: Any) -> bool:
    """Whether a config.json is that of the public code."""
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def read_options(
    config: Mapping[str, Any], processor: Mapping[str, Any], config_path: Path, processor_path: Path
) -> MolmoEOptions:
    """Options from the two files.

    Raises ModelError for a size that is missing or wrong, for files that contradict each other, and for variants of
    the architecture other than MolmoE's.
    """
    _refuse_variants(config, LANGUAGE, config_path)
    read = _Reader(config, config_path)
    vision = config.get("vision_backbone")
    if not isinstance(vision, dict):
        raise ModelError(
            f"{config_path}: vision_backbone is {vision!r}, expected the sizes of a vision tower: "
            "a model without one reads no images"
        )
    _refuse_variants(vision, VISION, config_path)
    tower = _Reader(vision, config_path)
    heads, vit_width, vit_heads = read("n_heads"), tower("image_emb_dim"), tower("image_num_heads")
    read.equal("n_kv_heads", heads)
    read.equal("head_dim", read("d_model") // heads)
    tower.equal("image_num_key_value_heads", vit_heads)
    crop_size, patch_size = tower.square("image_default_input_size"), tower("image_patch_size")
    positions = (crop_size // patch_size) ** 2 + 1
    if tower("image_num_pos") != positions:
        raise ModelError(
            f"{config_path}: image_num_pos is {vision['image_num_pos']}, expected {positions}: one per patch of "
            f"{crop_size} / {patch_size} pixels squared, and the class token's"
        )
    inner = read("mlp_hidden_size") // 2  # the public code counts both halves of a gated layer
    features = read.integers("vit_layers")
    blocks = tower("image_num_layers")
    if not features or not all(-blocks <= index < blocks for index in features):
        raise ModelError(
            f"{config_path}: vit_layers is {list(features)}, expected indices into {blocks} blocks"
        )
    prepared = _Processor(processor, processor_path)
    prepared.agrees(crop_size, patch_size, (crop_size // patch_size) // POOLING)
    eps = config.get("layer_norm_eps")
    return MolmoEOptions(
        width=read("d_model"),
        num_blocks=read("n_layers"),
        num_heads=heads,
        num_experts=read("moe_num_experts"),
        top_k=read("moe_top_k"),
        expert_hidden=inner,
        vocabulary=read("embedding_size"),
        added_vocabulary=read("additional_vocab_size"),
        max_positions=read("max_position_embeddings"),
        rope_base=read.number("rope_theta", 10_000.0),
        norm_eps=1e-5 if eps is None else read.number("layer_norm_eps", 1e-5),
        vit_width=vit_width,
        vit_blocks=blocks,
        vit_heads=vit_heads,
        vit_mlp=tower("image_mlp_dim"),
        vit_features=features,
        pool_heads=vit_heads,
        pool_width=vit_heads * tower.whole("image_head_dim", vit_width // vit_heads),
        projector_hidden=inner,
        crop_size=crop_size,
        patch_size=patch_size,
        margins=prepared.margins(config.get("overlap_margins")),
        max_crops=prepared.max_crops,
        image_mean=prepared.colours("image_mean", CLIP_MEAN),
        image_std=prepared.colours("image_std", CLIP_STD),
    )


def _refuse_variants(values: Mapping[str, Any], fine: Mapping[str, tuple[Any, ...]], path: Path) -> None:
    for key, allowed in fine.items():
        if key in values and values[key] not in allowed:
            raise ModelError(
                f"{path}: {key} is {values[key]!r}, expected {allowed[0]!r}; of the public code's variants only "
                "MolmoE's can be run"
            )


class _Reader:
    """Numbers of one JSON object, each checked; a key may have a second name."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def _value(self, key: str) -> Any:
        found = self.values.get(key)
        return self.values.get(ALIASES.get(key, key)) if found is None else found

    def _wrong(self, key: str, expected: str) -> ModelError:
        value = self._value(key)
        said = "not there" if value is None else repr(value)
        return ModelError(f"{self.path}: {key} is {said}, expected {expected}")

    def __call__(self, key: str) -> int:
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, "an integer from 1 on")
        return value

    def whole(self, key: str, default: int) -> int:
        return default if self._value(key) is None else self(key)

    def number(self, key: str, default: float) -> float:
        value = self._value(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise self._wrong(key, "a positive number")
        return float(value)

    def equal(self, key: str, expected: int) -> None:
        if self._value(key) not in (None, expected):
            raise self._wrong(key, str(expected))

    def integers(self, key: str) -> tuple[int, ...]:
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise self._wrong(key, "a list of integers")
        return tuple(value)

    def square(self, key: str) -> int:
        value = self.integers(key)
        if len(value) != 2 or value[0] != value[1] or value[0] < 1:
            raise self._wrong(key, "[side, side] in pixels")
        return value[0]


class _Processor:
    """What preprocessor_config.json says of images."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.read = _Reader(values, path)
        if values.get("image_padding_mask", True) is not True or values.get("do_normalize", True) is not True:
            raise ModelError(
                f"{path}: image_padding_mask and do_normalize must be true, as MolmoE was trained with both"
            )

    def agrees(self, crop_size: int, patch_size: int, tokens: int) -> None:
        """The same geometry as the weights have."""
        size = self.read.values.get("base_image_input_size", crop_size)
        if size not in (crop_size, [crop_size, crop_size]):
            raise ModelError(
                f"{self.read.path}: base_image_input_size is {size}, expected {crop_size} on both sides as in "
                "config.json"
            )
        self.read.equal("image_patch_size", patch_size)
        self.read.equal("image_token_length_h", tokens)
        self.read.equal("image_token_length_w", tokens)

    def margins(self, trained: Any) -> tuple[int, int]:
        """Patches of overlap; the processor's word counts, as it cuts the image."""
        named = self.read.values.get("overlap_margins")
        value = trained if named is None else named
        value = [4, 4] if value is None else value
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(isinstance(item, int) and item >= 0 for item in value)
        ):
            raise ModelError(
                f"{self.read.path}: overlap_margins is {value!r}, expected two numbers of patches"
            )
        if value[0] % POOLING:
            raise ModelError(
                f"{self.read.path}: overlap_margins is {value}, expected an even first number: a token is two "
                "patches wide"
            )
        return value[0], value[1]

    @property
    def max_crops(self) -> int:
        return self.read.whole("max_crops", MAX_CROPS)

    def colours(self, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        """One number per channel."""
        value = self.read.values.get(key)
        if value is None:
            return default
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(isinstance(v, int | float) for v in value)
        ):
            raise ModelError(f"{self.read.path}: {key} is {value!r}, expected three numbers")
        return float(value[0]), float(value[1]), float(value[2])
