"""What a checkpoint of a family tells of its knobs."""

from paceline.models.facts import KnobFacts, ModelFacts
from paceline.models.transformers.family import Family
from paceline.models.transformers.instruments import TOP_K
from paceline.models.transformers.spaces import BLOCKS, Limits

DENSE = "a dense model: there are no experts to choose from"


def facts_of(family: Family, limits: Limits) -> ModelFacts:
    """Units and ranges by the checkpoint's sizes; what always runs and what is refused, by its family."""
    knobs = []
    if limits.image is not None:
        name, least, most = limits.image
        knobs.append(KnobFacts(name=name, unit=family.image_unit or "", least=least, most=most))
    if limits.most_top_k is not None and TOP_K not in family.refused:
        knobs.append(KnobFacts(name=TOP_K, unit="experts per token", least=1, most=limits.most_top_k))
    if BLOCKS not in family.refused:
        fewest = len(limits.always_kept)
        knobs.append(KnobFacts(name=BLOCKS, unit="blocks", least=fewest, most=limits.blocks))
    dense = {} if limits.experts is not None else {TOP_K: DENSE}
    return ModelFacts(
        family=family.name,
        knobs=tuple(knobs),
        always_kept=limits.always_kept,
        overview=family.overview_note,
        routing=family.routing_note if limits.experts is not None else None,
        refused={**dense, **family.refused},
    )
