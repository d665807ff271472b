"""The tokenizer of a public checkpoint: tokenizer.json, and tokens that tokenizer_config.json adds to it."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from paceline.errors import ModelError
from paceline.models.molmoe.tokenizer import MolmoTokenizer

TOKENIZER, CONFIG, ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"


def read_tokenizer(directory: Path, limit: int) -> MolmoTokenizer:
    """The tokenizer with all its added tokens, and the token that requests begin with.

    Raises ModelError for a missing or damaged file, for added tokens that cannot have the ids the files give them, and
    for ids at or beyond `limit`, the number of input embeddings.
    """
    path = directory / TOKENIZER
    if not path.is_file():
        raise ModelError(f"{path}: no tokenizer there; download tokenizer.json and tokenizer_config.json too")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for damaged files
        raise ModelError(f"{path}: not a tokenizer ({error})") from error
    config = _object(directory / CONFIG)
    _add(tokenizer, directory, config)
    _check_ids(tokenizer, path, limit)
    return MolmoTokenizer(tokenizer, limit, start=_start(tokenizer, config))


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: got a {type(value).__name__}, expected an object")
    return value


def _add(tokenizer: Tokenizer, directory: Path, config: dict[str, Any]) -> None:
    """Tokens that the other files know and tokenizer.json does not, in the order of their ids."""
    decoder = config.get("added_tokens_decoder") or {}
    wanted = [(int(index), _content(entry)) for index, entry in decoder.items()]
    wanted += [(index, content) for content, index in _object(directory / ADDED).items()]
    for index, content in sorted(wanted):
        if tokenizer.token_to_id(content) is None:
            tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False)])
        got = tokenizer.token_to_id(content)
        if got != index:
            raise ModelError(
                f"{directory}: added token {content!r} is {got} in {TOKENIZER}, but {index} in the other files; "
                "the files do not belong together"
            )


def _check_ids(tokenizer: Tokenizer, path: Path, limit: int) -> None:
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    beyond = sorted((index, token) for token, index in vocabulary.items() if index >= limit)
    if beyond:
        shown = ", ".join(f"{token!r}: {index}" for index, token in beyond[:3])
        raise ModelError(
            f"{path}: {len(beyond)} tokens beyond the model's {limit} input embeddings ({shown}); the tokenizer "
            "belongs to another model"
        )


def _start(tokenizer: Tokenizer, config: dict[str, Any]) -> int | None:
    """What requests begin with: the begin token if there is one other than number 0, else the end token.

    None where the files name neither.
    """
    for key in ("bos_token", "eos_token"):
        content = _content(config.get(key))
        index = tokenizer.token_to_id(content) if content else None
        if index:  # the public code takes number 0 for none
            return index
    return None


def _content(entry: Any) -> str:
    """The text of a token, which the files write as a string or as an object."""
    value = entry.get("content") if isinstance(entry, dict) else entry
    return value if isinstance(value, str) else ""
