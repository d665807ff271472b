"""Types in which a model can compute, by name."""

import torch

from paceline.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A type by its name or as it is; None stays None, the model's own.

    >>> parse_dtype("bfloat16")
    torch.bfloat16

    Raises ModelError for types in which a model cannot compute.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is None or found in DTYPES.values():
        return found
    raise ModelError(f"dtype: got {dtype!r}, expected one of {', '.join(DTYPES)}")
