"""Small checkpoints, opened once per worker."""

from collections.abc import Callable

import pytest

from hf.opened import Small, open_small


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Small]:
    """The small checkpoint of a family by name, opened."""
    opened: dict[str, Small] = {}

    def get(name: str) -> Small:
        if name not in opened:
            opened[name] = open_small(name, tmp_path_factory.mktemp(name))
        return opened[name]

    return get
