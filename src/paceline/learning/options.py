"""What a user can turn about training, validated."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from paceline.errors import TrainError
from paceline.learning.budget_parts import parse_parts
from paceline.learning.checks import check_number as _check_number
from paceline.learning.checks import check_seed
from paceline.learning.checks import check_whole as _check_whole
from paceline.learning.input_options import (
    ENCODINGS,
    SCALINGS,
    parse_augmentation,
    parse_balance,
    parse_reduction,
)
from paceline.learning.reference.options import ReferenceOptions
from paceline.policies.inputs import ATTENTION, BUDGET_FORMS, IMAGE_FEATURES, QUESTION_FEATURES
from paceline.policies.spec import HEADS, KNOBWISE_HEADS, UNTESTED_HEADS
from paceline.rewards import RewardParams

OUTPUT = {
    "grpo": "accuracy",
    "grpo_warm": "accuracy",
    "grpo_scratch": "logits",
    "ppo": "logits",
    "dpo": "logits",
    "supervised": "logits",
    "outcome": "accuracy",
}
"""Algorithm -> what its policy's outputs mean, see `PolicySpec.output`. docs/learners.md describes them."""
ALGORITHMS = tuple(OUTPUT)
DRAWN = {"grpo_scratch": 8, "ppo": 8}
"""Algorithm -> actions drawn per group where the options do not say; others take all tested ones (0)."""
KL_WEIGHT = {"grpo_warm": 0.15}
"""Algorithm -> weight of the KL where the options do not say; others have none."""
KL_REFERENCES = ("start", "previous")
DEVICES = ("cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")
REWARDS = ("masked", "v1", "v2", "learned")
BASELINES = ("none", "full", "best_static")
BASELINE_SCOPES = ("split", "sample")
SWITCHES = ("score_untested", "divide_by_std", "mask_infeasible", "relabel", "gradient_checkpointing")
TEXTS = ("reduce", "balance", "augment", "budget_range", "reward_model", "share_projector")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Options of `train_controller_policy`; the defaults did best on synthetic outcome tables.

    >>> TrainOptions.from_json(TrainOptions(hidden=64).to_json()).hidden
    64
    """

    algorithm: str = "grpo"  # of ALGORITHMS
    seed: int = 0

    head: str = "joint"  # "joint", "independent" (per knob), "embedding" (configurations by their knobs),
    # "autoregressive" (knob after knob) or "continuous" (a value per knob, rounded); see docs/architecture.md
    score_untested: bool = False  # decide among all of the knob space, not only among what was tested
    members: int = 3  # networks trained side by side; their mean score decides
    hidden: int = 128
    dropout: float = 0.4
    # Accuracy units: logits are predicted accuracy / temperature; accuracy policies.
    temperature: float = 0.05

    # Outcome prediction before "grpo_warm", supervised learning before "dpo"; 0: no warm start.
    warm_epochs: int = 60
    epochs: int = 20  # of what follows; algorithms of one stage take as many updates as both together
    inner_epochs: int = 2  # updates per batch of groups
    batch_size: int = 128  # groups per member and step
    learning_rate: float = 2e-3  # of everything that starts from random weights; cosine to zero
    policy_learning_rate: float = 7e-4  # of what follows a warm start; cosine to zero
    weight_decay: float = 0.02
    gradient_clip: float = 1.0  # per member
    patience: int = 15  # epochs without a better validation reward before stopping

    # Actions drawn per group; 0: all tested ones, weighted by their probability, which is the exact expectation and
    # the limit of many draws; None: the algorithm's own, see DRAWN.
    group_size: int | None = None
    clip_eps_low: float = 0.2  # a ratio of probabilities below 1 - this gains nothing more
    clip_eps_high: float = 0.2  # nor does one above 1 + this
    # Accuracy units per nat from the reference; None: the algorithm's own, see KL_WEIGHT.
    kl_weight: float | None = None
    # Weights the stage started from (warm or random), or "previous": the last epoch's.
    kl_reference: str = "start"
    entropy_weight: float = 0.05  # accuracy units per nat; "grpo_warm", "grpo_scratch" and "ppo"
    divide_by_std: bool = (
        False  # advantages in standard deviations of their group; "grpo_warm", "grpo_scratch"
    )
    dpo_beta: float = 0.5  # how much a log-ratio to the reference counts in the log-odds of a preference
    dpo_pairs: int = 16  # pairs drawn per group

    # Accuracy - price * time under a feasibility mask; "v1", "v2": published; "learned".
    reward: str = "masked"
    reward_params: RewardParams = field(default_factory=RewardParams)  # of v1 and v2
    baseline: str = "none"  # of v2: accuracy counts relative to this configuration's; "full", "best_static"
    baseline_scope: str = "split"  # mean accuracy of the baseline over the split, or of each "sample" its own
    baseline_headroom: float = 0.1  # 1 - baseline counts as at least this, see `relative_accuracy`
    reward_model: str | None = None  # of "learned": directory of `paceline reward-model`
    mask_infeasible: bool = True  # keep the policy off configurations whose upper latency exceeds the budget
    tie_break: float = 0.01  # accuracy per full latency, so that equal accuracy goes to the cheaper
    average_share: float = 0.5  # share of contexts without a limit but with a price of time
    # Policies that read the price: share of contexts with a limit that have a price too, and of those without a limit
    # that have no price.
    mixed_share: float = 0.1
    # Positions in the range of budgets, 0 to 1, that contexts are drawn from: "0.3-0.7", or "0-0.3,0.7-1" with a gap;
    # None: all.
    budget_range: str | None = None
    relabel: bool = True  # draw new contexts at every step; False: each sample keeps one, drawn by the seed

    # Inputs, see docs/inputs.md. Feature sets are chosen when outcomes are read; here they are checked.
    image_features: str | None = None  # of `inputs.IMAGE_FEATURES`; None: what the table was read with
    question_features: str | None = None  # of `inputs.QUESTION_FEATURES`; likewise
    feature_scaling: str = "auto"  # "standard", "quantile", or "auto": quantile for columns of a table
    reduce: str = "none"  # "pca:K", "learned:K": image and question features to K numbers each
    budget_encoding: str = "sinusoidal"  # or "linear": the log position as one number
    budget_form: str = "absolute"  # or "share" of the request's full latency, or the nearest "class"
    augment: str | None = None  # "noise=..,dropout=..,mix=..", "none"; None: as the manifest says
    balance: str | None = None  # some of "dataset,kind,budget", "none"; None: as the manifest says

    reference: ReferenceOptions = field(default_factory=ReferenceOptions)  # of "grpo"

    checkpoint_every: int = 5  # epochs

    device: str = "cpu"  # "cuda" needs a GPU; tables stay on the CPU
    precision: str = "float32"  # or "bfloat16": mixed precision, weights and losses stay float32
    share_projector: str | None = (
        None  # model (name or directory) whose projector begins the image projection
    )
    gradient_checkpointing: bool = False  # compute hidden activations twice rather than keep them

    def __post_init__(self) -> None:
        for name, allowed in (
            ("algorithm", ALGORITHMS),
            ("head", HEADS),
            ("reward", REWARDS),
            ("kl_reference", KL_REFERENCES),
            ("device", DEVICES),
            ("precision", PRECISIONS),
            ("baseline", BASELINES),
            ("baseline_scope", BASELINE_SCOPES),
        ):
            if getattr(self, name) not in allowed:
                raise TrainError(f"{name}: got {getattr(self, name)!r}, expected one of {list(allowed)}")
        self._check_types()
        if self.score_untested and self.head not in UNTESTED_HEADS:
            raise TrainError(
                f"score_untested: head {self.head!r} scores tested configurations only, expected one of "
                f"{list(UNTESTED_HEADS)}"
            )
        self._check_inputs()
        if self.algorithm == "grpo":
            self._check_reference()
        if self.head in KNOBWISE_HEADS and self.output != "logits":
            fitting = [name for name, output in OUTPUT.items() if output == "logits"]
            raise TrainError(
                f"head: {self.head!r} gives probabilities of configurations, algorithm {self.algorithm!r} predicts "
                f"their accuracy; expected one of the algorithms {fitting}, or one of the heads "
                f"{[head for head in HEADS if head not in KNOBWISE_HEADS]}"
            )
        whole = (
            "members",
            "hidden",
            "inner_epochs",
            "batch_size",
            "patience",
            "dpo_pairs",
            "checkpoint_every",
        )
        for name in whole:
            _check_whole(name, getattr(self, name), 1)
        _check_whole("warm_epochs", self.warm_epochs, 0)
        _check_whole("epochs", self.epochs, 0)
        if self.warm_epochs + self.epochs == 0:
            raise TrainError("epochs and warm_epochs: got 0 for both, expected at least one epoch")
        if self.group_size is not None and self.group_size != 0:
            _check_whole("group_size", self.group_size, 1 if self.algorithm == "ppo" else 2)
        for name in ("temperature", "gradient_clip"):
            _check_number(name, getattr(self, name), above=0.0)
        for name in ("learning_rate", "policy_learning_rate"):
            _check_number(name, getattr(self, name), above=0.0, at_most=1.0)
        for name in ("clip_eps_high", "dpo_beta"):
            _check_number(name, getattr(self, name), above=0.0)
        _check_number("clip_eps_low", self.clip_eps_low, above=0.0, at_most=1.0)
        for name in ("weight_decay", "entropy_weight", "tie_break"):
            _check_number(name, getattr(self, name))
        if self.kl_weight is not None:
            _check_number("kl_weight", self.kl_weight)
        _check_number("dropout", self.dropout, below=1.0)
        for name in ("average_share", "mixed_share"):
            _check_number(name, getattr(self, name), at_most=1.0)
        _check_number("baseline_headroom", self.baseline_headroom, above=0.0, at_most=1.0)
        if self.baseline != "none" and self.reward != "v2":
            raise TrainError(
                f"baseline: got {self.baseline!r} with reward {self.reward!r}, expected reward 'v2'; "
                "no other reward counts accuracy relative to a baseline"
            )
        if (self.reward == "learned") != (self.reward_model is not None):
            raise TrainError(
                f"reward_model: got {self.reward_model!r} with reward {self.reward!r}; expected a directory written "
                "by paceline reward-model with reward 'learned', and none with any other"
            )

    @property
    def output(self) -> str:
        """What the trained policy's outputs mean: "accuracy" or "logits"."""
        return OUTPUT[self.algorithm]

    @property
    def drawn(self) -> int:
        """Actions drawn per group; 0: all tested ones."""
        return DRAWN.get(self.algorithm, 0) if self.group_size is None else self.group_size

    @property
    def kl(self) -> float:
        """Weight of the KL to the reference."""
        return KL_WEIGHT.get(self.algorithm, 0.0) if self.kl_weight is None else self.kl_weight

    @property
    def feature_choice(self) -> dict[str, str]:
        """What `outcomes.store.read_table` must be told, so that the table holds the features asked for."""
        asked = {"image_features": self.image_features, "question_features": self.question_features}
        return {name: features for name, features in asked.items() if features is not None}

    def _check_types(self) -> None:
        """The options that are a truth value, a text or a seed."""
        check_seed(self.seed)
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise TrainError(f"{name}: got {getattr(self, name)!r}, expected true or false")
        for name in TEXTS:
            value = getattr(self, name)
            if not (isinstance(value, str) or (value is None and name != "reduce")):
                raise TrainError(f"{name}: got {value!r}, expected a text")

    def _check_inputs(self) -> None:
        for name, allowed in (
            ("image_features", (None, *IMAGE_FEATURES)),
            ("question_features", (None, *QUESTION_FEATURES)),
            ("feature_scaling", SCALINGS),
            ("budget_encoding", tuple(ENCODINGS)),
            ("budget_form", BUDGET_FORMS),
        ):
            if getattr(self, name) not in allowed:
                listed = [value for value in allowed if value is not None]
                raise TrainError(f"{name}: got {getattr(self, name)!r}, expected one of {listed}")
        parse_reduction(self.reduce)
        parse_balance(self.balance)
        plain = self.reduce == "none" and self.feature_scaling != "quantile"
        if self.share_projector is not None and not plain:
            raise TrainError(
                f"share_projector: got reduce {self.reduce!r} and feature_scaling {self.feature_scaling!r}, expected "
                "none and standard; the model's projector is linear in its own features"
            )
        parse_parts(self.budget_range)
        if self.augment is not None:
            parse_augmentation(self.augment)

    def _check_reference(self) -> None:
        """The student of a reference policy is one kind of network, and its teacher takes the exact expectation."""
        for name, expected in (
            ("score_untested", False),
            ("budget_range", None),
            ("reward", "masked"),
            ("share_projector", None),
            ("device", "cpu"),
            ("precision", "float32"),
            ("gradient_checkpointing", False),
        ):
            if getattr(self, name) != expected:
                raise TrainError(
                    f"{name}: got {getattr(self, name)!r} with algorithm 'grpo', whose student takes {expected!r} "
                    "only; use algorithm 'grpo_warm', or another that trains one network"
                )
        if self.group_size:
            raise TrainError(
                f"group_size: got {self.group_size} with algorithm 'grpo', which takes the exact expectation over all "
                "tested configurations; use algorithm 'grpo_warm' or 'grpo_scratch' to sample"
            )
        for name in ("image_features", "question_features"):
            if getattr(self, name) == ATTENTION:
                raise TrainError(
                    f"{name}: got 'attention' with algorithm 'grpo', whose trees need one vector per sample; use "
                    "algorithm 'grpo_warm', or another that trains one network"
                )

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes equal options."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainOptions":
        """Options written by `to_json`; unknown keys are errors, missing ones take the default."""
        unknown = sorted(set(value) - {item.name for item in fields(cls)})
        if unknown:
            raise TrainError(f"training options: got unknown {unknown}, expected names of TrainOptions")
        values = dict(value)
        if "reward_params" in values:
            values["reward_params"] = RewardParams(**values["reward_params"])
        if "reference" in values:
            values["reference"] = ReferenceOptions.from_json(values["reference"])
        return cls(**values)
