"""Options of `paceline train` about what the policy reads."""

from typing import Annotated

import typer

ImageFeatures = Annotated[
    str | None,
    typer.Option(
        help="stored (the model's pooled ones, the default), mean, cls, statistics (mean, std, max over tokens) or "
        "attention (learned); all but the first need outcomes of paceline profile --features-kept."
    ),
]
QuestionFeatures = Annotated[
    str | None,
    typer.Option(
        help="stored (the default), mean, first or attention (learned) over the prompt's embeddings."
    ),
]
FeatureScalingOption = Annotated[
    str,
    typer.Option(help="standard, quantile (by rank), or auto: quantile for columns of an imported table."),
]
Reduce = Annotated[
    str, typer.Option(help="pca:K or learned:K: image and question features to K numbers each; or none.")
]
BudgetEncoding = Annotated[str, typer.Option(help="sinusoidal, or linear (one number).")]
BudgetForm = Annotated[
    str,
    typer.Option(help="absolute, share of the request's full latency, or class (low, medium, high)."),
]
Augment = Annotated[
    str | None,
    typer.Option(
        help="noise=..,dropout=..,mix=.. of training samples' features, or none; default: as imported."
    ),
]
Balance = Annotated[
    str | None,
    typer.Option(
        help="Draw each of these equally often: dataset,kind,budget; or none. Default: as imported."
    ),
]
