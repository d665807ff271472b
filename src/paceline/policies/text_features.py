"""Features of a text: weighted counts of words and their pairs, reduced to a few columns."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from paceline.errors import PacelineError

FILE = "text_features.safetensors"
"""Of an outcomes directory and of a controller's."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts without blanks between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_SIGN = re.compile(rf"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{2,}}")


def terms_of(text: str) -> list[str]:
    """Words of two letters or more, and pairs of neighbours; single signs where words are not set apart.

    >>> terms_of("How many Birds? 鳥は")
    ['how', 'many', 'birds', '鳥', 'は', 'how many', 'many birds', 'birds 鳥', '鳥 は']
    """
    words = _WORD.findall(text.lower())
    return words + [" ".join(pair) for pair in pairwise(words)]


def has_signs(text: str) -> bool:
    """Whether some of a text is in a script without blanks between words."""
    return _SIGN.search(text) is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class TextFeatures:
    """TF-IDF of terms with logarithmic counts, of length 1, then a linear map (LSA; Deerwester et al. 1990).

    Raises PacelineError for arrays that do not belong together.
    """

    terms: tuple[str, ...]
    weights: np.ndarray  # float32 (terms,): inverse document frequencies
    components: np.ndarray  # float32 (terms, width)
    _place: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.terms)
        good = self.weights.shape == (count,) and self.components.ndim == 2 and len(self.components) == count
        if not good or not (np.isfinite(self.weights).all() and np.isfinite(self.components).all()):
            raise PacelineError(
                f"text features: got {count} terms, weights {self.weights.shape} and components "
                f"{self.components.shape}, expected finite numbers of each term; import the outcomes again"
            )
        object.__setattr__(self, "_place", {term: place for place, term in enumerate(self.terms)})

    @property
    def width(self) -> int:
        """Columns that a text gets."""
        return self.components.shape[1]

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, width); zeros for a text of which no term is known."""
        place = self._place
        features = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            counts = Counter(place[term] for term in terms_of(text) if term in place)
            if counts:
                places = np.fromiter(counts, np.int64, len(counts))
                times = np.fromiter(counts.values(), np.float64, len(counts))
                values = (1.0 + np.log(times)) * self.weights[places]
                features[row] = (values / np.linalg.norm(values)) @ self.components[places]
        return features

    def to_bytes(self) -> bytes:
        """The contents of a file."""
        terms = np.frombuffer(json.dumps(self.terms).encode(), np.uint8)
        return safetensors.numpy.save(
            {
                "terms": terms,
                "weights": np.ascontiguousarray(self.weights, np.float32),
                "components": np.ascontiguousarray(self.components, np.float32),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "TextFeatures":
        """What `to_bytes` gave. Raises PacelineError, which names `where`, for anything else."""
        try:
            arrays = safetensors.numpy.load(data)
            terms: Any = json.loads(arrays["terms"].tobytes())
            if not all(isinstance(term, str) for term in terms):
                raise TypeError("terms that are no texts")
            return cls(terms=tuple(terms), weights=arrays["weights"], components=arrays["components"])
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, PacelineError) as error:
            raise PacelineError(
                f"{where}: not the features of a text ({error}); the file is damaged, import or copy it again"
            ) from error
