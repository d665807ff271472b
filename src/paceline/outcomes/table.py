"""The outcome table in memory: sample x configuration arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from paceline.errors import OutcomesError
from paceline.knobs import KnobSpace
from paceline.outcomes.manifest import Manifest
from paceline.policies.inputs import FeatureChoice
from paceline.policies.text_features import TextFeatures

SPLITS = ("train", "validation", "test")

SAMPLE_FIELDS = ("sample_id", "dataset", "split", "image_hash", "question", "kind")
FLOAT_CELLS = ("accuracy", "latency_ms", "first_token_ms", "output_tokens")
COUNT_CELLS = ("tiles", "vision_tokens", "prompt_tokens")
CELL_FIELDS = FLOAT_CELLS + COUNT_CELLS


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OutcomeTable:
    """Outcomes of n samples under m tested configurations, with the features of every sample.

    Raises:
        OutcomesError: arrays whose shapes disagree, actions that do not ascend or leave the space, accuracy
            outside [0, 1], latency that is not positive, or features that are not finite.
    """

    space: KnobSpace
    actions: np.ndarray  # int64 (m,): tested action ids, ascending
    sample_id: np.ndarray  # str (n,)
    dataset: np.ndarray  # str (n,)
    split: np.ndarray  # str (n,): "train", "validation" or "test"
    image_hash: np.ndarray  # str (n,): equal for equal images
    question: np.ndarray  # str (n,)
    kind: np.ndarray  # str (n,)
    accuracy: np.ndarray  # float32 (n, m) in [0, 1]; NaN = untested
    latency_ms: np.ndarray  # float32 (n, m); NaN = not timed; median over repeats; overview + generate
    first_token_ms: np.ndarray  # float32 (n, m); likewise, from the call to the first token
    tiles: np.ndarray  # int32 (n, m): crops through the vision tower; -1 = untested
    vision_tokens: np.ndarray  # int32 (n, m); -1 = untested
    prompt_tokens: np.ndarray  # int32 (n, m): image tokens included; -1 = untested
    output_tokens: np.ndarray  # float32 (n, m); NaN where the length was not measured
    features: np.ndarray  # float32 (n, f): image features, then question features
    image_width: int  # how many of the f columns are image features
    manifest: Manifest
    feature_choice: FeatureChoice = field(default_factory=FeatureChoice)  # what `features` are
    fold: np.ndarray | None = None  # str (n,): folds that the table came with, for cross-validation
    text_features: TextFeatures | None = (
        None  # what made the features of the questions' texts, if they are of these
    )

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_values()

    @property
    def samples(self) -> int:
        """Number of samples, n."""
        return len(self.sample_id)

    @property
    def image_features(self) -> np.ndarray:
        """float32 (n, image_width)."""
        return self.features[:, : self.image_width]

    @property
    def question_features(self) -> np.ndarray:
        """float32 (n, f - image_width)."""
        return self.features[:, self.image_width :]

    @property
    def tested(self) -> np.ndarray:
        """bool (n, m): which cells hold an outcome."""
        return ~np.isnan(self.accuracy)

    def select(self, rows: np.ndarray) -> "OutcomeTable":
        """The table of some samples. `rows`: boolean mask (n,) or integer indices."""
        per_sample = (*SAMPLE_FIELDS, *CELL_FIELDS, "features")
        parts = {name: getattr(self, name)[rows] for name in per_sample}
        return replace(self, **parts, fold=None if self.fold is None else self.fold[rows])

    def split_rows(self, split: str) -> "OutcomeTable":
        """The table of one split: "train", "validation" or "test".

        Raises:
            OutcomesError: an unknown split, or one without samples.
        """
        if split not in SPLITS:
            raise OutcomesError(f"split: got {split!r}, expected one of {list(SPLITS)}")
        rows = self.split == split
        if not rows.any():
            raise OutcomesError(
                f"split {split!r}: the table has no such samples, only {sorted(set(self.split.tolist()))}; "
                "profile or import samples of that split"
            )
        return self.select(rows)

    def _check_shapes(self) -> None:
        n, m = len(self.sample_id), len(self.actions)
        shapes: Mapping[str, tuple[int, ...]] = (
            {"actions": (m,)}
            | {name: (n,) for name in SAMPLE_FIELDS}
            | ({} if self.fold is None else {"fold": (n,)})
            | {name: (n, m) for name in CELL_FIELDS}
        )
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise OutcomesError(
                    f"{name}: got shape {getattr(self, name).shape}, expected {shape} "
                    f"for {n} samples and {m} configurations"
                )
        if self.features.ndim != 2 or len(self.features) != n:
            raise OutcomesError(
                f"features: got shape {self.features.shape}, expected one row for each of the {n} samples; "
                "features and outcomes come from different sweeps"
            )
        if not 0 <= self.image_width <= self.features.shape[1]:
            raise OutcomesError(
                f"image_width: got {self.image_width}, expected 0 to {self.features.shape[1]}, "
                "the number of feature columns"
            )
        ascending = bool(np.all(np.diff(self.actions) > 0))
        if not ascending or (m and not (self.actions[0] >= 0 and self.actions[-1] < self.space.size)):
            raise OutcomesError(
                f"actions: got {self.actions.tolist()[:8]}..., expected ascending ids from 0 to "
                f"{self.space.size - 1}, each once"
            )

    def _check_values(self) -> None:
        if self.accuracy.size and (
            np.nanmax(self.accuracy, initial=0) > 1 or np.nanmin(self.accuracy, initial=0) < 0
        ):
            rows = np.flatnonzero(((self.accuracy < 0) | (self.accuracy > 1)).any(axis=1))
            raise OutcomesError(
                f"accuracy: outside [0, 1] for samples {rows.tolist()[:8]}; scores must be fractions, "
                "divide percentages by 100"
            )
        for name in ("latency_ms", "first_token_ms"):
            values = getattr(self, name)
            if not (np.nanmin(values, initial=1) > 0 and np.nanmax(values, initial=1) < np.inf):
                raise OutcomesError(f"{name}: has values that are not positive, finite times in milliseconds")
        if not np.isfinite(self.features).all():
            rows = np.flatnonzero(~np.isfinite(self.features).all(axis=1))
            raise OutcomesError(f"features: not finite for samples {rows.tolist()[:8]}; extract them again")
