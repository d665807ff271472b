"""MolmoE's equations written plainly, with loops, in float64: slow, and independent of the package's code.

Takes the weights by name, an image and token ids, and returns the logits at every position. Nothing is batched,
cached, fused or reused here.
"""

import math

import numpy as np
from numpy.typing import NDArray

from paceline.models.molmoe.options import MolmoEOptions

Array = NDArray[np.float64]


class Reference:
    """The whole model on one image and one prompt."""

    def __init__(self, options: MolmoEOptions, weights: dict[str, Array]) -> None:
        self.o = options
        self.w = weights

    def linear(self, name: str, x: Array) -> Array:
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    # Image to crops

    def tiling(self, height: int, width: int, max_crops: int) -> tuple[int, int]:
        margin, window = self.margin_window()
        best, best_scale = (1, 1), -math.inf
        pairs = [
            (r, c) for r in range(1, max_crops + 1) for c in range(1, max_crops + 1) if r * c <= max_crops
        ]
        pairs.sort(key=lambda pair: (pair[0] * pair[1], pair[0]))
        scales = [min(r * window / (height - margin), c * window / (width - margin)) for r, c in pairs]
        if all(scale < 1 for scale in scales):
            for pair, scale in zip(pairs, scales, strict=True):
                if scale > best_scale:
                    best, best_scale = pair, scale
            return best
        best_scale = math.inf
        for pair, scale in zip(pairs, scales, strict=True):
            if 1 <= scale < best_scale:
                best, best_scale = pair, scale
        return best

    def margin_window(self) -> tuple[int, int]:
        margin = sum(self.o.margins) * self.o.patch_size
        return margin, self.o.crop_size - margin

    def resize_and_pad(self, image: np.ndarray, height: int, width: int) -> tuple[Array, Array]:
        scale = min(
            np.float32(height) / np.float32(image.shape[0]), np.float32(width) / np.float32(image.shape[1])
        )
        rows, cols = int(np.float32(image.shape[0]) * scale), int(np.float32(image.shape[1]) * scale)
        small = shrink(shrink(image / 255.0, rows).transpose(1, 0, 2), cols).transpose(1, 0, 2)
        top, left = (height - rows) // 2, (width - cols) // 2
        canvas, mask = np.zeros((height, width, 3)), np.zeros((height, width))
        canvas[top : top + rows, left : left + cols] = small
        mask[top : top + rows, left : left + cols] = 1
        return (canvas - np.array(self.o.image_mean)) / np.array(self.o.image_std), mask

    def patches(self, crop: np.ndarray) -> Array:
        size = self.o.patch_size
        found = []
        for y in range(0, self.o.crop_size, size):
            for x in range(0, self.o.crop_size, size):
                found.append(crop[y : y + size, x : x + size].reshape(-1))
        return np.stack(found)

    # Vision

    def layer_norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def vit(self, patches: Array) -> Array:
        x = self.linear("vision.patch_embedding", patches)
        x = np.concatenate((self.w["vision.class_embedding"][None], x)) + self.w["vision.positions"]
        x = self.layer_norm("vision.pre_norm", x)
        outputs = []
        for index in range(self.o.vit_blocks):
            at = f"vision.blocks.{index}"
            normed = self.layer_norm(f"{at}.attention_norm", x)
            q, k, v = (self.linear(f"{at}.{name}", normed) for name in ("wq", "wk", "wv"))
            x = x + self.linear(f"{at}.wo", attention(q, k, v, self.o.vit_heads, causal=False))
            hidden = self.linear(f"{at}.w1", self.layer_norm(f"{at}.ffn_norm", x))
            x = x + self.linear(f"{at}.w2", hidden / (1 + np.exp(-1.702 * hidden)))
            outputs.append(x)
        return np.concatenate([outputs[index][1:] for index in self.o.vit_features], axis=-1)

    def crop_tokens(self, patches: Array, mask: Array) -> Array:
        features = self.vit(patches)
        for patch in range(len(features)):
            if mask[patch] == 0:
                features[patch] += self.w["vision.pad_embedding"][0]
            elif mask[patch] < 1:  # -1 too: the public code asks for "below 1" alone
                features[patch] += self.w["vision.pad_embedding"][1]
        side = self.o.crop_size // self.o.patch_size
        tokens = []
        for row in range(0, side, 2):
            for col in range(0, side, 2):
                four = np.stack([features[(row + i) * side + col + j] for i in (0, 1) for j in (0, 1)])
                q = self.linear("vision.pool_q", four.mean(axis=0, keepdims=True))
                k, v = self.linear("vision.pool_k", four), self.linear("vision.pool_v", four)
                pooled = self.linear("vision.pool_out", attention(q, k, v, self.o.pool_heads, causal=False))
                gate, up = (
                    self.linear("vision.project_gate", pooled),
                    self.linear("vision.project_up", pooled),
                )
                tokens.append(self.linear("vision.project_down", silu(gate) * up)[0])
        return np.stack(tokens)

    def image_tokens(self, image: np.ndarray, tiling: tuple[int, int]) -> Array:
        """Overview tokens, then the grid in reading order."""
        margin, window = self.margin_window()
        size = self.o.crop_size
        canvas, valid = self.resize_and_pad(image, tiling[0] * window + margin, tiling[1] * window + margin)
        overview, overview_valid = self.resize_and_pad(image, size, size)
        crops, masks = [self.patches(overview)], []
        for row in range(tiling[0]):
            for col in range(tiling[1]):
                y, x = row * window, col * window
                crops.append(self.patches(canvas[y : y + size, x : x + size]))
                masks.append(self.patches(valid[y : y + size, x : x + size]).mean(axis=1))
        if self.o.mask_row_shift:
            masks.append(np.full(len(crops[0]), -1.0))
        else:
            masks.insert(0, self.patches(overview_valid).mean(axis=1))
        tokens = [self.crop_tokens(crop, mask) for crop, mask in zip(crops, masks, strict=True)]
        return np.concatenate((tokens[0], self.grid(tokens[1:], tiling)))

    def grid(self, tokens: list[Array], tiling: tuple[int, int]) -> Array:
        """Grid token by grid token: which crop's window is it in, and where in that crop?"""
        side = self.o.crop_size // self.o.patch_size // 2
        margin = sum(self.o.margins) // 2
        window, left = side - margin, self.o.margins[0] // 2
        found = []
        for row in range(tiling[0] * window + margin):
            for col in range(tiling[1] * window + margin):
                crop_row = min(max((row - left) // window, 0), tiling[0] - 1)
                crop_col = min(max((col - left) // window, 0), tiling[1] - 1)
                local = (row - crop_row * window) * side + col - crop_col * window
                found.append(tokens[crop_row * tiling[1] + crop_col][local])
        return np.stack(found)

    # Language

    def rms_norm(self, name: str, x: Array) -> Array:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.o.norm_eps) * self.w[f"{name}.weight"]

    def rope(self, x: Array) -> Array:
        """Rotate (time, width) head by head, pair by pair."""
        result = np.empty_like(x)
        size = self.o.width // self.o.num_heads
        half = size // 2
        for position in range(len(x)):
            for head in range(self.o.num_heads):
                for index in range(half):
                    angle = position * self.o.rope_base ** (-2 * index / size)
                    first, second = head * size + index, head * size + index + half
                    a, b = x[position, first], x[position, second]
                    result[position, first] = a * math.cos(angle) - b * math.sin(angle)
                    result[position, second] = b * math.cos(angle) + a * math.sin(angle)
        return result

    def experts(self, at: str, x: Array) -> Array:
        logits = self.linear(f"{at}.router", x)
        if self.o.router_cap is not None:
            logits = self.o.router_cap * np.tanh(logits / self.o.router_cap)
        result = np.zeros_like(x)
        for token in range(len(x)):
            weights = np.exp(logits[token] - logits[token].max())
            weights /= weights.sum()
            for expert in np.argsort(-weights)[: self.o.top_k]:
                gate, up = np.split(self.w[f"{at}.gate_up"][expert] @ x[token], 2)
                result[token] += weights[expert] * (silu(gate) * up) @ self.w[f"{at}.down"][expert]
        return result

    def logits(self, image: np.ndarray, tiling: tuple[int, int], ids: list[int], patch_id: int) -> Array:
        """Scores (time, vocabulary) at every position."""
        x = self.w["decoder.embedding"][ids]
        tokens = iter(self.image_tokens(image, tiling))
        for position, index in enumerate(ids):
            if index == patch_id:
                x[position] = x[position] + next(tokens)
        if next(tokens, None) is not None:
            raise AssertionError("more image tokens than places for them")
        for index in range(self.o.num_blocks):
            at = f"decoder.blocks.{index}"
            qkv = self.linear(f"{at}.attention.qkv", self.rms_norm(f"{at}.attention.norm", x))
            q, k, v = np.split(qkv, 3, axis=-1)
            q = self.rope(self.rms_norm(f"{at}.attention.q_norm", q))
            k = self.rope(self.rms_norm(f"{at}.attention.k_norm", k))
            x = x + self.linear(f"{at}.attention.out", attention(q, k, v, self.o.num_heads, causal=True))
            x = x + self.experts(f"{at}.moe", self.rms_norm(f"{at}.moe.norm", x))
        return self.linear("decoder.head", self.rms_norm("decoder.norm", x))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def attention(q: Array, k: Array, v: Array, heads: int, *, causal: bool) -> Array:
    """Queries (time, width) over keys, head by head, query by query."""
    size = q.shape[1] // heads
    result = np.zeros_like(q)
    for head in range(heads):
        at = slice(head * size, (head + 1) * size)
        for row in range(len(q)):
            last = row + 1 if causal else len(k)
            scores = k[:last, at] @ q[row, at] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            result[row, at] = weights / weights.sum() @ v[:last, at]
    return result


def shrink(image: Array, size: int) -> Array:
    """Bilinear (triangle) resampling of the first axis, widened when shrinking so that nothing is skipped."""
    old = len(image)
    scale = old / size
    support = max(scale, 1.0)
    result = np.zeros((size, *image.shape[1:]))
    for place in range(size):
        centre = (place + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), old)
        weights = np.array([max(0.0, 1 - abs((i + 0.5 - centre) / support)) for i in range(first, last)])
        result[place] = np.tensordot(weights / weights.sum(), image[first:last], axes=1)
    return result
