"""Small data sets with the columns that the public question sets have on the hub."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture

from folder_tasks import picture

TEXT, TEXTS = Value("string"), [Value("string")]
ROWS = 24
"""Two questions about every image, one after the other."""


def image_of(row: int) -> Picture.Image:
    return picture(row // 2)


def people(row: int) -> list[str]:
    """Ten answers, of which seven agree."""
    return [f"answer {row}"] * 7 + [f"other {row}"] * 3


def _vqav2(row: int) -> dict[str, Any]:
    answers = [
        {"answer": text, "answer_confidence": "yes", "answer_id": number}
        for number, text in enumerate(people(row), 1)
    ]
    return {
        "question_type": "what is",
        "multiple_choice_answer": f"answer {row}",
        "answers": answers,
        "image_id": row // 2,
        "answer_type": ("number", "other", "yes/no")[row % 3],
        "question_id": 1000 + row,
        "question": f"What is {row}?",
    }


def _textvqa(row: int) -> dict[str, Any]:
    return {
        "image_id": f"img{row // 2}",
        "question_id": 1000 + row,
        "question": f"what is {row}?",
        "question_tokens": ["what", "is", str(row)],
        "image_width": 16,
        "image_height": 16,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": people(row),
        "image_classes": ["Sign"],
        "set_name": "val",
        "ocr_tokens": ["STOP"],
    }


def _okvqa(row: int) -> dict[str, Any]:
    return {
        "question_id": str(1000 + row),
        "question": f"What is {row}?",
        "answers": people(row),
        "question_type": ("one", "other")[row % 2],
        "answer_type": "other",
    }


def _chartqa(row: int) -> dict[str, Any]:
    return {
        "type": ("human_test", "augmented_test")[row % 2],
        "question": f"What is {row}?",
        "answer": str(100 + row),
    }


def _docvqa(row: int) -> dict[str, Any]:
    return {
        "questionId": str(1000 + row),
        "question": f"What is {row}?",
        "question_types": ["form", "handwritten"] if row % 2 else ["layout"],
        "docId": row // 4,
        "ucsf_document_id": f"doc{row // 4}",
        "ucsf_document_page_no": str(row // 2 % 2),
        "answers": [f"answer {row}", f"Answer number {row}"],
        "data_split": "val",
    }


def _ai2d(row: int) -> dict[str, Any]:
    return {
        "question": f"What is {row}?",
        "options": ["leaf", "stem", "root", "seed"],
        "answer": str(row % 4),
    }


def _scienceqa(row: int) -> dict[str, Any]:
    texts = ("task", "grade", "topic", "category", "skill", "lecture", "solution")
    return {
        "question": f"Which is {row}?",
        "choices": ["leaf", "stem", "root"][: 2 + row % 2],
        "answer": row % 2,
        "hint": "Plants grow." if row % 2 else "",
        "subject": ("natural science", "social science")[row % 2],
    } | dict.fromkeys(texts, "x")


def _mmmu(row: int) -> dict[str, Any]:
    is_open = row % 4 == 3
    return {
        "id": f"validation_Art_{row}",
        "question": f"Look at <image 1>. What is {row}?",
        "options": "[]" if is_open else "['leaf', \"the plant's stem\", 'root']",
        "explanation": "",
        "img_type": "['Plots']",
        "answer": "['12', 'twelve']" if is_open else "B",
        "topic_difficulty": "Easy",
        "question_type": "open" if is_open else "multiple-choice",
        "subfield": "Drawing",
    }


def _pope(row: int) -> dict[str, Any]:
    return {
        "id": str(row),
        "question_id": str(row // 3),
        "question": f"Is there {row} in the image?",
        "answer": ("yes", "no")[row % 2],
        "image_source": f"COCO_val2014_{row // 2:012d}",
        "category": ("adversarial", "popular", "random")[row % 3],
    }


MAKERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "vqav2": _vqav2,
    "textvqa": _textvqa,
    "okvqa": _okvqa,
    "chartqa": _chartqa,
    "docvqa": _docvqa,
    "ai2d": _ai2d,
    "scienceqa": _scienceqa,
    "mmmu": _mmmu,
    "pope": _pope,
}
"""A row of every set, as the cards on the hub describe its columns, but for images."""

_INTEGERS = {"answer_id": "int64", "docId": "int64", "image_width": "int32", "image_height": "int32"}


def _feature(name: str, column: str, value: Any) -> Any:
    if isinstance(value, list) and isinstance(value[0], dict):
        return [{key: _feature(name, key, item) for key, item in value[0].items()}]
    if isinstance(value, list):
        return TEXTS
    if value is None or isinstance(value, Picture.Image):
        return Image()
    if isinstance(value, int):
        default = "int8" if (name, column) == ("scienceqa", "answer") else "int64"
        return Value(_INTEGERS.get(column, default))
    return TEXT


def rows(name: str, count: int = ROWS) -> list[dict[str, Any]]:
    """Rows of a set with their images."""
    made = [MAKERS[name](row) for row in range(count)]
    for number, row in enumerate(made):
        if name == "mmmu":
            row |= {f"image_{k}": None for k in range(1, 8)} | {"image_1": image_of(number)}
        else:
            row["image"] = image_of(number)
    return made


def table(name: str, made: list[dict[str, Any]] | None = None) -> Dataset:
    """The rows as a data set with the features of the hub."""
    made = rows(name) if made is None else made
    features = {column: _feature(name, column, value) for column, value in rows(name, 1)[0].items()}
    return Dataset.from_list(made, features=Features(features))
