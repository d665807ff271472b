"""A folder of images and a JSONL of questions and answers, as a question set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from paceline.errors import TaskError
from paceline.images import open_image
from paceline.tasks.drawing import split_of
from paceline.tasks.finite import Asked, Entry, Fingerprint, one_or_all
from paceline.tasks.folder_images import check_images
from paceline.tasks.folder_lines import Line, parse_line
from paceline.tasks.metrics.registry import METRICS, make_reference
from paceline.tasks.prompts import LETTER_ANSWER, QUESTION_ONLY, check_template, fill_template

QUESTIONS = "questions.jsonl"
SETTINGS = "task.json"
SHOWN_PROBLEMS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions:
    """What `task.json` may say, for all lines."""

    name: str  # of the task; by default the folder's name
    metric: str | None = None  # by default exact, or multiple_choice for lines with choices
    prompt: str | None = (
        None  # by default the question, or the question, its options and a request for a letter
    )
    max_new_tokens: int = 16  # longest answer

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise TaskError(f"name: got {self.name!r}, expected a text")
        if self.metric is not None and self.metric not in METRICS:
            raise TaskError(f"metric: got {self.metric!r}, expected one of {sorted(METRICS)}")
        if self.prompt is not None:
            if not isinstance(self.prompt, str):
                raise TaskError(f"prompt: got {self.prompt!r}, expected a text with {{question}} in it")
            check_template(self.prompt)
        tokens = self.max_new_tokens
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise TaskError(f"max_new_tokens: got {tokens!r}, expected an integer from 1 on")


class FolderQuestions:
    """Reads and checks a folder at once; images are decoded for the check, and again when they are asked for.

    Raises:
        TaskError: a folder, a file or lines that cannot be used, with the numbers of the lines.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise TaskError(f"{self.folder}: no such folder; expected one with images and {QUESTIONS}")
        self.file = _questions_file(self.folder)
        self.options = read_options(self.folder)
        self.name = self.options.name
        self.max_new_tokens = self.options.max_new_tokens
        self._lines, self._asked, hashes = self._read()
        self._entries = self._make_entries(hashes)

    @property
    def entries(self) -> list[Entry]:
        """Where every line stands."""
        return self._entries

    def asked(self, place: int) -> Asked:
        """The question of a line."""
        return self._asked[place]

    def image(self, place: int) -> Image.Image:
        """The image of a line, read now."""
        return open_image(self.folder / self._lines[place].image)

    def describe(self) -> dict[str, Any]:
        """Metric, prompt and fingerprint."""
        digest = Fingerprint()
        for entry, asked in zip(self.entries, self._asked, strict=True):
            digest.add(entry, asked)
        return {
            "origin": "folder",
            "file": self.file.name,
            "metric": one_or_all(asked.metric for asked in self._asked),
            "prompt": one_or_all(asked.template for asked in self._asked),
            "fingerprint": digest.value,
        }

    def _read(self) -> tuple[list[Line], list[Asked], dict[str, str]]:
        """The lines, what they ask, and the hash of every image."""
        lines: list[Line] = []
        asked: list[Asked] = []
        problems: list[tuple[int, str]] = []
        for number, text in enumerate(_text_of(self.file).split("\n"), start=1):
            if not text.strip():
                continue
            try:
                line = parse_line(text, number)
                asked.append(_ask(line, self.options))
                lines.append(line)
            except TaskError as error:
                problems.append((number, str(error)))
        if not lines and not problems:
            raise TaskError(f"{self.file}: holds no questions; expected one JSON object a line")
        seen: dict[str, int] = {}
        for line in lines:
            if seen.setdefault(line.key, line.number) != line.number:
                problems.append((line.number, f"id: {line.key!r} is also that of line {seen[line.key]}"))
        hashes, broken = check_images(self.folder, lines)
        self._refuse([*problems, *broken])
        return lines, asked, hashes

    def _make_entries(self, hashes: dict[str, str]) -> list[Entry]:
        """Where every line stands. A split that a line names holds for all questions about its image."""
        named: dict[str, Line] = {}
        problems: list[tuple[int, str]] = []
        for line in self._lines:
            if line.split is None:
                continue
            first = named.setdefault(hashes[line.image], line)
            if first.split != line.split:
                problems.append(
                    (
                        line.number,
                        f"split: the image is in {line.split} here and in {first.split} in line {first.number}",
                    )
                )
        self._refuse(problems)
        return [
            Entry(
                sample_id=f"{self.name}-{line.key}",
                image_hash=hashes[line.image],
                split=_split(named.get(hashes[line.image]), hashes[line.image]),
                kind=line.kind,
            )
            for line in self._lines
        ]

    def _refuse(self, problems: Sequence[tuple[int, str]]) -> None:
        if problems:
            shown = "; ".join(f"line {number}: {said}" for number, said in sorted(problems)[:SHOWN_PROBLEMS])
            count = len({number for number, _ in problems})
            more = f"; {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
            raise TaskError(f"{self.file}: {count} lines cannot be used: {shown}{more}")


def read_options(folder: Path) -> FolderOptions:
    """The settings of a folder: its `task.json`, or the defaults.

    Raises:
        TaskError: a file that is not a JSON object, or unknown or wrong settings.
    """
    path = folder / SETTINGS
    default: dict[str, Any] = {"name": folder.resolve().name or "folder"}
    if not path.exists():
        return FolderOptions(**default)
    try:
        value = json.loads(_text_of(path))
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}: not JSON ({error})") from error
    known = list(FolderOptions.__dataclass_fields__)
    if not isinstance(value, dict) or not set(value) <= set(known):
        got = sorted(set(value) - set(known)) if isinstance(value, dict) else type(value).__name__
        raise TaskError(f"{path}: got {got}, expected a JSON object with no other keys than {known}")
    try:
        return FolderOptions(**(default | value))
    except TaskError as error:
        raise TaskError(f"{path}: {error}") from error


def _questions_file(folder: Path) -> Path:
    if (folder / QUESTIONS).is_file():
        return folder / QUESTIONS
    found = sorted(path for path in folder.glob("*.jsonl") if path.is_file())
    if len(found) != 1:
        names = [path.name for path in found]
        raise TaskError(f"{folder}: got the files {names}, expected {QUESTIONS} or exactly one *.jsonl")
    return found[0]


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror or error})") from error


def _ask(line: Line, options: FolderOptions) -> Asked:
    metric = line.metric or options.metric or ("multiple_choice" if line.choices else "exact")
    template = options.prompt or (LETTER_ANSWER if line.choices else QUESTION_ONLY)
    return Asked(
        prompt=fill_template(template, line.question, line.choices),
        template=template,
        metric=metric,
        reference=make_reference(metric, line.answers, line.choices),
    )


def _split(named: Line | None, image_hash: str) -> str:
    return named.split if named is not None and named.split is not None else split_of(image_hash)
