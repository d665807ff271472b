"""The policy in eager torch: what exported files are compared with. Needs torch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from paceline.policies.context_code import encode_context
from paceline.policies.feature_scaling import FEATURE_LIMIT, FeatureScaling
from paceline.policies.inputs import ATTENTION
from paceline.policies.numpy_policy import check_features
from paceline.policies.prefix_tree import PrefixTree
from paceline.policies.spec import PolicySpec
from paceline.policies.token_pooling import unpack_tokens


class TorchPolicy:
    """Scores of configurations, as `NumpyPolicy` gives them, computed by torch on the processor."""

    def __init__(self, spec: PolicySpec, arrays: Mapping[str, np.ndarray]) -> None:
        spec.check_arrays(dict(arrays))
        self.spec = spec
        self.arrays = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        scaling = FeatureScaling.from_arrays(arrays)
        parts = {"image": slice(None, spec.image_width), "question": slice(spec.image_width, None)}
        self._scaling = {part: scaling.part(columns) for part, columns in parts.items()}
        self._pooled = {
            "image": spec.inputs.image_features == ATTENTION,
            "question": spec.inputs.question_features == ATTENTION,
        }

    @torch.inference_mode()
    def scores(
        self,
        image_features: np.ndarray,
        question_features: np.ndarray,
        budget_ms: np.ndarray | float | None = None,
        price: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """See `NumpyPolicy.scores`."""
        check_features(self.spec, image_features, question_features)
        single = image_features.ndim == 1
        given = {"image": np.atleast_2d(image_features), "question": np.atleast_2d(question_features)}
        rows = len(given["image"])
        codes = torch.from_numpy(np.array(encode_context(self.spec, budget_ms, price)))
        parts = [self._part(name, features) for name, features in given.items()]
        parts.append(codes.expand(rows, self.spec.code_width))
        members = self.spec.members
        inputs = torch.cat([part.expand(members, rows, part.shape[-1]) for part in parts], dim=-1)
        scores = self._forward(inputs)
        if self.spec.output == "accuracy":
            scores = scores / self.spec.temperature
        return (scores[0] if single else scores).numpy()

    def values(
        self, image_features: np.ndarray, question_features: np.ndarray, budget_ms: float | None, price: float
    ) -> np.ndarray:
        """See `NumpyPolicy.values`."""
        scores = self.scores(image_features, question_features, budget_ms, price)
        return np.float32(self.spec.temperature) * scores

    def _part(self, name: str, features: np.ndarray) -> Tensor:
        """Scaled features (batch, f), or (members, batch, f) of pooled tokens."""
        scaling = self._scaling[name]
        if not self._pooled[name]:
            return self._scaled(scaling, torch.from_numpy(features.astype(np.float32)))
        packed, counts = unpack_tokens(features, scaling.width)
        tokens = self._scaled(
            scaling, torch.from_numpy(packed.astype(np.float32)).reshape(-1, scaling.width)
        ).reshape(packed.shape)
        logits = torch.einsum("btw,mw->mbt", tokens, self.arrays[f"{name}.query"])
        real = torch.arange(tokens.shape[1]) < torch.from_numpy(counts)[:, None]
        weights = logits.masked_fill(~real, -torch.inf).softmax(dim=-1)
        return torch.einsum("mbt,btw->mbw", weights, tokens)

    @staticmethod
    def _scaled(scaling: FeatureScaling, features: Tensor) -> Tensor:
        if scaling.method != "standard":  # a search among knots, no arithmetic of the policy
            return torch.from_numpy(scaling.apply(features.numpy()))
        mean, scale = torch.from_numpy(scaling.first), torch.from_numpy(scaling.second)
        return ((features - mean) * scale).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)

    def _forward(self, inputs: Tensor) -> Tensor:
        """Mean over members of accuracies or logits, (batch, actions), from (members, batch, inputs)."""
        arrays, spec = self.arrays, self.spec
        hidden = torch.relu(torch.baddbmm(arrays["input.bias"], inputs, arrays["input.weight"]))
        hidden = torch.relu(torch.baddbmm(arrays["fusion.bias"], hidden, arrays["fusion.weight"]))
        outputs = torch.baddbmm(arrays["head.bias"], hidden, arrays["head.weight"])
        if spec.head == "continuous":
            values = torch.sigmoid(outputs)
            gaps = values[:, :, None, :] - arrays["head.places"]
            outputs = -(arrays["head.precision"][:, :, None] * gaps.square()).sum(dim=-1)
        elif spec.head == "autoregressive":
            outputs = _log_probabilities(spec, outputs)
        return (torch.sigmoid(outputs) if spec.output == "accuracy" else outputs).mean(dim=0)


def _log_probabilities(spec: PolicySpec, logits: Tensor) -> Tensor:
    """`PrefixTree.log_probabilities` by a softmax per group of siblings."""
    tree = PrefixTree.of(spec.knob_options or (), np.array(spec.actions, dtype=np.int64))
    sizes = np.diff(tree.starts, append=len(tree.groups)).tolist()
    conditional = torch.cat([part.log_softmax(dim=-1) for part in logits.split(sizes, dim=-1)], dim=-1)
    return conditional[..., torch.from_numpy(tree.paths)].sum(dim=-2)
