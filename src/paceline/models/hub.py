"""Model names of the Hugging Face hub, resolved to a local directory."""

import re
from pathlib import Path

from paceline.errors import DependencyError, ModelError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
"""What is fetched: weights, configuration, tokenizer, processor. No code, nothing pickled."""


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form owner/model.

    >>> is_hub_name("allenai/MolmoE-1B-0924"), is_hub_name("tiny"), is_hub_name("./models/mine")
    (True, False, False)
    """
    return HUB_NAME.fullmatch(name) is not None


def fetch(name: str, revision: str | None = None) -> Path:
    """The directory of a model of the hub: from the local cache, downloaded where it is not there yet.

    HF_HOME and HF_HUB_OFFLINE are respected. Raises DependencyError without huggingface_hub, ModelError where the model
    cannot be had.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DependencyError(
            f"model {name!r} needs huggingface_hub, which is not installed; install it with: "
            "pip install 'paceline[hf]', or give a directory"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (
        Exception
    ) as error:  # offline, unknown, gated, interrupted: no base class of the library's covers them
        reason = " ".join(str(error).split())
        raise ModelError(
            f"model {name!r}: not in the local cache, and it cannot be fetched ({type(error).__name__}: "
            f"{reason[:200]}); check the name and the connection, or download it and give the directory"
        ) from error
