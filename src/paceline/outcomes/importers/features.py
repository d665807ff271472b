"""Features of imported samples: the user's columns, or made from the text of the questions."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.feature_makers import COLUMNS, TEXT
from paceline.outcomes.importers.audit import Audit, some
from paceline.policies.text_features import TextFeatures, has_signs, terms_of

TEXT_WIDTH = 32
MOST_TERMS = 20_000
STRANGE = 0.5
"""Share of questions without a known word beyond which an import warns."""


def given_features(
    values: np.ndarray,
    names: Sequence[str],
    train: np.ndarray,
    audit: Audit,
    like: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The user's columns as finite float32, and what was done to them.

    An empty value becomes the median of the training samples; each column with any gets a second one that is 1 there.
    A column without any value in training is 0.

    Args:
        values: float64 (n, f), NaN where empty.
        names: (f,).
        train: bool (n,).
        audit: gets warnings.
        like: what other outcomes said of theirs: its medians stand for empty values, its columns are marked.
    """
    if np.isinf(values).any():
        bad = [names[i] for i in np.flatnonzero(np.isinf(values).any(axis=0)).tolist()]
        raise OutcomesError(
            f"--features: {some(bad)} hold infinite values, expected numbers; leave them empty instead"
        )
    empty = np.isnan(values)
    medians, gaps = (
        _filling(values, empty, train) if like is None else _filling_like(like, names, empty, audit)
    )
    filled = np.where(empty, medians, values)
    features = np.concatenate([filled, empty[:, gaps].astype(np.float64)], axis=1)
    limit = float(np.finfo(np.float32).max)
    if (np.abs(features) > limit).any():
        audit.warn(
            f"features: {int((np.abs(features) > limit).sum())} values exceed {limit:.1e} and count as that"
        )
    facts = {
        "kind": COLUMNS,
        "columns": list(names),
        "medians": medians.tolist(),
        "empty_marked": [names[i] for i in gaps.tolist()],
    }
    return np.clip(features, -limit, limit).astype(np.float32), facts


def _filling(values: np.ndarray, empty: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of train samples (f,), and the columns that are marked where they are empty."""
    medians = np.zeros(values.shape[1])
    for i in range(values.shape[1]):
        seen = values[train & ~empty[:, i], i]
        medians[i] = float(np.median(seen)) if len(seen) else 0.0
    return medians, np.flatnonzero(empty.any(axis=0) & ~empty.all(axis=0))


def _filling_like(
    like: Mapping[str, Any], names: Sequence[str], empty: np.ndarray, audit: Audit
) -> tuple[np.ndarray, np.ndarray]:
    """The same as other outcomes say it of theirs."""
    if list(names) != like.get("columns"):
        raise OutcomesError(
            f"--features: got {some(list(names))}, expected the columns of --features-from in their order, "
            f"{some(list(like.get('columns') or []))}"
        )
    said, marked = like.get("medians"), like.get("empty_marked")
    numbers = (
        isinstance(said, list) and len(said) == len(names) and all(isinstance(m, int | float) for m in said)
    )
    if not numbers or not isinstance(marked, list) or not set(marked) <= set(names):
        raise OutcomesError(
            "--features-from: its manifest has no median of each column, or marks columns that it has not; the file is "
            "damaged, import it again"
        )
    gaps = np.array([list(names).index(name) for name in marked], dtype=np.int64)
    alone = np.setdiff1d(np.flatnonzero(empty.any(axis=0)), gaps)
    if len(alone):
        audit.warn(
            f"features: {some([names[i] for i in alone.tolist()])} have empty values, which those of "
            "--features-from have not: they count as the median there and are not marked"
        )
    return np.array(said, dtype=np.float64), gaps


def question_features(
    question: Sequence[str], kind: Sequence[str], train: np.ndarray, seed: int, audit: Audit
) -> tuple[np.ndarray, dict[str, Any], TextFeatures | None]:
    """Features of the question text: TF-IDF of words and their pairs, reduced by a truncated SVD (LSA).

    Fitted on the training samples only. Samples without any text get their kind as indicators, and without kinds one
    constant column.

    Returns:
        float32 (n, width), what they are, and what makes them of a text, where they are of one.
    """
    known = [part for part, seen in zip(question, train.tolist(), strict=True) if seen]
    text = _fitted(known, seed)
    if text is not None:
        described = {"kind": TEXT, "width": text.width, "seed": seed, "fitted_on": _digest(known)}
        if any(map(has_signs, known)):
            described["signs"] = "words of their own"  # earlier versions read no such script
        return read_questions(text, question, ~train, audit), described, text
    kinds = sorted(set(kind))
    if len(kinds) > 1:
        audit.warn("no question text to make features of: the kind of question is the only feature")
        features = np.array([[float(item == name) for name in kinds] for item in kind], dtype=np.float32)
        return features, {"kind": "indicators of the kind", "kinds": kinds, "width": len(kinds)}, None
    audit.warn(
        "no features and no question text: all samples look alike to a policy; name columns with --features or "
        "--question"
    )
    return np.zeros((len(question), 1), dtype=np.float32), {"kind": "none", "width": 1}, None


def read_questions(text: TextFeatures, question: Sequence[str], new: np.ndarray, audit: Audit) -> np.ndarray:
    """float32 (n, width) of questions; a warning where most of those that are `new`, bool (n,), say nothing."""
    features = text.read(question)
    strange = new & ~features.any(axis=1)
    if strange.sum() > STRANGE * max(1, int(new.sum())):
        audit.warn(
            f"{int(strange.sum())} of {int(new.sum())} questions share no word with those that the features were "
            "fitted on: their features say nothing; name columns of your own with --features"
        )
    return features


def _digest(texts: Sequence[str]) -> str:
    """Of the texts that features were fitted on: other texts give columns that mean something else."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _fitted(texts: list[str], seed: int) -> TextFeatures | None:
    """None where the texts hold too few words."""
    if not any(terms_of(text) for text in texts):
        return None
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        analyzer=terms_of,  # pyright: ignore[reportArgumentType]
        sublinear_tf=True,
        max_features=MOST_TERMS,
    )
    vectors = vectorizer.fit_transform(texts)
    width = int(min(TEXT_WIDTH, vectors.shape[1] - 1, len(texts) - 1))
    if width < 1:
        return None
    reduction: Any = TruncatedSVD(n_components=width, random_state=seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        reduction.fit(vectors)
    return TextFeatures(
        terms=tuple(vectorizer.get_feature_names_out().tolist()),
        weights=vectorizer.idf_.astype(np.float32),
        components=np.ascontiguousarray(reduction.components_.T, dtype=np.float32),
    )
