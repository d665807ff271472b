"""Features of imported samples: the user's columns, or made from the text of the questions."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit, some

TEXT_WIDTH = 32
STRANGE = 0.5
"""Share of questions without a known word beyond which an import warns."""


def given_features(
    values: np.ndarray, names: Sequence[str], train: np.ndarray, audit: Audit
) -> tuple[np.ndarray, dict[str, Any]]:
    """The user's columns as finite float32, and what was done to them.

    An empty value becomes the median of the training samples; each column with any gets a second one that is 1 there.
    A column without any value in training is 0.

    Args:
        values: float64 (n, f), NaN where empty.
        names: (f,).
        train: bool (n,).
    """
    if np.isinf(values).any():
        bad = [names[i] for i in np.flatnonzero(np.isinf(values).any(axis=0)).tolist()]
        raise OutcomesError(
            f"--features: {some(bad)} hold infinite values, expected numbers; leave them empty instead"
        )
    empty = np.isnan(values)
    medians = np.zeros(values.shape[1])
    for i in range(values.shape[1]):
        seen = values[train & ~empty[:, i], i]
        medians[i] = float(np.median(seen)) if len(seen) else 0.0
    filled = np.where(empty, medians, values)
    gaps = np.flatnonzero(empty.any(axis=0) & ~empty.all(axis=0))
    features = np.concatenate([filled, empty[:, gaps].astype(np.float64)], axis=1)
    limit = float(np.finfo(np.float32).max)
    if (np.abs(features) > limit).any():
        audit.warn(
            f"features: {int((np.abs(features) > limit).sum())} values exceed {limit:.1e} and count as that"
        )
    facts = {
        "kind": "columns",
        "columns": list(names),
        "medians": medians.tolist(),
        "empty_marked": [names[i] for i in gaps.tolist()],
    }
    return np.clip(features, -limit, limit).astype(np.float32), facts


def question_features(
    question: Sequence[str], kind: Sequence[str], train: np.ndarray, seed: int, audit: Audit
) -> tuple[np.ndarray, dict[str, Any]]:
    """Features of the question text: TF-IDF of words and their pairs, reduced by a truncated SVD (LSA).

    Fitted on the training samples only. Samples without any text get their kind as indicators, and without kinds one
    constant column.

    Returns:
        float32 (n, width), and what they are.
    """
    texts = np.array(question, dtype=object)
    vectors = _tfidf(texts, train) if any(text.strip() for text in question) else None
    if vectors is not None:
        from sklearn.decomposition import TruncatedSVD

        strange = ~train & (vectors.getnnz(axis=1) == 0)
        if strange.sum() > STRANGE * max(1, int((~train).sum())):
            audit.warn(
                f"{int(strange.sum())} of {int((~train).sum())} questions outside the train split share no word with "
                "those in it, as of languages without blanks: their features say nothing; name columns of your own "
                "with --features"
            )
        width = int(min(TEXT_WIDTH, vectors.shape[1] - 1, int(train.sum()) - 1))
        if width >= 1:
            reduction = TruncatedSVD(n_components=width, random_state=seed)
            with np.errstate(invalid="ignore", divide="ignore"):
                reduction.fit(vectors[train])
            features = reduction.transform(vectors).astype(np.float32)
            described = {"kind": "tf-idf + SVD of the question", "width": width, "seed": seed}
            return features, described | {"fitted_on": _digest(texts[train].tolist())}
    kinds = sorted(set(kind))
    if len(kinds) > 1:
        audit.warn("no question text to make features of: the kind of question is the only feature")
        features = np.array([[float(item == name) for name in kinds] for item in kind], dtype=np.float32)
        return features, {"kind": "indicators of the kind", "kinds": kinds, "width": len(kinds)}
    audit.warn(
        "no features and no question text: all samples look alike to a policy; name columns with --features or "
        "--question"
    )
    return np.zeros((len(texts), 1), dtype=np.float32), {"kind": "none", "width": 1}


def _digest(texts: Sequence[str]) -> str:
    """Of the texts that features were fitted on: other texts give columns that mean something else."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _tfidf(texts: np.ndarray, train: np.ndarray) -> Any:
    """Sparse (n, terms); None where the training texts hold no words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1, max_features=20_000)
    try:
        vectorizer.fit(texts[train].tolist())
    except ValueError:  # an empty vocabulary
        return None
    return vectorizer.transform(texts.tolist())
