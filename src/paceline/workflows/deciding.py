"""What a controller decides about, without generating: an image and a prompt, or a sample of outcomes."""

import numpy as np
from PIL import Image

from paceline.errors import OutcomesError
from paceline.models.feature_sets import chosen_features
from paceline.models.protocol import ElasticModel, Overview
from paceline.outcomes.table import OutcomeTable
from paceline.outcomes.workloads import workload_columns
from paceline.policies.spec import UNTESTED_HEADS
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context
from paceline.runtime.recorded import check_features_of


def context_of(model: ElasticModel, controller: Controller, overview: Overview) -> Context:
    """What the controller sees of a request: the features it reads, and the workload of each of its configurations."""
    loads = [model.workload(overview, controller.space.configuration(int(a))) for a in controller.actions]
    image, question = chosen_features(model.name, overview, controller.policy.spec.inputs)
    return Context(
        image_features=image,
        question_features=question,
        tiles=np.array([load.tiles for load in loads], dtype=np.int64),
        vision_tokens=np.array([load.vision_tokens for load in loads], dtype=np.int64),
        prompt_tokens=np.array([load.prompt_tokens for load in loads], dtype=np.int64),
    )


def live_context(model: ElasticModel, controller: Controller, image: Image.Image, prompt: str) -> Context:
    """What the controller sees of `prompt` about `image`.

    Raises:
        ControllerError: the model lacks knobs or options of the controller.
        ModelError: it lacks features that the controller reads.
    """
    controller.check_space(model.knobs, f"the model {model.name}")
    return context_of(model, controller, model.overview(image, prompt))


def recorded_context(table: OutcomeTable, controller: Controller, sample_id: str) -> Context:
    """What the controller sees of a sample in outcomes: its recorded features and workloads.

    Configurations that the controller scores untested borrow their workload from the nearest tested one.

    Raises:
        OutcomesError: no such sample, other configurations than the controller's, or features of another maker.
    """
    rows = np.flatnonzero(table.sample_id == sample_id)
    if not len(rows):
        raise OutcomesError(
            f"sample: got {sample_id!r}, expected one of {len(table.sample_id)} such as "
            f"{', '.join(table.sample_id[:3].tolist())}"
        )
    tested = np.isin(controller.actions, table.actions)
    widened = (
        controller.policy.spec.head in UNTESTED_HEADS and np.isin(table.actions, controller.actions).all()
    )
    if table.space != controller.space or not (tested.all() or widened):
        raise OutcomesError(
            "outcomes: they do not hold all configurations of the controller; name the outcomes it was trained on, or "
            "others of the same configurations"
        )
    check_features_of(table, controller)
    row, columns = rows[0], workload_columns(table, controller.actions)
    loads = (table.tiles, table.vision_tokens, table.prompt_tokens)
    tiles, vision_tokens, prompt_tokens = (
        np.nan_to_num(load[row, columns]).astype(np.int64) for load in loads
    )
    return Context(
        image_features=table.image_features[row],
        question_features=table.question_features[row],
        tiles=tiles,
        vision_tokens=vision_tokens,
        prompt_tokens=prompt_tokens,
    )
