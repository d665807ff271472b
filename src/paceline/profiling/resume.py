"""Whether a directory holds the sweep that is asked for, so that going on with it is right."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.errors import ProfileError
from paceline.outcomes.manifest import Manifest
from paceline.outcomes.store import SAMPLES, read_samples
from paceline.profiling.samples import sample_columns
from paceline.tasks.protocol import Sample

ADDED = {"features_kept": "stored", "importance": "loss"}
"""Options that older sweeps did not record, with what they did."""

TASK_FACTS = ("metric", "prompt", "max_new_tokens", "fingerprint")


def refuse_other(out: Path, there: Manifest, now: Manifest) -> None:
    """Refuse to go on with a sweep that measures something else."""
    differences = [
        *_differences("", ADDED | there.options, now.options),
        *_differences("model ", there.model, now.model),
        *_differences("", {"task": there.task}, {"task": now.task}),
        *_differences("task ", _asked(there, now), _asked(now, now)),
        *_differences("", {"knob space": there.space.to_json()}, {"knob space": now.space.to_json()}),
        *_differences("", *({"processor": m.hardware.get("processor")} for m in (there, now))),
    ]
    if differences:
        raise ProfileError(
            f"{out}: holds another sweep: {'; '.join(differences)}. Use the same options to go on with it, or "
            "another directory"
        )


def refuse_other_samples(out: Path, samples: list[Sample]) -> None:
    """Refuse samples that are not those with which the sweep began."""
    there = read_samples(out / SAMPLES)
    for name, values in sample_columns(samples).items():
        if there[name].tolist() != values.tolist():
            raise ProfileError(
                f"{out}: the task gives other samples than when the sweep began ({name} differs); "
                "use another directory"
            )


def _asked(manifest: Manifest, now: Manifest) -> dict[str, Any]:
    """What the questions are and how they are asked; older sweeps did not record it. Where they lie may change."""
    facts = manifest.audit.get("task", now.audit["task"])
    return {name: facts.get(name) for name in TASK_FACTS}


def _differences(prefix: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each entry that is not equal in both, in words."""
    return [
        f"{prefix}{name} was {there.get(name)!r}, is now {now.get(name)!r}"
        for name in sorted(set(there) | set(now))
        if there.get(name) != now.get(name)
    ]
