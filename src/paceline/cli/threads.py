"""How many threads a command's arithmetic uses."""


def one_thread() -> None:
    """One thread for torch: latencies are measured on one, and two pools on few cores only fight."""
    import torch

    torch.set_num_threads(1)
