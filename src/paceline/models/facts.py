"""What a model tells of its knobs: units, ranges, what always runs, where the overview sits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class KnobFacts:
    """One knob: what its options count, and from where to where they may go."""

    name: str
    unit: str  # what an option counts: "crops", "tiles", "pixels", "experts per token", "blocks"
    least: int
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What holds of a model whatever the options are."""

    family: str
    knobs: tuple[KnobFacts, ...]
    always_kept: tuple[int, ...]  # blocks that run under every configuration
    overview: str  # what is seen before the decision, and when it is reused
    routing: str | None = None  # what fewer experts do to the weights of routing; None: no experts
    refused: Mapping[str, str] = field(default_factory=dict)  # knobs that the model lacks, with the reason

    def to_json(self) -> dict[str, Any]:
        """A JSON value with the same names."""
        return {
            **asdict(self),
            "knobs": [asdict(knob) for knob in self.knobs],
            "always_kept": list(self.always_kept),
            "refused": dict(self.refused),
        }


@runtime_checkable
class TellsFacts(Protocol):
    """What an `ElasticModel` may offer besides: the facts behind its knobs."""

    def facts(self) -> ModelFacts: ...
