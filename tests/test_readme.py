"""What the README shows must be there: commands parse, targets exist, Python names load, numbers have a file."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import paceline
from paceline.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
LINES = [
    line.split(" #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()
]
COMMANDS = [line for line in LINES if line.startswith("paceline ")]
PROFILE_PAGE = [
    line.split(" #")[0].strip()
    for line in (ROOT / "docs" / "profile.md").read_text().splitlines()
    if line.startswith("    paceline ")
]


def test_the_readme_shows_every_command():
    group = typer.main.get_command(app)
    assert {line.split()[1] for line in COMMANDS} | {"demo"} == set(group.commands)  # pyright: ignore


@pytest.mark.parametrize("line", [*COMMANDS, *PROFILE_PAGE])
def test_commands_parse(line):
    _, name, *words = shlex.split(line)
    group = typer.main.get_command(app)
    command = group.commands[name]  # pyright: ignore
    context = command.make_context(name, words)
    assert context.command is command


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in LINES if line.startswith("make ")}
    assert {"demo", "test"} <= named <= targets
    assert {"setup", "lint", "bench", "train-tiny"} <= targets


def test_ci_runs_the_readmes_test_command():
    steps = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make")]
    assert steps == ["make lint", "make test"]


def test_python_names_load():
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "paceline"
            ):
                assert getattr(paceline, node.attr) is not None


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)|`((?:docs|benchmarks)/[^`*]+)`", README):
        path = next(filter(None, target))
        assert path.startswith("http") or (ROOT / path).exists(), path
