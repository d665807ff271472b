"""What of a request a policy reads, and in which form: feature sets, their scaling, the budget. numpy only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from paceline.errors import ControllerError, OutcomesError
from paceline.policies.feature_scaling import METHODS

STORED, ATTENTION = "stored", "attention"
IMAGE_FEATURES = (STORED, "mean", "cls", "statistics", ATTENTION)
QUESTION_FEATURES = (STORED, "mean", "first", ATTENTION)
BUDGET_FORMS = ("absolute", "share", "class")
CLASS_QUANTILES = {"low": 0.25, "medium": 0.50, "high": 0.75}
"""Named budgets: quantiles of the configurations' mean latencies, kept as shares of the full configuration's."""


def set_name(part: str, features: str) -> str:
    """The feature set that holds a choice of "image" or "question" features, by its name in files and overviews.

    >>> set_name("image", "cls"), set_name("question", "attention")
    ('image.cls', 'question.tokens')
    """
    return f"{part}.tokens" if features == ATTENTION else f"{part}.{features}"


def named_shares(configuration_ms: np.ndarray) -> dict[str, float]:
    """Named budgets as shares of the slowest configuration's mean latency, from those of all configurations (m,).

    >>> named_shares(np.array([10.0, 20.0, 30.0, 40.0, 50.0]))
    {'low': 0.4, 'medium': 0.6, 'high': 0.8}
    """
    shares = np.quantile(configuration_ms, list(CLASS_QUANTILES.values())) / configuration_ms.max()
    return {name: round(float(share), 4) for name, share in zip(CLASS_QUANTILES, shares, strict=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """What a policy was trained to read; the default is what every controller read before there was a choice.

    Image features: "stored" (what the overview gives unasked), "mean" over the overview's tokens, "cls" (the vision
    tower's class token), "statistics" (mean, standard deviation and maximum over the tokens) or "attention" (a learned
    query over the tokens). Question features: "stored", "mean" or "first" of the prompt's embeddings, or "attention".

    >>> InputSpec.from_json(InputSpec(budget_form="class", class_shares=(0.3, 0.6)).to_json()).class_shares
    (0.3, 0.6)
    """

    image_features: str = STORED  # of IMAGE_FEATURES
    question_features: str = STORED  # of QUESTION_FEATURES
    feature_scaling: str = "standard"  # of `feature_scaling.METHODS`
    budget_form: str = "absolute"  # of BUDGET_FORMS, see `told_ms`
    class_shares: tuple[
        float, ...
    ] = ()  # form "class": the named budgets as shares of the full latency, ascending

    def __post_init__(self) -> None:
        for name, allowed in (
            ("image_features", IMAGE_FEATURES),
            ("question_features", QUESTION_FEATURES),
            ("feature_scaling", METHODS),
            ("budget_form", BUDGET_FORMS),
        ):
            if getattr(self, name) not in allowed:
                raise ControllerError(
                    f"policy {name}: got {getattr(self, name)!r}, expected one of {list(allowed)}"
                )
        shares = np.asarray(self.class_shares, dtype=np.float64)
        ascending = shares.size > 0 and bool(np.isfinite(shares).all() and (np.diff(shares) >= 0).all())
        if (self.budget_form == "class") != ascending or (shares <= 0).any():
            raise ControllerError(
                f"policy class_shares: got {list(self.class_shares)} for budgets in the form {self.budget_form!r}, "
                "expected positive shares in ascending order for 'class' and none otherwise"
            )

    @property
    def relative(self) -> bool:
        """Whether the policy reads budgets relative to what the full configuration takes on the request."""
        return self.budget_form != "absolute"

    def told_ms(
        self, budget_ms: np.ndarray | float | None, full_ms: np.ndarray | float, unit_ms: float
    ) -> np.ndarray | float | None:
        """The budget as the policy is told it, in ms of a request of mean full latency; None for no limit.

        "absolute": as it is. "share": the share of this request's full latency, times `unit_ms`. "class": the named
        share nearest to it on a log scale, times `unit_ms`.

        Args:
            budget_ms: one budget or one per request (n,); None or inf for no limit.
            full_ms: expected latency of the full configuration on the request, or (n,).
            unit_ms: its mean over the training samples.
        """
        if budget_ms is None or not self.relative:
            return budget_ms
        share = np.asarray(budget_ms, dtype=np.float64) / full_ms
        if self.budget_form == "class":
            named = np.asarray(self.class_shares)
            middles = np.sqrt(named[1:] * named[:-1])
            share = np.where(np.isposinf(share), share, named[np.searchsorted(middles, share)])
        return share * unit_ms

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which `from_json` makes an equal specification."""
        return asdict(self) | {"class_shares": [float(share) for share in self.class_shares]}

    @classmethod
    def from_json(cls, value: Any) -> "InputSpec":
        """The specification written by `to_json`; unknown and missing keys are errors."""
        names = {item.name for item in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names:
            got = sorted(value) if isinstance(value, Mapping) else value
            raise ControllerError(f"policy inputs: got {got}, expected exactly the keys {sorted(names)}")
        return cls(**{**value, "class_shares": tuple(value["class_shares"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureChoice:
    """Which feature sets the features of a table or a request are."""

    image: str = STORED  # of IMAGE_FEATURES
    question: str = STORED  # of QUESTION_FEATURES
    image_token: int = 0  # numbers in a token where image features are packed tokens ("attention"), else 0
    question_token: int = 0  # likewise

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("image_features", self.image, IMAGE_FEATURES),
            ("question_features", self.question, QUESTION_FEATURES),
        ):
            if value not in allowed:
                raise OutcomesError(f"{option}: got {value!r}, expected one of {list(allowed)}")

    def widths(self, image_columns: int, question_columns: int) -> tuple[int, int]:
        """Numbers that a policy reads per image and per question, or per token of them, from columns of a table."""
        return self.image_token or image_columns, self.question_token or question_columns
