"""MolmoE's equations as its fact sheet states them, with loops, in float64, on tensors by their public names.

Slow and plain on purpose, and independent of the package: from an image, a question and a checkpoint directory to the
logits at every position. Nothing is batched, cached, fused or reused.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = NDArray[np.float64]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


# Image to crops and tokens


def choose_tiling(height: int, width: int, max_crops: int, window: int, margin: int) -> tuple[int, int]:
    """(rows, cols): the smallest scale of at least 1, or the largest where all shrink; the first wins ties."""
    candidates = []
    for product in range(1, max_crops + 1):
        for rows in range(1, product + 1):
            if product % rows == 0:
                candidates.append((rows, product // rows))
    scales = []
    for rows, cols in candidates:
        tall = np.float32(rows * window) / np.float32(height - margin)
        broad = np.float32(cols * window) / np.float32(width - margin)
        scales.append(min(tall, broad))
    best = None
    if all(scale < 1 for scale in scales):
        for place, scale in enumerate(scales):
            if best is None or scale > scales[best]:
                best = place
    else:
        for place, scale in enumerate(scales):
            if scale >= 1 and (best is None or scale < scales[best]):
                best = place
    assert best is not None
    return candidates[best]


def bilinear(image: Array, size: int) -> Array:
    """Resize the first axis; when shrinking the triangle is widened, so that no pixel is skipped (antialiasing)."""
    if len(image) == size:
        return image
    step = len(image) / size
    reach = max(step, 1.0)
    rows = []
    for place in range(size):
        centre = (place + 0.5) * step
        total, weight_sum = np.zeros(image.shape[1:]), 0.0
        for source in range(len(image)):
            weight = 1 - abs(source + 0.5 - centre) / reach
            if weight > 0:
                total = total + weight * image[source]
                weight_sum += weight
        rows.append(total / weight_sum)
    return np.stack(rows)


def resize_and_pad(image: NDArray[np.uint8], height: int, width: int) -> tuple[Array, Array]:
    """The image in [0, 1], its aspect kept, in the middle of black; and which pixels are its own."""
    scale = min(
        np.float32(height) / np.float32(image.shape[0]), np.float32(width) / np.float32(image.shape[1])
    )
    rows, cols = int(np.float32(image.shape[0]) * scale), int(np.float32(image.shape[1]) * scale)
    small = bilinear(image / 255.0, rows)
    small = bilinear(small.transpose(1, 0, 2), cols).transpose(1, 0, 2)
    top, left = (height - rows) // 2, (width - cols) // 2
    canvas, own = np.zeros((height, width, 3)), np.zeros((height, width))
    canvas[top : top + rows, left : left + cols] = small
    own[top : top + rows, left : left + cols] = 1
    return canvas, own


def patches(crop: Array, size: int) -> list[Array]:
    """Flattened row by row, channels last."""
    found = []
    for top in range(0, crop.shape[0], size):
        for left in range(0, crop.shape[1], size):
            found.append(crop[top : top + size, left : left + size].reshape(-1))
    return found


class PublicReference:
    """A checkpoint directory in the public layout."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self.processor: dict[str, Any] = json.loads((directory / "preprocessor_config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.w: dict[str, Array] = {}
        for file in sorted(directory.glob("*.safetensors")):
            self.w |= {name: value.astype(np.float64) for name, value in load_file(file).items()}
        vision = self.config["vision_backbone"]
        self.patch = vision["image_patch_size"]
        self.crop = vision["image_default_input_size"][0]
        self.side = self.crop // self.patch
        self.margins = self.processor["overlap_margins"]
        self.margin = sum(self.margins) * self.patch
        self.window = self.crop - self.margin

    def linear(self, name: str, x: Array) -> Array:
        y = self.w[f"{name}.weight"] @ x
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def token(self, text: str) -> int:
        index = self.tokenizer.token_to_id(text)
        assert index is not None
        return index

    # Preprocessing

    def crops(
        self, image: NDArray[np.uint8], tiling: tuple[int, int]
    ) -> tuple[list[list[Array]], list[Array]]:
        """Patches of the overview and of every crop, and a mask row for each of them."""
        mean, std = np.array(self.processor["image_mean"]), np.array(self.processor["image_std"])
        rows, cols = tiling
        overview, _ = resize_and_pad(image, self.crop, self.crop)
        canvas, own = resize_and_pad(
            image, rows * self.window + self.margin, cols * self.window + self.margin
        )
        found, masks = [patches((overview - mean) / std, self.patch)], []
        for row in range(rows):
            for col in range(cols):
                top, left = row * self.window, col * self.window
                cut = np.s_[top : top + self.crop, left : left + self.crop]
                found.append(patches((canvas[cut] - mean) / std, self.patch))
                masks.append(np.array([pixels.mean() for pixels in patches(own[cut][..., None], self.patch)]))
        masks.append(np.full(self.side**2, -1.0))  # at the END, although the overview stands first
        return found, masks

    def order(self, tiling: tuple[int, int]) -> list[tuple[int, int, int]]:
        """(crop, row, col) of the pooled token at every place of the grid, in reading order."""
        rows, cols = tiling
        window, left = self.window // self.patch // 2, self.margins[0] // 2
        found = []
        for y in range((rows * self.window + self.margin) // self.patch // 2):
            for x in range((cols * self.window + self.margin) // self.patch // 2):
                crop_row = min(max((y - left) // window, 0), rows - 1)
                crop_col = min(max((x - left) // window, 0), cols - 1)
                found.append((crop_row * cols + crop_col, y - crop_row * window, x - crop_col * window))
        return found

    def ids(self, tiling: tuple[int, int], question: str) -> list[int]:
        """The whole request: the start token, overview, grid, text."""
        start, end, patch, col = map(self.token, ("<im_start>", "<im_end>", "<im_patch>", "<im_col>"))
        found = [self.token("<|endoftext|>"), start]
        for _ in range(self.side // 2):
            found += [patch] * (self.side // 2) + [col]
        found += [end, start]
        for _ in range((tiling[0] * self.window + self.margin) // self.patch // 2):
            found += [patch] * ((tiling[1] * self.window + self.margin) // self.patch // 2) + [col]
        found += [end]
        return found + self.tokenizer.encode(f" User: {question} Assistant:", add_special_tokens=False).ids

    # Vision

    def layer_norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean()
        scaled = centred / np.sqrt((centred**2).mean() + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def tower(self, flat: list[Array]) -> list[Array]:
        """Features of the patches: two blocks' outputs side by side, the class token dropped."""
        vit = "model.vision_backbone.image_vit"
        x = [self.w[f"{vit}.class_embedding"]]
        x += [self.w[f"{vit}.patch_embedding.weight"] @ patch for patch in flat]
        x = [token + self.w[f"{vit}.positional_embedding"][place] for place, token in enumerate(x)]
        x = [self.layer_norm(f"{vit}.pre_ln", token) for token in x]
        outputs = []
        for index in range(self.config["vision_backbone"]["image_num_layers"]):
            at = f"{vit}.transformer.resblocks.{index}"
            normed = [self.layer_norm(f"{at}.attention_norm", token) for token in x]
            q, k, v = ([self.linear(f"{at}.attention.{n}", t) for t in normed] for n in ("wq", "wk", "wv"))
            heads = self.config["vision_backbone"]["image_num_heads"]
            mixed = [attend(query, np.stack(k), np.stack(v), heads) for query in q]
            x = [token + self.linear(f"{at}.attention.wo", m) for token, m in zip(x, mixed, strict=True)]
            for place, token in enumerate(x):
                hidden = self.linear(f"{at}.feed_forward.w1", self.layer_norm(f"{at}.ffn_norm", token))
                quick = hidden / (1 + np.exp(-1.702 * hidden))
                x[place] = token + self.linear(f"{at}.feed_forward.w2", quick)
            outputs.append(x)
        chosen = [outputs[index] for index in self.config["vit_layers"]]
        features = [np.concatenate([one[place] for one in chosen]) for place in range(1, len(x))]
        if all((patch == -1).all() for patch in flat):
            return [np.zeros_like(feature) for feature in features]
        return features

    def pooled(self, flat: list[Array], mask: Array) -> list[list[Array]]:
        """Tokens of a crop by row and column."""
        top = "model.vision_backbone"
        features = self.tower(flat)
        for place, share in enumerate(mask):
            if share == 0:
                features[place] = features[place] + self.w[f"{top}.pad_embed"][0]
            elif share < 1:  # partly; -1 is below 1 too, and the public code asks for nothing else
                features[place] = features[place] + self.w[f"{top}.pad_embed"][1]
        grid = []
        for row in range(0, self.side, 2):
            tokens = []
            for col in range(0, self.side, 2):
                four = [features[(row + i) * self.side + col + j] for i in (0, 1) for j in (0, 1)]
                at = f"{top}.image_pooling_2d"
                query = self.linear(f"{at}.wq", sum(four[1:], four[0]) / 4)
                keys = np.stack([self.linear(f"{at}.wk", member) for member in four])
                values = np.stack([self.linear(f"{at}.wv", member) for member in four])
                heads = self.config["vision_backbone"]["image_num_heads"]
                token = self.linear(f"{at}.wo", attend(query, keys, values, heads))
                gate = silu(self.linear(f"{top}.image_projector.w1", token))
                up = self.linear(f"{top}.image_projector.w3", token)
                tokens.append(self.linear(f"{top}.image_projector.w2", gate * up))
            grid.append(tokens)
        return grid

    def image_tokens(self, image: NDArray[np.uint8], tiling: tuple[int, int]) -> list[Array]:
        """Overview tokens, then the grid's."""
        found, masks = self.crops(image, tiling)
        grids = [self.pooled(flat, mask) for flat, mask in zip(found, masks, strict=True)]
        overview = [token for row in grids[0] for token in row]
        return overview + [grids[1 + crop][row][col] for crop, row, col in self.order(tiling)]

    # Language

    def rms_norm(self, name: str, x: Array) -> Array:
        return x / np.sqrt((x**2).mean() + self.config["layer_norm_eps"]) * self.w[f"{name}.weight"]

    def rotate(self, x: Array, position: int) -> Array:
        heads = self.config["n_heads"]
        size = len(x) // heads
        result = np.empty_like(x)
        for head in range(heads):
            for index in range(size // 2):
                angle = position / self.config["rope_theta"] ** (2 * index / size)
                first, second = head * size + index, head * size + index + size // 2
                result[first] = x[first] * math.cos(angle) - x[second] * math.sin(angle)
                result[second] = x[second] * math.cos(angle) + x[first] * math.sin(angle)
        return result

    def experts(self, at: str, x: Array, top_k: int) -> Array:
        weights = softmax(self.w[f"{at}.gate.weight"] @ x)
        result = np.zeros_like(x)
        for expert in np.argsort(-weights)[:top_k]:
            name = f"{at}.experts.{expert}"
            hidden = silu(self.linear(f"{name}.gate_proj", x)) * self.linear(f"{name}.up_proj", x)
            result += weights[expert] * self.linear(f"{name}.down_proj", hidden)
        return result

    def embeddings(self, ids: list[int], tokens: list[Array]) -> list[Array]:
        table = np.concatenate(
            [self.w[f"model.transformer.wte.{name}"] for name in ("embedding", "new_embedding")]
        )
        left = iter(tokens)
        patch = self.token("<im_patch>")
        found = [table[index] + (next(left) if index == patch else 0) for index in ids]
        assert next(left, None) is None
        return found

    def logits(
        self,
        embedded: list[Array],
        *,
        valid: list[bool] | None = None,
        top_k: int | None = None,
        blocks: list[int] | None = None,
    ) -> Array:
        """Scores (time, vocabulary) at every position; `valid` is False at padding."""
        valid = [True] * len(embedded) if valid is None else valid
        positions = [max(sum(valid[: place + 1]) - 1, 0) for place in range(len(valid))]
        x = list(embedded)
        for index in range(self.config["n_layers"]) if blocks is None else blocks:
            at = f"model.transformer.blocks.{index}"
            q, k, v = [], [], []
            for place, token in enumerate(x):
                fused = self.linear(f"{at}.attn.att_proj", self.rms_norm(f"{at}.attn.attn_norm", token))
                query, key, value = np.split(fused, 3)
                q.append(self.rotate(self.rms_norm(f"{at}.attn.q_norm", query), positions[place]))
                k.append(self.rotate(self.rms_norm(f"{at}.attn.k_norm", key), positions[place]))
                v.append(value)
            for place in range(len(x)):
                if valid[place]:
                    seen = [other for other in range(place + 1) if valid[other]]
                    keys, values = np.stack([k[o] for o in seen]), np.stack([v[o] for o in seen])
                    mixed = attend(q[place], keys, values, self.config["n_heads"])
                    x[place] = x[place] + self.linear(f"{at}.attn.attn_out", mixed)
                normed = self.rms_norm(f"{at}.mlp.ff_norm", x[place])
                x[place] = x[place] + self.experts(f"{at}.mlp", normed, top_k or self.config["moe_top_k"])
        return np.stack([self.linear("lm_head", self.rms_norm("model.transformer.ln_f", t)) for t in x])


def attend(query: Array, keys: Array, values: Array, heads: int) -> Array:
    """One query over keys and values (time, width), head by head."""
    size = len(query) // heads
    found = []
    for head in range(heads):
        at = slice(head * size, (head + 1) * size)
        weights = softmax(keys[:, at] @ query[at] / math.sqrt(size))
        found.append(weights @ values[:, at])
    return np.concatenate(found)
