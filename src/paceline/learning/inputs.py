"""From the features of a table to a network's inputs, fitted on the train split; and back into a policy's arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from paceline.errors import TrainError
from paceline.learning.options import TrainOptions
from paceline.learning.principal import PrincipalComponents, principal_components
from paceline.outcomes.table import OutcomeTable
from paceline.policies.feature_scaling import FeatureScaling
from paceline.policies.inputs import FeatureChoice, InputSpec, named_shares
from paceline.policies.spec import PolicySpec
from paceline.policies.token_pooling import pack_tokens, unpack_tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartInputs:
    """Image or question features: scaled, then reduced; packed tokens one by one."""

    columns: int  # of the table
    token: int  # numbers in a token, 0 where features are no tokens
    scaling: FeatureScaling
    reduction: PrincipalComponents | None

    @property
    def width(self) -> int:
        """Numbers per sample, or per token, that the network reads."""
        return self.scaling.width if self.reduction is None else self.reduction.components.shape[1]

    def prepare(self, features: np.ndarray) -> np.ndarray:
        """float32 (n, prepared columns) of a table's (n, columns)."""
        if not self.token:
            return self._rows(features)
        tokens, counts = unpack_tokens(features, self.token)
        rows = self._rows(tokens.reshape(-1, self.token))
        return pack_tokens(rows.reshape(*tokens.shape[:2], -1), counts)

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        scaled = self.scaling.apply(rows)
        return scaled if self.reduction is None else self.reduction.apply(scaled)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedInputs:
    """How features become inputs, for both parts."""

    image: PartInputs
    question: PartInputs

    def prepare(self, features: np.ndarray) -> np.ndarray:
        """float32 (n, prepared columns): what `PolicyNetwork` reads, of a table's features (n, f)."""
        split = self.image.columns
        parts = (self.image.prepare(features[:, :split]), self.question.prepare(features[:, split:]))
        return np.ascontiguousarray(np.concatenate(parts, axis=1))

    @property
    def image_columns(self) -> int:
        """How many of the prepared columns are of the image."""
        tokens = (self.image.columns - 1) // self.image.token if self.image.token else 0
        return tokens * self.image.width + 1 if self.image.token else self.image.width

    def counts(self, columns: int) -> np.ndarray:
        """bool (columns,): which prepared columns count tokens and must not be changed."""
        marked = np.zeros(columns, dtype=bool)
        if self.image.token:
            marked[self.image_columns - 1] = True
        if self.question.token:
            marked[columns - 1] = True
        return marked

    def network_spec(self, spec: PolicySpec) -> PolicySpec:
        """The specification of the network that reads prepared columns, from that of the policy."""
        return replace(spec, image_width=self.image.width, question_width=self.question.width)

    def folded(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A network's exported arrays as those of a policy that reads a table's features.

        Reductions are linear and become part of the first layer and of the queries: z @ w = x @ (v @ w) - c @ v @ w,
        and for a query over tokens, whose weights add up to 1, z . q = x . (v @ q) up to a constant that cancels.
        """
        arrays = dict(arrays)
        weight, bias = arrays["input.weight"].astype(np.float64), arrays["input.bias"].astype(np.float64)
        split = np.split(weight, [self.image.width, self.image.width + self.question.width], axis=1)
        for place, (name, part) in enumerate((("image", self.image), ("question", self.question))):
            if part.reduction is None:
                continue
            components = part.reduction.components
            split[place] = components @ split[place]
            bias = bias - part.reduction.centre[None] @ split[place]
            query = f"{name}.query"
            if query in arrays:
                arrays[query] = (arrays[query].astype(np.float64) @ components.T).astype(np.float32)
        arrays["input.weight"] = np.concatenate(split, axis=1).astype(np.float32)
        arrays["input.bias"] = bias.astype(np.float32)
        return arrays | self.image.scaling.beside(self.question.scaling).to_arrays()


def fit_inputs(
    features: np.ndarray,
    image_columns: int,
    choice: FeatureChoice,
    *,
    method: str = "standard",
    components: int | None = None,
) -> FittedInputs:
    """Fit scaling and reduction on the features of the training samples (n, f).

    Args:
        image_columns: how many columns are of the image.
        choice: what the features are.
        method: of `FeatureScaling`.
        components: principal components to keep of image and question each, where it has more numbers; None: all.
    """

    def fit(part: np.ndarray, token: int) -> PartInputs:
        rows = part
        if token:
            tokens, counts = unpack_tokens(part, token)
            rows = tokens[np.arange(tokens.shape[1]) < counts[:, None]]
        scaling = FeatureScaling.fit(rows, method)
        reduction = None
        if components is not None and components < rows.shape[1]:
            reduction = principal_components(scaling.apply(rows), components)
        return PartInputs(columns=part.shape[1], token=token, scaling=scaling, reduction=reduction)

    return FittedInputs(
        image=fit(features[:, :image_columns], choice.image_token),
        question=fit(features[:, image_columns:], choice.question_token),
    )


def input_spec(table: OutcomeTable, configuration_ms: np.ndarray, options: TrainOptions) -> InputSpec:
    """What a policy trained on `table` is to read; `configuration_ms` (m,): the configurations' mean latencies.

    Raises:
        TrainError: a table that was read with other features than the options ask for.
    """
    choice = table.feature_choice
    for name, asked, there in (
        ("image_features", options.image_features, choice.image),
        ("question_features", options.question_features, choice.question),
    ):
        if asked is not None and asked != there:
            raise TrainError(
                f"{name}: got {asked!r}, but the outcomes were read with {there!r}; read them with "
                f"read_table(path, {name}={asked!r})"
            )
    made = table.manifest.options.get("features") or {}
    auto = "quantile" if made.get("kind") == "columns" else "standard"
    shares = tuple(named_shares(configuration_ms).values()) if options.budget_form == "class" else ()
    return InputSpec(
        image_features=choice.image,
        question_features=choice.question,
        feature_scaling=auto if options.feature_scaling == "auto" else options.feature_scaling,
        budget_form=options.budget_form,
        class_shares=shares,
    )
