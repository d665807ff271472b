"""What an import has to say: facts, notes, and warnings that `strict` turns into errors."""

from collections.abc import Iterable
from typing import Any

from paceline.errors import OutcomesError

SHOWN = 8
"""How many names a message lists."""


class Audit:
    """Collects the lines of one import. Errors are raised at once and never get here."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        """Something a reader should know that costs nothing."""
        if text not in self.notes:
            self.notes.append(text)

    def warn(self, text: str) -> None:
        """Something that was left out, repaired or looks wrong."""
        if text not in self.warnings:
            self.warnings.append(text)

    def refuse_warnings(self) -> None:
        """Under `strict`: raise OutcomesError when there is any warning."""
        if self.warnings:
            raise OutcomesError(
                f"import --strict: {len(self.warnings)} warnings, expected none: {'; '.join(self.warnings)}. "
                "Repair the files, or import without --strict"
            )

    def to_json(self) -> dict[str, Any]:
        """The manifest's audit."""
        return {**self.facts, "warnings": self.warnings, "notes": self.notes}


def some(names: Iterable[object], shown: int = SHOWN) -> str:
    """The first names, and how many there are if not all are shown."""
    listed = [str(name) for name in names]
    text = ", ".join(listed[:shown])
    return text if len(listed) <= shown else f"{text}, ... {len(listed)} in all"
