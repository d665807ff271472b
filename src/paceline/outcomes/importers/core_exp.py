"""core_exp: accuracy and latency of every sample together, image sizes in tiers instead of a number of crops."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paceline.errors import OutcomesError
from paceline.outcomes.importers.audit import Audit
from paceline.outcomes.importers.json_files import numbers, records_at, sample_ids, whole
from paceline.outcomes.importers.metadata import copied_scores, detail_of
from paceline.outcomes.importers.naming import OWN, block_set, canonical_dataset, model_facts, own_keys
from paceline.outcomes.importers.records import Detail, Run

FAMILY = "core_exp"
TIERS = ("low", "medium", "high")
NAME = re.compile(
    r"(?P<dataset>.+)_imgsizetier-(?P<tier>[a-z]+)_crops(?P<crops>\d+)_topk(?P<top_k>\d+)_blocks(?P<blocks>\d+)"
    r"(?:_rank(?P<rank>\d+))?\.json"
)


def is_core_exp(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file is of this layout."""
    return NAME.fullmatch(path.name) is not None or "per_sample_results" in content


def read_core_exp(path: Path, content: Mapping[str, Any], known: dict[Detail, Detail], audit: Audit) -> Run:
    """The run in a file of one tier, top_k and number of blocks; one rank's, or all ranks merged."""
    place = str(path)
    match = NAME.fullmatch(path.name)
    if match is None:
        raise OutcomesError(
            f"{place}: the name is not that of core_exp, expected "
            "{dataset}_imgsizetier-{low|medium|high}_crops{n}_topk{k}_blocks{b}[_rank{r}].json; rename the file"
        )
    tier = str(content.get("tier", match["tier"]))
    configuration: dict[str, Any] = {
        "tier": tier,
        "top_k": whole(content.get("top_k", int(match["top_k"])), f"{place}: top_k"),
        "num_active_blocks": whole(
            content.get("num_active_blocks", int(match["blocks"])), f"{place}: num_active_blocks"
        ),
    }
    named = {"tier": match["tier"], "top_k": int(match["top_k"]), "num_active_blocks": int(match["blocks"])}
    if named != configuration:
        raise OutcomesError(
            f"{place}: the name says {named}, the file says {configuration}; expected them to agree, "
            "rename the file or find the one that belongs here"
        )
    own = own_keys(content, place)
    exact = own.get("configuration", configuration)
    if not isinstance(exact, Mapping) or any(
        exact.get(name, option) != option for name, option in configuration.items()
    ):
        raise OutcomesError(
            f"{place}: {OWN}.configuration is {exact!r}, the file says {configuration}; expected them to agree, "
            "export it again"
        )
    if tier not in TIERS:
        raise OutcomesError(f"{place}: tier is {tier!r}, expected one of {list(TIERS)}")
    records = records_at(content, "per_sample_results", place)
    total, decode = (numbers(records, key, place) for key in ("T_total", "T_LLM_decode"))
    accuracy = numbers(records, "accuracy", place, required=True)
    vision = numbers(records, "actual_vision_tokens", place)
    audit.note(
        "core_exp: times are milliseconds; time to the first token is T_total - T_LLM_decode; "
        "tiles are actual_num_crops"
    )
    return Run(
        file=place,
        folder=str(path.parent),
        family=FAMILY,
        configuration=dict(exact),
        blocks=block_set(content.get("active_block_indices"), configuration["num_active_blocks"], place),
        dataset=str(own.get("dataset", canonical_dataset(match["dataset"]))),
        source_split=str(content.get("split") or ""),
        rank=None if match["rank"] is None else int(match["rank"]),
        world_size=None,
        ids=sample_ids(records, place),
        numbering="rank",
        details=[detail_of(record, known) for record in records],
        values={
            "accuracy": accuracy,
            "latency_ms": total,
            "first_token_ms": total - decode,
            "tiles": numbers(records, "actual_num_crops", place),
            "vision_tokens": vision,
            "prompt_tokens": vision + numbers(records, "actual_text_tokens", place),
            "output_tokens": numbers(records, "output_tokens", place),
        },
        copied=copied_scores(records, np.empty(0, np.int64), accuracy),
        model=model_facts(content),
        facts={"tier_range": content.get("tier_range") if "tier" in exact else None},
    )
