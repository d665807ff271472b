"""Looking first on a CUDA device: where features are pooled, how often they are copied, and what a second stream saves.

    python -m benchmarks.gpu_features
    python -m benchmarks.gpu_features --device cpu --rounds 2     # a look at the code; there is no second stream

Features of the embedded model on the device are compared with those on the processor. Copies to the host are counted
by torch's profiler, of one overview whose features are read. A stream of overviews, each read once the next was begun,
is timed with the copies on the model's own stream and on their own (`overlap_copies`), in turns. Writes
benchmarks/results/gpu_features.json on CUDA devices only.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.cuda_device import asked_device, wait
from benchmarks.gpu_molmoe import images
from benchmarks.interleaved import ratio, turns
from benchmarks.record import write_result
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.protocol import Overview
from paceline.models.registry import load_model

QUESTION = "How many digits are there?"
CLOSE = 1e-4
"""Of features in float32, relative to their largest: sums in another order."""
TO_HOST = "DtoH"
"""In the profiler's name of a copy from the device to the host."""
OWN, SIDE = "own stream", "side stream"


def features(overview: Overview) -> np.ndarray:
    """Image and question features, float32 (width,); waits until they are there."""
    return np.concatenate([overview.image_features, overview.question_features])


def difference(model: ElasticMolmoE, reference: ElasticMolmoE, pictures: list[Image.Image]) -> float:
    """Of the features of all pictures, at most, over the largest feature."""
    pairs = [
        (features(model.overview(picture, QUESTION)), features(reference.overview(picture, QUESTION)))
        for picture in pictures
    ]
    largest = max(float(np.abs(expected).max()) for _, expected in pairs)
    return max(float(np.abs(found - expected).max()) for found, expected in pairs) / largest


def copies_to_host(model: ElasticMolmoE, picture: Image.Image, device: torch.device) -> dict[str, Any]:
    """How often one overview copies from the device until its features are read, and how many numbers those are."""
    features(model.overview(picture, QUESTION))
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=kinds) as seen:
        found = features(model.overview(picture, QUESTION))
        wait(device)
    count = sum(event.count for event in seen.key_averages() if TO_HOST in event.key)
    return {"copies_to_host": count, "features": len(found)}


def stream_ms(model: ElasticMolmoE, pictures: list[Image.Image]) -> float:
    """Milliseconds per overview of a stream: each is read after the next one was begun."""
    started, before, total = time.perf_counter(), None, 0.0
    for picture in pictures:
        now = model.overview(picture, QUESTION)
        if before is not None:
            total += float(features(before)[0])
        before = now
    assert before is not None
    total += float(features(before)[0])
    assert np.isfinite(total)
    return (time.perf_counter() - started) * 1e3 / len(pictures)


def measure(device: torch.device, rounds: int, count: int, model: str = "tiny") -> dict[str, Any]:
    """Everything, as it is written."""
    torch.backends.cuda.matmul.allow_tf32 = False
    pictures = images(count)
    reference, plain = load_model(model), load_model(model, device=str(device))
    assert isinstance(reference, ElasticMolmoE)
    assert isinstance(plain, ElasticMolmoE)
    contenders = {OWN: plain}
    if device.type == "cuda":
        side = load_model(model, device=str(device), overlap_copies=True)
        assert isinstance(side, ElasticMolmoE)
        contenders[SIDE] = side
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "model": model,
        "images": count,
        "rounds": rounds,
    }
    for name, contender in contenders.items():
        off = difference(contender, reference, pictures)
        found[name] = {"largest_difference": float(f"{off:.3g}"), "agrees": off <= CLOSE}
        found[name] |= copies_to_host(contender, pictures[0], device)
    times = {name: np.empty((rounds, 1)) for name in contenders}
    for contender in contenders.values():
        stream_ms(contender, pictures)
    for number, name in turns(list(contenders), rounds, seed=0):
        times[name][number] = stream_ms(contenders[name], pictures)
    for name, spent in times.items():
        found[name]["overview_ms"] = round(float(np.median(spent)), 4)
    if SIDE in times:
        found["side_stream_speedup"] = ratio(times[OWN], times[SIDE])
    return found


def main() -> None:
    """Measure, print, and write on a CUDA device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=32, help="of a stream")
    options = parser.parse_args()
    device = asked_device(options.device, "gpu_features", "--device cpu --rounds 2")
    found = measure(device, options.rounds, options.images)
    print(json.dumps(found, indent=1))
    if device.type == "cuda":
        print(write_result("gpu_features", found))


if __name__ == "__main__":
    main()
