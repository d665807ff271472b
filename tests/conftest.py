"""Settings for every test."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The same examples on every run, and no limit on one example's time: machines that run tests are busy.
settings.register_profile("paceline", deadline=None, derandomize=True)
settings.load_profile("paceline")


@pytest.fixture(scope="session", autouse=True)
def own_cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Calibrations and choices of a backend are kept in a directory of the test run, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums have one order, and tests beside each other do not fight for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
