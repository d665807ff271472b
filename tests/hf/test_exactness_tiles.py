"""Families whose image knob counts tiles or crops: every knob does exactly what a model built that way does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hf import exactness
from hf.opened import SAVES_A_ROW, TILE_FAMILIES, Small, open_small

GetSmall = Callable[[str], Small]


@pytest.mark.parametrize("name", TILE_FAMILIES)
@pytest.mark.parametrize("kept", [(0, 2, 5), (0, 1, 2, 4)])
def test_skipping_blocks_equals_a_model_without_them(
    small: GetSmall, name: str, kept: tuple[int, ...]
) -> None:
    exactness.check_depth(small(name), kept)


def test_fewer_experts_equal_a_model_built_with_them(small: GetSmall, tmp_path: Path) -> None:
    exactness.check_top_k(
        small("aria"), lambda top_k: open_small("aria", tmp_path / str(top_k), moe_topk=top_k)
    )


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_reusing_the_overview_changes_nothing(small: GetSmall, name: str) -> None:
    exactness.check_reuse(small(name), rows=name in SAVES_A_ROW)


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_threads_and_streams_are_what_they_are_alone(small: GetSmall, name: str) -> None:
    exactness.check_threads(small(name))
    exactness.check_threads_of_callers(small(name))


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_an_exception_leaves_nothing_behind(small: GetSmall, name: str) -> None:
    exactness.check_exception(small(name))


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_uninstalling_restores_the_model(small: GetSmall, name: str) -> None:
    exactness.check_uninstall(small(name))


@pytest.mark.parametrize("name", TILE_FAMILIES)
def test_a_deep_copy_runs_its_own_weights(small: GetSmall, name: str) -> None:
    exactness.check_copy(small(name))
