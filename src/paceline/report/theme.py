"""Colours of plots and pages: a light and a dark theme, and one whose colours are CSS variables.

The last lets one inline SVG serve both: matplotlib draws it in marker colours, which `inline_svg` then replaces by
`var(--name)`, so that the page's style sheet decides.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from paceline.errors import DependencyError, PacelineError

Theme = Mapping[str, str]

_COLOURS: dict[str, tuple[str, str]] = {
    # name: (light, dark); every line colour has a contrast of at least 3 to its surface
    "page": ("#f8f8f6", "#0e1115"),
    "surface": ("#ffffff", "#161a20"),
    "ink": ("#1b212b", "#e6e9ee"),
    "muted": ("#596270", "#9da7b4"),
    "line": ("#e1e4e9", "#2b323c"),
    "paceline": ("#1d5fd1", "#6ea8ff"),
    "best-static": ("#c4500b", "#f39a4d"),
    "oracle": ("#0a7d62", "#45cfa6"),
    "supervised": ("#9b3fa8", "#d98be6"),
    "outcome": ("#b3366b", "#f08bb4"),
    "lookup": ("#8a6d00", "#d6b53a"),
    "grpo-teacher": ("#0b7285", "#4cc5d6"),
    "stacking": ("#6d7a00", "#c3d14f"),
    "lightgbm": ("#b3261e", "#ff8a80"),
    "grpo-warm": ("#4a6fa5", "#8fb4e8"),
    "grpo-scratch": ("#66788f", "#9fb3cc"),
    "ppo": ("#7048b5", "#b79cf0"),
    "dpo": ("#a0527a", "#e0a0c4"),
    "voting": ("#7a5230", "#cfa67c"),
    "knn": ("#4d7358", "#93c2a1"),
    "kmeans": ("#6f6a3c", "#bdb67c"),
    "full": ("#374151", "#c3c9d3"),
    "random": ("#737b8a", "#929bab"),
    "cheapest": ("#95614f", "#cb9c8a"),
    "dot": ("#7f899a", "#98a5b7"),
    "warning": ("#9a5b00", "#f0b04a"),
    "warning-surface": ("#fff6e5", "#2a2113"),
}

LIGHT: Theme = {name: pair[0] for name, pair in _COLOURS.items()}
DARK: Theme = {name: pair[1] for name, pair in _COLOURS.items()}
MARKERS: Theme = {name: f"#fe01{index:02x}" for index, name in enumerate(_COLOURS)}
"""Colours that stand for CSS variables, see `inline_svg`."""

MONOCHROME_HINTS: Mapping[str, tuple[str, str]] = {
    # name: (line style, marker), so that no reader needs the colour
    "paceline": ("-", "o"),
    "best-static": ("--", "s"),
    "oracle": (":", "^"),
    "supervised": ("-.", "D"),
    "outcome": (":", "P"),
    "lookup": ("-.", "v"),
    "grpo-teacher": ("-", "D"),
    "stacking": ("--", "^"),
    "lightgbm": ("-.", "s"),
    "grpo-warm": ("--", "o"),
    "grpo-scratch": (":", "o"),
    "ppo": ("--", "v"),
    "dpo": (":", "v"),
    "voting": ("--", "X"),
    "knn": ("-.", "X"),
    "kmeans": (":", "X"),
}


def theme_named(name: str) -> Theme:
    """The theme called `light` or `dark`."""
    if name not in ("light", "dark"):
        raise PacelineError(f"theme: got {name!r}, expected 'light' or 'dark'")
    return LIGHT if name == "light" else DARK


def css_variables() -> str:
    """Style sheet rules that define every colour as `--name`, light by default and dark where the reader prefers it."""

    def rules(theme: Theme) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in theme.items())

    return (
        f":root{{color-scheme:light dark;{rules(LIGHT)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{rules(DARK)}}}}}"
    )


def import_matplotlib() -> Any:
    """The matplotlib module, or a `DependencyError` that names the extra."""
    try:
        import matplotlib
    except ImportError as error:
        raise DependencyError(
            "plots need matplotlib, which is not installed; install it with: pip install 'paceline[report]'"
        ) from error
    return matplotlib


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """matplotlib's settings for a theme; they hold inside the `with` block only."""
    matplotlib = import_matplotlib()
    settings = {
        "figure.facecolor": theme["surface"],
        "axes.facecolor": theme["surface"],
        "savefig.facecolor": theme["surface"],
        "text.color": theme["ink"],
        "axes.labelcolor": theme["muted"],
        "axes.edgecolor": theme["line"],
        "axes.titlecolor": theme["ink"],
        "xtick.color": theme["line"],
        "ytick.color": theme["line"],
        "xtick.labelcolor": theme["muted"],
        "ytick.labelcolor": theme["muted"],
        "grid.color": theme["line"],
        "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout everywhere
        "font.size": 12,
        "axes.titlesize": 13,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelsize": 11.5,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "legend.fontsize": 11.5,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "xtick.major.pad": 6,
        "lines.linewidth": 2,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "text.parse_math": False,  # a "$" in the name of a knob or kind is a dollar sign
        "axes.formatter.use_mathtext": False,
        "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
        "svg.hashsalt": "paceline",
    }
    with matplotlib.rc_context(settings):
        yield
