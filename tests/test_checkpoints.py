import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MICRO_PRETRAINING
from safetensors.torch import load_file, save_file

from unseen import checkpoints
from unseen.checkpoints import ModelConfig, clip_place, load_pretrained, save_pretrained
from unseen.clip import CLIP, fingerprint
from unseen.clip.weights import save_clip
from unseen.errors import InputError
from unseen.methods import zegclip
from unseen.miniature.pretrain import tiny_clip
from unseen.miniature.world import MICRO
from unseen.recipes import RECIPES, differing
from unseen.segmenter import Segmenter
from unseen.shipped import shipped_models
from unseen.writing import refuse_existing, write_text, write_whole

OPTIONS = {"prompts": 2, "heads": 4}
CONFIG = ModelConfig(
    method="zegclip", options=OPTIONS, vocabulary=MICRO, setting="inductive", window=48, stride=40
)


@pytest.fixture
def saved(micro_clip: CLIP, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save_pretrained(folder, zegclip(micro_clip.image, **OPTIONS), micro_clip.text, CONFIG)
    return folder


def test_a_saved_model_is_loaded_bit_by_bit(micro_clip: CLIP, tmp_path):
    model = zegclip(micro_clip.image, **OPTIONS)
    save_pretrained(tmp_path / "a" / "b", model, micro_clip.text, CONFIG)
    again, stored, config = load_pretrained(tmp_path / "a" / "b")
    text = stored.load()
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
    save_clip(tiny_clip(MICRO_PRETRAINING, MICRO), tmp_path / "clip")
    with pytest.raises(InputError, match="is another than it was trained on"):
        load_pretrained(tmp_path / "m")


def change_state(folder: Path, **changes) -> None:
    state = load_file(folder / "model.safetensors")
    for key, value in changes.items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    save_file(state, folder / "model.safetensors")


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda f: change_state(f, **{"head.project.bias": None}), "lacks head.project.bias"),
        (lambda f: change_state(f, **{"head.more": torch.zeros(1)}), "unknown head.more"),
        (lambda f: change_state(f, **{"head.project.bias": torch.zeros(3)}), r"is \(3,\)"),
        (lambda f: change_state(f, **{"text.ln_final.bias": None}), "lacks ln_final.bias"),
        (lambda f: (f / "config.json").write_text("{"), "not whole JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "does not describe a model"),
        (lambda f: (f / "config.json").write_text("[]"), "does not describe a model"),
        (
            lambda f: change_config(f, calibration="x"),
            r"this version knows \(its calibration is 'x'",
        ),
        (lambda f: change_config(f, calibration=None), "its calibration is None"),
        (lambda f: change_config(f, window="64"), "its window is '64'"),
        (lambda f: change_config(f, stride=0), "its stride is 0"),
        (lambda f: change_config(f, recipe=None), "its recipe is None"),
        (lambda f: change_config(f, recipe={"data": {"nam": "x"}}), "data of its recipe are"),
        (lambda f: change_config(f, setting="foo"), "its setting is 'foo'"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "not a whole weights file"),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace('"zegclip"', '"zigclip"')
            ),
            "of the method .zigclip., which is none of",
        ),
    ],
)
def test_broken_folders_get_one_sentence(saved, break_it, says):
    break_it(saved)
    with pytest.raises(InputError, match=says):
        _, text, _ = load_pretrained(saved)
        text.load()  # that of the text encoder is found when it is needed


def test_unknown_names_say_what_there_is():
    with pytest.raises(InputError, match="zegclip-miniature-inductive"):
        load_pretrained("zegclip-minature")


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
        assert not differing(recipe, config.recipe)


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


def test_an_interrupted_replacement_leaves_no_model_of_two(micro_clip, saved, monkeypatch):
    other = replace(CONFIG, calibration=0.5, options={"prompts": object()})
    model = zegclip(micro_clip.image, **OPTIONS)
    with pytest.raises(TypeError):  # what JSON does not take
        save_pretrained(saved, model, micro_clip.text, other)
    assert load_pretrained(saved)[2].calibration == CONFIG.calibration

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(saved, model, micro_clip.text, CONFIG)
    with pytest.raises(InputError, match="config.json"):
        load_pretrained(saved)


def test_what_others_left_is_not_replaced(micro_clip: CLIP, tmp_path):
    theirs = tmp_path / "clip" / "config.json"
    write_text(theirs, '{"model_type": "clip"}')
    model = zegclip(micro_clip.image, **OPTIONS)
    for act in (
        lambda: save_pretrained(theirs.parent, model, micro_clip.text, CONFIG),
        lambda: refuse_existing(theirs.parent, overwrite=True),
    ):
        with pytest.raises(InputError, match="is of no model of unseen, and is kept"):
            act()
    assert theirs.read_text() == '{"model_type": "clip"}'
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(InputError, match="model.safetensors is of a model: .* --overwrite"):
        refuse_existing(tmp_path, overwrite=False)
    refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a file: name a folder"):
        refuse_existing(tmp_path / "model.safetensors", overwrite=True)


def test_a_clip_on_disk_is_called_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "clips" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert clip_place("clips/b") == str(tmp_path / "clips" / "b")
    assert clip_place("clips/c") == "clips/c" and clip_place("miniature") == "miniature"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_saved_in_half_precision_knows_its_text_encoder(micro_clip, tmp_path, dtype):
    model = zegclip(micro_clip.image, **OPTIONS)
    save_pretrained(tmp_path, model, micro_clip.text, CONFIG, dtype=dtype)
    _, stored, _ = load_pretrained(tmp_path)
    assert fingerprint(stored.load()) == stored.fingerprint


def test_a_saved_segmenter_gives_the_same_mask(saved):
    segmenter = Segmenter.from_pretrained(saved, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    first = segmenter(image, "bus, sky, train")
    second = Segmenter.from_pretrained(str(saved), device="cpu")(image, "bus, sky, train")
    assert (first.mask == second.mask).all()
