"""Loading a public checkpoint: what is checked, where it goes, what it needs, and what is said when it does not fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from molmoe_models import picture
from paceline.errors import DependencyError, ModelError
from paceline.knobs import SEED_SPACE
from paceline.models.molmoe import placement
from paceline.models.molmoe.default_knobs import default_configuration, default_knobs
from paceline.models.molmoe.elastic import ElasticMolmoE
from paceline.models.molmoe.options import MOLMOE_1B, TINY
from paceline.models.molmoe.public_config import read_options
from paceline.models.molmoe.public_weights import places
from paceline.models.registry import load_model
from public_molmoe import CONFIG, PROCESSOR, random_weights, shapes, write_public

QUESTION = "what is the red one ?"


def test_the_public_sizes_are_those_of_the_preset():
    """The hub's config.json, as far as it gives sizes."""
    config = {
        "model_type": "molmo",
        "d_model": 2048,
        "n_heads": 16,
        "n_layers": 16,
        "mlp_hidden_size": 2048,
        "moe_num_experts": 64,
        "moe_top_k": 8,
        "embedding_size": 50304,
        "vocab_size": 50280,
        "additional_vocab_size": 128,
        "max_position_embeddings": 4096,
        "vit_layers": [-2, -9],
        "vision_backbone": CONFIG["vision_backbone"]
        | {
            "image_default_input_size": [336, 336],
            "image_emb_dim": 1024,
            "image_num_heads": 16,
            "image_num_pos": 577,
        }
        | {
            "image_num_key_value_heads": 16,
            "image_head_dim": 64,
            "image_num_layers": 23,
            "image_mlp_dim": 4096,
        },
    }
    processor = {"base_image_input_size": [336, 336], "image_token_length_h": 12, "max_crops": 12}
    options = read_options(config, processor, Path("config.json"), Path("preprocessor_config.json"))
    assert options == MOLMOE_1B
    found = places(options)
    assert len(found) == 4 + 16 * (7 + 64 * 3) + 7 + 2 + 8 + 23 * 16
    assert found["model.transformer.blocks.3.mlp.experts.63.down_proj.weight"].shape == (2048, 1024)
    assert found["model.vision_backbone.image_pooling_2d.wk.weight"].shape == (1024, 2048)
    assert found["model.vision_backbone.image_vit.positional_embedding"].shape == (577, 1024)


def test_names_and_shapes_are_those_of_the_public_code(tmp_path):
    options = read_options(CONFIG, PROCESSOR, Path("config.json"), Path("preprocessor_config.json"))
    assert {name: place.shape for name, place in places(options).items()} == shapes()


def test_every_tensor_arrives_whole_and_once(tmp_path):
    weights = random_weights(seed=3)
    model = load_model(write_public(tmp_path / "model", weights=weights))
    assert isinstance(model, ElasticMolmoE)
    ours = model.model.state_dict()
    assert sum(item.numel() for item in ours.values()) == sum(item.numel() for item in weights.values())
    at, expert = "model.transformer.blocks.1.mlp.experts", ours["decoder.blocks.1.moe.gate_up"][5]
    torch.testing.assert_close(expert[:12], weights[f"{at}.5.gate_proj.weight"], rtol=0, atol=0)
    torch.testing.assert_close(expert[12:], weights[f"{at}.5.up_proj.weight"], rtol=0, atol=0)
    down = ours["decoder.blocks.1.moe.down"][5]
    torch.testing.assert_close(down, weights[f"{at}.5.down_proj.weight"].T, rtol=0, atol=0)
    table = [weights[f"model.transformer.wte.{name}"] for name in ("embedding", "new_embedding")]
    torch.testing.assert_close(ours["decoder.embedding"], torch.cat(table), rtol=0, atol=0)


def answer(model):
    overview = model.overview(picture(2, 200, 300), QUESTION)
    return model.generate(overview, model.default_configuration, 5).tokens


