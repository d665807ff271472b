"""Small checkpoints in the layout of the public MolmoE code: its key names, its files, random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

VOCABULARY, ADDED = 48, 16
IMAGE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>")
WORDS = "User : Assistant what is the red one how many dogs are there ? w1 w2 w3 w4 w5 w6 w7 w8".split()

CONFIG: dict[str, Any] = {
    "model_type": "molmo",
    "architectures": ["OLMoForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_molmoe.MolmoForCausalLM"},
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 3,
    "mlp_hidden_size": 24,
    "moe_num_experts": 8,
    "moe_top_k": 3,
    "embedding_size": VOCABULARY,
    "vocab_size": VOCABULARY,
    "additional_vocab_size": ADDED,
    "max_position_embeddings": 900,
    "rope_theta": 10000.0,
    "rope_impl": "llama",
    "layer_norm_eps": 1e-05,
    "layer_norm_type": "rms",
    "attention_layer_norm": True,
    "include_bias": False,
    "weight_tying": False,
    "vit_layers": [-2, -4],
    "image_pooling_2d": "attention-meanq",
    "image_padding_embed": "pad_and_partial_pad",
    "overlap_margins": [4, 4],
    "torch_dtype": "float32",
    "vision_backbone": {
        "image_default_input_size": [168, 168],
        "image_patch_size": 14,
        "image_emb_dim": 24,
        "image_num_heads": 3,
        "image_num_key_value_heads": 3,
        "image_head_dim": 8,
        "image_num_layers": 5,
        "image_mlp_dim": 40,
        "image_mlp_activations": "quick_gelu",
        "image_num_pos": 145,
        "image_norm_eps": 1e-05,
    },
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "MolmoImageProcessor",
    "base_image_input_size": [168, 168],
    "image_patch_size": 14,
    "image_token_length_h": 6,
    "image_token_length_w": 6,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_padding_mask": True,
    "do_normalize": True,
    "max_crops": 6,
    "overlap_margins": [4, 4],
}


def shapes(config: dict[str, Any] = CONFIG) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the public code has them for a config."""
    d, v = config["d_model"], config["vision_backbone"]
    inner, emb = config["mlp_hidden_size"] // 2, v["image_emb_dim"]
    attended, features = v["image_num_heads"] * v["image_head_dim"], emb * len(config["vit_layers"])
    top, vit = "model.vision_backbone", "model.vision_backbone.image_vit"
    found: dict[str, tuple[int, ...]] = {
        "model.transformer.wte.embedding": (config["embedding_size"], d),
        "model.transformer.wte.new_embedding": (config["additional_vocab_size"], d),
        "model.transformer.ln_f.weight": (d,),
        "lm_head.weight": (config["embedding_size"], d),
        f"{top}.pad_embed": (2, features),
        f"{top}.image_projector.w1.weight": (inner, emb),
        f"{top}.image_projector.w2.weight": (d, inner),
        f"{top}.image_projector.w3.weight": (inner, emb),
        f"{top}.image_pooling_2d.wo.weight": (emb, attended),
        f"{top}.image_pooling_2d.wo.bias": (emb,),
        f"{vit}.class_embedding": (emb,),
        f"{vit}.positional_embedding": (v["image_num_pos"], emb),
        f"{vit}.patch_embedding.weight": (emb, v["image_patch_size"] ** 2 * 3),
        f"{vit}.pre_ln.weight": (emb,),
        f"{vit}.pre_ln.bias": (emb,),
    }
    for name in ("wq", "wk", "wv"):
        found[f"{top}.image_pooling_2d.{name}.weight"] = (attended, features)
        found[f"{top}.image_pooling_2d.{name}.bias"] = (attended,)
    for index in range(v["image_num_layers"]):
        at = f"{vit}.transformer.resblocks.{index}"
        for name in ("wq", "wk", "wv", "wo"):
            found[f"{at}.attention.{name}.weight"] = (emb, emb)
            found[f"{at}.attention.{name}.bias"] = (emb,)
        for name, (rows, columns) in {
            "w1": (v["image_mlp_dim"], emb),
            "w2": (emb, v["image_mlp_dim"]),
        }.items():
            found[f"{at}.feed_forward.{name}.weight"] = (rows, columns)
            found[f"{at}.feed_forward.{name}.bias"] = (rows,)
        for name in ("attention_norm", "ffn_norm"):
            found[f"{at}.{name}.weight"] = (emb,)
            found[f"{at}.{name}.bias"] = (emb,)
    for index in range(config["n_layers"]):
        at = f"model.transformer.blocks.{index}"
        for name in ("attn_norm", "q_norm", "k_norm"):
            found[f"{at}.attn.{name}.weight"] = (d,)
        found[f"{at}.attn.att_proj.weight"] = (3 * d, d)
        found[f"{at}.attn.attn_out.weight"] = (d, d)
        found[f"{at}.mlp.ff_norm.weight"] = (d,)
        found[f"{at}.mlp.gate.weight"] = (config["moe_num_experts"], d)
        for expert in range(config["moe_num_experts"]):
            for name, shape in {
                "gate_proj": (inner, d),
                "up_proj": (inner, d),
                "down_proj": (d, inner),
            }.items():
                found[f"{at}.mlp.experts.{expert}.{name}.weight"] = shape
    return found


def random_weights(config: dict[str, Any] = CONFIG, seed: int = 0) -> dict[str, Tensor]:
    """Weights large enough that every part matters to the answer."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            noise = noise * 1.5 / shape[-1] ** 0.5
        elif name.endswith("norm.weight") or name.endswith("_ln.weight") or name.endswith("ln_f.weight"):
            noise = 1 + 0.2 * noise
        else:
            noise = 0.2 * noise
        if "wte" in name:
            noise = noise * 6  # so that the last token matters to the next
        if "q_norm" in name:
            noise = noise * 4  # and so does every other
        if "image_projector.w2" in name:
            noise = noise / 30  # so that image tokens are as large as words
        found[name] = noise
    return found


def tokenizer(*, complete: bool = True) -> Tokenizer:
    """Words below VOCABULARY, filled up, then the image tokens; these only where `complete`."""
    words = ["<unk>", "<|endoftext|>", *WORDS]
    words += [f"|<EXTRA_{index}>|" for index in range(VOCABULARY - len(words))]
    made = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    special = ["<|endoftext|>", *(IMAGE_TOKENS if complete else ())]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return made


def write_public(
    directory: Path,
    *,
    config: dict[str, Any] | None = None,
    processor: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
    files: int = 3,
    complete_tokenizer: bool = True,
) -> Path:
    """A checkpoint directory; with one file there is no index."""
    directory.mkdir(parents=True, exist_ok=True)
    config = CONFIG | (config or {})
    weights = random_weights(config) if weights is None else weights
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | (processor or {})))
    tokenizer(complete=complete_tokenizer).save(str(directory / "tokenizer.json"))
    added = {
        str(VOCABULARY + place): {"content": token, "special": True}
        for place, token in enumerate(IMAGE_TOKENS)
    }
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "GPTNeoXTokenizerFast", "bos_token": None, "eos_token": "<|endoftext|>"}
            | {"added_tokens_decoder": added}
        )
    )
    if files == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    names = [f"model-{number:05d}-of-{files:05d}.safetensors" for number in range(1, files + 1)]
    owner = {name: names[place % files] for place, name in enumerate(weights)}
    for name in names:
        part = {key: value.contiguous() for key, value in weights.items() if owner[key] == name}
        save_file(part, directory / name, metadata={"format": "pt"})
    total = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": owner}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
