"""Feature sets from an overview to a decision: poolings by hand, what a sweep keeps, tables, controllers, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from command_line import message, run, run_json
from fakes import FakeModel, FakeTask
from paceline.errors import ModelError, OutcomesError, ProfileError
from paceline.evaluation.contest import ContestOptions
from paceline.evaluation.evaluate import evaluate_controller
from paceline.learning.options import TrainOptions
from paceline.models.feature_sets import chosen_features, feature_set
from paceline.models.protocol import Overview
from paceline.models.registry import load_model
from paceline.outcomes.combining import combine_tables
from paceline.outcomes.feature_sets import joined_sets, with_room
from paceline.outcomes.store import read_table, write_table
from paceline.policies.inputs import InputSpec
from paceline.policies.token_pooling import pack_tokens, unpack_tokens
from paceline.profiling.kept_features import stack_feature_sets
from paceline.profiling.options import ProfileOptions
from paceline.profiling.sweep import profile
from paceline.runtime.adaptive import AdaptiveModel
from paceline.tasks.registry import load_task
from paceline.workflows.deciding import live_context, recorded_context
from paceline.workflows.training import train_controller

SWEEP = ProfileOptions(configurations=3, samples=24, timed_samples=12, warmup=0, importance_samples=0)
QUICK = TrainOptions(algorithm="grpo_warm", hidden=8, members=2, warm_epochs=1, epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture(scope="module")
def outcomes(tiny, tmp_path_factory):
    """A small sweep of the embedded model with everything kept, in two shards of prompts of different lengths."""
    out = tmp_path_factory.mktemp("sets") / "outcomes"
    profile(tiny, load_task("digits"), out, dataclasses.replace(SWEEP, features_kept="all", shard_samples=12))
    return out


def overview_of(tiny) -> Overview:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    return tiny.overview(image, "How many digits are there?")


# The embedded model


def test_sets_of_the_embedded_model_by_hand(tiny):
    overview = overview_of(tiny)
    tokens = overview.state.tokens.numpy()
    prompt = tiny.model.decoder.embed(torch.tensor(overview.state.prompt_ids)).detach().numpy()

    def given(name):
        return feature_set("tiny", overview, name)

    np.testing.assert_allclose(given("image.mean"), overview.image_features, rtol=1e-5)
    np.testing.assert_allclose(given("question.mean"), overview.question_features, rtol=1e-5)
    width = tokens.shape[1]
    statistics = given("image.statistics")
    assert statistics.shape == (3 * width,)
    np.testing.assert_allclose(statistics[:width], tokens.mean(axis=0), rtol=1e-5)
    spread = np.sqrt(((tokens - tokens.mean(axis=0)) ** 2).mean(axis=0))
    np.testing.assert_allclose(statistics[width : 2 * width], spread, rtol=1e-4)
    np.testing.assert_array_equal(statistics[2 * width :], tokens.max(axis=0))
    np.testing.assert_array_equal(given("question.first"), prompt[0])
    np.testing.assert_array_equal(given("question.tokens"), prompt)
    np.testing.assert_array_equal(given("image.tokens"), tokens)


def test_the_class_token_is_that_of_the_tower(tiny):
    """The first place of the concatenated block outputs, which the patches' features leave out."""
    overview = overview_of(tiny)
    captured = []
    blocks = [tiny.model.vision.blocks[index] for index in tiny.model.options.vit_features]
    hooks = [block.register_forward_hook(lambda *a: captured.append(a[2][0, 0].clone())) for block in blocks]
    again = overview_of(tiny)
    for hook in hooks:
        hook.remove()
    late, early = captured[1], captured[0]  # vit_features counts from the end
    expected = torch.cat((late, early)).numpy()
    np.testing.assert_allclose(feature_set("tiny", again, "image.cls"), expected, rtol=1e-5)
    unhooked = feature_set("tiny", overview, "image.cls")  # computed by other code, where that is compiled
    np.testing.assert_allclose(unhooked, feature_set("tiny", again, "image.cls"), rtol=1e-4, atol=1e-5)


def test_a_set_that_a_model_does_not_give_is_refused(tiny):
    model, task = FakeModel(), FakeTask()
    sample = task.samples("train", 1, 0)[0]
    overview = model.overview(task.image(sample), sample.question)
    with pytest.raises(
        ModelError, match="model fake: it gives no feature set 'image.cls', it gives only its pooled"
    ):
        chosen_features("fake", overview, InputSpec(image_features="cls"))
    stored = chosen_features("fake", overview, InputSpec())
    assert stored[0] is overview.image_features
    with pytest.raises(ModelError, match="no feature set 'image.max', it gives \\['image.cls'"):
        feature_set("tiny", overview_of(tiny), "image.max")
    with pytest.raises(ProfileError, match="features_kept: model fake gives no feature sets"):
        stack_feature_sets(model, [overview], "pooled")


