"""What can be turned on a MolmoE that brings no knobs.json, and where it stands without a request's word."""

from paceline.knobs import SEED_SPACE, Configuration, Knob, KnobSpace
from paceline.models.facts import KnobFacts, ModelFacts
from paceline.models.molmoe.options import MolmoEOptions

MAX_CROPS, TOP_K, BLOCKS = "max_crops", "top_k", "num_active_blocks"


def limits(options: MolmoEOptions) -> dict[str, int]:
    """The largest option of each knob."""
    return {MAX_CROPS: options.max_crops, TOP_K: options.num_experts, BLOCKS: options.num_blocks}


def facts(options: MolmoEOptions) -> ModelFacts:
    """Units and ranges by the model's sizes, and what holds of the architecture."""
    units = {MAX_CROPS: "crops", TOP_K: "experts per token", BLOCKS: "blocks"}
    return ModelFacts(
        family="MolmoE",
        knobs=tuple(
            KnobFacts(name=name, unit=units[name], least=1, most=most)
            for name, most in limits(options).items()
        ),
        always_kept=(0,),
        overview="the first crop, of the whole image; exactly reused at every option",
        routing=(
            "a softmax over all experts that is not renormalised: fewer experts also weigh less than the model was "
            "trained with"
        ),
    )


def own(options: MolmoEOptions) -> dict[str, int]:
    """What the model was trained with."""
    return {MAX_CROPS: options.max_crops, TOP_K: options.top_k, BLOCKS: options.num_blocks}


def default_knobs(options: MolmoEOptions) -> KnobSpace:
    """The default knob space where the model is large enough for it, or else one of its kind in the model's sizes.

    >>> from paceline.models.molmoe.options import MOLMOE_1B
    >>> default_knobs(MOLMOE_1B) == SEED_SPACE
    True
    """
    most = limits(options)
    if all(max(map(int, knob.options)) <= most[knob.name] for knob in SEED_SPACE.knobs):
        return SEED_SPACE
    crops = {*range(2, options.max_crops + 1, 2), options.max_crops}
    experts = {2**power for power in range(options.num_experts.bit_length())} | {options.top_k}
    blocks = range((options.num_blocks + 1) // 2, options.num_blocks + 1)
    offered = {MAX_CROPS: crops, TOP_K: experts, BLOCKS: blocks}
    return KnobSpace(
        tuple(
            Knob(name=name, options=tuple(sorted(option for option in found if option <= most[name])))
            for name, found in offered.items()
        )
    )


def default_configuration(knobs: KnobSpace, options: MolmoEOptions) -> Configuration:
    """Every knob at what the model was trained with, or at the next option below it.

    >>> from paceline.models.molmoe.options import MOLMOE_1B
    >>> default_configuration(SEED_SPACE, MOLMOE_1B)
    {'max_crops': 12, 'top_k': 8, 'num_active_blocks': 16}
    """
    found: Configuration = {}
    for knob in knobs.knobs:
        trained = own(options)[knob.name]
        below = [option for option in knob.options if int(option) <= trained]
        found[knob.name] = max(below, key=int) if below else min(knob.options, key=int)
    return found
