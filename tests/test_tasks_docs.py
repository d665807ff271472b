"""The examples of docs/tasks.md, run as they stand."""

import json
import re
import shlex
from pathlib import Path

import pytest

from command_line import put_fakes, run
from folder_tasks import picture
from paceline.outcomes.store import read_table
from paceline.tasks.finite import FiniteTask
from paceline.tasks.hub_specs import HUB_SPECS
from paceline.tasks.metrics.registry import METRICS
from paceline.tasks.registry import load_task, task_names

PAGE = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text()
LINES, SETTINGS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("paceline")
]


@pytest.fixture
def signs(tmp_path, monkeypatch):
    """The folder of the page, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "signs" / "images").mkdir(parents=True)
    picture(1).save(tmp_path / "signs" / "images" / "street.png")
    picture(2).save(tmp_path / "signs" / "images" / "shop.png")
    (tmp_path / "signs" / "questions.jsonl").write_text(LINES)
    (tmp_path / "signs" / "task.json").write_text(SETTINGS)
    return tmp_path / "signs"


def test_the_lines_are_a_folder(signs):
    task = load_task("folder:signs")
    assert isinstance(task, FiniteTask)
    assert task.name == json.loads(SETTINGS)["name"]
    assert task.describe()["metric"] == ["exact", "vqa"]
    assert {split: task.count(split) for split in ("train", "validation", "test")} == task.describe()[
        "splits"
    ]


def test_the_commands_run(signs, monkeypatch):
    put_fakes(monkeypatch)
    for number in range(100):
        picture(number).save(signs / "images" / f"{number}.png")
    lines = [{"question": "Which?", "image": f"images/{n}.png", "answer": n} for n in range(100)]
    (signs / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (words,) = COMMANDS
    words = ["fake" if word == "tiny" else word for word in words]
    result = run(*words, "--configurations", 3, "--timed-samples", 2)
    assert result.exit_code == 0, result.stderr
    assert len(read_table("outcomes").sample_id) == 40


def test_the_page_names_every_task_and_metric():
    assert all(f"`{name}`" in PAGE for name in (*task_names(), *METRICS))


def test_the_table_of_question_sets_is_the_one_that_is_read():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if "lmms-lab/" in line
    ]
    assert rows == [
        [
            f"`{spec.name}`",
            f"{spec.title} ({spec.paper})",
            f"`{spec.repository}`",
            f"`{spec.files}`",
            f"`{spec.metric}`",
            f"`{spec.kind}`" if spec.kind else "",
            spec.note,
        ]
        for spec in HUB_SPECS.values()
    ]
