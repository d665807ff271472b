"""Answer on the simulated second device and on the CPU; print as JSON what differs. See test_second_device.py."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf.checkpoints import picture
from hf.opened import open_checkpoint, open_small
from paceline import load_model
from paceline.models.protocol import ElasticModel
from paceline.models.transformers.elastic import ElasticTransformers
from paceline.models.transformers.instrumented import Instrumented
from paceline.models.transformers.registry import family_of
from simulated_device import DEVICE, SecondDevice

FAMILIES = (
    "aria",
    "ernie4_5_vl_moe",
    "gemma3",
    "glm4v",
    "glm4v_moe",
    "idefics3",
    "internvl",
    "llava_next",
    "llava_onevision",
    "molmo2",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "smolvlm",
)
TOKENS = 4


def said(model: ElasticModel) -> list[Any]:
    """Answers, alone and together, under the cheapest and the full configuration, and the order of blocks."""
    first, second = (
        model.overview(picture(90, 60), "How many?"),
        model.overview(picture(60, 60), "What colour?"),
    )
    found: list[Any] = []
    for configuration in (model.knobs.cheapest, model.knobs.full):
        found.append(model.generate(first, configuration, TOKENS).text)
        found.append(model.generate_batch([first, second], configuration, TOKENS))
    found += [
        list(model.block_importance([first], ["red"], method).ranking) for method in ("loss", "similarity")
    ]
    return found


def opened(name: str) -> tuple[list[Any], Callable[[], ElasticModel]]:
    """What a small checkpoint says on the CPU, and a way to have it on the device."""
    directory = Path(tempfile.mkdtemp())
    expected = said(open_small(name, directory).model)
    checkpoint = open_checkpoint(name, directory)
    family = family_of(checkpoint.config)
    assert family is not None

    def there() -> ElasticModel:
        checkpoint.model.to(DEVICE)
        return ElasticTransformers(Instrumented(checkpoint, family))

    return expected, there


def main() -> None:
    """Whether all is the same, and operators on the device, by model."""
    models = {name: opened(name) for name in FAMILIES}
    models["tiny"] = said(load_model("tiny")), lambda: load_model("tiny", device=DEVICE)
    found: dict[str, Any] = {}
    for name, (expected, there) in models.items():
        with SecondDevice():
            before = SecondDevice.operations
            made = said(there())
        found[name] = {
            "expected": expected,
            "found": made,
            "operations": SecondDevice.operations - before,
        }
    json.dump(found, sys.stdout)
