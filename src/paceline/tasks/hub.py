"""A public question set read through the library `datasets`."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pyarrow.compute import StructFieldOptions, call_function

from paceline.errors import TaskError
from paceline.images import open_image
from paceline.tasks.drawing import split_of
from paceline.tasks.finite import Asked, Entry, Fingerprint, one_or_all
from paceline.tasks.hub_files import import_datasets, open_dataset, revision_of
from paceline.tasks.hub_rows import UnusableRowError, read_row
from paceline.tasks.hub_specs import HubSpec

if TYPE_CHECKING:
    from datasets import Dataset

NO_IMAGE, SEVERAL_IMAGES = "no image", "several images"
REMEMBERED = 65_536
"""Questions kept in memory: a sweep scores each of its few thousand under every configuration."""
BATCH = 64
"""Rows whose images are looked at together while hashing; their bytes are in memory meanwhile."""


class HubQuestions:
    """Question set over a data set's rows. Only names and hashes are kept; texts and images stay on disk.

    Raises:
        DependencyError: `datasets` is not installed.
        TaskError: the set cannot be loaded, has other columns, or no row that can be asked.
    """

    def __init__(self, spec: HubSpec, place: Path | None = None) -> None:
        self.spec = spec
        self.name = spec.name
        self.max_new_tokens = spec.max_new_tokens
        self._origin = "hub" if place is None else "local copy"
        dataset = open_dataset(spec, place)
        self._revision = revision_of(dataset, place)
        self._texts = dataset.select_columns(list(spec.columns))
        self._images = _undecoded(dataset.select_columns(list(spec.images)), spec)
        self._skipped: Counter[str] = Counter()
        self._rows: list[int] = []
        self._columns: list[str] = []  # where the image of each question is
        self._entries: list[Entry] = []
        self._prompts: set[str] = set()
        self._fingerprint = self._index()
        self._read = lru_cache(maxsize=REMEMBERED)(self._read_now)

    @property
    def entries(self) -> list[Entry]:
        """Where every question stands."""
        return self._entries

    def asked(self, place: int) -> Asked:
        """The question of a row."""
        return self._read(place)

    def image(self, place: int) -> Image.Image:
        """The image of a row, read now."""
        value = self._images[self._rows[place]][self._columns[place]]
        return open_image(value["bytes"] if value["bytes"] is not None else value["path"])

    def describe(self) -> dict[str, Any]:
        """Where the set comes from, how it is asked, and which rows are left out."""
        return {
            "origin": self._origin,
            "repository": self.spec.repository,
            "files": self.spec.files,
            "revision": self._revision,
            "metric": self.spec.metric,
            "prompt": one_or_all(self._prompts),
            "skipped": dict(sorted(self._skipped.items())),
            "fingerprint": self._fingerprint,
        }

    def _read_now(self, place: int) -> Asked:
        return read_row(self.spec, self._texts[self._rows[place]]).asked

    def _index(self) -> str:
        """Walk over all rows once; the fingerprint of those that can be asked."""
        digest = Fingerprint()
        seen: set[str] = set()
        pictures = _pictures(self._images, self.spec)
        texts: Any = self._texts
        for number, (text, columns) in enumerate(zip(texts, pictures, strict=True)):
            if len(columns) != 1:
                self._skipped[SEVERAL_IMAGES if columns else NO_IMAGE] += 1
                continue
            try:
                row = read_row(self.spec, text)
            except UnusableRowError as error:
                self._skipped[str(error)] += 1
                continue
            ((column, image_hash),) = columns.items()
            if self.spec.image_id:
                image_hash = hashlib.blake2b(
                    f"{self.name}:{row.image_id}".encode(), digest_size=8
                ).hexdigest()
            key = row.key or f"row{number}"
            if key in seen:
                key = f"{key}-row{number}"
            seen.add(key)
            entry = Entry(
                sample_id=f"{self.name}-{key}",
                image_hash=image_hash,
                split=split_of(image_hash),
                kind=row.kind,
            )
            digest.add(entry, row.asked)
            self._prompts.add(row.asked.template)
            self._rows.append(number)
            self._columns.append(column)
            self._entries.append(entry)
        if not self._entries:
            raise TaskError(
                f"task {self.name}: none of the {len(self._texts)} rows can be asked ({dict(self._skipped)}); expected "
                f"{self.spec.files} of {self.spec.repository}, which has answers"
            )
        return digest.value


def _undecoded(dataset: "Dataset", spec: HubSpec) -> "Dataset":
    """The images as the bytes they are stored in."""
    image = import_datasets(spec.name).Image(decode=False)
    for column in spec.images:
        dataset = dataset.cast_column(column, image)
    return dataset


def _pictures(images: "Dataset", spec: HubSpec) -> Iterator[dict[str, str]]:
    """For every row the columns that hold an image, each with a hash of its bytes, or "" where ids name the images."""
    for batch in images.with_format("arrow").iter(batch_size=BATCH):
        table: Any = batch
        present = {name: _is_there(table.column(name)) for name in spec.images}
        for row in range(table.num_rows):
            found = [name for name in spec.images if present[name][row]]
            if spec.image_id or len(found) != 1:
                yield dict.fromkeys(found, "")
            else:
                yield {found[0]: _hash(table.column(found[0])[row].as_py())}


def _is_there(column: Any) -> list[bool]:
    """For every row whether the column has an image: its bytes, or the path of a file."""
    parts = [call_function("struct_field", [column], StructFieldOptions(name)) for name in ("bytes", "path")]
    return call_function("or", [call_function("is_valid", [part]) for part in parts]).to_pylist()


def _hash(value: dict[str, Any]) -> str:
    data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()
