"""Opening a public question set: from the hub, or from a folder that holds it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.errors import DependencyError, TaskError
from paceline.tasks.hub_specs import HubSpec

if TYPE_CHECKING:
    from datasets import Dataset


def import_datasets(name: str) -> Any:
    """The library `datasets`, for the task of a name."""
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            f"task {name} needs the library datasets; pip install 'paceline[datasets]', or use folder:PATH"
        ) from error
    return datasets


def open_dataset(spec: HubSpec, place: Path | None) -> "Dataset":
    """The part of a question set that has answers.

    From the hub only the files of that part are fetched. In a folder: what `save_to_disk` wrote, or Parquet files named
    as on the hub (with or without the folder they are in there), or any Parquet files in it.

    Raises:
        DependencyError: `datasets` is not installed.
        TaskError: no network, or a folder without the set or with other columns.
    """
    datasets = import_datasets(spec.name)
    try:
        if place is None:
            found = datasets.load_dataset(
                spec.repository,
                data_files={spec.split: spec.files},
                split=spec.split,
                verification_mode="no_checks",  # the card lists parts that are not fetched
            )
        else:
            found = _open_folder(datasets, spec, place)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise TaskError(
            f"task {spec.name}: {place or spec.repository} cannot be loaded ({said}); check the network, or download "
            f"{spec.repository} and give its folder: {spec.name}:PATH"
        ) from error
    needed = (*spec.columns, *spec.images)
    missing = [name for name in needed if name not in found.column_names]
    if missing:
        raise TaskError(
            f"task {spec.name}: {place or spec.repository} lacks the columns {missing}; expected those of "
            f"{spec.repository}, got {found.column_names}"
        )
    return found


def revision_of(dataset: "Dataset", place: Path | None) -> str | None:
    """The commit of the hub repository that a data set is of, or None where nothing tells.

    The hub's caches, of repositories and of data sets made from them, name a folder after it.
    """
    paths = [str(place.resolve())] if place else [file["filename"] for file in dataset.cache_files]
    found = [commit for path in paths for commit in re.findall(r"(?<![^/])[0-9a-f]{40}(?![^/])", path)]
    return found[-1] if found else None


def _open_folder(datasets: Any, spec: HubSpec, place: Path) -> "Dataset":
    if not place.exists():
        raise TaskError(
            f"task {spec.name}: {place}: no such folder; expected one that holds {spec.repository}"
        )
    if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(str(place))
        return _part(spec, found) if isinstance(found, Mapping) else found
    files = _parquet_files(spec, place)
    if not files:
        raise TaskError(
            f"task {spec.name}: {place}: expected what save_to_disk writes, or the files {spec.files} of "
            f"{spec.repository}"
        )
    return datasets.Dataset.from_parquet([str(path) for path in files])


def _part(spec: HubSpec, parts: Mapping[str, Any]) -> Any:
    if spec.split in parts:
        return parts[spec.split]
    if len(parts) == 1:
        return next(iter(parts.values()))
    raise TaskError(
        f"task {spec.name}: got the parts {sorted(parts)}, expected {spec.split} or one part alone"
    )


def _parquet_files(spec: HubSpec, place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    for pattern in (f"{spec.files}.parquet", f"{Path(spec.files).name}.parquet", "*.parquet"):
        found = sorted(place.glob(pattern))
        if found:
            return found
    return []
