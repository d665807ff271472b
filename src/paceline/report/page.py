"""The frame of the page: style sheet, table of contents, cards, tables and notices."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from paceline.report.markup import Child, Html, tag
from paceline.report.theme import css_variables

STYLE_SHEET = """
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:3.6rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.55;font-size:16px;
 font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif}
main,header>div{max-width:1180px;margin:0 auto;padding:0 1.25rem}
header{padding:2.6rem 0 1.2rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.02em}
h2{font-size:1.35rem;line-height:1.3;margin:0 0 .3rem;letter-spacing:-.01em}
h3{font-size:1rem;margin:0 0 .5rem}
p{margin:.2rem 0 .8rem;max-width:78ch}
.lead{font-size:1.1rem;max-width:70ch}.note,figcaption,.facts{color:var(--muted);font-size:.9rem}
figcaption{margin-top:.5rem;max-width:78ch}
nav{position:sticky;top:0;z-index:5;background:var(--page);border-bottom:1px solid var(--line)}
nav ul{max-width:1180px;margin:0 auto;padding:.6rem 1.25rem;display:flex;gap:1.3rem;list-style:none;
 overflow-x:auto;white-space:nowrap;font-size:.92rem;scrollbar-width:none}
nav a{color:var(--muted);text-decoration:none}nav a:hover,nav a:focus{color:var(--ink);text-decoration:underline}
section{margin:2.6rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr));gap:1rem}
.card,figure,.table,.example,.panel{background:var(--surface);border:1px solid var(--line);border-radius:12px}
.card{padding:1rem 1.15rem}.card .label{color:var(--muted);font-size:.88rem}
.card .value{font-size:1.95rem;font-weight:650;line-height:1.25;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.card .value small{font-size:1rem;font-weight:500;letter-spacing:0}
.card .interval{font-size:.88rem;color:var(--muted);font-variant-numeric:tabular-nums}
.card.absent .value{color:var(--muted);font-weight:500;font-size:1.2rem;padding:.3rem 0}
figure,.panel{margin:0;padding:1rem 1.15rem}
.pair,.panels,.examples{display:grid;gap:1rem}
.pair{grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr))}
.panels{grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}
.pair,.panels,.table,.legend,.examples{margin-top:1rem}.panels>.table{margin-top:0}
.compact table{font-size:.84rem}.compact th,.compact td{padding:.34rem .42rem}
.compact th:first-child{padding-left:.8rem}
.compact td:last-child{padding-right:.8rem}.compact caption{padding-left:.8rem}
h3.group{margin:1.7rem 0 0}
svg.plot{display:block;width:100%;height:auto;margin:0 auto}
svg.plot text{font-family:inherit!important}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.3rem;font-size:.92rem;list-style:none;padding:0;margin-bottom:0}
.legend li{display:flex;align-items:center;gap:.5rem}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.8rem 1rem .5rem;font-weight:600}
th,td{padding:.42rem .8rem;text-align:right;white-space:nowrap;border-top:1px solid var(--line);vertical-align:baseline}
thead th{color:var(--muted);font-weight:500;border-top:0;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--surface);padding-left:1rem}
th:last-child,td:last-child{padding-right:1rem}
tbody th{font-weight:500}tr.strong th,tr.strong td{font-weight:650}
tr.rule>*{border-top:2px solid var(--line)}td small{display:block;color:var(--muted);font-size:.82em;font-weight:400}
td.text,th.text{text-align:left;white-space:normal;min-width:14rem}
.swatch{display:inline-block;width:.65rem;height:.65rem;border-radius:3px;margin-right:.55rem}
.absent-notice,.warnings{border:1px solid var(--warning);background:var(--warning-surface);border-radius:12px;
 padding:.8rem 1.1rem;margin-top:1rem}
