"""Exported models against the models they are made of."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MICRO_PRETRAINING
from PIL import Image
from test_cli import Run, assert_one_sentence

from unseen import export
from unseen.backends import FILES, TEXT_FILE, TorchBackend
from unseen.checkpoints import ModelConfig, load_pretrained
from unseen.errors import InputError, MissingExtra
from unseen.export import Export, export_model
from unseen.methods import METHODS
from unseen.miniature.pretrain import tiny_clip
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import MICRO
from unseen.segmenter import Segmenter

OPTIONS: dict[str, dict] = {
    "zegclip": {"prompts": 2, "heads": 4},
    "cascade": {"prompts": 2, "heads": 4, "groups": ((1, 2), (3,))},
    "cliprc": {"prompts": 2, "heads": 4, "regions": 4},
}
INPUTS = [(1, (48, 48), 3), (3, (41, 75), 17)]  # images, (height, width), classes
pytestmark = pytest.mark.usefixtures("sizes_may_be_symbols")
Made = Callable[[str, str], tuple[Segmenter, Path, Export]]


def build(method: str) -> Segmenter:
    """Return an untrained model over the micro world."""
    torch.manual_seed(0)
    clip = tiny_clip(MICRO_PRETRAINING, MICRO)
    config = ModelConfig(
        method, OPTIONS[method], MICRO, "inductive", short_side=48, window=48, stride=40
    )
    return Segmenter(METHODS[method](clip.image, **OPTIONS[method]), clip.text, config)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """Return what exports a method's untrained model, once; its folder is not to be changed.

    A model is traced and turned into ONNX once for all targets, which is what takes the time.
    """
    models, programs = cache(build), {}

    @cache
    def make(method: str, to: str) -> tuple[Segmenter, Path, Export]:
        folder = tmp_path_factory.mktemp("exported") / "model"
        with pytest.MonkeyPatch.context() as patch:
            if method not in programs:
                programs[method] = export.trace(models(method).model)
            patch.setattr(export, "trace", lambda model: programs[method])
            if to == "openvino":
                onnx = make(method, "onnx")[1] / "model.onnx"
                patch.setattr(export, "write_onnx", lambda _, path: shutil.copyfile(onnx, path))
            return models(method), folder, export_model(models(method), folder, to=to)

    return make


@pytest.fixture
def picture() -> np.ndarray:
    return Scenes("val", vocabulary=MICRO, size=64)[0].image


def inputs(batch: int, size: tuple[int, int], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    text = torch.randn(classes, MICRO_PRETRAINING.embed_dim)
    return torch.rand(batch, 3, *size), F.normalize(text, dim=-1)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("method", OPTIONS)
def test_an_exported_model_answers_as_the_model(made, picture, method, to):
    segmenter, folder, written = made(method, to)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["config.json", TEXT_FILE, *FILES[to]]
    )
    assert written.difference <= export.TOLERANCE and written.agreement >= 0.9999
    again = Segmenter.from_pretrained(folder)
    for one in INPUTS:
        image, text = inputs(*one)
        ours, theirs = segmenter.backend(image, text).detach(), again.backend(image, text)
        assert theirs.shape == ours.shape and theirs.dtype == torch.float32
        assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()
    for labels in (MICRO, "sky, bus"):
        same = again(picture, labels).mask == segmenter(picture, labels).mask
        assert same.mean() >= 0.9999
    assert again.shown_at(short_side=40)(picture, MICRO).mask.shape == picture.shape[:2]


@pytest.mark.parametrize("method", OPTIONS)
def test_a_torch_program_answers_as_the_model_and_is_left_to_others_to_read(made, method):
    segmenter, folder, written = made(method, "torch")
    assert written.agreement is None
    run = torch.export.load(folder / "model.pt2").module()
    for one in INPUTS:
        image, text = inputs(*one)
        ours, theirs = segmenter.backend(image, text), run(image, text)
        assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()
    with pytest.raises(InputError, match="can run any code"):
        Segmenter.from_pretrained(folder)


def test_a_file_that_disagrees_is_not_written(monkeypatch, tmp_path):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="disagrees with the model"):
        export_model(build("zegclip"), tmp_path / "model", to="torch")
    assert not (tmp_path / "model").exists()


def test_files_of_others_are_neither_replaced_nor_removed(tmp_path):
    theirs = tmp_path / "model.xml"
    theirs.write_text("mine")
    with pytest.raises(InputError, match="model.xml is of no model of unseen: name another"):
        export_model(build("zegclip"), tmp_path, to="onnx")
    assert theirs.read_text() == "mine"


def test_int8_is_smaller_and_mostly_of_one_mind(made, monkeypatch, tmp_path):
    segmenter, _, plain = made("zegclip", "openvino")
    onnx = made("zegclip", "onnx")[1] / "model.onnx"
    monkeypatch.setattr(export, "trace", lambda model: None)
    monkeypatch.setattr(export, "write_onnx", lambda _, path: shutil.copyfile(onnx, path))
    written = export_model(segmenter, tmp_path / "model", to="openvino", int8=True)
    assert written.size < plain.size
    assert 0.8 < written.agreement <= 1 and written.difference > plain.difference
    assert json.loads((tmp_path / "model" / "config.json").read_text())["exported"]["int8"]


def test_the_text_encoder_is_read_when_words_are_given(made, tmp_path, picture):
    segmenter, folder, _ = made("zegclip", "onnx")
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / TEXT_FILE).unlink()
    again = Segmenter.from_pretrained(tmp_path / "model")
    assert again.fingerprint == segmenter.fingerprint
    embedded = segmenter.embed(MICRO)
    assert (again(picture, embedded).mask == segmenter(picture, embedded).mask).all()
    with pytest.raises(InputError, match="there is no file"):
        again.embed("sky")


def test_what_needs_the_model_itself_says_so(made, tmp_path):
    _, folder, _ = made("zegclip", "onnx")
    again = Segmenter.from_pretrained(folder)
    for use in (
        lambda: again.save_pretrained(tmp_path / "m"),
        lambda: export_model(again, tmp_path / "m", to="onnx"),
        lambda: load_pretrained(folder),
    ):
        with pytest.raises(InputError, match="can segment and be scored only"):
            use()
    with pytest.raises(InputError, match="runs on cpu only"):
        Segmenter.from_pretrained(folder, device="cuda")
    with pytest.raises(InputError, match="leave clip out"):
        Segmenter.from_pretrained(folder, clip="miniature")


def test_precision_is_chosen_at_load_and_logits_stay_in_float32(made):
    segmenter, folder, _ = made("zegclip", "openvino")
    image, text = inputs(2, (48, 64), 5)
    exact = segmenter.backend(image, text)
    rough = [Segmenter.from_pretrained(folder, precision="bf16").backend]
    cpu = torch.device("cpu")
    rough += [TorchBackend(segmenter.model, device=cpu, precision=p) for p in ("bf16", "fp16")]
    for backend in rough:
        logits = backend(image, text)
        assert logits.dtype == torch.float32
        assert (logits - exact).abs().max() < 0.1 * exact.abs().max()
    with pytest.raises(InputError, match="OpenVINO computes in fp32 or bf16"):
        Segmenter.from_pretrained(folder, precision="fp16")
    with pytest.raises(InputError, match="onnxruntime computes in fp32"):
        Segmenter.from_pretrained(made("zegclip", "onnx")[1], precision="bf16")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def forget_target(path: Path) -> None:
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"exported": {}}))


@pytest.mark.parametrize(
    ("to", "name", "break_it", "says"),
    [
        ("onnx", "model.onnx", cut, "cannot be run by this onnxruntime"),
        ("onnx", "model.onnx", Path.unlink, "there is no .*model.onnx"),
        ("openvino", "model.xml", cut, "cannot be run by this OpenVINO"),
        ("openvino", "model.bin", cut, "cannot be run by this OpenVINO"),
        ("openvino", "model.bin", Path.unlink, "there is no .*model.bin"),
        ("onnx", TEXT_FILE, cut, "not a whole weights file"),
        ("onnx", "config.json", cut, "not whole JSON"),
        ("onnx", "config.json", forget_target, "does not describe a model"),
    ],
)
def test_broken_folders_get_one_sentence(made, tmp_path, to, name, break_it, says):
    shutil.copytree(made("zegclip", to)[1], tmp_path / "model")
    break_it(tmp_path / "model" / name)
    with pytest.raises(InputError, match=says):
        Segmenter.from_pretrained(tmp_path / "model").embed("sky")


def test_what_is_not_installed_is_named(made, monkeypatch, tmp_path):
    _, folder, _ = made("zegclip", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unseen\[openvino\]'"):
        Segmenter.from_pretrained(folder)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"onnxscript.*pip install 'unseen\[onnx\]'"):
        export_model(build("zegclip"), tmp_path / "m", to="onnx")


@pytest.mark.filterwarnings("default")  # the command line shows warnings, not errors
def test_the_command_exports_a_model_that_segments(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def unseen(*arguments: str | Path) -> Run:
        return Run(capsys, monkeypatch, *arguments)

    shipped = "zegclip-miniature-inductive"
    run = unseen("export", shipped, "--to", "onnx", "-o", "fast", "--int8", "--json")
    assert run.code == 0, run.err
    assert "pixels of 20 validation scenes" in run.err
    told = json.loads(run.out)
    assert (told["model"], told["to"]) == ("fast", "onnx") and told["agreement"] > 0.9
    assert_one_sentence(unseen("export", shipped, "--to", "onnx", "-o", "fast"), "--overwrite")
    Image.fromarray(Scenes("val", size=160)[3].image).save(tmp_path / "scene.png")
    run = unseen("segment", "scene.png", "--model", "fast", "--labels", "sky, grass, bus", "--json")
    assert json.loads(run.out)[0]["found"]
    assert_one_sentence(unseen("doctor", "checkpoint", "fast"), "segment and be scored only")
    run = unseen("export", shipped, "--to", "torch", "-o", "fast", "--overwrite")
    assert run.code == 0, run.err
    assert "torch.export.load" in run.out and not (tmp_path / "fast" / "model.onnx").exists()

    (tmp_path / "m.onnx").write_text("")
    refused = unseen("export", shipped, "--to", "onnx", "-o", "m.onnx", "--overwrite")
    assert_one_sentence(refused, "is a file: name a folder")
    assert_one_sentence(unseen("export", shipped, "--to", "tflite", "-o", "m"), "onnx, openvino")
    arguments = ("export", shipped, "--to", "torch", "-o", "m", "--int8")
    assert_one_sentence(unseen(*arguments), "int8 is for onnx and openvino")
    Segmenter.from_pretrained(shipped, device="cpu").save_pretrained(tmp_path / "whole")
    arguments = ("export", shipped, "--to", "onnx", "-o", "whole", "--overwrite")
    assert_one_sentence(unseen(*arguments), "not exported: name another folder")


def test_compiling_is_torchs_and_its_failure_one_sentence(tmp_path, monkeypatch):
    segmenter = build("zegclip")
    segmenter.save_pretrained(tmp_path / "model")
    compiled = []

    def pretend(model):
        compiled.append(model)
        return lambda image, text: model(image, text)

    monkeypatch.setattr(torch, "compile", pretend)
    image, text = torch.rand(1, 3, 48, 48), torch.randn(3, MICRO_PRETRAINING.embed_dim)
    fast = Segmenter.from_pretrained(tmp_path / "model", compile=True)
    with torch.inference_mode():
        assert torch.equal(fast.backend(image, text), segmenter.backend(image, text))
    assert compiled == [fast.model] and fast.backend.name == "torch, compiled"
    assert Segmenter.from_clip("miniature", compile=True).backend.name == "torch, compiled"

    def fail(*given):
        from torch._dynamo.exc import BackendCompilerFailed

        raise BackendCompilerFailed(fail, RuntimeError("no C++ compiler"), None)

    monkeypatch.setattr(torch, "compile", lambda model: fail)
    slow = Segmenter.from_pretrained(tmp_path / "model", compile=True)
    with pytest.raises(InputError, match="torch.compile does not do it here .*no C.. compiler"):
        slow.backend(image, text)


def test_exported_files_are_not_compiled_again(made):
    with pytest.raises(InputError, match="leave compile out"):
        Segmenter.from_pretrained(made("zegclip", "onnx")[1], compile=True)


def test_signals_are_handled_after_openvino_models_came_and_went(made):
    """In a process of its own, which a bad stack for signals' handlers would end."""
    _, folder, _ = made("zegclip", "openvino")
    code = f"""
import os, signal
from pathlib import Path
from unseen.backends import OpenVinoBackend
from unseen.clip.model import VisionConfig

path, heard = Path({str(folder / "model.xml")!r}), []
first = OpenVinoBackend(path, {made("zegclip", "openvino")[0].model.encoder.clip.config!r})
second = OpenVinoBackend(path, first.vision)
del first
del second
signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
os.kill(os.getpid(), signal.SIGUSR1)
assert heard == [signal.SIGUSR1]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
