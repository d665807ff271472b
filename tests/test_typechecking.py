import pathlib

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import paceline
from paceline.learning.advantages import group_advantages
from typechecking import check


def shaped(x: Float[Tensor, " n"], y: Float[Tensor, " n"] | None, scale: float) -> Float[Tensor, " n"]:
    return x * scale if scale else x[:-1]


def shapeless(x: float) -> float:
    return x


def test_shapes_are_checked_on_the_way_in_and_out():
    checked = jaxtyping.jaxtyped(typechecker=check)(shaped)
    assert checked(torch.ones(3), torch.ones(3), 2).tolist() == [2, 2, 2]
    assert checked(torch.ones(3), None, 2.0).tolist() == [2, 2, 2]
    for arguments in [
        (torch.ones(3), torch.ones(4), 2.0),
        (torch.ones(3, 1), None, 2.0),
        (np.ones(3), None, 2.0),
    ]:
        with pytest.raises(jaxtyping.TypeCheckError, match="parameter"):
            checked(*arguments)
    with pytest.raises(jaxtyping.TypeCheckError, match="return"):
        checked(torch.ones(3), None, 0.0)


def test_functions_without_shapes_answer_for_themselves():
    checked = jaxtyping.jaxtyped(typechecker=check)(shapeless)
    assert checked("anything") == "anything"  # pyright: ignore


def test_every_module_with_shapes_is_hooked(request):
    hooked = request.config.getoption("--jaxtyping-packages").split(",")[:-1]
    root = pathlib.Path(paceline.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if "from jaxtyping import" in path.read_text():
            module = ".".join(("paceline", *path.relative_to(root).with_suffix("").parts))
            assert any(module.startswith(package) for package in hooked), (
                f"{module}: add it to pyproject.toml"
            )


def test_the_hook_is_on():
    with pytest.raises(jaxtyping.TypeCheckError, match="weights"):
        group_advantages(torch.zeros(2, 3), torch.zeros(2, 4))
