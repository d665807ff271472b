"""`paceline train`: learn a controller from outcomes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.adapting import adapt
from paceline.cli.input_options import (
    Augment,
    Balance,
    BudgetEncoding,
    BudgetForm,
    FeatureScalingOption,
    ImageFeatures,
    QuestionFeatures,
    Reduce,
)
from paceline.cli.output import AsJson, check_controller_directory, check_directories, emit
from paceline.cli.training_settings import SettingsOption, with_settings

if TYPE_CHECKING:
    from paceline.learning.options import TrainOptions

WITH_START = ("outcomes", "out", "start", "settings", "seed", "as_json")
"""Parameters that go with --from."""

OutcomesArgument = Annotated[
    Path, typer.Argument(metavar="OUTCOMES", help="Outcomes directory of paceline profile.")
]


def run(
    ctx: typer.Context,
    outcomes: Annotated[
        list[Path],
        typer.Argument(metavar="OUTCOMES", help="Outcomes directories of one model, profiled or imported."),
    ],
    out: Annotated[Path, typer.Option(help="Controller directory to write.")],
    algorithm: Annotated[
        str | None,
        typer.Option(
            help="grpo (on a reference policy), grpo_warm, grpo_scratch, ppo, dpo, supervised or outcome "
            "(docs/learners.md). Default: grpo; where other options ask for what only one network can, the GRPO that "
            "can."
        ),
    ] = None,
    head: Annotated[
        str,
        typer.Option(
            help="joint, independent (per knob), embedding (configurations by their knobs), autoregressive (knob after "
            "knob) or continuous (a value per knob, rounded)."
        ),
    ] = "joint",
    score_untested: Annotated[
        bool,
        typer.Option(help="Decide among untested configurations too (embedding, independent, continuous)."),
    ] = False,
    reward: Annotated[str, typer.Option(help="masked, v1, v2 or learned.")] = "masked",
    baseline: Annotated[
        str,
        typer.Option(help="Of v2: count accuracy relative to full's or best_static's; none: as it is."),
    ] = "none",
    reward_model: Annotated[
        Path | None, typer.Option(help="Of --reward learned: directory of paceline reward-model.")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Actions drawn per group; 0: all tested ones. Default: 0, and 8 for grpo_scratch and ppo."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of policy optimisation.")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CONTROLLER",
            help="Adapt this controller to OUTCOMES of a new data set, a few labelled samples, rather than train anew; "
            "takes --set with names of AdaptOptions and --seed (docs/learners.md).",
        ),
    ] = None,
    settings: SettingsOption = None,
    image_features: ImageFeatures = None,
    question_features: QuestionFeatures = None,
    feature_scaling: FeatureScalingOption = "auto",
    reduce: Reduce = "none",
    budget_encoding: BudgetEncoding = "sinusoidal",
    budget_form: BudgetForm = "absolute",
    augment: Augment = None,
    balance: Balance = None,
    violation_rate: Annotated[
        float, typer.Option(help="Share of requests that may exceed a hard budget.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    share_projector: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Begin the image projection with this model's own, fixed."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 (mixed precision).")] = "float32",
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Compute hidden activations twice rather than keep them.")
    ] = False,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Directory from which an interrupted run goes on.")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Directory for TensorBoard curves.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a controller on OUTCOMES; the samples of several directories are taken together."""
    from paceline.cli.progress import Bar
    from paceline.cli.threads import one_thread
    from paceline.learning.options import TrainOptions
    from paceline.outcomes.combining import combine_tables
    from paceline.outcomes.store import read_table
    from paceline.policies.inputs import ATTENTION
    from paceline.workflows.training import profiled_overview_ms, train_controller

    if start is not None:
        _refuse_with_start(ctx)
        adapt(outcomes, start, out, settings or [], seed, as_json=as_json)
        return
    special = score_untested or reward != "masked" or group_size is not None or share_projector is not None
    special = special or ATTENTION in (image_features, question_features)
    special = special or device != "cpu" or precision != "float32" or gradient_checkpointing
    options = TrainOptions(
        algorithm=algorithm or _able(head, special),
        head=head,
        score_untested=score_untested,
        reward=reward,
        baseline=baseline,
        reward_model=None if reward_model is None else str(reward_model),
        group_size=group_size,
        seed=seed,
        share_projector=share_projector,
        device=device,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        image_features=image_features,
        question_features=question_features,
        feature_scaling=feature_scaling,
        reduce=reduce,
        budget_encoding=budget_encoding,
        budget_form=budget_form,
        augment=augment,
        balance=balance,
    )
    if epochs is not None:
        options = _with_epochs(options, epochs)
    options = with_settings(options, settings or [])
    check_controller_directory(out)
    check_directories(checkpoints, tensorboard)
    one_thread()
    with Bar() as bar:
        trained = train_controller(
            combine_tables(
                [read_table(path, **options.feature_choice) for path in outcomes],
                [str(path) for path in outcomes],
            ),
            options,
            violation_rate=violation_rate,
            overview_ms=profiled_overview_ms(outcomes[0]),
            checkpoint_dir=checkpoints,
            tensorboard_dir=tensorboard,
            progress=bar,
        )
        trained.controller.save(out)
    facts = trained.policy.facts
    earned = facts.get("validation_reward")
    judged = "validation samples trained on, too" if earned is None else f"validation reward {earned:.4f}"
    text = (
        f"{out}: {facts['algorithm']} over {len(trained.controller.actions)} configurations in "
        f"{facts['seconds']:.0f} s, {judged}"
    )
    emit({"controller": str(out), "facts": facts}, [text], as_json=as_json)


def _refuse_with_start(ctx: typer.Context) -> None:
    """Adaptation takes the controller as it is: options of training anew would be silently ignored."""
    from paceline.errors import TrainError

    source = ctx.get_parameter_source
    given = [
        name for name in ctx.params if name not in WITH_START and str(source(name)).endswith("COMMANDLINE")
    ]
    if given:
        words = ", ".join("--" + name.replace("_", "-") for name in sorted(given))
        raise TrainError(
            f"--from: got {words} beside it, expected none of the options of training anew; the controller's own stay, "
            "and --set takes names of AdaptOptions"
        )


def _able(head: str, special: bool) -> str:
    """The GRPO that can train this head; `special`: with options that the student of a reference policy lacks."""
    if head in ("autoregressive", "continuous"):
        return "grpo_scratch"
    return "grpo_warm" if special else "grpo"


def _with_epochs(options: "TrainOptions", epochs: int) -> "TrainOptions":
    """Epochs of policy optimisation: of the residual on a reference policy, or of the network."""
    if options.algorithm != "grpo":
        return replace(options, epochs=epochs)
    residual = replace(options.reference.residual, epochs=epochs)
    return replace(options, reference=replace(options.reference, residual=residual))
