"""Features of a text are the same in an import, in another import like it, and in front of a new prompt."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from command_line import message, run, run_json
from paceline.errors import ControllerError, OutcomesError, PacelineError, PromptError
from paceline.learning.options import TrainOptions
from paceline.outcomes.store import read_table, write_table
from paceline.policies.text_features import FILE, TextFeatures, terms_of
from paceline.runtime.controller import Controller
from paceline.workflows.deciding import recorded_context
from paceline.workflows.training import train_controller
from quick_options import QUICK_REFERENCE

EASY, HARD = (
    ("what colour is the sky today", "name a fruit that is red"),
    (
        "prove that the sum of odd numbers is a square",
        "derive the integral of a product of functions",
    ),
)
COLUMNS = (
    "--sample",
    "id",
    "--knobs",
    "model",
    "--quality",
    "good",
    "--cost",
    "usd:small=0.0001,large=0.002",
)


def written(path, samples, seed=0, **more):
    """The large model is always right, the small one on easy questions."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(samples):
        hard = bool(rng.integers(2))
        question = (
            f"{rng.choice(HARD if hard else EASY)} {rng.choice(['please', 'now', 'in short'])} {i % 7}x"
        )
        rows += [
            (f"s{seed}-{i:03d}", model, int(model == "large" or not hard), question)
            for model in ("small", "large")
        ]
    table = dict(zip(("id", "model", "good", "prompt"), map(list, zip(*rows, strict=True)), strict=True))
    table |= {name: list(np.repeat(values, 2)) for name, values in more.items()}
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("router")
    written(path / "table.parquet", 120)
    run_json("import", path / "table.parquet", *COLUMNS, "--question", "prompt", "--out", path / "outcomes")
    return path / "outcomes"


@pytest.fixture(scope="module")
def controller(outcomes, tmp_path_factory):
    path = tmp_path_factory.mktemp("controller")
    train_controller(read_table(outcomes), TrainOptions(reference=QUICK_REFERENCE)).controller.save(path)
    return path


def test_terms_are_those_of_the_library_where_words_are_set_apart():
    texts = [
        *EASY,
        *HARD,
        "Don't STOP: x y zz_top 42 é naïve-ness\nnew line",
        "",
        "a b c",
        "Größe über alles",
    ]
    analyse = TfidfVectorizer(ngram_range=(1, 2)).build_analyzer()
    for text in texts:
        assert sorted(terms_of(text)) == sorted(analyse(text))
    assert terms_of("猫はどこ ok") == ["猫", "は", "ど", "こ", "ok", "猫 は", "は ど", "ど こ", "こ ok"]


def test_numbers_are_those_of_the_library(outcomes):
    table = read_table(outcomes)
    questions = table.question.tolist()
    known = [text for text, split in zip(questions, table.split, strict=True) if split == "train"]
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(known)
    reduction = TruncatedSVD(n_components=table.features.shape[1], random_state=0).fit(
        vectors.transform(known)
    )
    expected = reduction.transform(vectors.transform(questions))
    np.testing.assert_allclose(table.features, expected, atol=1e-5)
    assert table.text_features is not None
    np.testing.assert_array_equal(table.text_features.read(questions), table.features)
    np.testing.assert_array_equal(
        table.text_features.read(["", "unheard"]), np.zeros((2, table.features.shape[1]))
    )


