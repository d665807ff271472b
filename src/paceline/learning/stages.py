"""Which objectives an algorithm trains with, one after the other, and for how long."""

import math
from dataclasses import dataclass

from paceline.learning.options import TrainOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Epochs with one objective."""

    name: str  # "warm" (outcome prediction), "supervised", "grpo", "ppo" or "dpo"
    epochs: int
    learning_rate: float
    updates: int  # per batch


def stages_of(options: TrainOptions) -> list[Stage]:
    """The stages of an algorithm; every algorithm takes the same number of updates.

    Several updates per batch of groups are for objectives that hold their ratio to an acting or a reference policy;
    from random weights these fill the whole number, rounded up to whole epochs.

    >>> options = TrainOptions(algorithm="grpo_warm", warm_epochs=3, epochs=2)
    >>> [(stage.name, stage.epochs * stage.updates) for stage in stages_of(options)]
    [('warm', 3), ('grpo', 4)]
    >>> [(s.name, s.epochs, s.updates) for s in stages_of(TrainOptions(algorithm="ppo", warm_epochs=3, epochs=2))]
    [('ppo', 4, 2)]
    """
    rate, inner = options.learning_rate, options.inner_epochs
    total = options.warm_epochs + options.epochs * inner

    def first(name: str, epochs: int) -> Stage:
        return Stage(name=name, epochs=epochs, learning_rate=rate, updates=1)

    def then(name: str) -> Stage:
        slower = options.policy_learning_rate
        return Stage(name=name, epochs=options.epochs, learning_rate=slower, updates=inner)

    def alone(name: str) -> Stage:
        return Stage(name=name, epochs=math.ceil(total / inner), learning_rate=rate, updates=inner)

    match options.algorithm:
        case "grpo_warm":
            return [first("warm", options.warm_epochs), then("grpo")]
        case "dpo":
            return [first("supervised", options.warm_epochs), then("dpo")]
        case "grpo_scratch":
            return [alone("grpo")]
        case "ppo":
            return [alone("ppo")]
        case "supervised":
            return [first("supervised", total)]
        case "outcome":
            return [first("warm", total)]
        case other:
            raise ValueError(f"algorithm {other!r} has no stages")
