"""Features of other outcomes, to make new ones alike: `--features-from`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.errors import OutcomesError
from paceline.outcomes.feature_makers import COLUMNS, TEXT
from paceline.outcomes.store import read_manifest, read_text_features
from paceline.policies.text_features import TextFeatures

WAYS = {COLUMNS: "columns named with --features", TEXT: "made from questions, without --features"}


def made_before(directory: str, columns: bool) -> tuple[Mapping[str, Any], TextFeatures | None]:
    """What the manifest of imported outcomes says of their features, and what made them of a question's text.

    Args:
        directory: of the outcomes.
        columns: whether the new ones have columns of features; else they are made from the questions.

    Raises:
        OutcomesError: no outcomes, or features that were made in another way.
    """
    path, kind = Path(directory), COLUMNS if columns else TEXT
    try:
        described = read_manifest(path).options.get("features") or {
            "kind": "those of the model that was profiled"
        }
        text = read_text_features(path) if kind == TEXT else None
    except OutcomesError as error:
        raise OutcomesError(f"--features-from: {error}") from error
    found = str(described.get("kind"))
    if found != kind:
        raise OutcomesError(
            f"--features-from: the features of {path} are {WAYS.get(found, found)}, those to import are {WAYS[kind]}; "
            "import both in the same way"
        )
    if kind == TEXT and text is None:
        raise OutcomesError(
            f"--features-from: {path} does not hold what made its features, since it was imported by an older "
            "version; import it again"
        )
    return described, text