def test_languages_without_blanks_have_features(tmp_path):
    rows = [f"{'猫' if i % 2 else '犬'}は{'どこ' if i % 3 else '何'}にいますか{i}" for i in range(60)]
    table = {"id": [f"{i:02d}" for i in range(60) for _ in range(2)], "model": ["small", "large"] * 60}
    table |= {"good": [i % 2 for i in range(120)], "prompt": [row for row in rows for _ in range(2)]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    value = run_json(
        "import", tmp_path / "t.parquet", *COLUMNS, "--question", "prompt", "--out", tmp_path / "o"
    )
    assert not any("share no word" in line for line in value["audit"]["warnings"])
    assert value["features"]["signs"]  # older features of such texts are not these
    assert read_table(tmp_path / "o").features.any(axis=1).all()


def test_a_new_prompt_is_decided_about(controller, outcomes):
    loaded, table = Controller.load(controller), read_table(outcomes)
    assert (controller / FILE).is_file()
    for row in range(0, 120, 17):
        recorded = recorded_context(table, loaded, str(table.sample_id[row]))
        new = loaded.text_context(str(table.question[row]))
        np.testing.assert_array_equal(new.question_features, recorded.question_features)
        mine, theirs = (loaded.decide(context, average="0.001usd") for context in (new, recorded))
        assert mine.configuration == theirs.configuration
        np.testing.assert_array_equal(mine.candidates.scores, theirs.candidates.scores)
    words = ("decide", controller, "--average-budget", "0.0012usd", "--prompt")
    assert run_json(*words, "prove that the product of functions is odd")["configuration"] == {
        "model": "large"
    }
    assert run_json(*words, "what colour is a fruit")["configuration"] == {"model": "small"}
    assert "predicted accuracy" in run(*words, EASY[0], "--explain").stdout
    saved = controller.parent / "again"
    loaded.save(saved)
    again = Controller.load(saved)
    np.testing.assert_array_equal(
        again.text_context(HARD[0]).question_features, loaded.text_context(HARD[0]).question_features
    )


def test_prompts_that_say_nothing(controller):
    loaded = Controller.load(controller)
    for prompt in (None, 3, b"x", ["a"]):
        with pytest.raises(PromptError, match="expected a text"):
            loaded.text_context(prompt)  # pyright: ignore[reportArgumentType]
    seen = run("decide", controller, "--average-budget", "0.0012usd", "--prompt", "qwertz")
    assert "no word of the prompt is known" in seen.stderr
    for more in (("--model", "tiny"), ("--calibrate",), ("--no-calibrate",)):
        assert "got --model or --calibrate" in message(run("decide", controller, "--prompt", "a", *more))


def test_a_model_of_images_is_not_asked_about_a_text_alone(outcomes):
    table = read_table(outcomes)
    counted = np.full(table.tiles.shape, 3, np.int32)
    pictured = dataclasses.replace(table, tiles=counted, vision_tokens=counted, prompt_tokens=counted)
    made = train_controller(pictured, TrainOptions(reference=QUICK_REFERENCE)).controller
    assert made.text_features is None
    with pytest.raises(ControllerError, match="their models see more than a text"):
        made.text_context("what colour is the sky")


def test_a_controller_without_its_file_says_so(outcomes, tmp_path):
    table = dataclasses.replace(read_table(outcomes), text_features=None)
    train_controller(table, TrainOptions(algorithm="outcome", warm_epochs=1)).controller.save(tmp_path / "c")
    told = message(run("decide", tmp_path / "c", "--prompt", "what colour is the sky"))
    assert "it has no text_features.safetensors" in told
    assert "import and train again" in told


def test_exports_keep_the_file(controller, outcomes, tmp_path):
    own = tmp_path / "controller"
    shutil.copytree(controller, own)
    run_json("export", own, outcomes)
    assert (own / FILE).read_bytes() == (controller / FILE).read_bytes()
    loaded = Controller.load(own, backend="onnx")
    assert loaded.exports is not None
    assert FILE not in loaded.exports.files
    plain, exact = (
        Controller.load(own, backend="numpy"),
        Controller.load(own, backend="onnx", precision="fp32"),
    )
    for prompt in (*EASY, *HARD):
        one, other = (one.decide(one.text_context(prompt), average="0.0012usd") for one in (plain, exact))
        assert one.configuration == other.configuration
        np.testing.assert_allclose(one.candidates.scores, other.candidates.scores, atol=1e-5)


def test_a_file_that_belongs_to_other_features_is_not_read(outcomes, tmp_path):
    table, own = read_table(outcomes), tmp_path / "own"
    write_table(own, dataclasses.replace(table, features=table.features[:, :5]))
    with pytest.raises(OutcomesError, match="do not belong together"):
        read_table(own)
    options = table.manifest.options | {"features": {"kind": "columns"}}
    other = dataclasses.replace(table.manifest, options=options)
    write_table(own, dataclasses.replace(table, features=table.features[:, :5], manifest=other))
    assert read_table(own).text_features is None


def test_controllers_of_other_features_do_not_read_text():
    with pytest.raises(ControllerError, match="it decides about more than a text"):
        Controller.load("tiny").text_context("how many?")
    assert "--prompt TEXT alone is for controllers" in message(run("decide", "tiny", "--prompt", "how many?"))


def test_an_import_like_another_is_evaluated_and_adapted_to(controller, outcomes, tmp_path):
    path = written(tmp_path / "new.parquet", 80, seed=1)
    words = ("import", path, *COLUMNS, "--question", "prompt")
    run_json(*words, "--out", tmp_path / "own")
    assert "features were made" in message(run("evaluate", controller, tmp_path / "own"))
    run_json(*words, "--features-from", outcomes, "--out", tmp_path / "like")
    table, loaded = read_table(tmp_path / "like"), Controller.load(controller)
    np.testing.assert_array_equal(
        table.features[5], loaded.text_context(str(table.question[5])).question_features
    )
    value = run_json("evaluate", controller, tmp_path / "like", "--replicates", 100)
    assert value["routing"]["paceline"]["APGR"] > 0.6
    adapted = tmp_path / "adapted"
    run_json("train", tmp_path / "like", "--from", controller, "--out", adapted)
    new = Controller.load(adapted)
    chosen = new.decide(new.text_context(HARD[0]), average="0.0012usd").configuration
    assert chosen == {"model": "large"}


def test_columns_like_those_of_others(tmp_path):
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=60), rng.normal(size=40) + 5.0
    gaps = first.copy()
    gaps[::4] = np.nan
    words = (*COLUMNS, "--features", "f0,f1")
    one = written(tmp_path / "one.parquet", 60, f0=gaps, f1=first)
    run_json("import", one, *words, "--out", tmp_path / "one")
    holes = second.copy()
    holes[3] = np.nan
    two = written(tmp_path / "two.parquet", 40, seed=1, f0=second, f1=holes)
    value = run_json("import", two, *words, "--features-from", tmp_path / "one", "--out", tmp_path / "two")
    table, before = read_table(tmp_path / "two"), read_table(tmp_path / "one")
    assert table.manifest.options["features"] == before.manifest.options["features"]
    assert table.features.shape[1] == 3  # f0 is marked there, though nothing is empty here
    np.testing.assert_array_equal(table.features[:, 2], np.zeros(40))
    medians = before.manifest.options["features"]["medians"]
    assert table.features[3, 1] == np.float32(medians[1])
    assert any("f1 have empty values" in line for line in value["audit"]["warnings"])


