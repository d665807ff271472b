"""The command line in tests: run in this process, on the fake model and its task."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import paceline.models.registry
import paceline.tasks.registry
from fakes import KINDS, FakeModel, FakeTask
from paceline.cli.app import app
from paceline.knobs import Option
from paceline.models.protocol import ElasticModel, Generation, Overview
from paceline.tasks.protocol import Task


class TalkingModel(FakeModel):
    """The fake model, for any prompt: what names no kind of question is plain."""

    def overview(self, image: Image.Image, prompt: str) -> Overview:
        return super().overview(image, prompt if prompt.split()[0] in KINDS else f"plain {prompt}")

    def with_block_ranking(self, ranking: Any) -> "TalkingModel":
        return type(self)(ranking)


class SleepingModel(TalkingModel):
    """Really takes the time that it says."""

    def overview(self, image: Image.Image, prompt: str) -> Overview:
        made = super().overview(image, prompt)
        time.sleep(made.elapsed_ms / 1000)
        return made

    def generate(
        self, overview: Overview, configuration: Mapping[str, Option], max_new_tokens: int
    ) -> Generation:
        made = super().generate(overview, configuration, max_new_tokens)
        time.sleep(made.timings.total_ms / 1000)
        return made


def put_fakes(patch: pytest.MonkeyPatch, model: ElasticModel | None = None) -> None:
    """`fake` names a model and a task for every command."""
    model = model or TalkingModel()
    real_model, real_task = paceline.models.registry.load_model, paceline.tasks.registry.load_task

    def load_model(name: str | Path, **options: Any) -> ElasticModel:
        return model if str(name) == "fake" else real_model(name, **options)

    def load_task(name: str) -> Task:
        return FakeTask() if name == "fake" else real_task(name)

    patch.setattr(paceline.models.registry, "load_model", load_model)
    patch.setattr(paceline.tasks.registry, "load_task", load_task)


def run(*words: object) -> Result:
    """`paceline WORDS`."""
    return CliRunner().invoke(app, [str(word) for word in words])


def run_json(*words: object) -> Any:
    """The object that `paceline WORDS --json` prints; it must succeed."""
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def message(result: Result) -> str:
    """The one message of a user error: exit code 2, nothing on standard output, one `error:` line."""
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr, result.exception)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]
