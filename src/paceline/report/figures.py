"""From a matplotlib figure to a file, or to an SVG inside a page."""

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paceline.errors import PacelineError
from paceline.report.markup import Html
from paceline.report.theme import LIGHT, MARKERS, Theme, style

POINTS_PER_INCH = 72
FORMATS = ("png", "svg")
EDGE_INCHES = 0.14
"""Room around the plots of a file; in a page the frame leaves it."""


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **subplots: Any
) -> tuple[Any, Any]:
    """A figure of `width` x `height` CSS pixels and its array of axes (rows, columns). Call inside `style`."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH, layout="constrained"
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def save_figure(figure: Any, path: Path | str, theme: Theme = LIGHT) -> Path:
    """Write a figure as PNG (twice its nominal size) or SVG, by the suffix of `path`."""
    path = Path(path)
    file_format = path.suffix.lower().lstrip(".")
    if file_format not in FORMATS:
        raise PacelineError(f"plot {path}: got suffix {path.suffix!r}, expected one of .png, .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if file_format == "svg" else {"Software": None}
    figure.get_layout_engine().set(w_pad=EDGE_INCHES, h_pad=EDGE_INCHES)
    with style(theme), quiet_about_glyphs():
        figure.savefig(path, format=file_format, dpi=2 * POINTS_PER_INCH, metadata=metadata)
    return path


def inline_svg(figure: Any, identity: str, description: str, hints: Mapping[str, str] | None = None) -> Html:
    """An `<svg>` element whose colours are CSS variables, for a figure drawn in `MARKERS`.

    identity: unique in the page; prefixed to every id. description: what a screen reader says.
    hints: gid of an artist -> text shown when the pointer rests on it.
    """
    buffer = io.StringIO()
    with style(MARKERS), quiet_about_glyphs():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for gid, text in (hints or {}).items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{html.escape(text)}</title>', 1)
    prefix = f"{identity}-"
    svg = re.sub(r'\bid="([^"]+)"', lambda match: f'id="{prefix}{match[1]}"', svg)
    svg = re.sub(r'href="#([^"]+)"', lambda match: f'href="#{prefix}{match[1]}"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", lambda match: f"url(#{prefix}{match[1]})", svg)
    for name, marker in MARKERS.items():
        svg = svg.replace(marker, f"var(--{name})")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    opening = (
        f'<svg class="plot" role="img" aria-label="{html.escape(description)}" viewBox="{box[0][9:-1]}" '
        f'style="max-width:{float(box[1]):.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Html(re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1))


@contextmanager
def quiet_about_glyphs() -> Iterator[None]:
    """Measuring text in DejaVu Sans warns of characters it lacks; the page shows them in the reader's own font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
