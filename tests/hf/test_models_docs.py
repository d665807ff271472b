"""docs/models.md says what the families declare, and its example runs."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import paceline.models.registry
from hf import small_qwen2_5_vl
from hf.checkpoints import picture
from paceline.models.transformers.family import Family
from paceline.models.transformers.registry import FAMILIES

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "models.md").read_text()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_table_says_what_the_family_declares(model_type: str) -> None:
    family = importlib.import_module(f"paceline.models.transformers.families.{FAMILIES[model_type]}").FAMILY
    routed = type(family).experts is not Family.experts
    experts = family.routing_note if routed else ""
    if "top_k" in family.refused:
        experts = f"none: {family.refused['top_k']}"
    cells = (family.name, f"`{model_type}`", f"`{family.image_knob}`", family.overview_note, experts)
    assert f"| {' | '.join(cells)}".rstrip() in PAGE
    assert model_type in family.model_types


def test_the_table_has_no_other_family() -> None:
    found = re.findall(r"^\| [^|]+ \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(found) - {"model_type"} == set(FAMILIES)


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_qwen2_5_vl.build(tmp_path)
    monkeypatch.setattr(paceline.models.registry, "fetch", lambda name, revision: tmp_path)
    names: dict[str, Any] = {"image": picture(90, 60)}
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, names)
    answer = names["model"].generate(names["overview"], names["model"].default_configuration, 16)
    assert capsys.readouterr().out.strip() == answer.text
