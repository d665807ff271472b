"""Sample logs of lmms-eval (`--log_samples`): one run of the evaluation per configuration."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.knobs import Configuration, Option
from paceline.outcomes.importers.audit import Audit, some
from paceline.outcomes.importers.json_files import numbers, read_json, read_lines, sample_ids
from paceline.outcomes.importers.options import ImportOptions
from paceline.outcomes.importers.records import Detail, Run
from paceline.outcomes.importers.units import Measure, time_measure

FAMILY = "lmms-eval"
NAME = re.compile(r"(?:.*_)?samples_(?P<task>.+)\.jsonl")
RESULTS = "*results.json"
FOLDER = re.compile(r"[A-Za-z]+\d+(?:_[A-Za-z]+\d+)*")
SHORT_NAMES = {"crops": "max_crops", "topk": "top_k", "blocks": "num_active_blocks"}
NOT_METRICS = {"doc_id", "target", "index", "idx", "total_tokens"}


def is_lmms_eval(path: Path) -> bool:
    """Whether a file is a sample log, by its name."""
    return NAME.fullmatch(path.name) is not None


def is_results(path: Path) -> bool:
    """Whether a file holds the averages that lmms-eval writes beside its sample logs."""
    return path.match(RESULTS) and any(is_lmms_eval(item) for item in path.parent.glob("*.jsonl"))


def parse_configuration(text: str) -> tuple[str, dict[str, Option]]:
    """A folder and its configuration, from FOLDER:knob=value,knob=value.

    >>> parse_configuration("logs/a:top_k=4,model=small")
    ('logs/a', {'top_k': 4, 'model': 'small'})
    """
    folder, _, settings = text.rpartition(":")
    pairs = [item.split("=", 1) for item in settings.split(",")]
    if not folder or any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise OutcomesError(f"--configuration: got {text!r}, expected FOLDER:knob=value,knob=value")
    return folder, {name.strip(): parse_option(value.strip()) for name, value in pairs}


def parse_option(text: str) -> Option:
    """A whole number, a number, or text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def configuration_of(path: Path, named: Mapping[str, Mapping[str, Option]]) -> Configuration:
    """The configuration of a log: named on the command line, or the nearest folder such as crops2_topk4_blocks8."""
    for folder in path.parents:
        for name, configuration in named.items():
            if folder == Path(name) or folder.name == name:
                return dict(configuration)
    for folder in path.parents:
        if FOLDER.fullmatch(folder.name):
            parts = [re.fullmatch(r"([A-Za-z]+)(\d+)", part) for part in folder.name.split("_")]
            found = [(part[1], int(part[2])) for part in parts if part]
            if len(found) > 1 or found[0][0] in SHORT_NAMES:
                return {SHORT_NAMES.get(name, name): value for name, value in found}
    raise OutcomesError(
        f"{path}: which configuration this run had is not known, expected a folder such as crops2_topk4_blocks8; "
        f"rename the folder or use --configuration {path.parent}:max_crops=2,top_k=4"
    )


def read_lmms_eval(path: Path, known: dict[Detail, Detail], options: ImportOptions, audit: Audit) -> Run:
    """The run in one sample log."""
    match = NAME.fullmatch(path.name)
    task = match["task"] if match else path.stem
    records = [record for _, record in read_lines(path)]
    place = str(path)
    if not records:
        raise OutcomesError(f"{place}: has no lines, expected one JSON object per sample; run the task again")
    for row, record in enumerate(records):
        if "doc_id" not in record or not {"filtered_resps", "resps"} & set(record):
            raise OutcomesError(
                f"{place}: line {row + 1} has the keys {some(sorted(record), 16)}, expected doc_id and filtered_resps "
                "as lmms-eval writes them with --log_samples"
            )
    metric = _metric(records, options.metric, place)
    audit.note(f"{FAMILY}: the score of {task} is {metric}")
    scores = [{metric: _score(record.get(metric))} for record in records]
    values = {"accuracy": numbers(scores, metric, place)}
    if options.table.latency is not None:
        measure: Measure = time_measure(options.table.latency)
        values["latency_ms"] = measure.factor * numbers(records, measure.column, place, required=True)
    ids = sample_ids(records, place, "doc_id")
    return Run(
        file=place,
        folder=str(path.parent),
        family=FAMILY,
        configuration=configuration_of(path, options.configurations),
        blocks=None,
        dataset=task,
        source_split="",
        rank=None,
        world_size=1,
        ids=ids,
        numbering="global",
        details=[_detail(record, known) for record in records],
        values=values,
        copied=np.zeros(len(records), bool),
        model=_model(path),
    )


def _metric(records: Sequence[Mapping[str, Any]], asked: str | None, place: str) -> str:
    candidates = sorted(
        key
        for key in set().union(*records)
        if key not in NOT_METRICS and all(_is_score(record.get(key)) for record in records)
    )
    if asked is not None:
        if any(asked in record for record in records):
            return asked
        raise OutcomesError(
            f"{place}: no metric {asked!r}, got {candidates}; name one of these with --metric"
        )
    if len(candidates) != 1:
        raise OutcomesError(
            f"{place}: got the metrics {candidates}, expected one that scores each sample; name it with --metric"
        )
    return candidates[0]


def _is_score(value: Any) -> bool:
    score = _score(value)
    return isinstance(score, bool | int | float)


def _score(value: Any) -> Any:
    return value.get("score") if isinstance(value, Mapping) else value


def _detail(record: Mapping[str, Any], known: dict[Detail, Detail]) -> Detail:
    doc = record.get("doc")
    doc = doc if isinstance(doc, Mapping) else {}
    image = next((str(doc[key]) for key in ("image_id", "image_path") if doc.get(key) is not None), "")
    question = doc.get("question", record.get("input"))
    kind = next((str(doc[key]) for key in ("question_type", "category") if doc.get(key) is not None), "")
    detail = Detail(
        question_id=str(record["doc_id"]),
        image=image,
        question=question if isinstance(question, str) else "",
        kind=kind,
        truth=f"target|{json.dumps(record.get('target'), sort_keys=True, default=str)}",
    )
    return known.setdefault(detail, detail)


def _model(path: Path) -> dict[str, Any]:
    """The model's name in the results file beside a log; the folder's where lmms-eval named it so."""
    for results in sorted(path.parent.glob(RESULTS)):
        content = read_json(results)
        name = content.get("model_name") if isinstance(content, Mapping) else None
        if name:
            return {"name": str(name)}
    return {"name": path.parent.name} if "__" in path.parent.name else {}