.absent-notice strong,.warnings strong{color:var(--warning)}
.pair>.absent-notice{align-self:start;margin-top:0}
.caveats{margin:1rem 0}.warnings ul{margin:.3rem 0}
.warnings ul,.caveats{padding-left:1.2rem}.caveats li,.warnings li{margin:.4rem 0;max-width:82ch}
.example{overflow:hidden;display:grid;grid-template-columns:minmax(0,19rem) minmax(0,1fr)}
.example img{display:block;width:100%;height:100%;max-height:24rem;object-fit:contain;background:var(--page)}
.example .body{padding:1rem 1.2rem 1.1rem}
.example .question{font-weight:600;margin:0 0 .6rem;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem .9rem;margin:0;font-size:.92rem}
dt{color:var(--muted)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
details{margin-top:.8rem}summary{cursor:pointer;color:var(--muted);font-size:.92rem}
pre{overflow-x:auto;font-size:.82rem;line-height:1.45;background:var(--page);
 border:1px solid var(--line);border-radius:8px;padding:.7rem .8rem;margin:.6rem 0 0}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
.bar{display:inline-block;height:.6rem;border-radius:3px;background:var(--paceline);vertical-align:middle;
 margin-right:.5rem;min-width:2px}
footer{color:var(--muted);font-size:.88rem;border-top:1px solid var(--line);padding:1.2rem 0 2.5rem;margin-top:3rem}
@media (max-width:40rem){.example{grid-template-columns:1fr}.example img{max-height:15rem}
 h1{font-size:1.6rem}header{padding-top:1.6rem}section{margin:2rem 0}
 .cards{grid-template-columns:1fr 1fr;gap:.7rem}.card{padding:.8rem .9rem}.card .value{font-size:1.5rem}
 .card .value small{display:block;font-size:.85rem}
 figure,.panel{padding:.8rem .7rem}th,td{padding:.4rem .55rem}}
@media print{nav{display:none}section,figure,.example{break-inside:avoid}}
"""

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page may load nothing: no script, no network, pictures only from within itself."""


def document(title: str, introduction: Child, sections: Mapping[str, tuple[str, Html]], footer: Child) -> str:
    """The whole page. sections: id -> (entry in the table of contents, markup)."""
    entries = [tag("li", tag("a", label, href=f"#{key}")) for key, (label, _) in sections.items()]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", **{"http-equiv": "Content-Security-Policy"}, content=CONTENT_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(css_variables() + STYLE_SHEET)),
    )
    body = tag(
        "body",
        tag("header", tag("div", tag("h1", title), introduction)),
        tag("nav", tag("ul", entries), aria_label="Sections"),
        tag("main", [markup for _, markup in sections.values()], tag("footer", footer)),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def section(identity: str, title: str, *content: Child, note: Child = None) -> Html:
    """A part of the page with a heading."""
    return tag(
        "section", tag("h2", title), tag("p", note, class_="note") if note else None, content, id=identity
    )


def not_measured(what: str, how: str) -> Html:
    """Says that something is absent and how to get it; stands where the content would be."""
    return tag("div", tag("strong", "Not measured. "), f"{what} {how}", class_="absent-notice")


def card(label: str, value: Child, interval: str = "", unit: str = "") -> Html:
    """A headline number; `value=None` says that it was not measured."""
    if value is None:
        return tag(
            "div",
            tag("div", label, class_="label"),
            tag("div", "not measured", class_="value"),
            class_="card absent",
        )
    return tag(
        "div",
        tag("div", label, class_="label"),
        tag("div", value, tag("small", f" {unit}") if unit else None, class_="value"),
        tag("div", interval, class_="interval"),
        class_="card",
    )


def table(caption: str | None, header: Sequence[Child], rows: Sequence[Html], compact: bool = False) -> Html:
    """A table that scrolls sideways where the page is narrow; its first column stays in view."""
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", tag("tr", [_header_cell(cell) for cell in header])),
            tag("tbody", rows),
        ),
        class_="table compact" if compact else "table",
        tabindex=0,
    )


def _header_cell(cell: Child) -> Html:
    done = isinstance(cell, Html) and cell.startswith("<th")
    return cell if done else tag("th", cell, scope="col")  # pyright: ignore[reportReturnType]


def row(label: Child, cells: Sequence[Child], class_: str | None = None) -> Html:
    """A table row; a cell that is a `<td>` already stays as it is."""
    done = [cell if isinstance(cell, Html) and cell.startswith("<td") else tag("td", cell) for cell in cells]
    return tag("tr", tag("th", label, scope="row"), done, class_=class_)


def swatch(colour: str) -> Html:
    """A small square in a colour of the theme."""
    return tag("span", class_="swatch", style=f"background:var(--{colour})")


def legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    """Key of several plots. entries: (label, colour of the theme, line style of matplotlib)."""
    items = []
    for label, colour, line_style in entries:
        dash = {"--": "6 4", ":": "1.5 4", "-.": "7 3 1.5 3"}.get(line_style)
        line = tag(
            "line", x1=1, y1=6, x2=29, y2=6, stroke=f"var(--{colour})", stroke_width=2.4, stroke_dasharray=dash,
            stroke_linecap="round",
        )  # fmt: skip
        items.append(tag("li", tag("svg", line, width=30, height=12, aria_hidden="true"), label))
    return tag("ul", items, class_="legend")


def figure(plot: Html, caption: Child = None, title: str | None = None) -> Html:
    """A plot in a frame with a caption."""
    return tag(
        "figure", tag("h3", title) if title else None, plot, tag("figcaption", caption) if caption else None
    )


def write(path: Path, text: str) -> Path:
    """Put a page in its place at once: an existing file stays as it was unless all of the new one is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
