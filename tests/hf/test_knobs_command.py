"""`paceline knobs` on checkpoints of transformers and on the embedded model."""

from pathlib import Path

import pytest

from command_line import message, run, run_json
from hf import small_glm4v_moe, small_llava, small_qwen3_vl_moe


def printed(directory: Path) -> str:
    result = run("knobs", directory)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_family_with_experts(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    small_qwen3_vl_moe.build(directory)
    assert printed(directory).splitlines() == [
        "knob               options                 default  range         unit",
        "max_pixels         1024, 2304, 4608, 9216  9216     1024 to 9216  pixels",
        "top_k              1, 2, 3, 4              4        1 to 8        experts per token",
        "num_active_blocks  4, 5, 6, 7              7        2 to 7        blocks",
        "64 configurations",
        "",
        "family: Qwen3-VL-MoE",
        "always runs: blocks 0, 1",
        "overview: the image at the cheapest option; reused where the same pixels come again, else seen anew",
        "routing: weights of the selected experts are renormalised: their sum is 1 at every top_k",
    ]
    found = run_json("knobs", directory)
    assert found["default"] == {"max_pixels": 9216, "top_k": 4, "num_active_blocks": 7}
    assert found["facts"]["knobs"][1] == {"name": "top_k", "unit": "experts per token", "least": 1, "most": 8}
    assert found["facts"]["always_kept"] == [0, 1]
    assert found["facts"]["refused"] == {}


def test_experts_that_a_token_cannot_reach_are_not_in_the_range(tmp_path: Path) -> None:
    small_glm4v_moe.build(tmp_path)
    assert "top_k              1, 2, 3, 4             4        1 to 8       experts per token" in printed(
        tmp_path
    )


def test_a_family_that_nobody_described(tmp_path: Path) -> None:
    small_llava.build(tmp_path)
    lines = printed(tmp_path).splitlines()
    assert lines[1] == "num_active_blocks  3, 4, 5, 6  6        1 to 6  blocks"
    assert "no max_pixels: nobody described what its processor makes of its options" in lines
    facts = run_json("knobs", tmp_path)["facts"]
    assert (facts["family"], facts["routing"]) == ("llava", None)
    assert sorted(facts["refused"]) == ["max_crops", "max_pixels", "max_tiles", "top_k"]
    assert facts["refused"]["top_k"] == "a dense model: there are no experts to choose from"


def test_a_model_of_text_alone_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "'llama' is not a vision-language model" in message(run("knobs", tmp_path))


@pytest.mark.parametrize("as_json", [False, True])
def test_the_embedded_model(as_json: bool) -> None:
    if as_json:
        facts = run_json("knobs", "tiny")["facts"]
        assert [knob["unit"] for knob in facts["knobs"]] == ["crops", "experts per token", "blocks"]
        assert [knob["most"] for knob in facts["knobs"]] == [12, 64, 16]
        assert facts["always_kept"] == [0]
        return
    text = printed(Path("tiny"))
    assert "family: MolmoE" in text
    assert "overview: the first crop, of the whole image; exactly reused at every option" in text
    assert "routing: a softmax over all experts that is not renormalised" in text