def test_features_that_cannot_be_made_alike(outcomes, tmp_path):
    path = written(tmp_path / "t.parquet", 40, f0=np.arange(40.0))
    start = ("import", path, *COLUMNS, "--out", tmp_path / "o")
    like = ("--features-from", outcomes)
    assert "those to import are columns named with --features" in message(
        run(*start, "--features", "f0", *like)
    )
    run_json("import", path, *COLUMNS, "--features", "f0", "--out", tmp_path / "columns")
    other = ("--question", "prompt", "--features-from", tmp_path / "columns")
    assert "those to import are made from questions, without --features" in message(run(*start, *other))
    assert "no question's text" in message(run(*start, *like))
    (tmp_path / "broken").mkdir()
    for broken in ({"medians": []}, {"medians": None}, {"empty_marked": ["zz"]}):
        manifest = json.loads((tmp_path / "columns" / "manifest.json").read_text())
        manifest["options"]["features"] |= broken
        (tmp_path / "broken" / "manifest.json").write_text(json.dumps(manifest))
        words = ("--features", "f0", "--features-from", tmp_path / "broken")
        assert "--features-from: its manifest has no median" in message(run(*start, *words))
    assert "no such directory" in message(
        run(*start, "--question", "prompt", "--features-from", tmp_path / "none")
    )
    older = tmp_path / "older"
    write_table(older, read_table(outcomes))
    (older / FILE).unlink()
    assert read_table(older).text_features is None
    assert "imported by an older version" in message(
        run(*start, "--question", "prompt", "--features-from", older)
    )
    (older / FILE).write_bytes(b"nothing")
    assert "not the features of a text" in message(
        run(*start, "--question", "prompt", "--features-from", older)
    )
    assert not (tmp_path / "o").exists()


def test_files_that_hold_something_else(controller, tmp_path):
    good = Controller.load(controller).text_features
    assert good is not None
    again = TextFeatures.from_bytes(good.to_bytes(), "there")
    assert again.terms == good.terms
    np.testing.assert_array_equal(again.components, good.components)
    broken = TextFeatures(terms=good.terms, weights=good.weights, components=good.components)
    object.__setattr__(broken, "weights", good.weights[:3])
    for data in (b"", good.to_bytes()[:-5], broken.to_bytes()):
        with pytest.raises(PacelineError, match="there: not the features of a text"):
            TextFeatures.from_bytes(data, "there")
    changed = tmp_path / "changed"
    Controller.load(controller).save(changed)
    data = bytearray((changed / FILE).read_bytes())
    data[-1] ^= 1
    (changed / FILE).write_bytes(bytes(data))
    with pytest.raises(ControllerError, match="do not match the hash"):
        Controller.load(changed)
    (changed / FILE).unlink()
    with pytest.raises(ControllerError, match="the file is missing"):
        Controller.load(changed)
