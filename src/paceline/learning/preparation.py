"""Drawing train samples by weight and changing their features, as the outcomes' manifest or the options say.

Only the source of training groups does this; validation sees every sample once, as it is.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from paceline.errors import TrainError
from paceline.learning.input_options import parse_augmentation, parse_balance
from paceline.learning.options import TrainOptions
from paceline.outcomes.preparation import KEY, LIMITS, Preparation, balanced_weights, group_labels
from paceline.outcomes.table import OutcomeTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainPreparation:
    """The recipe, and what it needs to know of the n train samples."""

    recipe: Preparation
    weights: Float[Tensor, " sample"] | None  # None: every sample once per epoch
    alike: Int[Tensor, " sample"]  # equal for samples of one data set and kind

    def order(self, shape: tuple[int, int], generator: torch.Generator) -> Int[Tensor, "member sample"]:
        """The samples of an epoch, per member: a permutation, or drawn by weight with replacement."""
        members, count = shape
        if self.weights is None:
            return torch.stack([torch.randperm(count, generator=generator) for _ in range(members)])
        return torch.multinomial(
            self.weights.expand(members, -1), count, replacement=True, generator=generator
        )

    def augmented(
        self,
        features: Float[Tensor, "sample feature"],
        rows: Int[Tensor, "*group"],
        spread: Float[Tensor, " feature"],
        generator: torch.Generator,
        kept: Bool[Tensor, " feature"] | None = None,
    ) -> Float[Tensor, "*group feature"]:
        """Features of `rows`, mixed with others of their kind, with noise and with some dropped.

        `features`: scaled, of all train samples, so that a dropped feature (0) is at its mean. `spread`: standard
        deviations, the unit of the noise; 0 for constant features, which stay 0. Features that are `kept` do not
        change: they count tokens.
        """
        chosen, recipe = features[rows], self.recipe
        if recipe.mix:
            share = recipe.mix * torch.rand(rows.shape, generator=generator).unsqueeze(-1)
            chosen = (1 - share) * chosen + share * features[self._partners(rows, generator)]
        if recipe.noise:
            chosen = chosen + recipe.noise * spread * torch.randn(chosen.shape, generator=generator)
        if recipe.dropout:
            chosen = chosen * (torch.rand(chosen.shape, generator=generator) >= recipe.dropout)
        return chosen if kept is None else torch.where(kept, features[rows], chosen)

    def _partners(self, rows: Int[Tensor, "*group"], generator: torch.Generator) -> Int[Tensor, "*group"]:
        """For each row another sample of its data set and kind, drawn evenly; itself where it is the only one."""
        order = torch.argsort(self.alike, stable=True)
        counts = torch.bincount(self.alike)
        start = torch.cumsum(counts, 0) - counts
        kind = self.alike[rows]
        drawn = (torch.rand(rows.shape, generator=generator) * counts[kind]).long()
        return order[start[kind] + torch.minimum(drawn, counts[kind] - 1)]


def train_preparation(train: OutcomeTable, options: TrainOptions | None = None) -> TrainPreparation:
    """The recipe of a table, for its train split; what the options say replaces what the manifest does.

    Raises:
        TrainError: a train sample whose group has no weight in the manifest.
    """
    recipe = Preparation.from_json(train.manifest.options.get(KEY))
    options = options or TrainOptions()
    if options.augment is not None:
        amounts = parse_augmentation(options.augment)
        recipe = replace(recipe, **{name: getattr(amounts, name) for name in LIMITS})
    balance, _ = parse_balance(options.balance)
    if balance is not None:
        labels = group_labels(balance, train.dataset.tolist(), train.kind.tolist())
        recipe = replace(recipe, balance=balance, weights=balanced_weights(labels) if balance else {})
    weights = None
    if recipe.balance:
        labels = group_labels(recipe.balance, train.dataset.tolist(), train.kind.tolist()).tolist()
        unknown = sorted(set(labels) - set(recipe.weights))
        if unknown:
            raise TrainError(
                f"manifest.json: {KEY} has no weight for train samples of {unknown[:5]}, expected one per group; "
                "import the outcomes together"
            )
        weights = torch.tensor([recipe.weights[label] for label in labels])
    both = group_labels(("dataset", "kind"), train.dataset.tolist(), train.kind.tolist()).astype(str)
    _, alike = np.unique(both, return_inverse=True)
    return TrainPreparation(recipe=recipe, weights=weights, alike=torch.from_numpy(alike.astype(np.int64)))
