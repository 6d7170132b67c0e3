import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from unseen.checkpoints import (
    PUBLISHED,
    ModelConfig,
    convert,
    load_pretrained,
    save_pretrained,
    shipped_models,
    translate,
    zegclip_keys,
)
from unseen.clip import CLIP
from unseen.clip.weights import save_clip
from unseen.errors import InputError
from unseen.methods import zegclip
from unseen.miniature.world import MICRO
from unseen.recipes import RECIPES
from unseen.segmenter import Segmenter
from unseen.writing import write_whole

OPTIONS = {"prompts": 2, "heads": 4}
CONFIG = ModelConfig(
    method="zegclip", options=OPTIONS, vocabulary=MICRO, setting="inductive", window=48
)


@pytest.fixture
def saved(micro_clip: CLIP, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save_pretrained(folder, zegclip(micro_clip.image, **OPTIONS), micro_clip.text, CONFIG)
    return folder


def test_a_saved_model_is_loaded_bit_by_bit(micro_clip: CLIP, tmp_path):
    model = zegclip(micro_clip.image, **OPTIONS)
    save_pretrained(tmp_path / "a" / "b", model, micro_clip.text, CONFIG)
    again, text, config = load_pretrained(tmp_path / "a" / "b")
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    for key, value in micro_clip.text.state_dict().items():
        assert torch.equal(text.state_dict()[key], value)
    assert replace(config, versions={}) == CONFIG
    assert config.versions["torch"] == torch.__version__


def test_saving_leaves_two_files_that_others_may_read(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert os.stat(saved / "model.safetensors").st_mode & 0o044


def test_an_adapter_leaves_out_what_clip_gives_and_nothing_else(micro_clip: CLIP, tmp_path):
    model = zegclip(micro_clip.image, **OPTIONS)
    save_clip(micro_clip, tmp_path / "clip")
    config = replace(CONFIG, clip=str(tmp_path / "clip"))
    save_pretrained(tmp_path / "m", model, micro_clip.text, config, adapter_only=True)
    kept = load_file(tmp_path / "m" / "model.safetensors")
    assert not any(key.startswith(("encoder.clip.", "text.")) for key in kept)
    again, text, _ = load_pretrained(tmp_path / "m")
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    (tmp_path / "clip").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="no CLIP weights at"):
        load_pretrained(tmp_path / "m")
    load_pretrained(tmp_path / "m", clip=tmp_path / "moved")


def change_state(folder: Path, **changes) -> None:
    state = load_file(folder / "model.safetensors")
    for key, value in changes.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda f: change_state(f, **{"head.project.bias": None}), "lacks head.project.bias"),
        (lambda f: change_state(f, **{"head.more": torch.zeros(1)}), "unknown head.more"),
        (lambda f: change_state(f, **{"head.project.bias": torch.zeros(3)}), r"is \(3,\)"),
        (lambda f: change_state(f, **{"text.ln_final.bias": None}), "lacks ln_final.bias"),
        (lambda f: (f / "config.json").write_text("{"), "not whole JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "does not describe a model"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "not a whole weights file"),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace('"zegclip"', '"zigclip"')
            ),
            "does not describe a model this version knows",
        ),
    ],
)
def test_broken_folders_get_one_sentence(saved, break_it, says):
    break_it(saved)
    with pytest.raises(InputError, match=says):
        load_pretrained(saved)


def test_unknown_names_say_what_there_is():
    with pytest.raises(InputError, match="zegclip-miniature-inductive"):
        load_pretrained("zegclip-minature")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_names_say_where_the_file_is_and_how_to_convert_it(name):
    with pytest.raises(InputError, match="download the authors' file.*unseen convert"):
        load_pretrained(name)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.pth").write_text("")
    with pytest.raises(InputError, match="unseen convert"):
        load_pretrained(tmp_path / "model.pth")


