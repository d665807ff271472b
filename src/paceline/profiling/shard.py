"""One shard of a sweep: some samples under every tested configuration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from paceline.errors import ProfileError
from paceline.knobs import Configuration
from paceline.models.protocol import ElasticModel, Overview, Workload
from paceline.outcomes.columns import PHASE_COLUMNS, VALUE_TYPES, knob_columns, value_column
from paceline.outcomes.progress import Progress
from paceline.profiling.kept_features import stack_feature_sets
from paceline.profiling.options import ProfileOptions
from paceline.profiling.threads import torch_threads
from paceline.profiling.timing import Measurement, interleaved, measure
from paceline.tasks.protocol import Sample, Task

TIMED_COLUMNS = ("latency_ms", "first_token_ms", *PHASE_COLUMNS, "output_tokens", "timed_accuracy")
"""Null where a cell was scored but not timed. timed_accuracy: the score of the answer that was timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRunner:
    """What all shards of a sweep share."""

    model: ElasticModel
    task: Task
    options: ProfileOptions
    actions: np.ndarray  # int64 (m,)
    max_new_tokens: int
    progress: Progress

    @property
    def configurations(self) -> list[Configuration]:
        """The tested configurations in the order of `actions`."""
        return [self.model.knobs.configuration(action) for action in self.actions.tolist()]

    def warm_up(self, sample: Sample) -> None:
        """Run every configuration on a sample a few times, untimed."""
        image = self.task.image(sample)
        for _ in range(self.options.warmup):
            for configuration in self.configurations:
                self.model.generate(
                    self.model.overview(image, sample.question), configuration, self.max_new_tokens
                )

    def run(
        self, samples: Sequence[Sample], timed: Sequence[int], seed: int
    ) -> tuple[pa.Table, np.ndarray, dict[str, np.ndarray]]:
        """Score all samples and time some.

        Args:
            samples: the samples of the shard (k,).
            timed: positions of those to time.
            seed: of the order of the timed calls.

        Returns:
            The rows of outcomes.parquet, the features float32 (k, f), and further feature sets that are kept.
        """
        images = [self.task.image(sample) for sample in samples]
        overviews = [
            self.model.overview(image, sample.question) for image, sample in zip(images, samples, strict=True)
        ]
        features = stack_features(self.model, overviews)
        sets = stack_feature_sets(self.model, overviews, self.options.features_kept)
        configurations = self.configurations
        workloads = [[self.model.workload(o, c) for c in configurations] for o in overviews]
        with torch_threads(self.options.batch_threads):
            accuracy = self._score_all(samples, overviews)
        del overviews
        measured: dict[tuple[int, int, int], tuple[Measurement, float]] = {}
        rng = np.random.default_rng([self.options.seed, 2, seed])
        calls = list(interleaved(list(timed), len(self.actions), self.options.repeats, rng))
        for number, (repeat, i, j) in enumerate(calls):
            sample, image, configuration = samples[i], images[i], configurations[j]
            if number == 0:  # the batches before have evicted what a single request needs
                measure(self.model, image, sample.question, configuration, self.max_new_tokens)
            result = measure(self.model, image, sample.question, configuration, self.max_new_tokens)
            if result.workload != workloads[i][j]:
                raise ProfileError(
                    f"model {self.model.name}: {configuration} was announced as {workloads[i][j]} and ran as "
                    f"{result.workload}; the model's workload must be exact"
                )
            measured[repeat, i, j] = (result, self._score(sample, result.text))
            self.progress.advance(1)
        return self._rows(samples, accuracy, workloads, measured), features, sets

    def _score_all(self, samples: Sequence[Sample], overviews: Sequence[Overview]) -> np.ndarray:
        """Accuracy of batched answers, (k, m)."""
        accuracy = np.empty((len(samples), len(self.actions)))
        for j, configuration in enumerate(self.configurations):
            for start in range(0, len(samples), self.options.batch):
                batch = range(start, min(start + self.options.batch, len(samples)))
                texts = self.model.generate_batch(
                    [overviews[i] for i in batch], configuration, self.max_new_tokens
                )
                if len(texts) != len(batch):
                    raise ProfileError(
                        f"model {self.model.name}: generate_batch gave {len(texts)} answers to {len(batch)} requests"
                    )
                for i, text in zip(batch, texts, strict=True):
                    accuracy[i, j] = self._score(samples[i], text)
                self.progress.advance(len(batch))
        return accuracy

    def _score(self, sample: Sample, text: str) -> float:
        score = self.task.score(sample, text)
        if not 0 <= score <= 1:
            raise ProfileError(
                f"task {self.task.name}: score of sample {sample.sample_id} is {score}, expected 0 to 1; "
                "divide percentages by 100"
            )
        return score

    def _rows(
        self,
        samples: Sequence[Sample],
        accuracy: np.ndarray,
        workloads: list[list[Workload]],
        measured: dict[tuple[int, int, int], tuple[Measurement, float]],
    ) -> pa.Table:
        """Repeat 0 of every cell, then the further repeats of the timed ones."""
        cells = [(0, i, j) for i in range(len(samples)) for j in range(len(self.actions))]
        cells += sorted(cell for cell in measured if cell[0] > 0)
        repeat, i, j = np.array(cells).T
        values: dict[str, np.ndarray] = {
            "action": self.actions[j],
            "accuracy": accuracy[i, j],
            "repeat": repeat,
        }
        for name in ("tiles", "vision_tokens", "prompt_tokens"):
            values[name] = np.array([[getattr(w, name) for w in row] for row in workloads])[i, j]
        for name in TIMED_COLUMNS:
            values[name] = np.full(len(cells), np.nan)
        for row, cell in enumerate(cells):
            if cell in measured:
                measurement, values["timed_accuracy"][row] = measured[cell]
                for name in TIMED_COLUMNS[:-1]:
                    values[name][row] = getattr(measurement, name)
        ids = pa.array([sample.sample_id for sample in samples], pa.string())
        order = (*VALUE_TYPES, *PHASE_COLUMNS, "timed_accuracy")
        return pa.table(
            {"sample_id": ids.take(pa.array(i))}
            | knob_columns(self.model.knobs, values["action"])
            | {name: value_column(name, values[name]) for name in order}
        )


def stack_features(model: ElasticModel, overviews: Sequence[Overview]) -> np.ndarray:
    """Image and question features of every overview, float32 (k, f)."""
    rows = [np.concatenate([o.image_features, o.question_features]).astype(np.float32) for o in overviews]
    widths = {(len(o.image_features), len(o.question_features)) for o in overviews}
    if len(widths) != 1 or not np.isfinite(rows).all():
        raise ProfileError(
            f"model {model.name}: features have widths {sorted(widths)} or are not finite; "
            "expected one width and finite numbers"
        )
    return np.stack(rows)
