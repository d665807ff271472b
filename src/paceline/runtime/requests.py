"""The requests of one call: a single one or a list, each argument once for all or one per request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, SupportsFloat

import numpy as np
from PIL import Image

from paceline.errors import BudgetError, ImageError, PacelineError, PromptError
from paceline.runtime.decision import check_number, check_when_infeasible


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request of a list, checked."""

    image: Image.Image
    prompt: str
    budget_ms: SupportsFloat | None
    first_token_budget_ms: SupportsFloat | None
    budget: SupportsFloat | str | None
    waited_ms: float
    max_new_tokens: int
    when_infeasible: str

    @property
    def budgets(self) -> dict[str, Any]:
        """Hard budgets, as `Controller.decide` takes them."""
        return {
            "budget_ms": self.budget_ms,
            "first_token_budget_ms": self.first_token_budget_ms,
            "budget": self.budget,
        }


def is_list(value: object) -> bool:
    """Whether an argument holds one value per request; a text is one value."""
    return (isinstance(value, Sequence) and not isinstance(value, str | bytes)) or (
        isinstance(value, np.ndarray) and value.ndim > 0
    )


def listed(
    images: Any,
    prompts: Any,
    options: Mapping[str, Any],
    profiled_length: int,
    check_budgets: Callable[..., None],
) -> list[Request]:
    """The requests of a call whose images or prompts are a list.

    A list of prompts may share one image, and a list of images one prompt. `options`: the other fields of `Request`,
    each one value or a list; `profiled_length` stands for a `max_new_tokens` of None. `check_budgets` raises
    BudgetError for budgets that no request could have.

    Raises:
        BudgetError, ImageError, PromptError: lists of different lengths, empty ones, or a wrong entry, with its index.
    """
    error = ImageError if is_list(images) else PromptError
    named = {"images": images, "prompts": prompts, **options}
    named = {k: v.tolist() if isinstance(v, np.ndarray) and v.ndim == 1 else v for k, v in named.items()}
    lengths = {name: len(value) for name, value in named.items() if is_list(value)}
    count = lengths.get("images", lengths.get("prompts", 0))
    if count == 0:
        raise error("requests: got an empty list, expected at least one image and one prompt")
    wrong = {name: length for name, length in lengths.items() if length != count}
    if wrong:
        raise error(
            f"requests: got lists of different lengths, {lengths}; expected one entry per request in each, or one "
            "value for all of them"
        )

    def entry(name: str, index: int) -> Any:
        return named[name][index] if name in lengths else named[name]

    requests = []
    for index in range(count):
        fields = {name: entry(name, index) for name in options}
        if fields["max_new_tokens"] is None:
            fields["max_new_tokens"] = profiled_length
        request = Request(image=entry("images", index), prompt=entry("prompts", index), **fields)
        try:
            check(request, check_budgets)
        except PacelineError as wrong_entry:
            raise named_by_index(wrong_entry, index) from None
        requests.append(request)
    return requests


def check(request: Request, check_budgets: Callable[..., None]) -> None:
    """Raise for what no request could have, before any work is done for one."""
    if not isinstance(request.image, Image.Image):
        raise ImageError(f"image: got a {type(request.image).__name__}, expected a PIL image")
    if not isinstance(request.prompt, str):
        raise PromptError(f"prompt: got a {type(request.prompt).__name__}, expected a question")
    check_when_infeasible(request.when_infeasible)
    check_budgets(**request.budgets)
    check_length(request.max_new_tokens)
    check_waited(request.waited_ms)


def check_length(max_new_tokens: int) -> None:
    """Raise BudgetError unless `max_new_tokens` is a positive integer."""
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise BudgetError(f"max_new_tokens: got {max_new_tokens!r}, expected a positive integer")


def check_waited(waited_ms: float) -> None:
    """Raise BudgetError unless `waited_ms` is a finite number from 0 on."""
    check_number("waited_ms", waited_ms, least=0.0)


def named_by_index(error: PacelineError, index: int) -> PacelineError:
    """The same error, its message naming the request it is about."""
    error.args = (f"request {index}: {error}", *error.args[1:])
    return error
