"""The columns of outcomes.parquet and samples.parquet, and their Arrow types."""

import numpy as np
import pyarrow as pa

from paceline.errors import OutcomesError
from paceline.knobs import Knob, KnobSpace
from paceline.outcomes.table import SAMPLE_FIELDS

TIME_COLUMNS = ("latency_ms", "first_token_ms")
COUNT_COLUMNS = ("tiles", "vision_tokens", "prompt_tokens")
PHASE_COLUMNS = ("overview_ms", "vision_ms", "prefill_ms", "decode_ms")
"""Written by sweeps, kept out of the table: latency_ms is their sum, up to the time between phases."""

VALUE_TYPES: dict[str, pa.DataType] = {
    "action": pa.int64(),
    "accuracy": pa.float32(),
    "latency_ms": pa.float32(),
    "first_token_ms": pa.float32(),
    "tiles": pa.int32(),
    "vision_tokens": pa.int32(),
    "prompt_tokens": pa.int32(),
    "output_tokens": pa.float32(),
    "repeat": pa.int32(),
}
"""Required beside sample_id and one column per knob. Times and output_tokens are null where not measured."""

SAMPLES_SCHEMA = pa.schema([(name, pa.string()) for name in SAMPLE_FIELDS])


def required_columns(space: KnobSpace) -> tuple[str, ...]:
    """The names outcomes.parquet must have."""
    reserved = {"sample_id", *VALUE_TYPES, *PHASE_COLUMNS} & set(space.names)
    if reserved:
        raise OutcomesError(f"knobs {sorted(reserved)}: these are names of outcome columns; rename the knobs")
    return ("sample_id", *space.names, *VALUE_TYPES)


def option_values(knob: Knob) -> pa.Array:
    """The options as they are stored: integers, floats, or text where any option is text."""
    if any(isinstance(option, str) for option in knob.options):
        texts = [str(option) for option in knob.options]
        if len(set(texts)) != len(texts):
            raise OutcomesError(f"knob {knob.name}: options {texts} are equal as text; rename some")
        return pa.array(texts, pa.string())
    whole = all(isinstance(option, int) for option in knob.options)
    return pa.array(knob.options, pa.int64() if whole else pa.float64())


def knob_columns(space: KnobSpace, actions: np.ndarray) -> dict[str, pa.Array]:
    """One column per knob for the given action ids (rows,)."""
    indices = space.option_indices(actions)
    return {
        knob.name: option_values(knob).take(pa.array(indices[:, i])) for i, knob in enumerate(space.knobs)
    }


def value_column(name: str, values: np.ndarray) -> pa.Array:
    """A column of `VALUE_TYPES` or a float32 one; NaN becomes null."""
    kind = VALUE_TYPES.get(name, pa.float32())
    return pa.array(values, kind, from_pandas=True)
