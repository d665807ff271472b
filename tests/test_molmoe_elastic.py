"""The elastic model: knobs, block ranking, model directories, and input that cannot be read."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from molmoe_models import KNOBS, SMALL, WORDS, elastic, picture, random_model
from paceline import images
from paceline.errors import ImageError, KnobError, ModelError, PromptError
from paceline.knobs import SEED_SPACE, Knob, KnobSpace
from paceline.models.molmoe import knob_state
from paceline.models.molmoe.ablation import measure_blocks
from paceline.models.molmoe.checkpoint import load_model, save_model
from paceline.models.molmoe.elastic import ElasticMolmoE, load_elastic
from paceline.models.molmoe.knob_state import KnobState
from paceline.models.molmoe.options import TINY
from paceline.models.registry import load_model as load_by_name

QUESTION = "how many digits?"


@pytest.fixture(scope="module")
def model() -> ElasticMolmoE:
    return elastic()


def test_features_are_means_over_tokens(model):
    overview = model.overview(picture(), QUESTION)
    assert overview.image_features.shape == overview.question_features.shape == (32,)
    assert overview.image_features.dtype == np.float32
    embedding = model.model.decoder.embedding
    ids = model.model.tokenizer.prompt_tokens(QUESTION)
    np.testing.assert_allclose(overview.question_features, embedding[ids].mean(dim=0).numpy(), rtol=1e-5)
    np.testing.assert_allclose(
        overview.image_features, overview.state.tokens.mean(dim=0).numpy(), rtol=1e-5, atol=1e-6
    )
    assert overview.image_size == (70, 110)
    assert overview.elapsed_ms > 0


def test_fewer_blocks_are_a_prefix_of_the_ranking(model):
    ranked = model.with_block_ranking([0, 5, 3, 1, 4, 2])
    assert ranked.model is model.model
    assert model.block_ranking == (0, 1, 2, 3, 4, 5)
    _, state = ranked._turned({"max_crops": 2, "top_k": 2, "num_active_blocks": 4})
    assert state.active_blocks == (0, 1, 3, 5)  # run in the order of the model
    overview = model.overview(picture(), QUESTION)
    four = {"max_crops": 6, "top_k": 4, "num_active_blocks": 4}
    assert model.generate(overview, four, 8).tokens != ranked.generate(overview, four, 8).tokens
    assert model.generate(overview, KNOBS.full, 8).tokens == ranked.generate(overview, KNOBS.full, 8).tokens


@pytest.mark.parametrize("ranking", [[0, 1, 2], [1, 0, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4], list(range(7))])
def test_rankings_that_are_none_are_refused(model, ranking):
    with pytest.raises(ModelError, match="block 0 first"):
        model.with_block_ranking(ranking)


@pytest.mark.parametrize("method", ["loss", "similarity"])
def test_blocks_that_do_nothing_are_ranked_last(method):
    model = elastic(seed=2)
    for index, block in enumerate(model.model.decoder.blocks):
        strength = 0.0 if index in (2, 4) else 4.0  # what remains must matter by far more than rounding
        block.get_submodule("attention.out").get_parameter("weight").mul_(strength)
        block.get_submodule("moe").get_parameter("down").mul_(strength)
    overviews = [model.overview(picture(seed, 64, 64), QUESTION) for seed in range(3)]
    answers = [model.generate(overview, KNOBS.full, 8).text for overview in overviews]
    importance = model.block_importance(overviews, answers, method)
    ranking = importance.ranking
    assert ranking[0] == 0
    assert sorted(ranking) == list(range(6))
    assert set(ranking[-2:]) == {2, 4}
    assert [abs(score) < 1e-6 for score in importance.scores if score is not None].count(True) == 2


def test_ablation_takes_the_block_with_the_least_loss_without_it(model):
    """Against losses computed one request at a time, without batches or shared prefixes."""
    overviews = [model.overview(picture(seed, 60, 90 + 20 * seed), QUESTION) for seed in range(3)]
    targets = ["one", "red w1", "w5"]

    def loss(blocks):
        total = 0.0
        for overview, target in zip(overviews, targets, strict=True):
            molmo = model.model
            tiling = molmo.tiling(overview.image_size, 2)
            row = molmo.embeddings(overview.state, tiling, molmo.image_tokens(overview.state, tiling))
            answer = molmo.tokenizer.answer_tokens(target)
            x = torch.cat((row, molmo.decoder.embed(torch.tensor(answer[:-1]))))[None]
            with knob_state.knobs(KnobState(4, tuple(blocks))):
                hidden = molmo.decoder(x, torch.arange(x.shape[1])[None])
            logits = molmo.decoder.logits(hidden)[0, -len(answer) :]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
        return total

    with torch.inference_mode():
        kept, taken = list(range(6)), []
        while len(kept) > 3:
            losses = {block: loss([b for b in kept if b != block]) for block in kept[1:]}
            least = min(losses, key=losses.__getitem__)
            kept.remove(least)
            taken.append(least)
        tokens = sum(len(model.model.tokenizer.answer_tokens(target)) for target in targets)
        rises = [
            (loss([b for b in range(6) if b != block]) - loss(range(6))) / tokens for block in range(1, 6)
        ]
    found = measure_blocks(model.model, overviews, targets, method="loss", max_crops=2, top_k=4, fewest=3)
    assert list(found.ranking) == kept + taken[::-1]
    assert found.scores[0] is None
    np.testing.assert_allclose(np.array(found.scores[1:], dtype=float), rises, atol=1e-4)


def test_similarity_is_the_mean_over_all_tokens_of_all_samples(model):
    """Against one request at a time, token by token, without batches or padding."""
    overviews = [model.overview(picture(seed, 60, 90 + 20 * seed), QUESTION) for seed in range(3)]
    targets = ["one", "red w1", "w5"]
    molmo, changes = model.model, [[] for _ in range(6)]
    with torch.inference_mode(), knob_state.knobs(KnobState(4)):
        for overview, target in zip(overviews, targets, strict=True):
            tiling = molmo.tiling(overview.image_size, 2)
            row = molmo.embeddings(overview.state, tiling, molmo.image_tokens(overview.state, tiling))
            answer = torch.tensor(molmo.tokenizer.answer_tokens(target)[:-1], dtype=torch.long)
            x = torch.cat((row, molmo.decoder.embed(answer)))[None]
            rotary = molmo.decoder.rotary(torch.arange(x.shape[1])[None])
            for index, block in enumerate(molmo.decoder.blocks):
                after = block(x, rotary, None, None, index)
                for one, other in zip(x[0].numpy(), after[0].numpy(), strict=True):
                    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
                    changes[index].append(1 - cosine)
                x = after
    found = measure_blocks(molmo, overviews, targets, method="similarity", max_crops=2, top_k=4, fewest=3)
    expected = [float(np.mean(values)) for values in changes]
    np.testing.assert_allclose(np.array(found.scores, dtype=float), expected, atol=1e-5)
    assert list(found.ranking) == [0, *sorted(range(1, 6), key=lambda block: -expected[block])]


def test_importance_needs_samples(model):
    with pytest.raises(ModelError, match="expected as many"):
        model.block_importance([], [])


@pytest.mark.parametrize(
    "configuration",
    [
        {"max_crops": 3, "top_k": 2, "num_active_blocks": 4},
        {"max_crops": 2, "top_k": 2},
        {"max_crops": 2, "top_k": 2, "num_active_blocks": 4, "extra": 1},
    ],
)
def test_configurations_outside_the_space_are_refused(model, configuration):
    overview = model.overview(picture(), QUESTION)
    with pytest.raises(KnobError, match="expected"):
        model.generate(overview, configuration, 1)
    with pytest.raises(KnobError, match="expected"):
        model.workload(overview, configuration)


@pytest.mark.parametrize(
    "knob",
    [
        Knob(name="depth", options=(1,)),
        Knob(name="top_k", options=(4, 9)),
        Knob(name="top_k", options=(0, 1)),
    ],
)
def test_knobs_that_the_model_cannot_turn_are_refused(model, knob):
    with pytest.raises(KnobError, match="expected"):
        ElasticMolmoE(model.model, name="x", knobs=KnobSpace((knob,)))


def test_a_subset_of_the_knobs_leaves_the_others_full(model):
    only = ElasticMolmoE(model.model, name="x", knobs=KnobSpace((Knob(name="top_k", options=(2, 4)),)))
    overview = only.overview(picture(), QUESTION)
    max_crops, state = only._turned({"top_k": 2})
    assert (max_crops, state.top_k, state.active_blocks) == (12, 2, (0, 1, 2, 3, 4, 5))
    assert len(only.generate(overview, {"top_k": 2}, 2).tokens) == 2


def test_a_model_has_the_default_space_unless_its_directory_says_otherwise(model, tmp_path):
    assert ElasticMolmoE(random_model(TINY), name="tiny").knobs == SEED_SPACE
    save_model(model.model, tmp_path / "own", knobs=KNOBS)
    assert load_elastic(tmp_path / "own", name="own").knobs == KNOBS
    save_model(random_model(TINY), tmp_path / "seed")
    assert load_elastic(tmp_path / "seed", name="seed").knobs == SEED_SPACE


def test_a_damaged_knob_space_is_a_model_error(model, tmp_path):
    save_model(model.model, tmp_path, knobs=KNOBS)
    (tmp_path / "knobs.json").write_text('[{"name": "top_k"}]')
    with pytest.raises(ModelError, match=r"knobs.json: knob space: got"):
        load_elastic(tmp_path, name="damaged")


# Directories


def test_saving_and_loading_gives_the_same_answers(model, tmp_path):
    save_model(model.model, tmp_path, dtype=torch.float32, block_ranking=[0, 5, 4, 3, 2, 1], knobs=KNOBS)
    loaded = load_elastic(tmp_path, name="again")
    assert loaded.block_ranking == (0, 5, 4, 3, 2, 1)
    ranked = model.with_block_ranking([0, 5, 4, 3, 2, 1])
    for configuration in (KNOBS.cheapest, KNOBS.full):
        ours, theirs = (
            m.generate(m.overview(picture(), QUESTION), configuration, 8) for m in (ranked, loaded)
        )
        assert ours.tokens == theirs.tokens
    facts = loaded.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["revision"].startswith("sha256:")


def test_weights_are_stored_in_half_precision_and_computed_in_single(model, tmp_path):
    save_model(model.model, tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    loaded = load_model(tmp_path)
    assert loaded.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def broken(directory, change):
    save_model(random_model(), directory)
    change(directory)


def drop_tensor(directory):
    weights = load_file(directory / "model.safetensors")
    del weights["decoder.norm.weight"]
    save_file(weights, directory / "model.safetensors")


def grow_tensor(directory):
    weights = load_file(directory / "model.safetensors")
    weights["decoder.norm.weight"] = torch.ones(33)
    save_file(weights, directory / "model.safetensors")


def unknown_option(directory):
    value = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(value | {"colour": 1}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "no weights there"),
        (lambda d: (d / "model.safetensors").write_bytes(b"abc"), "not a readable safetensors"),
        (lambda d: (d / "config.json").unlink(), "a model directory holds"),
        (lambda d: (d / "config.json").write_text("{"), "not JSON"),
        (lambda d: (d / "config.json").write_text("[1]"), "expected an object"),
        (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer there"),
        (lambda d: (d / "block_ranking.json").write_text('"x"'), "list of block indices"),
        (drop_tensor, "1 tensors missing"),
        (grow_tensor, r"decoder.norm.weight: \(33,\), expected \(32,\)"),
        (unknown_option, "unknown keys"),
    ],
)
def test_damaged_directories_are_refused(tmp_path, change, message):
    broken(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load_elastic(tmp_path, name="x")


def test_unknown_names_list_what_is_known():
    with pytest.raises(ModelError, match="tiny"):
        load_by_name("huge")


# Input


def test_images_are_opened_from_paths_and_bytes(tmp_path):
    picture().save(tmp_path / "a.png")
    image = images.open_image(tmp_path / "a.png")
    np.testing.assert_array_equal(images.image_array(image), np.asarray(picture()))
    assert images.open_image((tmp_path / "a.png").read_bytes()).size == (110, 70)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(model, mode):
    assert images.image_array(picture().convert(mode)).shape == (70, 110, 3)
    assert model.overview(picture().convert(mode), QUESTION).image_features.shape == (32,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not an image"),
        (b"\x89PNG\r\n\x1a\n broken", "damaged|not an image"),
    ],
)
def test_files_that_are_no_image_are_refused(tmp_path, content, message):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        images.open_image(path)


def test_modes_that_pillow_does_not_convert_are_refused():
    with pytest.raises(ImageError, match="got mode 'La', expected one that Pillow converts to RGB"):
        images.image_array(Image.new("La", (64, 64)))


def test_truncated_images_are_refused(tmp_path):
    picture(0, 200, 200).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ImageError, match="damaged"):
        images.open_image(data[: len(data) // 2])
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "b.png") as lazy, pytest.raises(ImageError, match="damaged"):
        images.image_array(lazy)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        images.open_image(tmp_path / "none.png")


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (20_000, 20_000)])
def test_sizes_that_cannot_be_used_are_refused(model, size):
    with pytest.raises(ImageError, match="pixels, expected at"):
        model.overview(Image.new("1", size), QUESTION)


def test_huge_files_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    with pytest.raises(ImageError, match="64,000,000"):
        images.open_image(tmp_path / "huge.png")


@pytest.mark.parametrize("image", [None, "a.png", np.zeros((50, 50, 3), dtype=np.uint8)])
def test_other_objects_are_refused(image):
    with pytest.raises(ImageError, match="expected a PIL image"):
        images.image_array(image)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "at least one character"),
        (" \n", "at least one character"),
        ("x" * 100_000, "100,000 characters"),
        ("one " * 600, "tokens, expected at most"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(model, prompt, message):
    with pytest.raises(PromptError, match=message):
        model.overview(picture(), prompt)


def test_the_words_of_the_small_models_fit_their_vocabulary():
    assert len(WORDS) + 9 <= SMALL.vocabulary
