"""Features of samples that were measured elsewhere: their images and questions through a model's overview.

These are the very features that the same model gives for a live request.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.images import open_image
from paceline.models.protocol import ElasticModel
from paceline.outcomes.feature_makers import MODEL, model_identity
from paceline.outcomes.importers.audit import some
from paceline.outcomes.progress import Progress, Silence
from paceline.profiling.shard import stack_features

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CHUNK = 256
"""Overviews held at once: they hold the images' vision states."""


class ModelFeatures:
    """Makes features with a model from images in a folder.

    An image called NAME is the file DATASET/NAME or NAME below the folder, with or without its ending, else the only
    file whose name ends in the number NAME, as COCO_val2014_000000000042.jpg for 42.
    """

    def __init__(self, model: ElasticModel, folder: Path, progress: Progress | None = None) -> None:
        if not folder.is_dir():
            raise OutcomesError(
                f"--images: {folder} is no folder, expected one that holds the samples' images"
            )
        self.model, self.folder = model, folder
        self.progress = progress or Silence()
        self._files: dict[str, list[Path]] = {}
        self._numbers: dict[int, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                self._add(path)

    def make(
        self, dataset: Sequence[str], image: Sequence[str], question: Sequence[str]
    ) -> tuple[np.ndarray, int, dict[str, Any]]:
        """Features of n samples.

        Args:
            dataset, image, question: text (n,) each, as the imported files name them.

        Returns:
            float32 (n, f); how many of the f columns are image features; and what they are, for the manifest.

        Raises:
            OutcomesError: samples without an image, a question or a file, or names that fit several files.
            ImageError, PromptError: from the model.
        """
        files = self._find(dataset, image, question)
        self.progress.start(len(files), f"features from {self.model.name}")
        parts, width = [], 0
        for start in range(0, len(files), CHUNK):
            overviews = [
                self.model.overview(open_image(file), text)
                for file, text in zip(
                    files[start : start + CHUNK], question[start : start + CHUNK], strict=True
                )
            ]
            parts.append(stack_features(self.model, overviews))
            width = len(overviews[0].image_features)
            self.progress.advance(len(overviews))
        features = np.concatenate(parts)
        described = {
            "kind": MODEL,
            "model": model_identity(self.model.describe()),
            "width": features.shape[1],
        }
        return features, width, described | {"images": len(set(files))}

    def _add(self, path: Path) -> None:
        relative = path.relative_to(self.folder)
        names = (relative.as_posix(), relative.with_suffix("").as_posix(), path.name, path.stem)
        for name in dict.fromkeys(names):
            self._files.setdefault(name, []).append(path)
        number = re.search(r"\d+$", path.stem)
        if number is not None:
            self._numbers.setdefault(int(number.group()), []).append(path)

    def _find(self, dataset: Sequence[str], image: Sequence[str], question: Sequence[str]) -> list[Path]:
        """The file of every sample."""
        for name, values in (("image", image), ("question", question)):
            unnamed = sum(not value.strip() for value in values)
            if unnamed:
                raise OutcomesError(
                    f"--images: {unnamed} of {len(values)} samples name no {name}, expected it for each; results need "
                    f"it in their metadata, tables a column (--{name})"
                )
        found = [self._candidates(*names) for names in zip(dataset, image, strict=True)]
        missing = sorted({name for name, files in zip(image, found, strict=True) if not files})
        if missing:
            raise OutcomesError(
                f"--images: {self.folder} has no file for {len(missing)} images "
                f"({some(missing)}), expected names such as {missing[0]}.jpg; copy all images there"
            )
        several = [files for files in found if len(files) > 1]
        if several:
            raise OutcomesError(
                f"--images: {some(several[0])} all fit one image, expected one file; name each image's file after it"
            )
        return [files[0] for files in found]

    def _candidates(self, dataset: str, image: str) -> list[Path]:
        for name in (f"{dataset}/{image}", image):
            if name in self._files:
                return self._files[name]
        return self._numbers.get(int(image), []) if image.isascii() and image.isdigit() else []
