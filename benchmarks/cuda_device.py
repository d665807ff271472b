"""The CUDA device that a benchmark is about, or another one on which its code can be looked at."""

import torch


def asked_device(name: str, benchmark: str, words: str) -> torch.device:
    """The device of that name; SystemExit where it is a CUDA device and there is none.

    `words`: options with which the benchmark runs on a processor, to look at its code.
    """
    device = torch.device(name)
    if device.index is not None:
        raise SystemExit(
            f"{benchmark}: got device {name!r}, expected no index; choose one with CUDA_VISIBLE_DEVICES"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"{benchmark}: torch finds no CUDA device here. Run it on a machine with one, or look at the code with "
            f"{words}"
        )
    return device


def wait(device: torch.device) -> None:
    """Until everything that the device was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
