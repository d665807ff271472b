"""Features of an overview, copied to the host only when they are read."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def to_host(tensor: Tensor) -> np.ndarray:
    """One copy to the host, as float32; it waits for what the device has to compute before."""
    return tensor.float().cpu().numpy()


def pooled(
    tokens: Float[Tensor, "image_tokens width"], question: Float[Tensor, "prompt_tokens width"]
) -> Float[Tensor, " both"]:
    """The mean of the image's tokens, then that of the question's: one tensor, so that one copy takes both."""
    return torch.cat((tokens.mean(dim=0), question.mean(dim=0))).float()


def token_statistics(tokens: Float[Tensor, "tokens width"]) -> Float[Tensor, " statistics"]:
    """Mean, standard deviation and maximum over tokens, one after the other.

    >>> token_statistics(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).tolist()
    [1.0, 1.0, 1.0, 0.0, 2.0, 1.0]
    """
    wide = tokens.float()
    return torch.cat((wide.mean(dim=0), wide.std(dim=0, correction=0), wide.amax(dim=0)))


class FeatureSets(Mapping[str, Callable[[], np.ndarray]]):
    """All sets of an overview by name; each is computed on the device and copied when it is read.

    Nothing is made before somebody asks: an overview is made for every request, and few ask.
    """

    __slots__ = ("_class_and_patches", "_question", "_tokens")

    def __init__(
        self,
        tokens: Float[Tensor, "image_tokens width"],
        question: Float[Tensor, "prompt_tokens width"],
        class_and_patches: Float[Tensor, "1 class_and_patches features"] | None = None,
    ) -> None:
        """`class_and_patches`: of a vision tower with a class token, which comes first."""
        self._tokens, self._question, self._class_and_patches = tokens, question, class_and_patches

    def __getitem__(self, name: str) -> Callable[[], np.ndarray]:
        return self._sets()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets())

    def __len__(self) -> int:
        return len(self._sets())

    def _sets(self) -> dict[str, Callable[[], np.ndarray]]:
        tokens, question, features = self._tokens, self._question, self._class_and_patches
        sets = {
            "image.mean": lambda: to_host(tokens.mean(dim=0)),
            "image.statistics": lambda: to_host(token_statistics(tokens)),
            "image.tokens": lambda: to_host(tokens),
            "question.mean": lambda: to_host(question.mean(dim=0)),
            "question.first": lambda: to_host(question[0]),
            "question.tokens": lambda: to_host(question),
        }
        if features is not None:
            sets["image.cls"] = lambda: to_host(features[0, 0])
        return sets
