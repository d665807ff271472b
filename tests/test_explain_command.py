"""`paceline decide --explain` and `paceline explain`: what they print, write and refuse."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import controllers
from command_line import message, run, run_json
from paceline.outcomes.store import write_table

PAGE = (Path(__file__).parent.parent / "docs" / "explain.md").read_text()
DOCUMENTED = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A controller and outcomes, in one directory."""
    path = tmp_path_factory.mktemp("explain")
    write_table(path / "outcomes", controllers.table())
    controllers.controller().save(path / "controller")
    return path


def words(files, *more):
    sample = controllers.rows_to_serve().sample_id[0]
    return ["decide", files / "controller", "--outcomes", files / "outcomes", "--sample", sample, *more]


def test_decide_explains_as_text_and_json(files):
    said = run(*words(files, "--budget-ms", 9, "--explain"))
    assert said.exit_code == 0, said.stderr
    lines = said.stdout.splitlines()
    assert any(line.startswith("budget from ") for line in lines)
    assert any(line.startswith("budget below ") for line in lines)
    assert any(line.startswith("share in the choice (occlusion): image ") for line in lines)
    value = run_json(*words(files, "--budget-ms", 9, "--explain", "--method", "integrated_gradients"))
    shares = value["explanation"]["shares"]
    assert shares["method"] == "integrated_gradients"
    assert sum(item["share"] for item in shares["contributions"]) == pytest.approx(1)
    assert "explanation" not in run_json(*words(files, "--budget-ms", 9))


def test_decide_writes_a_page(files, tmp_path):
    path = tmp_path / "new" / "why.html"
    value = run_json(*words(files, "--budget-ms", 9, "--report", path))
    assert value["report"] == str(path)
    text = path.read_text()
    assert "<script" not in text
    for row in value["explanation"]["configurations"]:
        assert " · ".join(f"{k} {v}" for k, v in row["configuration"].items()) in text
    assert f"{100 * value['explanation']['shares']['contributions'][1]['share']:.0f} %" in text
    said = run(*words(files, "--report", path))
    assert said.exit_code == 0
    assert len(said.stdout.splitlines()) == 1  # the choice in a line
    late = run(*words(files, "--budget-ms", 0.5, "--report", path))
    assert late.exit_code == 0
    assert "nothing fits" in path.read_text()


def test_decide_refuses_what_cannot_be_explained(files, tmp_path):
    assert "method: got 'lime', expected one of" in message(run(*words(files, "--method", "lime")))
    (tmp_path / "file").write_text("")
    refused = run(*words(files, "--report", tmp_path / "file" / "why.html"))
    assert "Not a directory" in message(refused)


def test_the_explanation_is_json(files):
    value = run_json(*words(files, "--average-budget-ms", 6, "--explain"))["explanation"]
    assert {item["kind"] for item in value["budgets"]} == {"average_budget"}
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def explain_words(files, *more):
    return [
        "explain",
        files / "controller",
        files / "outcomes",
        "--permutations",
        1,
        "--replicates",
        100,
        *more,
    ]


def test_explain_prints_and_writes_the_picture(files, tmp_path):
    path = tmp_path / "picture.html"
    value = run_json(*explain_words(files, "--report", path))
    text = path.read_text()
    assert "<script" not in text
    assert text.count('class="plot"') == 2 * (3 + 1 + 1)
    said = run(*explain_words(files, "--budgets-ms", "9,12", "--average-budgets-ms", "6"))
    assert said.exit_code == 0, said.stderr
    assert "200 of 200 test samples" in said.stdout
    assert "A tree of depth" in said.stdout
    assert "always saying the most frequent configuration" in said.stdout
    most = value["hard"]["use"][0]["kinds"]["all"]["configuration"]
    assert "/".join(str(option) for option in most.values()) in text
    assert value["report"] == str(path)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--split", "dev"], "split: got 'dev', expected one of"),
        (["--samples", 1], "explain samples: got 1, expected a whole number of at least 2"),
        (["--budgets-ms", "fast"], "budgets_ms: got 'fast'"),
        (["--average-budgets-ms", "0.1"], "average budgets: got 0.1, expected at least"),
        (["--report", "/dev/null/x.html"], "Not a directory"),
    ],
)
def test_explain_says_what_is_wrong(files, more, expected):
    assert expected in message(run(*explain_words(files, *more)))


def test_explain_refuses_other_features(files, tmp_path):
    table = controllers.table()
    other = replace(table.manifest, options=table.manifest.options | {"features": {"kind": "columns"}})
    write_table(tmp_path / "outcomes", replace(table, manifest=other))
    refused = run("explain", files / "controller", tmp_path / "outcomes")
    assert "features were made by columns" in message(refused)
    assert "no such directory" in message(run("explain", files / "nobody", files / "outcomes"))


@pytest.mark.parametrize("line", DOCUMENTED)
def test_the_documented_commands_run(line, files, monkeypatch):
    monkeypatch.chdir(files)
    program, *rest = shlex.split(line)
    assert program == "paceline"
    known = controllers.rows_to_serve().sample_id[0]
    result = run(*(known if word.startswith("digits-test") else word for word in rest))
    assert result.exit_code == 0, result.stderr


def test_the_page_shows_what_is_printed(files):
    shown = PAGE.split("```text\n")[1].split("```")[0].splitlines()
    printed = run(*words(files, "--budget-ms", 9, "--explain")).stdout.splitlines()

    def kinds(lines):
        """Lines without what depends on the model and the request."""
        names = ("budget", "  configuration", "  and ", "score:", "share in the choice (occlusion): image")
        return [next((name for name in names if line.startswith(name)), "") for line in lines]

    assert [kind for kind in kinds(shown) if kind] == [kind for kind in kinds(printed) if kind]
