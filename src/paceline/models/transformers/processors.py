"""A checkpoint's processor, for images only where the libraries for video are missing."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from paceline.errors import DependencyError, ModelError
from paceline.models.transformers.registry import family_of

VIDEO = "video_processor"
NEEDED = re.compile(r"requires the (\S+) library|Missing optional dependencies: ([\w, ]+)")
"""How transformers says which library is missing."""


def load_processor(directory: Path, name: str) -> Any:
    """The processor of a checkpoint.

    Without torchvision no video processor can be made; a processor that has one is then loaded without it, with the
    image processor of the PIL backend or one that the family brings, and reads images as before.

    Raises:
        DependencyError: a library that this processor cannot do without.
        ModelError: files that are missing or do not make a processor of images and text.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    if type(config) not in PROCESSOR_MAPPING:
        raise ModelError(
            f"model {name}: transformers knows no processor for {type(config).__name__}, expected "
            "one of images and text"
        )
    try:
        kind: Any = PROCESSOR_MAPPING[type(config)]
        with_video = VIDEO in kind.get_attributes()
    except ImportError as error:
        raise _needs(name, _needed(error) or _first_line(error)) from error
    try:
        if with_video and importlib.util.find_spec("torchvision") is None:
            family = family_of(config)
            processor = _images_only(kind, family and family.image_processor_class()).from_pretrained(
                directory, trust_remote_code=False
            )
        else:
            processor = AutoProcessor.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        if library := _needed(error):
            raise _needs(name, library) from error
        raise ModelError(
            f"model {name}: its processor cannot be loaded ({type(error).__name__}: {_first_line(error)}); expected "
            "preprocessor_config.json, tokenizer.json and tokenizer_config.json beside the weights, as the hub has them"
        ) from error
    missing = [part for part in ("image_processor", "tokenizer") if getattr(processor, part, None) is None]
    if missing:
        raise ModelError(
            f"model {name}: its processor has no {' and no '.join(missing)}, expected one of images and text; copy the "
            "processor's files beside the weights"
        )
    processor.tokenizer.padding_side = "left"  # what generation continues from is the last token
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if not getattr(processor, "chat_template", None) and _shows_images(processor):
        processor.chat_template = processor.tokenizer.chat_template
    return processor


def _shows_images(processor: Any) -> bool:
    """Whether the tokenizer has a chat template of its own that knows where an image goes; older repositories do."""
    token = getattr(processor, "image_token", None)
    if not isinstance(token, str) or not processor.tokenizer.chat_template:
        return False
    content: Any = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        text = processor.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except Exception:  # a template for text alone may fail in any way
        return False
    return token in text


def _images_only(kind: Any, image_processor: Any = None) -> Any:
    """`kind` without its video processor; a class of the same name, for messages and templates.

    `image_processor`: the class of its image processor; None: that of transformers with the PIL backend.
    """

    def check(self: Any, attribute: str, argument: Any) -> type:
        if attribute == VIDEO and argument is None:
            return type(None)
        return kind.check_argument_for_proper_class(self, attribute, argument)

    def arguments(cls: Any, path: Path, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        from transformers import AutoImageProcessor, AutoTokenizer

        parts = {"image_processor": image_processor or AutoImageProcessor, "tokenizer": AutoTokenizer}
        options: dict[str, Any] = {"tokenizer": {"trust_remote_code": False}}
        if image_processor is None:
            options["image_processor"] = {"backend": "pil", "trust_remote_code": False}
        return [
            parts[attribute].from_pretrained(path, **options.get(attribute, {}))
            if attribute in parts
            else None
            for attribute in cls.get_attributes()
        ]

    replaced = {
        "__module__": kind.__module__,
        "check_argument_for_proper_class": check,
        "_get_arguments_from_pretrained": classmethod(arguments),
    }
    return type(kind.__name__, (kind,), replaced)


def _needed(error: Exception) -> str | None:
    found = NEEDED.search(str(error))
    return found and (found.group(1) or found.group(2))


def _needs(name: str, library: str) -> DependencyError:
    return DependencyError(
        f"model {name}: its processor needs {library}, which is not installed; install it beside the same version "
        "of torch"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
