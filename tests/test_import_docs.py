"""The commands of docs/import.md, run as they stand on files of the described layouts."""

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from command_line import TalkingModel, put_fakes, run
from fakes import FAKE_SPACE
from paceline.knobs import SEED_SPACE
from quick_options import QUICK_WORDS
from result_files import SMALL, Layout, World, edit, write_core_exp, write_exp5, write_exp6, write_lmms_eval

PAGE = (Path(__file__).parent.parent / "docs" / "import.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    [shlex.split(line)[1:] for line in block.splitlines() if line.startswith("paceline")] for block in BLOCKS
]
SHORTER: dict[str, list[str]] = {
    "profile": ["--samples", "20", "--timed-samples", "4", "--configurations", "6"],
    "train": ["--epochs", "1", *QUICK_WORDS],
    "decide": ["--no-calibrate"],
    "compare": ["--algorithms", "supervised", "--replicates", "100"],
}
"""Added to commands that would take minutes."""
REPLACED = {"tiny": "fake", "digits": "fake"}
"""A model that only pretends takes no time."""


class Wide(TalkingModel):
    """A model with all options that the files hold."""

    @property
    def knobs(self):
        return SEED_SPACE

    def workload(self, overview, configuration):
        SEED_SPACE.action(configuration)
        return super().workload(overview, FAKE_SPACE.full)


def to_seconds(value):
    for record in value["per_sample_latencies"]:
        record["latency_total"] = record.pop("T_total_ms") / 1000
        record["latency_decode"] = record.pop("T_decode_ms") / 1000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Everything that the page names."""
    place = tmp_path_factory.mktemp("docs")
    world = World(count=80, images=80)
    write_exp5(place, world, Layout(ranks=4)).rename(place / "exp5")
    write_exp6(place, world, Layout(ranks=4, merged=False)).rename(place / "exp6")
    old = write_exp6(place, world, Layout()).rename(place / "exp6-old")
    for path in old.iterdir():
        edit(path, to_seconds)
    (place / "pictures").mkdir()
    for i in range(world.images):
        name = f"COCO_val2014_{world.image_id(i):012d}.jpg"
        Image.new("RGB", (64 + i, 48), (i, 2 * i, 80)).save(place / "pictures" / name)
    write_core_exp(place / "core_exp", world, Layout())
    write_lmms_eval(place / "lmms", world, SMALL)
    samples = [f"s{i}" for i in range(30) for _ in range(2)]
    table = {
        "id": samples,
        "sample_id": samples,
        "model": ["small", "large"] * 30,
        "config": ["small", "large"] * 30,
        "correct": [0, 1] * 30,
        "solved": [0, 1] * 30,
        "score": [0, 1] * 30,
        "runtime": [0.5, 1.5] * 30,
        "runtime_s": [0.5, 1.5] * 30,
        "text": [f"question {i // 2} about cats" for i in range(60)],
    }
    pyarrow.csv.write_csv(pa.table(table), place / "results.csv")
    for name in ("solvers", "router"):
        pq.write_table(
            pa.table({key: table[key] for key in table if key not in ("id", "text")}),
            place / f"{name}.parquet",
        )
    features = {f"f{i}": [float(i * row) for row in range(30)] for i in range(4)}
    second = {"sample_id": samples[::2], "fold": [1 + row % 10 for row in range(30)], **features}
    pq.write_table(pa.table(second), place / "solver-features.parquet")
    texts = {
        "prompt": [f"ask {row}" for row in range(30)],
        "task": [("gsm8k", "mmlu")[row % 2] for row in range(30)],
    }
    pq.write_table(pa.table({"sample_id": samples[::2], **texts}), place / "router-samples.parquet")
    log = {
        "item": [row % 3 for row in range(30)],
        "position": [row % 2 for row in range(30)],
        "click": [int(row % 9 == 0) for row in range(30)],
        "propensity_score": [1 / 6] * 30,
        "user_0": [float(row % 5) for row in range(30)],
        "user_1": [float(row % 7) for row in range(30)],
    }
    pq.write_table(pa.table(log), place / "logged.parquet")
    return place


def test_the_page_has_its_parts():
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == [
        "I have exp5 and exp6 files",
        "I want exp6 or core_exp files of my own sweep",
        "I have a table",
        "Time and memory",
    ]
    assert [words[0] for block in COMMANDS for words in block].count("import") >= 8


@pytest.mark.parametrize("commands", COMMANDS, ids=[" ".join(block[0][:3]) for block in COMMANDS])
def test_the_commands_run(commands, files, monkeypatch):
    monkeypatch.chdir(files)
    served = any("--model" in words for words in commands)
    put_fakes(monkeypatch, Wide() if served else None)
    for words in commands:
        command, *rest = (str(REPLACED.get(word, word)) for word in words)
        runs_a_model = command != "decide" or "--model" in rest
        result = run(command, *rest, *(SHORTER.get(command, []) if runs_a_model else []))
        assert result.exit_code == 0, result.stderr
