"""One decision about an image and a prompt, without generating."""

from typing import Any

import numpy as np
from PIL import Image

from paceline.models.protocol import ElasticModel, Overview
from paceline.runtime.controller import Controller
from paceline.runtime.decision import Context, Decision


def context_of(model: ElasticModel, controller: Controller, overview: Overview) -> Context:
    """What the controller sees of a request: pooled features, and the workload of each of its configurations."""
    loads = [model.workload(overview, controller.space.configuration(int(a))) for a in controller.actions]
    return Context(
        image_features=overview.image_features,
        question_features=overview.question_features,
        tiles=np.array([load.tiles for load in loads], dtype=np.int64),
        vision_tokens=np.array([load.vision_tokens for load in loads], dtype=np.int64),
        prompt_tokens=np.array([load.prompt_tokens for load in loads], dtype=np.int64),
    )


def decide_for(
    model: ElasticModel, controller: Controller, image: Image.Image, prompt: str, **limits: Any
) -> Decision:
    """Choose a configuration for `prompt` about `image`; `limits` are those of `Controller.decide`.

    The overview's expected time counts as spent, as in a call of its own.
    """
    controller.check_space(model.knobs, f"the model {model.name}")
    return controller.decide(context_of(model, controller, model.overview(image, prompt)), **limits)
