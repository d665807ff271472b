"""`paceline import`: bring outcomes that were measured elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.output import AsJson, check_directories, emit
from paceline.errors import OutcomesError

if TYPE_CHECKING:
    from paceline.cli.progress import Bar
    from paceline.profiling.image_features import ModelFeatures


def run(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATHS",
            help="Folders of exp5, exp6, core_exp or lmms-eval results, joined; or one .csv or .parquet table.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Outcomes directory to write; new or empty.")],
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what would only be a warning.")] = False,
    join: Annotated[str, typer.Option(help="auto, question_id or position.")] = "auto",
    latency_unit: Annotated[
        str | None, typer.Option(help="ms or s, for exp6 files with latency_total, which do not say.")
    ] = None,
    quality_unit: Annotated[
        str, typer.Option(help="fraction or percent, of scores in JSON files.")
    ] = "fraction",
    configuration: Annotated[
        list[str] | None,
        typer.Option(help="FOLDER:knob=value,... of an lmms-eval run whose folder does not say; repeat it."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The lmms-eval metric that scores a sample.")] = None,
    sample: Annotated[str | None, typer.Option(help="Table: column that names the sample.")] = None,
    knobs: Annotated[str, typer.Option(help="Table: columns of the knobs, separated by commas.")] = "",
    quality: Annotated[
        str | None, typer.Option(help="Table: COLUMN of scores in [0, 1], or percent:COLUMN.")
    ] = None,
    latency: Annotated[str | None, typer.Option(help="Table: milliseconds:COLUMN or seconds:COLUMN.")] = None,
    cost: Annotated[
        str | None, typer.Option(help="Table: costs in place of latency, usd:COLUMN or usd:OPTION=VALUE,...")
    ] = None,
    latency_unknown: Annotated[
        bool, typer.Option("--latency-unknown", help="Times or costs are known only after the choice.")
    ] = False,
    features: Annotated[
        str, typer.Option(help="Table: feature columns, as f0..f45,age. With --images: a model, as tiny.")
    ] = "",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the samples' images, from which the model named by --features makes features."
        ),
    ] = None,
    features_table: Annotated[
        Path | None, typer.Option(help="Table: a second file with features and texts, one row per sample.")
    ] = None,
    features_from: Annotated[
        Path | None,
        typer.Option(help="Outcomes imported before: make features like theirs, to evaluate or adapt with."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Table: COLUMN of splits, or COLUMN:test=1+2,validation=3.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Table: column of the kind of question.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Table: column of the dataset.")] = None,
    question: Annotated[str | None, typer.Option(help="Table: column of the question's text.")] = None,
    image: Annotated[str | None, typer.Option(help="Table: column that names the image.")] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Table: column whose equal values are never in two splits, as repeated prompts."),
    ] = None,
    propensity: Annotated[
        str | None, typer.Option(help="Table of logged decisions: probability of the choice made.")
    ] = None,
    balance: Annotated[
        str, typer.Option(help="dataset, kind or dataset,kind: training draws these groups equally often.")
    ] = "",
    augment: Annotated[
        str, typer.Option(help="How training changes features: noise=0.05,dropout=0.05,mix=0.2.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of splits and text features.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Import results into an outcomes directory, audited: what was read, joined, repaired and left out."""
    from paceline.cli.progress import Bar
    from paceline.outcomes.importers.importing import import_outcomes
    from paceline.outcomes.importers.lmms_eval import parse_configuration
    from paceline.outcomes.importers.options import ImportOptions, TableOptions
    from paceline.outcomes.preparation import parse_preparation
    from paceline.report.imports import audit_tables

    options = ImportOptions(
        latency_unit=latency_unit,
        quality_unit=quality_unit,
        join=join,
        configurations=dict(parse_configuration(text) for text in configuration or []),
        metric=metric,
        latency_unknown=latency_unknown,
        features_from=None if features_from is None else str(features_from),
        strict=strict,
        seed=seed,
        preparation=parse_preparation(balance, augment),
        table=TableOptions(
            sample=sample,
            knobs=_names(knobs),
            quality=quality,
            latency=latency,
            cost=cost,
            features=() if images is not None else _names(features),
            features_table=None if features_table is None else str(features_table),
            split=split,
            kind=kind,
            dataset=dataset,
            question=question,
            image=image,
            group=group,
            propensity=propensity,
        ),
    )
    check_directories(out)
    if images is not None and not features:
        raise OutcomesError(
            "--images: got no --features, expected the model that makes them, as --features tiny"
        )
    if images is not None and features_from is not None:
        raise OutcomesError(
            "import: got --images and --features-from, expected one of them; both make features"
        )
    with Bar() as bar:
        maker = None if images is None else _maker(features, images, bar)
        table = import_outcomes(paths, out, options, bar, maker)
    n, m = table.accuracy.shape
    audit = table.manifest.audit
    value = {
        "outcomes": str(out),
        "samples": n,
        "configurations": m,
        "splits": table.manifest.options["splits"],
        "features": table.manifest.options["features"],
        "audit": audit,
    }
    emit(value, [*audit_tables(audit), f"{n} samples x {m} configurations in {out}"], as_json=as_json)


def _maker(model: str, images: Path, bar: "Bar") -> "ModelFeatures":
    from paceline.cli.threads import one_thread
    from paceline.models.registry import load_model
    from paceline.profiling.image_features import ModelFeatures

    one_thread()
    return ModelFeatures(load_model(model), images, bar)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
