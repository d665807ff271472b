"""Options of training that GRPO on a reference policy does not read, so that nobody sets one in vain."""

from dataclasses import fields

from paceline.errors import TrainError
from paceline.learning.options import TrainOptions

OWN = {
    "members": "reference.student.members",
    "hidden": "reference.student.hidden",
    "dropout": "reference.student.dropout",
    "batch_size": "reference.student.batch_size",
    "learning_rate": "reference.student.learning_rate",
    "weight_decay": "reference.student.weight_decay",
    "epochs": "reference.residual.epochs",
    "entropy_weight": "reference.residual.entropy_weight",
    "kl_weight": "reference.residual.kl_weight",
}
"""Option of the algorithms that train one network -> its counterpart, of the student or of the residual."""
UNREAD = (
    *OWN, "warm_epochs", "inner_epochs", "policy_learning_rate", "gradient_clip", "patience",
    "clip_eps_low", "clip_eps_high", "kl_reference", "divide_by_std", "dpo_beta", "dpo_pairs",
    "mask_infeasible", "mixed_share", "relabel",
)  # fmt: skip


def refuse_unread(options: TrainOptions) -> None:
    """Raise TrainError for an option other than its default that algorithm `grpo` would ignore."""
    defaults = {item.name: item.default for item in fields(TrainOptions)}
    for name in UNREAD:
        value = getattr(options, name)
        if value != defaults[name]:
            own = f"set {OWN[name]}, or " if name in OWN else ""
            raise TrainError(
                f"{name}: got {value!r} with algorithm 'grpo', which does not read it; {own}name an algorithm that "
                "trains one network, such as --algorithm grpo_warm"
            )
