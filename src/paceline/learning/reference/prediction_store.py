"""Cross-fitted predictions on disk, so that an interrupted run need not fit the same models again."""

import json
from pathlib import Path

import torch

from paceline.learning.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from paceline.learning.options import TrainOptions
from paceline.learning.preparation import TrainPreparation
from paceline.learning.problem import Problem
from paceline.learning.reference.crossfit import CrossFit
from paceline.outcomes.preparation import KEY


class PredictionStore:
    """Predictions of finished models by name, in a checkpoint of this run."""

    def __init__(
        self, directory: Path, options: TrainOptions, problem: Problem, preparation: TrainPreparation
    ) -> None:
        """Raises TrainError for a checkpoint of other options, data, or preparation of these."""
        self.directory = directory
        data = {"train": problem.digest(), KEY: preparation.recipe.to_json()}
        self.fingerprint = json.dumps(options.to_json() | data, sort_keys=True)
        saved = read_checkpoint(directory, self.fingerprint)
        self.tensors = {} if saved is None else dict(saved.tensors)
        self.times = {} if saved is None else dict(saved.state["sample_us"])

    def get(self, name: str) -> CrossFit | None:
        """What was stored under a name; None if it was not."""
        if name not in self.times:
            return None
        asked = [tensor for key, tensor in sorted(self.tensors.items()) if key.startswith(f"{name}/asked/")]
        return CrossFit(
            held_out=self.tensors[f"{name}/held_out"].numpy(),
            asked=[tensor.numpy() for tensor in asked],
            sample_us=float(self.times[name]),
        )

    def put(self, name: str, predictions: CrossFit) -> None:
        """Store under a name; a kill leaves all of it or nothing."""
        self.tensors[f"{name}/held_out"] = torch.from_numpy(predictions.held_out)
        for index, values in enumerate(predictions.asked):
            self.tensors[f"{name}/asked/{index:03d}"] = torch.from_numpy(values)
        self.times[name] = predictions.sample_us
        write_checkpoint(
            self.directory,
            Checkpoint(tensors=self.tensors, state={"sample_us": self.times}, fingerprint=self.fingerprint),
        )