def test_shipped_models_are_made_by_recipes_and_load():
    assert shipped_models()
    for name in shipped_models():
        assert name in RECIPES
        _, _, config = load_pretrained(name)
        recipe = RECIPES[name]
        assert (config.method, config.setting) == (recipe.method, recipe.setting)
        assert config.recipe == json.loads(json.dumps(recipe.record()))


def authors_state(clip: CLIP, layers: int = 3) -> dict[str, torch.Tensor]:
    """Name a model's weights as the authors do, dead weights included."""
    model = zegclip(clip.image, prompts=2, depth=1, layers=layers, heads=4)
    ours = model.state_dict() | {f"text.{k}": v for k, v in clip.text.state_dict().items()}
    table = zegclip_keys(layers)
    back = {new: old for old, new in table.items() if new is not None}
    state = {
        translate(key, back): value for key, value in ours.items() if key not in ("mean", "std")
    }
    dim = model.head.project.out_features
    for i in range(layers):
        start = f"decode_head.decoder_1.layers.{i}."
        state[f"{start}self_attn.in_proj_weight"] = torch.zeros(3 * dim, dim)
        state[f"{start}norm1.weight"] = torch.zeros(dim)
    start = f"decode_head.decoder_1.layers.{layers - 1}."
    state[f"{start}multihead_attn.v.weight"] = torch.zeros(dim, dim)
    state[f"{start}linear1.weight"] = torch.zeros(4 * dim, dim)
    state["decode_head.loss_decode.criterion.empty_weight"] = torch.ones(16)
    return state


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_conversion_is_a_table_that_reads_both_ways(micro_clip: CLIP, layers):
    state = authors_state(micro_clip, layers)
    model, text, options = convert(state, heads=2, text_heads=1, decoder_heads=4)
    assert options == {"prompts": 2, "depth": 1, "layers": layers, "heads": 4}
    table = zegclip_keys(layers)
    for key, value in state.items():
        ours = translate(key, table)
        if ours and ours.startswith("text."):
            assert torch.equal(text.state_dict()[ours.removeprefix("text.")], value)
        elif ours:
            assert torch.equal(model.state_dict()[ours], value)


def test_head_counts_default_to_the_published_ones(micro_clip: CLIP):
    model, _, options = convert(authors_state(micro_clip))
    assert options["heads"] == 8
    assert model.encoder.clip.config.heads == 1


def test_checkpoints_of_several_processes_lose_their_prefix(micro_clip: CLIP):
    state = {f"module.{key}": value for key, value in authors_state(micro_clip).items()}
    convert(state)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decode_head.surprise": torch.zeros(1)}, "decode_head.surprise"),
        ({"decode_head.q_proj.bias": None}, "lacks project.bias"),
        ({"backbone.conv1.weight": None}, "lacks 'conv1.weight'"),
        ({"backbone.prompt_embeddings": None}, "lacks 'encoder.prompts.shallow'"),
    ],
)
def test_keys_missing_or_too_many_get_one_sentence(micro_clip: CLIP, change, says):
    state = authors_state(micro_clip)
    for key, value in change.items():
        state.pop(key) if value is None else state.update({key: value})
    with pytest.raises(InputError, match=says):
        convert(state)


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("decode_head.cascade_decoders.0.layers.0.norm2.bias", "Cascade-CLIP"),
        ("decode_head.decoder_q.layers.0.norm2.bias", "CLIP-RC"),
    ],
)
def test_checkpoints_of_other_methods_are_named(key, method):
    with pytest.raises(InputError, match=method):
        convert({key: torch.zeros(1)})


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / "file" / "below.txt", lambda path: path.write_text("x"))

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_whole(tmp_path / "whole.txt", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_saved_segmenter_gives_the_same_mask(saved):
    segmenter = Segmenter.from_pretrained(saved, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    first = segmenter(image, "bus, sky, train")
    second = Segmenter.from_pretrained(str(saved), device="cpu")(image, "bus, sky, train")
    assert (first.mask == second.mask).all()
