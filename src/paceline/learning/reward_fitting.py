"""Fit a reward model to scores (regression) or to preference pairs (Bradley-Terry)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from paceline.errors import TrainError
from paceline.learning.checks import check_number, check_seed, check_whole
from paceline.learning.progress import Progress, SilentProgress
from paceline.learning.reward_examples import PreferredOutcomes, ScoredOutcomes
from paceline.learning.reward_model import RewardModel, RewardNetwork
from paceline.policies.feature_scaling import FeatureScaling

LEAST_EXAMPLES = 20
"""Fewer cannot be split into some to learn from and some to stop by."""
STEPS_BETWEEN_CHECKS = 100
SCORE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"squared": F.mse_loss, "absolute": F.l1_loss}


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModelOptions:
    """How a reward model is fitted."""

    score_loss: str = (
        "squared"  # predicts the mean of noisy scores; "absolute": the median, finer without noise
    )
    updates: int = 4000
    batch_size: int = 256
    learning_rate: float = 1e-2  # cosine to zero
    weight_decay: float = 1e-4
    validation_share: float = 0.1  # of the examples, kept aside: the update that does best on them is kept
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score_loss not in SCORE_LOSSES:
            raise TrainError(f"score_loss: got {self.score_loss!r}, expected one of {list(SCORE_LOSSES)}")
        check_whole("updates", self.updates, 1)
        check_whole("batch_size", self.batch_size, 1)
        check_seed(self.seed)
        check_number("learning_rate", self.learning_rate, above=0.0)
        check_number("weight_decay", self.weight_decay)
        check_number("validation_share", self.validation_share, above=0.0, below=1.0)


Loss = Callable[[RewardNetwork, Int[Tensor, " example"]], Tensor]


def fit_reward_model(
    examples: ScoredOutcomes | PreferredOutcomes,
    options: RewardModelOptions | None = None,
    progress: Progress | None = None,
) -> RewardModel:
    """Fit the network to examples.

    Scores: regression; the rewards are on the scores' scale.

    Pairs: minimises -log sigmoid(r(preferred) - r(rejected)). No data can tell r from r + c, and pairs without
    contradictions cannot tell r from k r. So rewards are given mean 0 and standard deviation 1 over the outcomes
    of the pairs; `facts["preference_scale"]` k makes sigmoid(k (r(a) - r(b))) the fitted probability that a is
    preferred to b.

    Raises TrainError for fewer than 20 examples, equal scores and pairs that teach nothing.
    """
    options = options or RewardModelOptions()
    progress = progress or SilentProgress()
    if isinstance(examples, ScoredOutcomes):
        return _fit_scores(examples, options, progress)
    return _fit_pairs(examples, options, progress)


def bradley_terry_loss(
    preferred: Float[Tensor, " pair"], rejected: Float[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """- log sigmoid(r(preferred) - r(rejected)): the negative log-likelihood of a preference.

    >>> bradley_terry_loss(torch.tensor([1.0]), torch.tensor([1.0])).item() == torch.tensor(2.0).log().item()
    True
    """
    return F.softplus(rejected - preferred)


def _fit_scores(examples: ScoredOutcomes, options: RewardModelOptions, progress: Progress) -> RewardModel:
    scores = examples.scores
    centre, spread = float(scores.mean()), float(scores.std())
    if spread <= 1e-9 * max(1.0, abs(centre)):
        raise TrainError(
            f"reward examples: all {len(scores)} scores are {centre:g}, expected scores that differ; "
            "there is no reward to learn"
        )
    inputs, scaling = _standardised(examples.outcomes.inputs())
    targets = torch.from_numpy((scores - centre) / spread).float()

    def loss(network: RewardNetwork, rows: Tensor) -> Tensor:
        return SCORE_LOSSES[options.score_loss](network(inputs[rows]), targets[rows])

    network, kept = _fit(loss, inputs.shape[1], len(scores), options, progress)
    with torch.no_grad():
        predicted = network(inputs[kept]).numpy()
    known = targets[kept].numpy()
    facts = {
        "r2": float(1 - np.mean((predicted - known) ** 2) / np.var(known)) if np.var(known) > 0 else None
    }
    _fold(network, *scaling, centre, spread)
    return RewardModel(
        space=examples.outcomes.space,
        network=network,
        facts=_facts("scores", len(scores), len(kept), options) | facts,
    )


def _fit_pairs(examples: PreferredOutcomes, options: RewardModelOptions, progress: Progress) -> RewardModel:
    preferred, rejected = examples.preferred.inputs(), examples.rejected.inputs()
    count = len(preferred)
    if count and (preferred == rejected).all():
        raise TrainError(
            f"reward examples: both sides of all {count} pairs are equal, expected outcomes that differ"
        )
    inputs, scaling = _standardised(np.concatenate([preferred, rejected]))

    def loss(network: RewardNetwork, rows: Tensor) -> Tensor:
        return bradley_terry_loss(network(inputs[rows]), network(inputs[rows + count])).mean()

    network, kept = _fit(loss, inputs.shape[1], count, options, progress)
    with torch.no_grad():
        rewards = network(inputs)
        margin = rewards[kept] - rewards[kept + count]
        facts = {
            "log_loss": F.softplus(-margin).mean().item(),
            "ordered": (margin > 0).double().mean().item(),
        }
    centre, spread = rewards.mean().item(), rewards.std().item()
    if spread < 1e-6:
        raise TrainError(
            f"reward examples: the {count} pairs teach nothing, the fitted reward is the same for every outcome; "
            "expected pairs in which one side is preferred more often than chance"
        )
    _fold(network, *scaling, -centre / spread, 1.0 / spread)
    return RewardModel(
        space=examples.preferred.space,
        network=network,
        facts=_facts("pairs", count, len(kept), options) | facts | {"preference_scale": spread},
    )


def _fit(
    loss: Loss, width: int, count: int, options: RewardModelOptions, progress: Progress
) -> tuple[RewardNetwork, Tensor]:
    """The network of the best update, and the examples that were kept aside to tell."""
    if count < LEAST_EXAMPLES:
        raise TrainError(f"reward examples: got {count}, expected at least {LEAST_EXAMPLES}")
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(count, generator=generator)
    aside = max(2, round(count * options.validation_share))
    kept, rows = order[:aside], order[aside:]
    if not len(rows):
        raise TrainError(
            f"validation_share: {options.validation_share} of {count} examples leaves none to learn from; lower it"
        )
    network = RewardNetwork(width - 3)
    for parameter in network.parameters():
        bound = (1.0 / parameter.shape[-1]) ** 0.5 if parameter.dim() > 1 else 0.0
        torch.nn.init.uniform_(parameter, -bound * 3**0.5, bound * 3**0.5, generator=generator)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.updates)
    best, best_weights = float("inf"), network.state_dict()
    progress.start(options.updates, "fitting the reward model")
    for update in range(1, options.updates + 1):
        batch = rows[torch.randint(len(rows), (options.batch_size,), generator=generator)]
        optimiser.zero_grad(set_to_none=True)
        loss(network, batch).backward()
        optimiser.step()
        schedule.step()
        progress.advance(1)
        if update % STEPS_BETWEEN_CHECKS == 0 or update == options.updates:
            with torch.no_grad():
                score = loss(network, kept).item()
            if score < best:
                best = score
                best_weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(best_weights)
    return network.requires_grad_(False), kept


def _standardised(
    inputs: np.ndarray,
) -> tuple[Float[Tensor, "example input"], tuple[np.ndarray, np.ndarray]]:
    fitted = FeatureScaling.fit(inputs, "standard")
    mean, scale = fitted.first, fitted.second
    return torch.from_numpy(((inputs - mean) * scale).astype(np.float32)), (mean, scale)


def _fold(network: RewardNetwork, mean: np.ndarray, scale: np.ndarray, offset: float, factor: float) -> None:
    """Make a network of standardised inputs one of plain inputs, and its output r one of offset + factor r."""
    parameters = network.state_dict()  # tensors that share the network's memory
    names = list(parameters)
    first, first_bias, last, last_bias = (parameters[name] for name in (*names[:2], *names[-2:]))
    weight = first.double() * torch.from_numpy(scale).double()
    first_bias.copy_(first_bias.double() - weight @ torch.from_numpy(mean).double())
    first.copy_(weight)
    last.mul_(factor)
    last_bias.mul_(factor).add_(offset)


def _facts(source: str, examples: int, kept: int, options: RewardModelOptions) -> dict[str, Any]:
    return {"source": source, "examples": examples, "validation_examples": kept, "options": asdict(options)}
