"""Fresh questions answered live under budgets, each beside the best static configuration at the same budget."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from paceline.knobs import Configuration
from paceline.learning.progress import Progress
from paceline.models.protocol import ElasticModel
from paceline.runtime.adaptive import AdaptiveModel, Answer
from paceline.tasks.protocol import Sample, Task


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveRequest:
    """One question, answered by Paceline and by a static configuration."""

    sample: Sample
    answer: Answer
    score: float
    static: Configuration
    static_score: float
    static_latency_ms: float


def answer_hard(
    adaptive: AdaptiveModel,
    task: Task,
    samples: Sequence[Sample],
    budgets_ms: Sequence[float],
    static: Callable[[float], Configuration],
    progress: Progress,
) -> list[LiveRequest]:
    """Answer each sample within its own budget; `static` names the best static configuration of a budget."""
    progress.start(len(samples), "live requests under hard budgets")
    done = []
    for sample, budget_ms in zip(samples, budgets_ms, strict=True):
        image = task.image(sample)
        answer = adaptive.generate(image, sample.question, budget_ms=budget_ms)
        done.append(_beside(adaptive.model, task, sample, image, answer, static(budget_ms)))
        progress.advance(1)
    return done


def answer_average(
    adaptive: AdaptiveModel,
    task: Task,
    samples: Sequence[Sample],
    average_budget_ms: float,
    statics: Sequence[Configuration],
    progress: Progress,
) -> list[LiveRequest]:
    """Answer all samples within a mean; `statics` is the static configuration that each sample gets instead."""
    progress.start(len(samples), "live requests under an average budget")
    done = []
    for sample, static in zip(samples, statics, strict=True):
        image = task.image(sample)
        answer = adaptive.generate(image, sample.question, average_budget_ms=average_budget_ms)
        done.append(_beside(adaptive.model, task, sample, image, answer, static))
        progress.advance(1)
    return done


def _beside(
    model: ElasticModel, task: Task, sample: Sample, image: Image.Image, answer: Answer, static: Configuration
) -> LiveRequest:
    started = time.perf_counter()
    generation = model.generate(model.overview(image, sample.question), static, task.max_new_tokens)
    static_latency_ms = 1000.0 * (time.perf_counter() - started)
    return LiveRequest(
        sample=sample,
        answer=answer,
        score=task.score(sample, answer.text),
        static=static,
        static_score=task.score(sample, generation.text),
        static_latency_ms=static_latency_ms,
    )


def summary(requests: Sequence[LiveRequest], budget_ms: float | Sequence[float]) -> dict[str, Any]:
    """The numbers of live requests: a budget per request, or one average budget.

    Under an average budget the violation rate is the share of requests over the mean: it is no promise there.
    """
    latency = np.array([request.answer.latency_ms for request in requests])
    static = np.array([request.static_latency_ms for request in requests])
    budgets = np.broadcast_to(np.asarray(budget_ms, dtype=np.float64), latency.shape)
    value: dict[str, Any] = {
        "requests": len(requests),
        "accuracy": float(np.mean([request.score for request in requests])),
        "best_static_accuracy": float(np.mean([request.static_score for request in requests])),
        "violation_rate": float(np.mean(latency > budgets)),
        "best_static_violation_rate": float(np.mean(static > budgets)),
        "mean_latency_ms": float(latency.mean()),
        "best_static_mean_latency_ms": float(static.mean()),
        "p95_latency_ms": float(np.quantile(latency, 0.95)),
        "request_latency_ms": latency.tolist(),
        "overhead_ms": float(np.median([request.answer.overhead_ms for request in requests])),
    }
    if np.ndim(budget_ms) == 0:
        return value | {"budget_ms": float(budgets[0])}
    return value | {
        "budget_ms": [float(budgets.min()), float(budgets.max())],
        "request_budget_ms": budgets.tolist(),
    }


def examples(requests: Sequence[LiveRequest], task: Task, count: int = 3) -> list[dict[str, Any]]:
    """Requests to show: of each of `count` equal ranges of budget the first whose kind was not shown before."""
    with_budget = [request for request in requests if request.answer.decision.budget_ms is not None]
    ordered = sorted(range(len(with_budget)), key=lambda i: with_budget[i].answer.decision.budget_ms or 0.0)
    chosen: list[LiveRequest] = []
    for part in np.array_split(np.array(ordered, dtype=np.int64), count):
        shown = {request.sample.kind for request in chosen}
        fresh = [i for i in sorted(part.tolist()) if with_budget[i].sample.kind not in shown]
        if len(part):
            chosen.append(with_budget[fresh[0] if fresh else int(part[0])])
    return [_example(request, task) for request in chosen]


def _example(request: LiveRequest, task: Task) -> dict[str, Any]:
    return {
        "image": task.image(request.sample),
        "question": request.sample.question,
        "answer": request.answer.text,
        "expected": request.sample.answer,
        "configuration": request.answer.configuration,
        "why": request.answer.decision.explain(),
        "kind": request.sample.kind,
        "budget_ms": request.answer.decision.budget_ms,
        "latency_ms": request.answer.latency_ms,
        "score": request.score,
    }
