"""Expected and calibrated upper latency of a configuration on a request, from profiled timings."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.errors import KnobError, OutcomesError
from paceline.knobs import KnobSpace
from paceline.latency.calibration import (
    calibrated_ratios,
    check_shapes,
    checked_timings,
    fit_facts,
    mean_lengths,
    timed_halves,
    typical_workload,
)
from paceline.latency.regression import fit_law, knob_products, product_order, shrunken_factors
from paceline.latency.stored import NAMES, SCHEMA_VERSION, check_stored, read_description


class LatencyEstimator:
    """Latency of a whole call as a function of configuration and workload.

    mean = scale x (row of the configuration) . [1, tiles, vision tokens, prompt tokens], where the row comes
    from a non-negative regression over products of the knobs, times a shrunken correction of the
    configuration. The answer's length, unknown when deciding, enters by the configuration's mean length.
    upper = mean x a quantile of measured / predicted on samples that the regression did not see (split
    conformal, whole samples as units).

    Make one with `fit` or `from_arrays`. Instances are immutable and can be shared between threads.
    """

    def __init__(
        self,
        *,
        space: KnobSpace,
        actions: np.ndarray,
        rows: np.ndarray,
        law: np.ndarray,
        product_order: int,
        upper_ratio: np.ndarray,
        floor_ms: float,
        scale: float,
        margin: float,
        facts: Mapping[str, Any],
    ) -> None:
        self.space = space
        self.actions = actions  # int64 (m,) configurations with their own correction and margin, ascending
        self.rows = rows  # float64 (m, 4) ms per [1, tile, vision token, prompt token]
        self.law = law  # float64 (products, 4) the same for any configuration of the space
        self.product_order = product_order  # knobs multiplied in a product, at most
        self.upper_ratio = upper_ratio  # float64 (m,) upper / mean, >= 1
        self.floor_ms = floor_ms  # predictions never fall below this
        self.scale = scale  # machine factor
        self.margin = margin  # further factor on upper, >= 1: how uncertain `scale` is
        self.facts = dict(facts)
        self._cache: tuple[bytes, np.ndarray, np.ndarray] | None = None

    @classmethod
    def fit(
        cls,
        space: KnobSpace,
        actions: np.ndarray,
        tiles: np.ndarray,
        vision_tokens: np.ndarray,
        prompt_tokens: np.ndarray,
        output_tokens: np.ndarray,
        latency_ms: np.ndarray,
        *,
        samples: np.ndarray | None = None,
        violation_rate: float = 0.05,
        seed: int = 0,
    ) -> "LatencyEstimator":
        """Fit on profiled timings, of the `samples` where that is given (bool (n,)).

        `actions` int (m,); the other arrays (n samples, m), latencies in ms with NaN where a sample was not
        timed. Half of the timed samples fit the law, the other half calibrate `upper` so that a new sample
        exceeds it with probability `violation_rate` or less; a large table gives LAW_CELLS and
        CALIBRATION_CELLS of its outcomes, whole samples at random. Raises OutcomesError for fewer than 8 timed
        samples.
        """
        actions = np.asarray(actions, dtype=np.int64)
        given = [np.asarray(a) for a in (latency_ms, tiles, vision_tokens, prompt_tokens, output_tokens)]
        check_shapes(actions, given)
        used = np.ones(len(given[0]), bool) if samples is None else samples
        fitted, calibrated = timed_halves(given[0], given[1], used, seed)
        chosen = np.sort(np.concatenate([fitted, calibrated]))
        latency, *work = (np.asarray(array[chosen], dtype=np.float64) for array in given)
        timed = checked_timings(actions, work, latency, violation_rate)
        fitting, calibrating = np.isin(chosen, fitted), np.isin(chosen, calibrated)

        lengths = mean_lengths(np.where(timed & fitting[:, None], work[3], np.nan))
        output = np.where(np.isnan(work[3]), lengths, work[3])
        sample, column = np.nonzero(timed & fitting[:, None])
        order = product_order(space, len(sample))
        products = knob_products(space, actions, order)
        measured = latency[sample, column]
        terms = np.stack(
            [np.ones(len(sample)), *(part[sample, column] for part in (*work[:3], output))], axis=1
        )
        law = fit_law(products[column], terms, measured)

        rows = products @ law[:, :4]
        rows[:, 0] += products @ law[:, 4] * lengths
        predicted = np.maximum((rows[column] * terms[:, :4]).sum(axis=1), 1e-9)
        rows *= shrunken_factors(measured / predicted, column, len(actions))[:, None]
        any_length = law[:, :4].copy()
        any_length[:, 0] += law[:, 4] * float(np.mean(lengths))
        estimator = cls(
            space=space,
            actions=actions,
            rows=rows,
            law=any_length,
            product_order=order,
            upper_ratio=np.ones(len(actions)),
            floor_ms=0.25 * float(np.min(measured)),
            scale=1.0,
            margin=1.0,
            facts={},
        )
        held_out = timed & calibrating[:, None]
        mean = estimator.mean(actions, *work[:3])
        ratio = np.where(held_out, latency / mean, np.nan)
        typical = typical_workload(used, *given[1:4])
        upper_ratio = calibrated_ratios(ratio, estimator.mean(actions, *typical), violation_rate)
        facts = fit_facts(latency, mean, upper_ratio, held_out, fitting, order, violation_rate, seed)
        return estimator._with(upper_ratio=upper_ratio, facts=facts)

    @classmethod
    def constant(
        cls,
        space: KnobSpace,
        actions: np.ndarray,
        mean_ms: np.ndarray,
        *,
        upper_ratio: float,
        facts: Mapping[str, Any],
    ) -> "LatencyEstimator":
        """One time per configuration (m,), whatever the workload, as of prices per call.

        `upper_ratio`: upper / mean; 0 where times are known only afterwards, so that nothing is ever excluded.
        """
        actions = np.asarray(actions, dtype=np.int64)
        rows = np.zeros((len(actions), 4))
        rows[:, 0] = mean_ms
        law = np.zeros((knob_products(space, actions[:1], 1).shape[1], 4))
        law[0, 0] = float(np.mean(mean_ms))
        return cls(
            space=space,
            actions=actions,
            rows=rows,
            law=law,
            product_order=1,
            upper_ratio=np.full(len(actions), float(upper_ratio)),
            floor_ms=0.0,
            scale=1.0,
            margin=1.0,
            facts=facts,
        )

    def mean(
        self, actions: np.ndarray, tiles: np.ndarray, vision_tokens: np.ndarray, prompt_tokens: np.ndarray
    ) -> np.ndarray:
        """Expected latency in ms: `actions` (m,), workload (m,) or (n, m); NaN for tiles -1 (unknown)."""
        rows, _ = self._rows(actions)
        return self._mean(rows, tiles, vision_tokens, prompt_tokens)

    def upper(
        self, actions: np.ndarray, tiles: np.ndarray, vision_tokens: np.ndarray, prompt_tokens: np.ndarray
    ) -> np.ndarray:
        """Latency in ms that is exceeded with probability `violation_rate` or less; never below `mean`."""
        return self.mean_and_upper(actions, tiles, vision_tokens, prompt_tokens)[1]

    def mean_and_upper(
        self, actions: np.ndarray, tiles: np.ndarray, vision_tokens: np.ndarray, prompt_tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`mean` and `upper` in one go."""
        rows, ratios = self._rows(actions)
        mean = self._mean(rows, tiles, vision_tokens, prompt_tokens)
        return mean, mean * (ratios * self.margin)

    def upper_at(
        self,
        actions: np.ndarray,
        columns: np.ndarray,
        tiles: np.ndarray,
        vision_tokens: np.ndarray,
        prompt_tokens: np.ndarray,
    ) -> np.ndarray:
        """`upper` of one of the `actions` per request: its position in `columns` (n,), its workload (n,)."""
        rows, ratios = self._rows(actions)
        mean = self._mean(rows[:, columns], tiles, vision_tokens, prompt_tokens)
        return mean * (ratios[columns] * self.margin)

    def coefficients(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `mean` and `upper` are made of: float64 (4, m) and (m,).

        mean = max(c[0] + c[1] tiles + c[2] vision tokens + c[3] prompt tokens, floor_ms) x scale; the second times
        `margin` is upper / mean. KnobError for actions outside the knob space.
        """
        rows, ratios = self._rows(actions)
        return rows.copy(), ratios.copy()

    def rescaled(self, measured_ms: np.ndarray, predicted_ms: np.ndarray) -> "LatencyEstimator":
        """This estimator on another machine, from a handful of measurements there.

        `measured_ms` (k,) and this estimator's own means `predicted_ms` (k,) for the same calls. The scale
        goes by their median ratio; `upper` widens by the 95 % uncertainty of that median.
        """
        measured = np.asarray(measured_ms, dtype=np.float64).ravel()
        predicted = np.asarray(predicted_ms, dtype=np.float64).ravel()
        if len(measured) != len(predicted) or len(measured) == 0:
            raise OutcomesError(
                f"calibration: got {len(measured)} measured and {len(predicted)} predicted latencies, "
                "expected the same number of each, at least one"
            )
        if not (np.all(np.isfinite(measured)) and np.all(measured > 0) and np.all(predicted > 0)):
            raise OutcomesError(
                f"calibration: measured {measured.tolist()} against predicted {predicted.tolist()} ms; "
                "expected positive, finite times; measure again"
            )
        logs = np.log(measured / predicted)
        centre = float(np.median(logs))
        spread = 1.4826 * float(np.median(np.abs(logs - centre)))
        uncertainty = 1.645 * 1.2533 * spread / np.sqrt(len(logs))
        return self._with(
            scale=self.scale * float(np.exp(centre)),
            margin=float(np.exp(uncertainty)),
            facts={**self.facts, "rescaled_measurements": len(logs), "rescaled_spread": spread},
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays from which `from_arrays` makes an equal estimator; safe to store as safetensors."""
        meta = {"schema_version": SCHEMA_VERSION, "space": self.space.to_json(), "facts": self.facts}
        return {
            "actions": self.actions,
            "rows": self.rows,
            "law": self.law,
            "upper_ratio": self.upper_ratio,
            "scalars": np.array([self.floor_ms, self.scale, self.margin, self.product_order]),
            "meta": np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "LatencyEstimator":
        """The estimator written by `to_arrays`; ControllerError if arrays are missing, damaged or too new."""
        space, facts = read_description(arrays)
        parts = {
            name: np.asarray(arrays[name], dtype=np.int64 if name == "actions" else np.float64)
            for name in NAMES
        }
        check_stored(space, facts, parts)
        floor_ms, scale, margin, order = parts["scalars"].tolist()
        return cls(
            space=space,
            actions=parts["actions"],
            rows=parts["rows"],
            law=parts["law"],
            product_order=int(order),
            upper_ratio=parts["upper_ratio"],
            floor_ms=floor_ms,
            scale=scale,
            margin=margin,
            facts=facts,
        )

    def _with(self, **changes: Any) -> "LatencyEstimator":
        kept = (
            "space",
            "actions",
            "rows",
            "law",
            "product_order",
            "upper_ratio",
            "floor_ms",
            "scale",
            "margin",
            "facts",
        )
        return LatencyEstimator(**{name: changes.get(name, getattr(self, name)) for name in kept})

    def _rows(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficient rows transposed (4, m) and upper ratios (m,), kept for the actions asked last."""
        actions = np.asarray(actions, dtype=np.int64)
        key = actions.tobytes()
        cached = self._cache
        if cached is not None and cached[0] == key:
            return cached[1], cached[2]
        if np.any((actions < 0) | (actions >= self.space.size)):
            raise KnobError(f"actions {actions.tolist()}: expected ids from 0 to {self.space.size - 1}")
        position = np.minimum(np.searchsorted(self.actions, actions), len(self.actions) - 1)
        known = self.actions[position] == actions
        rows, ratios = self.rows[position].copy(), self.upper_ratio[position].copy()
        if not known.all():
            rows[~known] = knob_products(self.space, actions[~known], self.product_order) @ self.law
            ratios[~known] = float(np.max(self.upper_ratio))
        columns = np.ascontiguousarray(rows.T)
        self._cache = (key, columns, ratios)
        return columns, ratios

    def _mean(
        self, rows: np.ndarray, tiles: np.ndarray, vision_tokens: np.ndarray, prompt_tokens: np.ndarray
    ) -> np.ndarray:
        tiles = np.asarray(tiles)
        mean = rows[0] + rows[1] * tiles + rows[2] * vision_tokens + rows[3] * prompt_tokens
        mean = np.maximum(mean, self.floor_ms) * self.scale
        if tiles.size and tiles.min() < 0:
            mean = np.where(tiles < 0, np.nan, mean)
        return mean
