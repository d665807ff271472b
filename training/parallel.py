"""Training on several processes of one machine: each has its own batches, gradients are averaged."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> int:
    """This process's rank; joins the others when run under torchrun."""
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Mean of the gradients over processes; a parameter that a process did not use counts 0 there."""
    if not dist.is_initialized():
        return
    parameters = list(parameters)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [gradient.numel() for gradient in gradients]
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)


def wait() -> None:
    """Until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def finish() -> None:
    """Leave the others."""
    if dist.is_initialized():
        dist.destroy_process_group()
