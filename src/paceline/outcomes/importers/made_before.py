"""Features of other outcomes, to make new ones alike: `--features-from`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit
from paceline.outcomes.importers.features import COLUMNS, TEXT, text_features
from paceline.outcomes.store import read_manifest, read_text_features
from paceline.policies.text_features import TextFeatures


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeBefore:
    """What the other outcomes say of their features."""

    described: Mapping[str, Any]
    text: TextFeatures | None  # what made them, where they are of the question's text

    def read(self, question: Sequence[str], audit: Audit) -> np.ndarray:
        """Features of questions, float32 (n, width)."""
        assert self.text is not None
        return text_features(self.text, question, np.ones(len(question), bool), audit)


def made_before(directory: str, columns: bool) -> MadeBefore:
    """Read them.

    Args:
        directory: of outcomes that were imported.
        columns: whether the new ones have columns of features; else they are made from the questions.

    Raises:
        OutcomesError: no outcomes, or features that were made in another way.
    """
    path = Path(directory)
    described = read_manifest(path).options.get("features") or {
        "kind": "those of the model that was profiled"
    }
    expected = COLUMNS if columns else TEXT
    if described.get("kind") != expected:
        raise OutcomesError(
            f"--features-from: the features of {path} are {described.get('kind')!r}, expected {expected!r}, as these "
            f"are {'named with' if columns else 'made without'} --features; import both in the same way"
        )
    text = None if columns else read_text_features(path)
    if text is None and not columns:
        raise OutcomesError(
            f"--features-from: {path} does not hold what made its features, since it was imported by an older "
            "version; import it again"
        )
    return MadeBefore(described=described, text=text)