@pytest.mark.parametrize(
    ("files", "complete", "kind"),
    [
        (1, True, torch.float32),
        (2, False, torch.float32),
        (4, True, torch.bfloat16),
        (2, True, torch.float16),
    ],
)
def test_one_file_or_many_and_every_stored_type(tmp_path, files, complete, kind):
    weights = {name: item.to(kind) for name, item in random_weights().items()}
    directory = write_public(tmp_path / "model", weights=weights, files=files, complete_tokenizer=complete)
    model = load_model(directory)
    assert isinstance(model, ElasticMolmoE)
    assert model.model.dtype == kind
    assert model.model.tokenizer.image_patch == 50  # by the files: the third added token
    same = load_model(directory, dtype="float32")
    reference = load_model(
        write_public(tmp_path / "other", weights={n: w.float() for n, w in weights.items()})
    )
    assert answer(same) == answer(reference)


def test_what_the_knobs_are_without_a_word(tmp_path):
    model = load_model(write_public(tmp_path / "model"))
    assert [knob.options for knob in model.knobs.knobs] == [(2, 4, 6), (1, 2, 3, 4, 8), (2, 3)]
    assert model.default_configuration == {"max_crops": 6, "top_k": 3, "num_active_blocks": 3}
    assert default_knobs(MOLMOE_1B) == SEED_SPACE
    wanted = {"max_crops": 12, "top_k": 8, "num_active_blocks": 16}
    assert default_configuration(SEED_SPACE, MOLMOE_1B) == wanted
    tiny = load_model("tiny")
    assert tiny.default_configuration == tiny.knobs.full == default_configuration(tiny.knobs, TINY)


@pytest.mark.parametrize(
    "device_map",
    [
        {"blocks.1": "cpu:0", "head": "cpu"},
        {0: "cpu:0", 2: "cpu"},
        {"embedding": "cpu:0", "head": "cpu"},
        {"vision": "cpu:0", "embedding": "cpu"},
    ],
)
def test_parts_on_several_devices_answer_as_on_one(tmp_path, device_map):
    """Two names of the processor stand for two devices: inputs travel between them all the same."""
    directory = write_public(tmp_path / "model")
    one, several = load_model(directory), load_model(directory, device_map=device_map)
    assert isinstance(one, ElasticMolmoE)
    assert isinstance(several, ElasticMolmoE)
    assert one.model.decoder.route is None
    assert several.model.decoder.route is not None
    overviews = [[m.overview(picture(s, 170, 250), QUESTION) for s in (1, 2)] for m in (one, several)]
    full = one.default_configuration
    both = [m.generate_together(o, full, 4) for m, o in zip((one, several), overviews, strict=True)]
    assert [g.tokens for g in both[0]] == [g.tokens for g in both[1]]
    assert answer(one) == answer(several)
    ranked = [m.block_importance(o, ["w1", "w2 w3"]) for m, o in zip((one, several), overviews, strict=True)]
    assert ranked[0] == ranked[1]


def test_inputs_of_a_block_are_moved_to_its_device_and_stay_there():
    found = dict.fromkeys(placement.parts(3), torch.device("cpu")) | {"blocks.1": torch.device("meta")}
    route = placement.Route.of(found)
    assert route is not None
    x, rotary, mask = torch.zeros(1, 2, 4), (torch.zeros(2), torch.ones(2)), torch.ones(2, 2)
    assert route.enter(0, x, rotary, mask)[0] is x
    moved = route.enter(1, x, rotary, mask)
    assert moved[2] is not None
    assert {item.device.type for item in (moved[0], *moved[1], moved[2])} == {"meta"}
    assert route.enter(1, moved[0], moved[1], None) == (moved[0], moved[1], None)


def test_auto_fills_devices_in_turn():
    sizes = {"vision": 2, "embedding": 3, "blocks.0": 4, "blocks.1": 4, "head": 1}
    room = {"cuda:0": 9, "cuda:1": 4}
    assert placement.spread(sizes, room, "cpu") == {
        "vision": "cuda:0",
        "embedding": "cuda:0",
        "blocks.0": "cuda:0",
        "blocks.1": "cuda:1",
        "head": "cpu",
    }
    if not torch.cuda.is_available():
        assert set(placement.devices("auto", "cpu", sizes).values()) == {torch.device("cpu")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype: got 'int8', expected one of float32, bfloat16, float16"),
        ({"dtype": torch.float64}, "dtype: got torch.float64, expected one of"),
        ({"device": "cuda:99"}, "device 'cuda:99': not available here"),
        ({"device": "gpu"}, "device 'gpu': not available here"),
        ({"device_map": "meta"}, "device 'meta': holds no weights"),
        (
            {"device_map": {"blocks.3": "cpu"}},
            r"device_map: got \['blocks.3'\], expected .* blocks.0 to blocks.2",
        ),
        ({"device_map": {"head": "nowhere"}}, "device 'nowhere': not available here"),
    ],
)
def test_types_and_devices_that_there_are_not(tmp_path, options, message):
    directory = write_public(tmp_path / "model")
    with pytest.raises(ModelError, match=message):
        load_model(directory, **options)


