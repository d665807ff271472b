"""A rich console that shows the text of others and does not let it steer the terminal."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from paceline.cli.output import shown


class SafeConsole(Console):
    """Control characters of what is printed are drawn; rich's own, which move a progress bar, are sent.

    Texts are measured before: a cell that holds such characters may lose as many letters at its end.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As `Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)