def test_tokens_too_large_for_half_precision_are_refused():
    overview = Overview(
        image_features=np.zeros(1),
        question_features=np.zeros(1),
        image_size=(1, 1),
        elapsed_ms=0.0,
        state=None,
        feature_sets={"image.tokens": lambda: np.array([[1e5]])},
    )
    with pytest.raises(ProfileError, match="image.tokens holds values that are not finite"):
        stack_feature_sets(FakeModel(), [overview], "all")


# On disk


def test_a_sweep_keeps_the_sets_and_a_table_is_read_with_any_of_them(outcomes, tiny):
    arrays = load_file(outcomes / "features.safetensors")
    n, room = arrays["question.tokens"].shape[:2]
    assert n == 24
    assert arrays["image.tokens"].dtype == arrays["question.tokens"].dtype == np.float16
    assert arrays["question.tokens.counts"].max() == room > arrays["question.tokens.counts"].min()
    task, stored = load_task("digits"), read_table(outcomes)
    assert stored.features.shape[1] == arrays["features"].shape[1]
    samples = {
        s.sample_id: s for split in ("train", "validation", "test") for s in task.samples(split, 15, 0)
    }
    row = next(place for place, name in enumerate(stored.sample_id.tolist()) if name in samples)
    sample = samples[str(stored.sample_id[row])]
    overview = tiny.overview(task.image(sample), sample.question)
    for image, question in (
        ("cls", "first"),
        ("statistics", "mean"),
        ("mean", "stored"),
        ("attention", "attention"),
    ):
        table = read_table(outcomes, image_features=image, question_features=question)
        assert (table.feature_choice.image, table.feature_choice.question) == (image, question)
        live = chosen_features("tiny", overview, InputSpec(image_features=image, question_features=question))
        assert_alike(table.image_features[row], live[0], table.feature_choice.image_token)
        assert_alike(table.question_features[row], live[1], table.feature_choice.question_token)


def assert_alike(recorded: np.ndarray, live: np.ndarray, token: int) -> None:
    """Equal within half precision; recorded tokens may have more room."""
    if token:
        (kept, count), (given, live_count) = unpack_tokens(recorded, token), unpack_tokens(live, token)
        assert count == live_count
        recorded, live = kept[0, : int(count[0])], given[0]
    np.testing.assert_allclose(recorded, live, rtol=2e-3, atol=2e-3)


def test_an_older_directory_has_means_and_nothing_else(outcomes, tmp_path):
    copied = copy_of(outcomes, tmp_path)
    arrays = load_file(copied / "features.safetensors")
    save_file({"features": arrays["features"]}, copied / "features.safetensors")
    plain = read_table(copied)
    mean = read_table(copied, image_features="mean", question_features="mean")
    np.testing.assert_array_equal(plain.features, mean.features)
    with pytest.raises(
        OutcomesError, match="holds no feature set 'image.cls', only .* --features-kept pooled"
    ):
        read_table(copied, image_features="cls")
    with pytest.raises(OutcomesError, match="holds no feature set 'question.tokens', .* --features-kept all"):
        read_table(copied, question_features="attention")
    with pytest.raises(OutcomesError, match="image_features: got 'max', expected one of"):
        read_table(copied, image_features="max")


def test_damaged_sets_are_refused(outcomes, tmp_path):
    copied = copy_of(outcomes, tmp_path)
    arrays = load_file(copied / "features.safetensors")
    save_file(arrays | {"image.cls": arrays["image.cls"][:3]}, copied / "features.safetensors")
    with pytest.raises(OutcomesError, match="image.cls has 3 rows, expected 24"):
        read_table(copied, image_features="cls")
    save_file(arrays | {"image.max": arrays["image.cls"]}, copied / "features.safetensors")
    with pytest.raises(OutcomesError, match=r"got arrays .*image.max.*, expected one named features"):
        read_table(copied)


def copy_of(outcomes, tmp_path):
    import shutil

    return shutil.copytree(outcomes, tmp_path / "copy")


