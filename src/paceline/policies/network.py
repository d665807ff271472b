"""The policy network: projections of image, question and budget, a fusion MLP and a head, for several members."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from paceline.knobs import KnobSpace
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.heads import make_head
from paceline.policies.input_layers import AttentionPool, input_layer
from paceline.policies.inputs import ATTENTION
from paceline.policies.shared_projection import SharedLinear, SharedProjector
from paceline.policies.spec import PolicySpec
from paceline.policies.stacked import StackedLinear


class PolicyNetwork(nn.Module):
    """Members side by side; each maps (image, question, context) to an output per configuration.

    Outputs are logits of the predicted accuracy, score(a; x, budget) = sigmoid(output_a) / temperature, or the
    logits of the actions themselves (`PolicySpec.output`); scores are averaged over members when deciding.
    """

    def __init__(
        self,
        spec: PolicySpec,
        space: KnobSpace,
        *,
        dropout: float,
        generator: torch.Generator,
        reduced: int | None = None,
        image_columns: int | None = None,
        projector: SharedProjector | None = None,
    ) -> None:
        """Args:
        reduced: image and question features each go through a learned projection to this many numbers.
        image_columns: how many columns of a batch are of the image; needed where these are packed tokens.
        projector: the model's own, to begin the image projection with.
        """
        super().__init__()
        self.spec, self.dropout = spec, dropout
        members, hidden = spec.members, spec.hidden
        self.image = (
            input_layer(members, spec.image_width, hidden, reduced, generator)
            if projector is None
            else SharedLinear(members, projector, hidden, generator)
        )
        self.question = input_layer(members, spec.question_width, hidden, reduced, generator)
        self.image_columns = spec.image_width if image_columns is None else image_columns
        self.image_pool, self.question_pool = (
            AttentionPool(members, width) if features == ATTENTION else None
            for features, width in (
                (spec.inputs.image_features, spec.image_width),
                (spec.inputs.question_features, spec.question_width),
            )
        )
        self.budget = StackedLinear(members, spec.code_width, hidden, generator)
        self.fuse = StackedLinear(members, 3 * hidden, 2 * hidden, generator)
        self.fusion = StackedLinear(members, 2 * hidden, hidden, generator)
        actions = np.array(spec.actions, dtype=np.int64)
        self.head = make_head(
            spec.head, members=members, hidden=hidden, space=space, actions=actions, generator=generator
        )

    def draw_masks(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Dropout masks for one batch, (member, batch, 2 hidden) and (member, batch, hidden).

        Drawn apart from the forward pass, so that the epochs over one group see the same network and a ratio of
        probabilities starts at exactly 1.
        """
        keep = 1.0 - self.dropout
        shapes = (
            (self.spec.members, batch, 2 * self.spec.hidden),
            (self.spec.members, batch, self.spec.hidden),
        )
        first, second = ((torch.rand(shape, generator=generator) < keep).float() / keep for shape in shapes)
        return first, second

    def forward(
        self,
        features: Float[Tensor, "member batch feature"],
        codes: Float[Tensor, "member batch code"],
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "member batch action"]:
        """Outputs per member. `features` are scaled; `masks` come from `draw_masks`."""
        return self.decide(self.read_features(features) + self.read_budget(codes), masks)

    def read_features(
        self, features: Float[Tensor, "member batch feature"]
    ) -> Float[Tensor, "member batch width"]:
        """What image and question contribute to the first hidden layer; it serves any number of budgets."""
        image, question = self._parts(features)
        image_weight, question_weight, _ = self.fuse.weight.split(self.spec.hidden, dim=1)
        return torch.baddbmm(self.image(image) @ image_weight, self.question(question), question_weight)

    def _parts(self, features: Float[Tensor, "member batch feature"]) -> tuple[Tensor, Tensor]:
        """Image and question features; of packed tokens what attention makes of them."""
        image, question = features[..., : self.image_columns], features[..., self.image_columns :]
        if self.image_pool is not None:
            image = self.image_pool(image)
        if self.question_pool is not None:
            question = self.question_pool(question)
        return image, question

    def read_budget(self, codes: Float[Tensor, "member batch code"]) -> Float[Tensor, "member batch width"]:
        """What the encoded context contributes to the first hidden layer, with its bias."""
        *_, budget_weight = self.fuse.weight.split(self.spec.hidden, dim=1)
        return torch.baddbmm(self.fuse.bias, self.budget(codes), budget_weight)

    def decide(
        self, joined: Float[Tensor, "member batch width"], masks: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "member batch action"]:
        """Outputs from the sum of `read_features` and `read_budget`."""
        hidden = torch.relu(joined)
        if masks is not None:
            hidden = hidden * masks[0]
        hidden = torch.relu(self.fusion(hidden))
        if masks is not None:
            hidden = hidden * masks[1]
        return self.head(hidden)

    def mean_scores(self, outputs: Float[Tensor, "member batch action"]) -> Float[Tensor, "batch action"]:
        """Mean over members of accuracy / temperature, or of the logits: what `NumpyPolicy.scores` returns."""
        if self.spec.output == "logits":
            return outputs.mean(dim=0)
        return torch.sigmoid(outputs).mean(dim=0) / self.spec.temperature


@torch.no_grad()
def export_arrays(
    network: PolicyNetwork, scaling: FeatureScaling | None = None, scored_actions: np.ndarray | None = None
) -> Mapping[str, np.ndarray]:
    """The arrays of `NumpyPolicy`: consecutive linear layers are multiplied into one.

    `scaling`: of the features; without it the arrays are those of the network alone, for `FittedInputs.folded`.
    `scored_actions`: the actions that the arrays are to score instead of the tested ones of `network.spec`; TrainError
    for a head that cannot.
    """
    hidden = network.spec.hidden
    parts = network.fuse.weight.double().split(hidden, dim=1)
    layers = (network.image, network.question, network.budget)
    weights = [layer.weight.double() @ part for layer, part in zip(layers, parts, strict=True)]
    bias = network.fuse.bias.double()
    for layer, part in zip(layers, parts, strict=True):
        bias = bias + layer.bias.double() @ part
    pools = {"image.query": network.image_pool, "question.query": network.question_pool}
    queries = {name: pool.scaled_query for name, pool in pools.items() if pool is not None}
    tensors = queries | {
        "input.weight": torch.cat(weights, dim=1),
        "input.bias": bias,
        "fusion.weight": network.fusion.weight,
        "fusion.bias": network.fusion.bias,
        **network.head.exported(scored_actions),
    }
    arrays = {name: tensor.detach().float().contiguous().numpy().copy() for name, tensor in tensors.items()}
    return arrays if scaling is None else arrays | scaling.to_arrays()
