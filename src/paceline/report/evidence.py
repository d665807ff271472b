"""Sections that let a reader judge: examples and where the numbers come from."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paceline.errors import ImageError
from paceline.report import page
from paceline.report.markup import Child, Html, tag
from paceline.report.reading import (
    DASH,
    Results,
    configuration_text,
    milliseconds,
    single_number,
)

PICTURE_PIXELS = 640
"""Longest side of an example's picture in the page."""
PICTURE_BYTES = 150_000
"""A picture heavier than this as PNG is stored as JPEG."""


def examples(given: Sequence[Mapping[str, Any]] | None) -> Html:
    """Questions with their picture, answer, chosen configuration and why it was chosen.

    Keys of an example: image (PIL image), question, answer, expected, configuration, why; optional kind, budget_ms,
    latency_ms, score.
    """
    title = "Three questions"
    if not given:
        return page.section(
            "examples",
            title,
            page.not_measured("No examples were handed to this report.", "Run: paceline demo"),
        )
    title = title if len(given) == 3 else "Questions and answers"
    return page.section("examples", title, tag("div", [_example(item) for item in given], class_="examples"))


def _example(item: Mapping[str, Any]) -> Html:
    question = str(item.get("question", DASH))
    image = item.get("image")
    picture = (
        tag("img", src=data_uri(image), alt=f"The picture to: {question}") if image is not None else None
    )
    facts: list[tuple[str, Child]] = [
        ("Answer", str(item.get("answer", DASH))),
        ("Expected", str(item.get("expected", DASH))),
        ("Chosen", configuration_text(item.get("configuration"))),
    ]
    if item.get("kind") is not None:
        facts.insert(0, ("Kind", str(item["kind"])))
    budget, latency = single_number(item.get("budget_ms")), single_number(item.get("latency_ms"))
    if not np.isnan(budget) or not np.isnan(latency):
        facts.append(("Time", f"{milliseconds(latency)} of {milliseconds(budget)} allowed"))
    why = item.get("why")
    return tag(
        "article",
        picture or page.not_measured("There is no picture.", ""),
        tag(
            "div",
            tag("p", question, class_="question"),
            tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in facts]),
            tag("details", tag("summary", "Why this configuration"), tag("pre", str(why)), open=True)
            if why
            else None,
            class_="body",
        ),
        class_="example",
    )


def data_uri(image: Any) -> str:
    """A PIL image as a `data:` URI of moderate size; raises `ImageError` for anything else."""
    if not hasattr(image, "save") or not hasattr(image, "convert"):
        raise ImageError(f"example: image is a {type(image).__name__}, expected a PIL image")
    image = image.convert("RGB")
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    buffer, file_format = io.BytesIO(), "png"
    image.save(buffer, format="PNG", optimize=True)
    if buffer.tell() > PICTURE_BYTES:
        buffer, file_format = io.BytesIO(), "jpeg"
        image.save(buffer, format="JPEG", quality=82)
    return f"data:image/{file_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def provenance(results: Results) -> Html:
    """Where the numbers come from: data, model, hardware, software, options, exactly as recorded."""
    facts = {
        "samples": results.get("samples"),
        "overhead": results.get("overhead"),
        **(results.get("provenance") or {}),
    }
    facts = {key: value for key, value in facts.items() if value not in (None, {}, [], "")}
    if not results.get("provenance"):
        notice = page.not_measured("These results carry no provenance.", "Treat them as unverified.")
    else:
        notice = None
    rows = [page.row(key, [tag("td", value, class_="text")]) for key, value in flat(facts)]
    content = page.table(None, ["Fact", tag("th", "Value", class_="text")], rows) if rows else None
    return page.section("provenance", "Where the numbers come from", notice, content)


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested facts as (dotted name, text) pairs."""
    if isinstance(value, Mapping):
        return [
            pair
            for key, item in value.items()
            for pair in flat(item, f"{name} · {key}" if name else str(key))
        ]
    if isinstance(value, list | tuple):
        if all(not isinstance(item, Mapping | list | tuple) for item in value):
            return [(name, ", ".join(_fact(item) for item in value))]
        return [pair for index, item in enumerate(value) for pair in flat(item, f"{name} · {index}")]
    return [(name, _fact(value))]


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return DASH if value is None else str(value)