def test_a_sweep_that_keeps_other_features_is_another_sweep(outcomes, tiny):
    with pytest.raises(ProfileError, match="features_kept was 'all', is now 'pooled'"):
        profile(
            tiny,
            load_task("digits"),
            outcomes,
            dataclasses.replace(SWEEP, features_kept="pooled", shard_samples=12),
        )
    with pytest.raises(ProfileError, match="features_kept: got 'some', expected one of"):
        ProfileOptions(features_kept="some")


def test_an_older_sweep_without_the_option_goes_on(tmp_path):
    profile(FakeModel(), FakeTask(), tmp_path, SWEEP)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["options"]["features_kept"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert profile(FakeModel(), FakeTask(), tmp_path, SWEEP).samples == 24


def test_tokens_of_shards_and_tables_get_the_room_of_the_longest(outcomes):
    short, long = np.ones((1, 2, 3)), 2 * np.ones((1, 4, 3))
    joined = joined_sets([{"image.tokens": short}, {"image.tokens": long}], "image.tokens")
    assert joined.shape == (2, 4, 3)
    assert (joined[0, 2:] == 0).all()
    packed = with_room(pack_tokens(short, np.array([2])), 3, 13)
    np.testing.assert_array_equal(packed, pack_tokens(joined[:1], np.array([2])))
    table = read_table(outcomes, question_features="attention")
    first, second = table.select(table.split == "train"), table.select(table.split != "train")
    longer = with_room(
        first.question_features,
        table.feature_choice.question_token,
        6 * 96 + table.features.shape[1] - table.image_width,
    )
    first = dataclasses.replace(first, features=np.concatenate([first.image_features, longer], axis=1))
    both = combine_tables([first, second], ["a", "b"])
    assert both.features.shape == (24, first.features.shape[1])
    tokens, counts = unpack_tokens(both.question_features[-2:], 96)
    original, expected = unpack_tokens(second.question_features[-2:], 96)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(tokens[:, : original.shape[1]], original)
    with pytest.raises(OutcomesError, match="numbers of different makers"):
        combine_tables([read_table(outcomes), second], ["a", "b"])
    with pytest.raises(OutcomesError, match="the table holds other features than the stored ones"):
        write_table(outcomes / "again", both)


# From a sweep to a decision


@pytest.mark.parametrize(
    ("image", "question"),
    [("statistics", "first"), ("cls", "mean"), ("attention", "attention"), ("attention", "stored")],
)
def test_a_live_request_is_decided_as_its_record(outcomes, tiny, tmp_path, image, question):
    table = read_table(outcomes, image_features=image, question_features=question)
    trained = train_controller(table, dataclasses.replace(QUICK, image_features=image))
    trained.controller.save(tmp_path)
    adaptive = AdaptiveModel(tiny, type(trained.controller).load(tmp_path))
    controller = adaptive.controller
    task = load_task("digits")
    samples = {
        s.sample_id: s for split in ("train", "validation", "test") for s in task.samples(split, 15, 0)
    }
    name = next(name for name in table.sample_id.tolist() if name in samples)
    recorded = controller.decide(recorded_context(table, controller, name), budget="80%")
    live = controller.decide(
        live_context(tiny, controller, task.image(samples[name]), samples[name].question), budget="80%"
    )
    np.testing.assert_allclose(live.candidates.scores, recorded.candidates.scores, atol=5e-3)
    results = evaluate_controller(controller, table, ContestOptions(replicates=100))
    assert len(results["hard"]["accuracy"]["paceline"]) > 0


def test_the_command_line_trains_evaluates_and_decides_with_chosen_features(outcomes, tmp_path):
    words = ["--image-features", "attention", "--question-features", "first", "--reduce", "learned:16"]
    words += ["--budget-form", "share", "--budget-encoding", "linear", "--feature-scaling", "quantile"]
    words += ["--augment", "noise=0.1", "--balance", "kind,budget", "--epochs", "1", "--set", "warm_epochs=1"]
    value = run_json("train", outcomes, "--out", tmp_path / "controller", *words)
    options = value["facts"]["options"]
    assert (options["image_features"], options["reduce"], options["balance"]) == (
        "attention",
        "learned:16",
        "kind,budget",
    )
    name = read_table(outcomes).sample_id[0]
    decided = run_json("decide", tmp_path / "controller", "--outcomes", outcomes, "--sample", name)
    assert decided["action"] >= 0
    judged = run_json("evaluate", tmp_path / "controller", outcomes, "--replicates", "100")
    assert "hard" in judged
    told = message(run("train", outcomes, "--out", tmp_path / "other", "--image-features", "max"))
    assert "image_features: got 'max', expected one of" in told
