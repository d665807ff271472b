"""What importing costs, in fresh processes: the decision path must run where torch is not installed."""

import json
import subprocess
import sys

import pytest

import controllers
import paceline
from fakes import IMAGE_WIDTH, QUESTION_WIDTH

HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
    "PIL",
    "sklearn",
    "scipy",
    "matplotlib",
    "typer",
    "ray",
    "fastapi",
}


def modules_after(code):
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "code",
    [
        "import paceline",
        "import paceline; paceline.KnobSpace, paceline.PacelineError",
        "import paceline.budgets, paceline.rewards",
        "import paceline; paceline.Controller, paceline.Context, paceline.AverageBudget",
        "import paceline.runtime.controller, paceline.latency.estimate, paceline.policies.numpy_policy",
    ],
)
def test_light_imports_load_nothing_heavy(code):
    assert modules_after(code) & HEAVY == set()


def test_deciding_loads_nothing_heavy(tmp_path):
    controllers.controller().save(tmp_path / "controller")
    decide = f"""
import numpy as np, paceline
controller = paceline.Controller.load({str(tmp_path / "controller")!r})
m = len(controller.actions)
context = paceline.Context(
    image_features=np.zeros({IMAGE_WIDTH}, dtype=np.float32), question_features=np.zeros({QUESTION_WIDTH}, np.float32),
    tiles=np.full(m, 3), vision_tokens=np.full(m, 34), prompt_tokens=np.full(m, 40),
)
controller.decide(context, budget_ms=60).explain()
controller.decide(context, average=40).explain()
"""
    assert modules_after(decide) & HEAVY == set()


def test_the_command_line_starts_without_torch():
    assert modules_after("import paceline.cli.app") & (HEAVY - {"typer"}) == set()


def test_import_paceline_takes_under_0_3_seconds():
    timed = "import time; start = time.process_time(); import paceline; print(time.process_time() - start)"
    seconds = [float(subprocess.check_output([sys.executable, "-c", timed])) for _ in range(3)]
    assert min(seconds) < 0.3


def test_every_public_name_loads():
    for name in paceline.__all__:
        assert getattr(paceline, name) is not None
    assert set(paceline.__all__) <= set(dir(paceline))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Kontroller'"):
        _ = paceline.Kontroller
