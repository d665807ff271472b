"""Tables of pooled features and of packed tokens, and controllers trained on them within a second."""

import dataclasses
from functools import cache

import numpy as np

from controllers import fit_latency
from fakes import fake_table
from paceline.learning.options import TrainOptions
from paceline.learning.train import train_controller_policy
from paceline.outcomes.table import OutcomeTable
from paceline.policies.inputs import FeatureChoice
from paceline.policies.token_pooling import pack_tokens, packed_width
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context

QUICK = TrainOptions(algorithm="grpo_warm", hidden=8, members=2, warm_epochs=2, epochs=1, batch_size=64)
TOKEN = 3


@cache
def plain_table() -> OutcomeTable:
    return fake_table(80, 40, 30)


def token_table(image_room: int = 4, question_room: int = 5) -> OutcomeTable:
    """The fake table with packed tokens as its features: 4 per image, 1 to 5 per question."""
    table, rng = plain_table(), np.random.default_rng(0)
    n = table.samples
    image = rng.normal(1.0, 2.0, (n, image_room, TOKEN))
    question = rng.normal(-1.0, 1.0, (n, question_room, TOKEN))
    packed = (
        pack_tokens(image, np.full(n, 4)),
        pack_tokens(question, rng.integers(1, 6, n)),
    )
    choice = FeatureChoice(image="attention", question="attention", image_token=TOKEN, question_token=TOKEN)
    return dataclasses.replace(
        table,
        features=np.concatenate(packed, axis=1),
        image_width=packed_width(image_room, TOKEN),
        feature_choice=choice,
    )


def latency_of(table: OutcomeTable):
    return fit_latency(table, table.latency_ms)


def controller_of(table: OutcomeTable, options: TrainOptions) -> Controller:
    latency, first = latency_of(table), fit_latency(table, table.first_token_ms)
    trained = train_controller_policy(table, latency, options)
    return Controller.from_training(trained, table, latency, first)


@cache
def plain_controller(tokens: bool) -> Controller:
    return controller_of(token_table() if tokens else plain_table(), QUICK)


def context_of(table: OutcomeTable, row: int) -> Context:
    return Context(
        image_features=table.image_features[row],
        question_features=table.question_features[row],
        tiles=table.tiles[row],
        vision_tokens=table.vision_tokens[row],
        prompt_tokens=table.prompt_tokens[row],
    )