def without(name):
    return {key: item for key, item in random_weights().items() if key != name}


GATE = "model.transformer.blocks.1.mlp.experts.7.gate_proj.weight"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"weights": without(GATE)}, f"1 tensors missing .such as {GATE}., 0 unknown"),
        (
            {"weights": random_weights() | {"lm_head.bias": torch.zeros(48)}},
            "0 tensors missing, 1 unknown .such as lm_head.bias",
        ),
        (
            {"weights": random_weights() | {GATE: torch.zeros(12, 31)}},
            rf"1 tensors of another shape .*{GATE}: \[12, 31\], expected \[12, 32\]",
        ),
        (
            {"weights": random_weights() | {GATE: torch.zeros(12, 32, dtype=torch.int8)}},
            f"1 tensors of an unsupported type .such as {GATE}: I8., expected F32, F16, BF16",
        ),
        ({"config": {"n_layers": 4}, "weights": random_weights()}, "31 tensors missing"),
        (
            {"config": {"d_model": None}, "weights": random_weights()},
            "d_model is not there, expected an integer",
        ),
        ({"config": {"rope_impl": "cockatoo"}}, "rope_impl is 'cockatoo', expected 'llama'"),
        ({"config": {"weight_tying": True}}, "weight_tying is True, expected False"),
        ({"config": {"n_kv_heads": 2}}, "n_kv_heads is 2, expected 4"),
        (
            {"config": {"vision_backbone": None}, "weights": random_weights()},
            "vision_backbone is None, .*reads no images",
        ),
        (
            {"config": {"vit_layers": [-2, -9]}, "weights": random_weights()},
            r"vit_layers is \[-2, -9\], expected .* 5 blocks",
        ),
        ({"processor": {"image_patch_size": 16}}, "image_patch_size is 16, expected 14"),
        (
            {"processor": {"base_image_input_size": [336, 336]}},
            r"base_image_input_size is \[336, 336\], expected 168",
        ),
        (
            {"processor": {"overlap_margins": [3, 5]}},
            r"overlap_margins is \[3, 5\], expected an even first number",
        ),
        ({"processor": {"image_padding_mask": False}}, "image_padding_mask and do_normalize must be true"),
        (
            {"config": {"embedding_size": 44, "additional_vocab_size": 8}},
            "tokens beyond the model's 52 input embeddings",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, written, message):
    with pytest.raises(ModelError, match=message):
        load_model(write_public(tmp_path / "model", **written))


def cut(directory, name):
    path = directory / name
    path.write_bytes(path.read_bytes()[:100])


def moved_id(directory):
    path = directory / "tokenizer_config.json"
    value = json.loads(path.read_text())
    value["added_tokens_decoder"]["49"] = {"content": "<im_patch>"}
    path.write_text(json.dumps(value))


def point_outside(directory):
    index = directory / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["lm_head.weight"] = "../model-00001-of-00003.safetensors"
    index.write_text(json.dumps(value))


