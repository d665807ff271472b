"""A learned reward: a small network over accuracy, latency, budget and configuration, and its files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from paceline.errors import KnobError, TrainError
from paceline.knobs import KnobSpace
from paceline.rewards import option_shares

FORMAT = "paceline-reward-model"
SCHEMA_VERSION = 1
DESCRIPTION, WEIGHTS = "reward_model.json", "reward_model.safetensors"
KEYS = ("format", "schema_version", "knobs", "facts", "weights_sha256")
WIDTHS = (64, 32)
"""Hidden units, as published."""


class RewardNetwork(nn.Module):
    """(accuracy, latency, budget, a share per knob) -> reward; 6-64-32-1 for the three published knobs.

    Latency and budget are in SECONDS, as published; a share is option / largest option of its knob.
    """

    def __init__(self, knobs: int) -> None:
        super().__init__()
        first, second = WIDTHS
        self.net = nn.Sequential(
            nn.Linear(3 + knobs, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1)
        )

    def forward(self, inputs: Float[Tensor, "*outcome input"]) -> Float[Tensor, "*outcome"]:
        """Rewards of outcomes."""
        return self.net(inputs).squeeze(-1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RewardModel:
    """A fitted network, the knobs it knows and how it was fitted."""

    space: KnobSpace
    network: RewardNetwork
    facts: Mapping[str, Any]  # JSON: what it was fitted to and how, quality on examples kept aside, scale

    def shares(self, space: KnobSpace, actions: ndarray) -> ndarray:
        """Inputs for configurations of another space with the same knobs: float64 (actions, knobs).

        Raises TrainError for a space with other knobs, or options that this model does not know.
        """
        if space.names != self.space.names:
            raise TrainError(
                f"reward model: it knows the knobs {list(self.space.names)}, the outcomes have {list(space.names)}; "
                "fit one for these knobs with paceline reward-model --outcomes"
            )
        try:
            known = self.space.actions(space.configuration(int(action)) for action in actions)
        except KnobError as error:
            raise TrainError(
                f"reward model: {error}; fit one that knows this option with paceline reward-model --outcomes"
            ) from error
        return option_shares(self.space, known)

    @torch.no_grad()
    def rewards(
        self,
        accuracy: Float[Tensor, "*group action"],
        latency_ms: Float[Tensor, "*group action"],
        budget_ms: Float[Tensor, "*group 1"],
        shares: Float[Tensor, "action knob"],
    ) -> Float[Tensor, "*group action"]:
        """Rewards of outcomes; `shares` as from `shares`."""
        wide = (*accuracy.shape, shares.shape[-1])
        times = [latency_ms / 1000.0, (budget_ms / 1000.0).expand_as(accuracy)]
        inputs = torch.stack([accuracy, *times], dim=-1)
        return self.network(torch.cat([inputs, shares.expand(wide)], dim=-1))

    def digest(self) -> str:
        """Hash of the knobs and weights."""
        return _sha256(json.dumps(self.space.to_json()).encode() + self._weights())

    def save(self, path: Path) -> None:
        """Write a directory: weights first, then the description that names their hash."""
        weights = self._weights()
        description = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "knobs": self.space.to_json(),
            "facts": dict(self.facts),
            "weights_sha256": _sha256(weights),
        }
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(description, indent=1, allow_nan=False) + "\n"
        for name, data in ((WEIGHTS, weights), (DESCRIPTION, text.encode())):
            temporary = path / f".{name}.tmp"
            temporary.write_bytes(data)
            temporary.replace(path / name)

    def _weights(self) -> bytes:
        return save({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()})


def load_reward_model(path: Path | str) -> RewardModel:
    """Read a directory written by `RewardModel.save`; TrainError if it is missing, damaged or newer."""
    path = Path(path)
    if not (path / DESCRIPTION).is_file():
        raise TrainError(
            f"reward model {str(path)!r}: {DESCRIPTION} is missing; expected a directory written by "
            "paceline reward-model"
        )
    description = _read_description(path / DESCRIPTION)
    again = "fit the reward model again"
    try:
        data = (path / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise TrainError(f"{path / WEIGHTS}: the file is missing; {again}") from error
    if _sha256(data) != description["weights_sha256"]:
        raise TrainError(
            f"{path / WEIGHTS}: its contents do not match the hash in {DESCRIPTION}; it was changed, damaged or "
            f"belongs to another reward model, {again}"
        )
    try:
        space, weights = KnobSpace.from_json(description["knobs"]), load(data)
    except (KnobError, SafetensorError) as error:
        raise TrainError(f"{path}: not a reward model ({error}); {again}") from error
    network = RewardNetwork(len(space.knobs))
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if got != expected:
        raise TrainError(f"{path / WEIGHTS}: got arrays {got}, expected {expected}; {again}")
    network.load_state_dict(weights)
    return RewardModel(space=space, network=network.requires_grad_(False), facts=description["facts"])


def _read_description(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise TrainError(
            f"{path}: not JSON ({error}); the file is damaged, fit the reward model again"
        ) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise TrainError(f"{path}: not a reward model; expected a JSON object with format {FORMAT!r}")
    version = value.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise TrainError(f"{path}: schema_version is {version!r}, expected an integer from 1 on")
    if version > SCHEMA_VERSION:
        raise TrainError(
            f"{path}: schema version {version} is newer than {SCHEMA_VERSION}, the newest this version of Paceline "
            "reads; upgrade Paceline or fit the reward model again"
        )
    if set(value) != set(KEYS):
        unknown, missing = sorted(set(value) - set(KEYS)), sorted(set(KEYS) - set(value))
        raise TrainError(f"{path}: unknown keys {unknown}, missing keys {missing}; expected {sorted(KEYS)}")
    return value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
