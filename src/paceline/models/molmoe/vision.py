"""MolmoE's vision tower: a ViT on crops, 2x2 attention pooling with the window's mean as query, SwiGLU projector."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from paceline.models.molmoe.options import MolmoEOptions

QUICK = 1.702  # quick-GELU's factor


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention over (batch, time, width) without a mask."""
    batch, time, width = query.shape
    split = (batch, -1, heads, width // heads)
    mixed = functional.scaled_dot_product_attention(
        query.view(split).transpose(1, 2), key.view(split).transpose(1, 2), value.view(split).transpose(1, 2)
    )
    return mixed.transpose(1, 2).reshape(batch, time, width)


def attend_window(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of one query (windows, 1, width) over a few keys (windows, keys, width), in float32."""
    windows, keys, width = key.shape
    split = (windows, keys, heads, width // heads)
    scores = (query.float() * key.float()).view(split).sum(dim=-1, keepdim=True) * split[3] ** -0.5
    return (scores.softmax(dim=1) * value.float().view(split)).sum(dim=1).view(windows, width).to(value.dtype)


class VitBlock(nn.Module):
    """Pre-norm attention and a quick-GELU MLP."""

    def __init__(self, options: MolmoEOptions) -> None:
        super().__init__()
        width = options.vit_width
        self.heads = options.vit_heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-5)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(width, width) for _ in range(4))
        self.w1, self.w2 = nn.Linear(width, options.vit_mlp), nn.Linear(options.vit_mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.wo(attend(self.wq(normed), self.wk(normed), self.wv(normed), self.heads))
        # quick-GELU: h * sigmoid(1.702 h) = silu(1.702 h) / 1.702, the factors taken into the products.
        scaled = torch.addmm(
            self.w1.bias, self.ffn_norm(x).flatten(0, 1), self.w1.weight.T, beta=QUICK, alpha=QUICK
        )
        hidden = torch.addmm(self.w2.bias, functional.silu(scaled), self.w2.weight.T, alpha=1 / QUICK)
        return x + hidden.view_as(x)


class VisionTower(nn.Module):
    """Flattened patches of crops -> tokens of the decoder's width."""

    def __init__(self, options: MolmoEOptions) -> None:
        super().__init__()
        self.options = options
        width, features = options.vit_width, options.vit_width * len(options.vit_features)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(options.grid**2 + 1, width))
        self.patch_embedding = nn.Linear(options.patch_dim, width, bias=False)
        self.pre_norm = nn.LayerNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(VitBlock(options) for _ in range(options.vit_blocks))
        self.pad_embedding = nn.Parameter(torch.zeros(2, features))
        self.pool_q = nn.Linear(features, options.pool_width)
        self.pool_k = nn.Linear(features, options.pool_width)
        self.pool_v = nn.Linear(features, options.pool_width)
        self.pool_out = nn.Linear(options.pool_width, options.pool_width)
        self.project_gate = nn.Linear(options.pool_width, options.projector_hidden, bias=False)
        self.project_up = nn.Linear(options.pool_width, options.projector_hidden, bias=False)
        self.project_down = nn.Linear(options.projector_hidden, options.width, bias=False)

    def features(
        self, patches: Float[Tensor, "crops patches dim"]
    ) -> Float[Tensor, "crops patches features"]:
        """Concatenated block outputs, class token dropped; a crop whose patches are all -1 becomes 0."""
        return self.class_and_patches(patches)[:, 1:]

    def class_and_patches(
        self, patches: Float[Tensor, "crops patches dim"]
    ) -> Float[Tensor, "crops class_and_patches features"]:
        """The same with the class token, which comes first."""
        x = self.patch_embedding(patches)
        x = torch.cat((self.class_embedding.expand(x.shape[0], 1, -1), x), dim=1) + self.positions
        x = self.pre_norm(x)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        joined = torch.cat([outputs[index] for index in self.options.vit_features], dim=-1)
        empty = (patches == -1).flatten(1).all(dim=1)
        return joined.masked_fill(empty[:, None, None], 0.0)

    def forward(
        self, patches: Float[Tensor, "crops patches dim"], masks: Float[Tensor, "crops patches"]
    ) -> Float[Tensor, "crops tokens width"]:
        """Tokens of each crop in reading order; `masks` as in `pool`."""
        return self.pool(self.features(patches), masks)

    def pool(
        self, features: Float[Tensor, "crops patches features"], masks: Float[Tensor, "crops patches"]
    ) -> Float[Tensor, "crops tokens width"]:
        """Tokens from `features`; `masks` is the share of valid pixels per patch, or -1 where none is known.

        The public code takes any mask below 1 other than 0 for partly padded, and so also -1: the patches of the last
        crop get the embedding of partly padded ones. Its weights were trained so.
        """
        features = features + self.pad_embedding[0] * (masks == 0).to(features.dtype)[..., None]
        partly = (masks != 0) & (masks < 1)
        features = features + self.pad_embedding[1] * partly.to(features.dtype)[..., None]
        crops, half = features.shape[0], self.options.grid // 2
        windows = (
            features.view(crops, half, 2, half, 2, -1).transpose(2, 3).reshape(crops * half * half, 4, -1)
        )
        query = self.pool_q(windows.mean(dim=1, keepdim=True))
        pooled = attend_window(query, self.pool_k(windows), self.pool_v(windows), self.options.pool_heads)
        pooled = self.pool_out(pooled).view(crops, half * half, -1)
        hidden = functional.silu(self.project_gate(pooled)) * self.project_up(pooled)
        return self.project_down(hidden)