def write_twice(directory):
    index = directory / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    save_file({"lm_head.weight": torch.zeros(48, 32)}, directory / "again.safetensors")
    value["weight_map"]["model.transformer.ln_f.weight"] = "again.safetensors"
    index.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: (d / "preprocessor_config.json").unlink(),
            "preprocessor_config.json: no image processor there",
        ),
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json: no tokenizer there"),
        (lambda d: (d / "config.json").unlink(), "config.json: not there"),
        (
            lambda d: (d / "model-00002-of-00003.safetensors").unlink(),
            r"1 of 3 files of the index are missing",
        ),
        (
            lambda d: (d / "model.safetensors.index.json").unlink(),
            "no weights there, expected model.safetensors or",
        ),
        (lambda d: cut(d, "model-00002-of-00003.safetensors"), "not a readable safetensors file"),
        (lambda d: cut(d, "tokenizer.json"), "not a tokenizer"),
        (lambda d: cut(d, "preprocessor_config.json"), "preprocessor_config.json: not JSON"),
        (lambda d: cut(d, "tokenizer_config.json"), "tokenizer_config.json: not JSON"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text("[]"),
            "no weight_map of tensors to files",
        ),
        (moved_id, "added token '<im_patch>' is .*, but .*do not belong together"),
        (point_outside, "weight_map names .*, expected files beside it"),
        (write_twice, "lm_head.weight is in another file too"),
    ],
)
def test_files_that_are_missing_or_damaged_are_named(tmp_path, damage, message):
    directory = write_public(tmp_path / "model")
    damage(directory)
    with pytest.raises(ModelError, match=message):
        load_model(directory)


@pytest.mark.parametrize(
    ("named", "start"),
    [
        ({"bos_token": "w1", "eos_token": "<|endoftext|>"}, "w1"),
        ({"bos_token": {"content": "w1"}}, "w1"),
        ({"bos_token": "<unk>", "eos_token": "w2"}, "w2"),  # number 0, which the public code takes for none
        ({"bos_token": None, "eos_token": "<|endoftext|>"}, "<|endoftext|>"),
        ({"bos_token": None, "eos_token": None}, "<|endoftext|>"),
    ],
)
def test_what_requests_begin_with(tmp_path, named, start):
    directory = write_public(tmp_path / "model")
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    model = load_model(directory)
    assert isinstance(model, ElasticMolmoE)
    made = model.model.tokenizer
    assert made.layout(6, (6, 6), ())[:2] == [made.tokenizer.token_to_id(start), made.image_start]
    assert made.end_of_text == made.tokenizer.token_to_id("<|endoftext|>")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_loading_needs_the_model_s_memory_and_no_second_copy(tmp_path):
    config = {
        "d_model": 512,
        "mlp_hidden_size": 1024,
        "moe_num_experts": 6,
        "n_layers": 12,
    }  # large enough to pack
    directory = write_public(tmp_path / "model", config=config, files=2)
    program = f"""
import threading, time
from pathlib import Path
from paceline.models.registry import load_model
def private():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
load_model("tiny")
before, seen, done = private(), [], threading.Event()
def watch():
    while not done.is_set():
        seen.append(private())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
model = load_model({str(directory)!r})
done.set()
watcher.join()
size = sum(item.numel() * item.element_size() for item in model.model.state_dict().values())
assert all(block.moe.packed is not None for block in model.model.decoder.blocks)
print(size, max(seen) - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    size, peak = map(int, result.stdout.split())
    assert size > 150e6
    assert 0.5 * size < peak < 1.15 * size  # what was freed before is used again


HUB = """
from paceline.errors import ModelError
from paceline.models.registry import load_model
print(load_model("allenai/MolmoE-1B-0924").describe()["name"])
try:
    load_model("allenai/MolmoE-1B-0925")
except ModelError as error:
    print(error)
"""


def test_a_name_of_the_hub_is_found_in_the_local_cache(tmp_path):
    pytest.importorskip("huggingface_hub", reason="needs the extra hf")
    cache = tmp_path / "hub" / "models--allenai--MolmoE-1B-0924"
    commit = "0123456789abcdef0123456789abcdef01234567"
    write_public(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", HUB], capture_output=True, text=True, check=True, env=environment
    )
    name, message = result.stdout.splitlines()
    assert name == "allenai/MolmoE-1B-0924"
    assert message.startswith(
        "model 'allenai/MolmoE-1B-0925': not in the local cache, and it cannot be fetched"
    )


def test_the_hub_s_library_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"pip install 'paceline\[hf\]'"):
        load_model("allenai/MolmoE-1B-0924")
    with pytest.raises(ModelError, match="neither a known model .* nor a name of the Hugging Face hub"):
        load_model("not a model")
