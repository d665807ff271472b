"""The benchmarks of a CUDA device: small runs of their code on a processor, counts, and refusals without a device."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import gpu_features, gpu_training
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.registry import load_model

CPU = torch.device("cpu")


def test_features_are_compared_with_those_on_the_processor():
    found = gpu_features.measure(CPU, 2, 3)
    assert (found["device"], found["images"]) == ("cpu", 3)
    own = found[gpu_features.OWN]
    assert (own["largest_difference"], own["agrees"], own["copies_to_host"]) == (0.0, True, 0)
    assert own["features"] == 192
    assert own["overview_ms"] > 0
    assert gpu_features.SIDE not in found


def test_other_features_are_noticed():
    tiny, other = load_model("tiny"), load_model("tiny")
    assert isinstance(tiny, ElasticMolmoE)
    assert isinstance(other, ElasticMolmoE)
    with torch.no_grad():
        other.model.vision.project_down.weight.mul_(1.01)
    pictures = gpu_features.images(2)
    assert gpu_features.difference(tiny, tiny, pictures) == 0.0
    assert gpu_features.difference(other, tiny, pictures) == pytest.approx(0.01, rel=0.1)


def test_copies_are_those_of_one_overview(monkeypatch):
    """By a profiler that has seen what a device would show."""
    seen: list[str] = []

    class Profiler:
        def __init__(self, activities):
            seen.append("begin")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            seen.append("end")

        def key_averages(self):
            names = {
                "Memcpy DtoH (Device -> Pinned)": 1,
                "Memcpy HtoD (Pageable -> Device)": 4,
                "aten::mm": 9,
            }
            return [SimpleNamespace(key=name, count=count) for name, count in names.items()]

    monkeypatch.setattr(gpu_features, "profile", Profiler)
    tiny = load_model("tiny")
    assert isinstance(tiny, ElasticMolmoE)
    overview = tiny.overview
    monkeypatch.setattr(tiny, "overview", lambda *words: (seen.append("overview"), overview(*words))[1])
    found = gpu_features.copies_to_host(tiny, gpu_features.images(1)[0], CPU)
    assert found == {"copies_to_host": 1, "features": 192}
    assert seen == ["overview", "begin", "overview", "end"]


def test_each_of_a_stream_is_read_after_the_next_was_begun(monkeypatch):
    seen: list[str] = []

    def features(overview: int) -> np.ndarray:
        seen.append(f"read {overview}")
        return np.zeros(1)

    def overview(picture: int, question: str) -> int:
        seen.append(f"begin {picture}")
        return picture

    monkeypatch.setattr(gpu_features, "features", features)
    assert gpu_features.stream_ms(SimpleNamespace(overview=overview), [1, 2, 3]) > 0  # type: ignore[arg-type]
    assert seen == ["begin 1", "begin 2", "read 1", "begin 3", "read 2", "read 3"]


def test_training_is_compared_with_the_processors():
    found = gpu_training.measure(CPU, 300, 8, 1)
    runs = found["runs"]
    assert len(runs) == 6
    assert runs["device float32"]["same_choices_as_processor"] == 1.0
    assert runs[gpu_training.OTHER_SEED]["same_choices_as_processor"] < 1.0
    assert (
        runs["device gradient checkpointing"]["validation_reward"] == runs["cpu float32"]["validation_reward"]
    )
    assert all(seconds > 0 for run in runs.values() for seconds in run["epoch_seconds"].values())


@pytest.mark.parametrize("module", [gpu_features, gpu_training])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_they_say_so(module, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module.__name__])
    with pytest.raises(SystemExit, match=r"torch finds no CUDA device here.*--device cpu"):
        module.main()
