"""Nothing is computed twice between overview and answer, and features travel to the host once, when they are read."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from molmoe_models import KNOBS, MID, SMALL, picture, random_model
from paceline.errors import ModelError
from paceline.knobs import Knob, KnobSpace
from paceline.models.feature_sets import feature_set
from paceline.models.molmoe.copies import ARRIVING, CopyStream, PendingOverview
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.overview_features import pooled, token_statistics
from paceline.models.registry import load_model

QUESTION = "what is the red one?"
BOTH = KnobSpace(
    (
        Knob(name="max_crops", options=(1, 2, 6)),
        Knob(name="top_k", options=(1, 2, 4)),
        Knob(name="num_active_blocks", options=(2, 3, 4)),
    )
)
"""Knobs that both small models can turn."""
CONFIGURATIONS = [BOTH.cheapest, BOTH.configuration(13), BOTH.full]


class Rows:
    """Counts rows looked up in one embedding table, by whoever looks them up."""

    def __init__(self, table):
        self.table, self.count = table, 0
        self.look_up = functional.embedding

    def __call__(self, ids, table, *args, **options):
        if table is self.table:
            self.count += ids.numel()
        return self.look_up(ids, table, *args, **options)


@contextmanager
def counted(model, monkeypatch):
    """(crops that went through the vision tower, rows read from the embedding table), filled as it goes."""
    crops: list[int] = []
    rows = Rows(model.decoder.embedding)
    handle = model.vision.patch_embedding.register_forward_hook(lambda _m, _i, out: crops.append(len(out)))
    with monkeypatch.context() as patch:
        patch.setattr(functional, "embedding", rows)
        yield crops, rows
    handle.remove()


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=["cheapest", "middle", "full"])
@pytest.mark.parametrize("options", [SMALL, MID], ids=["own-masks", "shifted-masks"])
def test_no_crop_and_no_token_is_read_twice(options, configuration, monkeypatch):
    model = ElasticMolmoE(random_model(options), name="random", knobs=BOTH)
    with counted(model.model, monkeypatch) as (crops, rows):
        overview = model.overview(picture(1, 150, 260), QUESTION)
        assert crops == [1]
        prompt = len(overview.state.prompt_ids)
        assert rows.count == prompt
        generation = model.generate(overview, configuration, 3)
    assert sum(crops) == generation.workload.tiles
    decoded = len(generation.tokens) - 1  # the last one is not read again
    assert rows.count == generation.workload.prompt_tokens + decoded


def test_a_batch_reads_each_crop_and_token_once(monkeypatch):
    model = ElasticMolmoE(random_model(), name="random", knobs=KNOBS)
    with counted(model.model, monkeypatch) as (crops, rows):
        overviews = [model.overview(picture(seed), QUESTION) for seed in (1, 2)]
        model.generate_batch(overviews, KNOBS.full, 1)
    loads = [model.workload(overview, KNOBS.full) for overview in overviews]
    assert sum(crops) == sum(load.tiles for load in loads)
    assert rows.count == sum(load.prompt_tokens for load in loads)


@pytest.mark.parametrize("tiling", [(1, 1), (2, 3)])
def test_kept_rows_of_the_question_are_those_of_the_table(tiling):
    model = random_model()
    state = model.overview(picture(), QUESTION).state
    with torch.inference_mode():
        image_tokens = model.image_tokens(state, tiling)
        reused = model.embeddings(state, tiling, image_tokens)
        every = model.decoder.embed(torch.tensor(state.prompt_ids))
        image = model.image_embeddings(tiling, image_tokens)
    assert torch.equal(reused, torch.cat((image, every)))


# Copies to the host


@pytest.fixture
def copies(monkeypatch):
    """Shapes of what goes to the host."""
    seen: list[tuple[int, ...]] = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda tensor: (seen.append(tuple(tensor.shape)), cpu(tensor))[1]
    )
    return seen


def test_pooled_features_of_image_and_question_are_one_copy(copies):
    model = ElasticMolmoE(random_model(), name="random", knobs=KNOBS)
    overview = model.overview(picture(), QUESTION)
    assert copies == [(64,)]
    tokens, question = overview.state.tokens, overview.state.question
    np.testing.assert_array_equal(overview.image_features, tokens.mean(dim=0).numpy())
    np.testing.assert_array_equal(overview.question_features, question.mean(dim=0).numpy())


def test_other_feature_sets_are_pooled_first_and_copied_when_they_are_read(copies):
    overview = random_model().overview(picture(), QUESTION)
    copies.clear()
    for name, shape in {
        "image.mean": (32,),
        "image.statistics": (96,),
        "image.cls": (32,),
        "question.first": (32,),
        "image.tokens": (16, 32),
        "question.tokens": (len(overview.state.prompt_ids), 32),
    }.items():
        assert feature_set("random", overview, name).shape == shape
        assert copies == [shape]
        copies.clear()


def test_pooling_and_statistics_by_hand():
    tokens = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert pooled(tokens, torch.tensor([[4.0, 0.0], [8.0, 3.0], [6.0, 0.0]])).tolist() == [1, 1, 6, 1]
    assert token_statistics(tokens.half()).tolist() == [1.0, 1.0, 1.0, 0.0, 2.0, 1.0]


# A stream of their own


class FakeCuda:
    """Streams and events that write down what is asked of them; a copy arrives when somebody waits for it."""

    def __init__(self):
        self.calls: list[str] = []

    def Stream(self, device):  # noqa: N802 - torch's names
        return FakeStream(self, f"side {device}")

    def Event(self, *, enable_timing):  # noqa: N802
        assert enable_timing
        return FakeEvent(self)

    def current_stream(self, _device):
        return FakeStream(self, "model")

    @contextmanager
    def stream(self, stream):
        self.calls.append(f"on {stream.name}")
        yield
        self.calls.append(f"off {stream.name}")


class FakeStream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_stream(self, other):
        self.cuda.calls.append(f"{self.name} waits for {other.name}")


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self, stream):
        self.cuda.calls.append(f"event on {stream.name}")

    def synchronize(self):
        self.cuda.calls.append("wait")

    def elapsed_time(self, _end):
        return 1.5


class FakeTensor(torch.Tensor):
    """A tensor that says when it is copied, and from which stream it is read."""

    cuda_calls: list[str]

    def record_stream(self, s: Any):
        self.cuda_calls.append(f"kept for {s.name}")


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()

    class Host:
        def __init__(self, shape):
            self.values = torch.empty(shape)

        def copy_(self, tensor, *, non_blocking):
            assert non_blocking
            fake.calls.append("copy")
            self.values.copy_(tensor)

        def numpy(self):
            return self.values.numpy()

    monkeypatch.setattr(
        "paceline.models.molmoe.copies.Copy._pinned", lambda _self, tensor: Host(tensor.shape)
    )
    return fake


def sent(cuda, values):
    copy = CopyStream(torch.device("cuda"), cuda).begin()
    tensor = torch.tensor(values).as_subclass(FakeTensor)
    tensor.cuda_calls = cuda.calls
    copy.send(tensor)
    return copy


def test_a_copy_waits_for_the_model_and_the_reader_for_the_copy(cuda):
    overview = PendingOverview(
        sent(cuda, [1.0, 2.0, 3.0]), image_width=2, image_size=(4, 5), state="kept", feature_sets={}
    )
    before = [
        "event on model",
        "side cuda waits for model",
        "on side cuda",
        "copy",
        "event on side cuda",
        "off side cuda",
        "kept for side cuda",
    ]
    assert (overview.state, overview.image_size, overview.feature_sets) == ("kept", (4, 5), {})
    assert cuda.calls == before
    assert overview.question_features.tolist() == [3.0]
    assert cuda.calls == [*before, "wait"]
    assert overview.image_features.tolist() == [1.0, 2.0]
    assert overview.elapsed_ms == 1.5
    assert cuda.calls == [*before, "wait"]  # once


@pytest.mark.parametrize("name", ARRIVING)
def test_reading_any_of_what_arrives_waits(cuda, name):
    overview = PendingOverview(
        sent(cuda, [1.0, 2.0]), image_width=1, image_size=(4, 5), state=None, feature_sets={}
    )
    getattr(overview, name)
    assert cuda.calls.count("wait") == 1
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = overview.colour


def test_an_overview_sends_both_features_and_does_not_wait(cuda, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    model = random_model()
    pending = model.overview(picture(), QUESTION, CopyStream(torch.device("cuda"), cuda))
    assert (cuda.calls.count("copy"), cuda.calls.count("wait")) == (1, 0)
    plain = model.overview(picture(), QUESTION)
    np.testing.assert_array_equal(pending.image_features, plain.image_features)
    np.testing.assert_array_equal(pending.question_features, plain.question_features)
    assert pending.image_size == plain.image_size
    assert pending.feature_sets.keys() == plain.feature_sets.keys()
    assert cuda.calls.count("wait") == 1


def test_overlapping_is_refused_where_there_is_nothing_to_overlap():
    message = "overlap_copies: the model is on 'cpu', expected a CUDA device"
    with pytest.raises(ModelError, match=message):
        ElasticMolmoE(random_model(), name="random", knobs=KNOBS, overlap_copies=True)
    with pytest.raises(ModelError, match=message):
        load_model("tiny", overlap_copies=True)


def test_another_block_ranking_keeps_the_option(cuda):
    model = ElasticMolmoE(random_model(), name="random", knobs=KNOBS)
    model._copies = CopyStream(torch.device("cuda"), cuda)
    with pytest.raises(ModelError, match="overlap_copies"):  # asked for again, and refused here
        model.with_block_ranking(range(6))
