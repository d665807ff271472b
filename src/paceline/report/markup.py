"""HTML that is escaped by construction: a `str` child is text, only an `Html` child is markup."""

import html
from collections.abc import Iterable
from typing import Any, TypeAlias

VOID_TAGS = frozenset({"img", "meta", "br", "hr"})


class Html(str):
    """Text that is already safe markup."""

    __slots__ = ()


Child: TypeAlias = str | int | float | None | Iterable[Any]
"""What an element may hold: markup, text, numbers, nothing, or any nesting of these in iterables."""


def escaped(child: Child) -> Html:
    """Markup of a child: `Html` as it is, everything else as escaped text, lists joined, `None` as nothing."""
    if isinstance(child, Html):
        return child
    if child is None:
        return Html("")
    if isinstance(child, str | int | float):
        return Html(html.escape(str(child)))
    return Html("".join(escaped(item) for item in child))


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """An element. Attribute names lose a trailing `_` and turn inner `_` into `-`; `None` and `False` are left out.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(parts)}>"
    if name in VOID_TAGS:
        return Html(opening)
    return Html(f"{opening}{escaped(children)}</{name}>")
