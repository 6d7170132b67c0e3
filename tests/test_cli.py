"""The command line as a user meets it: what it prints, where, and with which exit code."""

import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MICRO_PRETRAINING
from layouts import make_own, write_voc
from PIL import Image
from safetensors.torch import load_file
from test_data import write_segnet, write_uavid, write_udd6
from test_images import write as write_broken
from test_published import authors_state

from unseen.catalogue import open_dataset
from unseen.checkpoints import load_pretrained
from unseen.cli import FAMILIES, VERBS, main
from unseen.cli.options import DEFAULT_MODEL
from unseen.cli.scores import hardly_better
from unseen.cli.small import describe_protocol
from unseen.clip import CLIP
from unseen.clip.weights import save_clip
from unseen.conversion import convert
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError
from unseen.loading import PARTS, measure_loading
from unseen.metrics import Scores, chance
from unseen.miniature.pretrain import tiny_clip
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import MICRO
from unseen.recipes import EVALUATIONS, RECIPES, Source, expectation, kind_of
from unseen.segmenter import Segmenter
from unseen.sizes import BINS, Areas, SizeScores
from unseen.video import write_video
from unseen.vocabulary import (
    CAMVID,
    MINIATURE,
    MULTI_TEMPLATES,
    SINGLE_TEMPLATE,
    UAVID,
    UDD6,
    VOC20,
    Vocabulary,
)

pytestmark = pytest.mark.filterwarnings("default")  # the command line shows warnings, not errors


class Run:
    """What a call of the command line did."""

    def __init__(self, capsys, monkeypatch, *arguments: str | Path) -> None:
        monkeypatch.setattr(sys, "argv", ["unseen", *map(str, arguments)])
        try:
            main()
            self.code = 0
        except SystemExit as stop:
            self.code = stop.code or 0
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def unseen(capsys, monkeypatch, tmp_path):
    """Return the command line, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: Run(capsys, monkeypatch, *arguments)


@pytest.fixture
def scene(tmp_path) -> Path:
    """Return a drawn picture."""
    path = tmp_path / "scene.png"
    Image.fromarray(Scenes("val", size=160)[3].image).save(path)
    return path


def assert_one_sentence(run: Run, says: str) -> None:
    """A mistake gives one line on stderr, nothing on stdout, a code that is not 0, no traceback."""
    assert run.code not in (0, None)
    assert run.out == ""
    lines = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and says in lines[0], run.err
    assert "Traceback" not in run.err


def test_segment_writes_an_overlay_and_a_mask_and_prints_what_it_found(unseen, scene, tmp_path):
    run = unseen("segment", scene, "--labels", "cow, sky, grass", "--out", "out")
    assert run.code == 0
    assert "| label" in run.out and "segmented" not in run.out
    assert "knows drawings" in run.err
    mask = np.asarray(Image.open(tmp_path / "out" / "scene-mask.png"))
    assert mask.shape == (160, 160) and mask.max() < 3
    assert Image.open(tmp_path / "out" / "scene-overlay.png").width >= 160


def test_json_alone_is_on_stdout(unseen, scene):
    run = unseen("segment", scene, "--labels", "cow, train, sky", "--json")
    (result,) = json.loads(run.out)
    assert result["labels"] == ["cow", "train", "sky"]
    assert sum(region["share"] for region in result["found"]) == pytest.approx(1, abs=1e-3)
    assert all(region["unseen"] == (region["label"] != "sky") for region in result["found"])
    assert Path(result["overlay"]).is_file() and Path(result["mask"]).is_file()


def test_masks_are_written_in_the_forms_asked_for(unseen, scene, tmp_path):
    words = ("--labels", "cow, train, sky", "--merge", "other things: cow, train", "--json")
    run = unseen("segment", scene, *words, "--save", "coco, labelme", "--threshold", "0.5")
    (result,) = json.loads(run.out)
    assert result["labels"] == ["other things", "sky", "other"] and "mask" not in result
    coco = json.loads(Path(result["coco"]).read_text())
    assert coco["images"][0]["file_name"] == str(scene)
    assert {c["name"] for c in coco["categories"]} == set(result["labels"])
    told = json.loads(Path(result["labelme"]).read_text())
    assert told["imageHeight"] == 160
    assert Path(result["labelme"]).parent.joinpath(told["imagePath"]).samefile(scene)
    assert {path.name for path in (tmp_path / "segmented").iterdir()} == {
        "scene-coco.json",
        "scene-labelme.json",
    }


@pytest.mark.parametrize(
    "given, says",
    [
        (["--save", "maks"], "--save takes overlay, mask, coco, labelme"),
        (["--merge", "sky"], "given as 'background: sky, wall'"),
        (["--merge", "up: sky, sun"], "names 'sun'"),
        (["--threshold", "0.5", "--other", "sky"], "'sky' is a label"),
        (["--threshold", "0.5", "--tta"], "a threshold is for scores of one view"),
    ],
)
def test_forms_and_groups_that_cannot_be_get_one_sentence(unseen, scene, tmp_path, given, says):
    assert_one_sentence(unseen("segment", scene, "--labels", "cow, sky", *given), says)
    assert not (tmp_path / "segmented").exists()


def test_a_video_is_segmented_beside_pictures(unseen, scene, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "seen").mkdir()
    Image.open(scene).save(tmp_path / "seen" / "a.png")
    frames = (Image.open(scene) for _ in range(3))
    write_video(tmp_path / "seen" / "b.mp4", frames, Fraction(10))
    run = unseen("segment", "seen", "--labels", "cow, sky", "--every", "2", "--json")
    picture, video = json.loads(run.out)
    assert video["frames"] == 2 and video["labels"] == picture["labels"] == ["cow", "sky"]
    assert Path(video["overlay"]).is_file() and Path(video["report"]).is_file()


@pytest.mark.filterwarnings("ignore:.*seen/b.mp4:UserWarning")
def test_a_broken_video_among_pictures_is_named_and_the_rest_is_done(unseen, scene, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "seen").mkdir()
    for name in ("a", "c"):
        Image.open(scene).save(tmp_path / "seen" / f"{name}.png")
    write_video(tmp_path / "seen" / "b.mp4", [Image.open(scene)] * 3, Fraction(10))
    whole = (tmp_path / "seen" / "b.mp4").read_bytes()
    start, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    (tmp_path / "seen" / "b.mp4").write_bytes(whole[:start] + bytes(end - start) + whole[end:])
    run = unseen("segment", "seen", "--labels", "cow, sky")
    assert run.code == 2 and "seen/a.png →" in run.out and "seen/c.png →" in run.out
    assert "b.mp4 holds no frame that can be read" in run.err and "1 of 3 pictures" in run.err
    (tmp_path / "seen" / "b.mp4").write_bytes(whole)
    (tmp_path / "full" / "b-overlay.mp4").mkdir(parents=True)
    run = unseen("segment", "seen", "--labels", "cow, sky", "--out", "full")
    assert run.code == 2 and "b-overlay.mp4 cannot be written" in run.err
    assert "seen/a.png →" in run.out and "seen/c.png" not in run.out  # told before it stopped


def test_a_split_whose_unseen_classes_training_showed_is_told(unseen, segmenter, tmp_path):
    shown = replace(segmenter.config, start="elsewhere", shown_before=("cow", "dog"))
    Segmenter(segmenter.model, segmenter.text, shown).save_pretrained(tmp_path / "model")
    run = unseen("evaluate", "model", "--count", "1")
    assert "it, or its start, was shown masks of cow)" in run.out
    words = unseen("evaluate", "--count", "1", "--words", "sky: sky, clouds", "--json")
    assert_one_sentence(words, "these repeat: 'clouds'")
    run = unseen("evaluate", "--count", "1", "--words", "truck: truck, lorry", "--json")
    assert json.loads(run.out)["words"] == {"truck": ["truck", "lorry"]}
    assert json.loads(run.out)["calibration"] == 0.1


def test_confidence_is_measured_and_noted_in_the_models_folder(unseen, segmenter, scene, tmp_path):
    segmenter.save_pretrained(tmp_path / "model")
    before = json.loads((tmp_path / "model" / "config.json").read_text())
    run = unseen("calibrate", "model", "--count", "3", "--json")
    assert run.code == 0, run.err
    after = json.loads((tmp_path / "model" / "config.json").read_text())
    measured = after.pop("confidence")
    assert json.loads(run.out) == measured and measured["calibration"] == 0.1
    assert set(measured) == {"seen", "unseen", "calibration"} and "at γ = 0.1" in run.err
    assert "note: 3 pictures are few" in run.err and "reported on" not in run.err
    again = [unseen("calibrate", "model", "--count", n, "--journal", "j", "--json") for n in "23"]
    assert again[1].out == run.out, again[1].err  # what it notes itself is not another model's
    before.pop("confidence")
    assert after == before
    found = Segmenter.from_pretrained(tmp_path / "model")(scene, ["cow", "sky"])
    for label, kind in (("cow", "unseen"), ("sky", "seen")):
        here = found.mask_of(label)
        expected = np.interp(found.scores[here], *measured[kind]).astype(np.float32)
        assert (found.confidence[here] == expected).all()
    run = unseen("calibrate", "model", "--count", "3", "--split", "test")
    assert "reported on: a confidence measured on them is too good there" in run.err
    run = unseen("calibrate", "zegclip-miniature-inductive")
    assert_one_sentence(run, "is no folder of a model")
    assert "save_pretrained(FOLDER)" in run.err


def test_folders_of_pictures_and_files_of_labels(unseen, scene, tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.jpg", "a.jpg"):
        Image.open(scene).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    (tmp_path / "labels.txt").write_text("cow\nsky\n")
    run = unseen("segment", "pictures", "--labels", "labels.txt", "--json")
    assert [Path(r["picture"]).name for r in json.loads(run.out)] == ["a.jpg", "a.png", "b.jpg"]
    written = {path.name for path in (tmp_path / "segmented").iterdir()}
    assert {"a.jpg-mask.png", "a.png-mask.png", "b.jpg-mask.png"} <= written
    assert len(written) == 6


def test_pictures_of_one_name_in_two_folders_do_not_overwrite_each_other(unseen, scene, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.open(scene).save(tmp_path / folder / "a.png")
    run = unseen("segment", "one", "two", "one/a.png", "--labels", "cow", "--json")
    results = json.loads(run.out)
    assert [result["picture"] for result in results] == ["one/a.png", "two/a.png"]
    assert len({result["mask"] for result in results}) == 2
    assert all(Path(result["mask"]).is_file() for result in results)


def test_a_vocabularys_name_stands_for_its_labels(unseen, scene):
    run = unseen("segment", scene, "--labels", "miniature", "--json")
    assert len(json.loads(run.out)[0]["labels"]) == 34


def test_one_bad_picture_among_good_ones_is_named_and_the_rest_is_done(unseen, scene, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    run = unseen("segment", scene, "bad.png", "--labels", "cow, sky", "--json")
    assert run.code == 2
    assert len(json.loads(run.out)) == 1
    assert "bad.png is no picture" in run.err and "1 of 2 pictures" in run.err


def test_results_never_lie_among_the_pictures(unseen, scene, tmp_path):
    (tmp_path / "scene-mask.png").write_bytes(b"dear to me")
    run = unseen("segment", scene, "--labels", "cow", "--out", ".")
    assert_one_sentence(run, "give another --out")
    assert (tmp_path / "scene-mask.png").read_bytes() == b"dear to me"


def test_one_mistake_is_told_once_however_many_pictures_there_are(unseen, scene, tmp_path):
    Image.open(scene).save(tmp_path / "other.png")
    two = ("segment", scene, "other.png", "--labels")
    assert_one_sentence(unseen(*two, "xylophone, cow"), "'xylophone'")
    (tmp_path / "file").write_text("")
    assert_one_sentence(unseen(*two, "cow", "--out", "file/out"), "cannot be written")


def test_a_file_that_names_its_labels_takes_no_others(unseen, scene, segmenter):
    segmenter.embed(["cow", "sky"]).save("text.safetensors")
    run = unseen("segment", scene, "--text", "text.safetensors", "--json")
    assert json.loads(run.out)[0]["labels"] == ["cow", "sky"] and "2 text embeddings" in run.err
    run = unseen("segment", scene, "--text", "text.safetensors", "--labels", "cow")
    assert run.code == 2 and "leave --labels out" in run.err


def test_labels_may_come_from_any_editor_and_in_any_case(unseen, scene, tmp_path):
    (tmp_path / "labels.txt").write_text("# seen\nSky\n# unseen\nTrain\n", encoding="utf-8-sig")
    run = unseen("segment", scene, "--labels", "labels.txt", "--json")
    (result,) = json.loads(run.out)
    assert result["labels"] == ["Sky", "Train"]
    assert all(region["unseen"] == (region["label"] == "Train") for region in result["found"])


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "truncated", "bomb"])
def test_what_is_no_picture_gets_one_sentence(unseen, tmp_path, kind):
    (tmp_path / "in").mkdir()
    picture = write_broken(kind, tmp_path / "in")
    run = unseen("segment", picture, "--labels", "cow, sky", "--out", tmp_path / "out")
    assert_one_sentence(run, "pictures in" if kind == "folder" else str(picture))
    assert not (tmp_path / "out").exists()


def save_as(kind: str, path: Path) -> Path:
    pixels = Scenes("val", size=64)[1].image
    image = Image.fromarray(pixels)
    if kind == "16 bit":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif kind == "cmyk":
        image, path = image.convert("CMYK"), path.with_suffix(".jpg")
    elif kind == "grey":
        image = image.convert("L")
    elif kind == "palette with alpha":
        image = image.quantize(32)
        image.info["transparency"] = 0
    elif kind == "1x1":
        image = image.resize((1, 1))
    elif kind == "20000x10":
        image = image.resize((20000, 10))
    if kind == "turned by exif":
        exif = image.getexif()
        exif[0x0112] = 6
        path = path.with_suffix(".jpg")
        image.crop((0, 0, 64, 32)).save(path, exif=exif)
    else:
        image.save(path)
    return path


@pytest.mark.parametrize(
    "kind",
    ["16 bit", "cmyk", "grey", "palette with alpha", "turned by exif", "1x1", "20000x10"],
)
def test_odd_pictures_work(unseen, tmp_path, kind):
    picture = save_as(kind, tmp_path / "odd.png")
    run = unseen("segment", picture, "--labels", "cow, sky")
    assert run.code == 0, run.err
    mask = Image.open(tmp_path / "segmented" / "odd-mask.png")
    size = {"1x1": (1, 1), "20000x10": (20000, 10), "turned by exif": (32, 64)}
    assert mask.size == size.get(kind, (64, 64))
    assert ("warning: " in run.err and "4096" in run.err) == (kind == "20000x10")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "say what to look for"),
        ("", "no labels were given"),
        ("cow, sky, cow", "these repeat: 'cow'"),
        ("cow, Cow", "these repeat: 'Cow', 'cow'"),
        ("x" * 300, "does not know the word"),
        (" ".join(["cow"] * 500), "(504 words)"),
        ("xylophone, cow", "does not know the word 'xylophone'"),
        ("voc21", "did you mean 'voc20'"),
        ("labels.txt", "no file of labels"),
    ],
)
def test_bad_labels_get_one_sentence(unseen, scene, tmp_path, labels, says):
    given = [] if labels is None else ["--labels", labels]
    assert_one_sentence(unseen("segment", scene, *given), says)
    assert not (tmp_path / "segmented").exists()


def test_unknown_words_are_answered_with_the_nearest_and_with_what_the_model_knows(unseen, scene):
    run = unseen("segment", scene, "--labels", "hoarse")
    assert "the nearest it knows: horse" in run.err and "drawings" in run.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["segment", "a.png", "--labels", "cow", "--model", "nowhere"], "no model 'nowhere'"),
        (["segment", "a.png", "--labels", "cow", "--model", "a", "--clip", "b"], "not both"),
        (["segment", "a.png", "--labels", "cow", "--clip", "nowhere"], "no CLIP weights at"),
        (["segment", "a.png", "--labels", "cow", "--text", "no.npy"], "text embeddings at no.npy"),
        (["segment", "a.png", "--labels", "cow", "--model", "x" * 300], "no model 'x"),
        (["segment", "a.png", "--labels", "cow", "--clip", "x" * 300], "no CLIP weights at"),
        (["segment", "a.png", "--labels", "cow", "--text", "no.safetensors"], "there is no file"),
        (["evaluate", "--count", "1", "--calibration", "nan"], "from -100 to 100, got nan"),
        (["segment", "a.png", "--text", "a.npy", "--templates", "single"], "read already"),
        (["efficiency", "zegclip-voc-inductve"], "did you mean 'zegclip-voc-inductive"),
        ("efficiency zegclip-voc-inductive --classes 2 --labels a,b".split(), "not both"),
        ("efficiency zegclip-voc-inductive --size 8 8 --repeats 0".split(), "one patch of 16"),
        (["bench", "zegclip-voc-inductive", "--sizes", "480"], "HEIGHTxWIDTH"),
        (["bench", "zegclip-voc-inductive", "--batch", "1,0"], "--batch takes whole numbers"),
        (["doctor", "checkpoint", "nowhere"], "no file or folder nowhere"),
        (["evaluate", "--clip", "miniature", "--baselines"], "a baseline itself"),
        (["evaluate", "--curve", "--tta"], "--curve goes without"),
        (["train", "zegclip-miniature-inductive", "loss=sotfmax"], "known: masks, softmax"),
        (["evaluate", "--curve", "--report", "out"], "--curve makes no report"),
        (["evaluate", "--force"], "--force is for --report"),
        (["evaluate", "--report", "r", "--show-dir", "r/shown"], "--show-dir lies in r, which"),
        (["evaluate", "--report", "r", "--journal", "./r"], "--journal lies in r, which"),
        (["evaluate", "--words", "sky: sky, clouds", "--text", "a.npy"], "--words goes without"),
        (["evaluate", "--words", "sky"], "--words is given as 'background: sky, wall'"),
        (["evaluate", "--report", "."], "is there already: name another folder, or --force"),
        (["evaluate", "--compare"], "two models or more"),
        (["evaluate", "--compare", "--model", "a"], "two models or more"),
        (["evaluate", "--compare", "a"], "two models or more"),
        (["evaluate", "a", "a"], "each named once"),
        (["evaluate", "a", "--model", "b"], "name the model once"),
        (["evaluate", "a", "b", "--baselines"], "compared without --clip, --recipe, --baselines"),
        (["evaluate", DEFAULT_MODEL, "nowhere"], "no model 'nowhere'"),
        (["evaluate", "--root", "."], "leave --root out"),
        (["reproduce", "--no-run", "--only", "zegclpi"], "did you mean 'zegclip'"),
        (["reproduce", "--no-run", "--seeds", "0,a"], "different whole numbers"),
        (["reproduce", "--no-run", "--seeds", "1,1"], "different whole numbers"),
        (["reproduce", "table", "--only", "recovery"], "leave 'table' out"),
        (["evaluate", "zegclip-coco-inductive"], "download the authors' file"),
        (["evaluate", "--data", "vco"], "did you mean 'voc'"),
        (["evaluate", "--data", "no.yaml"], "no data set file at no.yaml"),
        (["doctor", "data", "voc"], "--root"),
        (["data", "prepare", "voc", "nowhere", "data"], "there is no folder nowhere"),
        (["embed", "cow", "-o", "text.npy"], "must end in .safetensors"),
        (["embed", "voc21", "-o", "text.safetensors"], "did you mean 'voc20'"),
        (["evaluate", "--data", "voc"], "--root"),
        (["evaluate", "--data", "voc", "--root", "."], "JPEGImages"),
        (["evaluate", "--split", "tset"], "train, val, test"),
        (["evaluate", "--data", "vocc"], "no data set is called 'vocc'"),
        (["evaluate", "--data", "voc", "--recipe", "zegclip-coco-to-voc"], "not both"),
        (["evaluate", "--recipe", "zegclip-coco-to-vox"], "did you mean 'zegclip-coco-to-voc"),
        (["evaluate", "--recipe", "zegclip-coco-to-voc"], "--root"),
        (["recipes", "show"], "say which recipe to show"),
        (["recipes", "list", "zegclip-voc-inductive"], "recipes show zegclip-voc-inductive"),
        (["recipes", "show", "zegclip-coco-to-voc", "steps=3"], "nothing to change"),
        (["recipes", "show", "zegclip-voc-inductive", "options.promts=3"], "did you mean 'prompts"),
        (["recipes", "show", "zegclip-voc-inductive", "data=vco"], "did you mean 'voc'"),
        (["recipes", "show", "zegclip-voc-inductive", "setting=inductve"], "did you mean 'indu"),
        (["recipes", "show", "zegclip-voc-inductive", "method=cascad"], "did you mean 'cascade'"),
        (["recipes", "show", "zegclip-voc-inductive", "augmentation=crp"], "did you mean 'crop'"),
        (["recipes", "show", "zegclip-voc-inductive", "--config", "no.yaml"], "readable YAML file"),
        (
            ["segment", "a.png", "--model", "zegclip-miniature-inductiv"],
            "did you mean 'zegclip-mini",
        ),
        (["doctor", "data", "miniature", "--out", "sheet.txt"], "end it in .png"),
        ("convert . -o out --vocabulary voc20".split(), ". is a folder: expected a weights file"),
        (["train", "zegclip-coco-to-voc"], "is an evaluation"),
        (["train", "zegclip-voc-inductive"], "data.root=FOLDER"),
        (["train", "zegclip-miniature-inductive", "stesp=3"], "did you mean 'steps"),
        (["train", "zegclip-miniature-inductive", "options.prompt=3"], "did you mean 'prompts"),
        (["train", "zegclip-miniature-inductive", "--config", "no.yaml"], "no readable YAML file"),
        (["train", "zegclip-miniature-inductve"], "did you mean 'zegclip-miniature-inductive"),
        (["train", "zegclip-miniature-inductive", "options.depth=99"], "depth must be from 0 to 5"),
        (
            ["train", "cascade-miniature-inductive", "options.over=frozen"],
            "prompts has no effect in a cascade over frozen",
        ),
        (
            "train zegclip-miniature-inductive options.prompts=3 "
            "--from zegclip-miniature-inductive".split(),
            "add options.prompts=10, or start from another",
        ),
        (["train", "zegclip-miniature-transductive"], "give --from"),
        (
            ["train", "zegclip-miniature-transductive", "--from", "nowhere"],
            "no model 'nowhere'",
        ),
        (
            "convert no.pth -o out --vocabulary voc20 --setting inductive".split(),
            "there is no file no.pth",
        ),
        (
            "convert no.pth -o out --vocabulary ade20k --setting inductive".split(),
            "no vocabulary is called 'ade20k'",
        ),
        (
            "convert no.pth -o out --vocabulary coco117 --setting inductive".split(),
            "did you mean 'coco171'",
        ),
    ],
)
def test_wrong_arguments_get_one_sentence(unseen, tmp_path, arguments, says):
    (tmp_path / "a.png").touch()
    assert_one_sentence(unseen(*arguments), says)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_version_is_told(unseen):
    run = unseen("--version")
    assert run.code == 0 and re.fullmatch(r"unseen \d+\.\d+\.\d+\S*\n", run.out)


def test_an_interruption_is_told(unseen, scene, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("unseen.pictures.as_array", stop)
    run = unseen("segment", scene, "--labels", "cow")
    assert run.code == 130 and run.err.endswith("the rest is missing\n")


def test_a_models_own_names_are_looked_for_where_none_are_given(unseen, scene):
    run = unseen("segment", scene, "--model", "zegclip-miniature-inductive")
    assert run.code == 0 and "looking for the 34 names" in run.err
    assert "not found: " in run.out


def test_a_folder_with_a_log_alone_can_be_trained_into(unseen, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log.jsonl").write_text("{}\n")
    run = unseen(
        *"train zegclip-miniature-inductive --out runs --device cpu steps=1 batch_size=1".split()
    )
    assert run.code == 0, run.err
    lines = (tmp_path / "runs" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]


def test_a_baseline_is_trained_by_its_method(unseen, tmp_path):
    words = "train zegclip-miniature-inductive method=frozen options.heads=2 steps=1 batch_size=1"
    assert unseen(*words.split(), "--out", "frozen").code == 0
    config = json.loads((tmp_path / "frozen" / "config.json").read_text())
    assert config["method"] == "frozen" and config["options"] == {"heads": 2}


def test_misspelt_verbs_and_options_get_a_hint(unseen):
    run = unseen("segmnt")
    assert run.code == 2 and "Did you mean 'segment'?" in run.err
    run = unseen("segment", "a.png", "--label", "cow")
    assert run.code == 2 and "--labels" in run.err


def test_an_output_folder_that_cannot_be_made_gets_one_sentence(unseen, scene, tmp_path):
    (tmp_path / "file").write_text("")
    run = unseen("segment", scene, "--labels", "cow, sky", "--out", tmp_path / "file" / "out")
    assert_one_sentence(run, "cannot be written")
    run = unseen(
        "train", "zegclip-miniature-inductive", "--steps", "1", "--out", tmp_path / "file" / "out"
    )
    assert_one_sentence(run, "cannot be written")
    run = unseen("evaluate", "--count", "1", "--show-dir", tmp_path / "file" / "out")
    assert_one_sentence(run, "cannot be written")


def test_evaluate_prints_headlines_classes_chance_and_what_was_held_out(unseen, tmp_path):
    run = unseen("evaluate", "--count", "2", "--show-dir", "shown")
    assert "unseen classes: train, sheep, cow, giraffe, clouds, grass, road\n" in run.out
    for heading in ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "things(U)", "stuff(U)", "| chance"):
        assert heading in run.out
    assert "| giraffe       | unseen | thing |" in run.out
    assert len(list((tmp_path / "shown").iterdir())) == 2


def test_evaluate_json_is_json(unseen):
    run = unseen("evaluate", "--count", "2", "--json", "--baselines")
    result = json.loads(run.out)
    assert list(result["scores"]) == [
        "zegclip-miniature-inductive",
        "untrained head",
        "CLIP alone (MaskCLIP)",
        "chance",
    ]
    assert result["pictures"] == 2 and "cow" in result["unseen"]


def test_scores_no_better_than_chance_are_pointed_out(unseen):
    vocabulary = Vocabulary("three", ("cow", "sky", "sea"))
    good = Scores(np.diag([50, 30, 20]), vocabulary)
    shifted = Scores(np.roll(np.diag([50, 30, 20]), 1, axis=1), vocabulary)
    assert hardly_better(good, chance(good)) == ""
    assert "another order" in hardly_better(shifted, chance(shifted))
    two, one = (Vocabulary("few", names) for names in (("cow", "sky"), ("cow",)))
    for matrix, vocabulary in (([[4, 1], [1, 4]], two), ([[5]], one)):
        scores = Scores(np.array(matrix), vocabulary)
        assert hardly_better(scores, chance(scores)) == ""
    nothing = Scores(np.zeros((2, 2), np.int64), two)
    assert "has a label" in hardly_better(nothing, chance(nothing))
    assert "chance" not in unseen("evaluate", "--count", "2").err


def test_evaluate_draws_the_curve_of_gamma(unseen):
    run = unseen("evaluate", "--count", "1", "--split", "val", "--curve")
    assert run.code == 0 and "best hIoU" in run.out and "note" not in run.err
    assert len([line for line in run.out.splitlines() if line.startswith("| 0.")]) == 20
    run = unseen("evaluate", "--count", "1", "--curve", "--json")
    assert "reported on: choose γ on others" in run.err
    assert set(json.loads(run.out)["curve"]["0.00"]) >= {"mIoU(S)", "hIoU"}
    own = make_own(Path("own"), 2)
    run = unseen("evaluate", "--data", own, "--curve")
    assert "reported on: choose γ on others" in run.err
    run = unseen("evaluate", "--data", own, "--curve", "--split", "val")
    assert "reported on: choose γ on others" in run.err
    text = Path(own).read_text()
    Path(own).write_text(text.replace("splits: {", "splits: {test: {list: train.txt}, "))
    run = unseen("evaluate", "--data", own, "--curve", "--split", "val")
    assert "reported on" not in run.err


def test_pictures_are_not_painted_over_those_of_the_data_set(unseen):
    own = make_own(Path("own"), 2)
    for folder in ("own/masks", "own/images"):
        run = unseen("evaluate", "--data", own, "--show-dir", folder)
        assert_one_sentence(run, f"would paint over the pictures or label maps in {folder}")
    assert unseen("evaluate", "--data", own, "--show-dir", "shown", "--count", "1").code == 0


def test_a_training_that_cannot_be_scored_is_not_begun(unseen):
    own = Path(make_own(Path("own"), 2))
    own.write_text(own.read_text().replace(", val: {list: train.txt}", ""))
    for options in (["--seeds", "0,1"], ["--score"]):
        run = unseen(
            "train", "zegclip-miniature-inductive", f"data={own}", "batch_size=2", *options
        )
        assert_one_sentence(run, "it has no split test or val to be scored")
    run = unseen("train", "zegclip-voc-inductive", "--score")
    assert_one_sentence(run, "say in which folder with data.root=FOLDER")
    assert not Path("runs").exists()


def test_a_model_is_not_called_as_another_row_of_the_table(unseen, segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path / "chance")
    run = unseen("evaluate", "chance", "--count", "1")
    assert_one_sentence(run, "another row of the table is called 'chance': write ./chance")
    run = unseen("evaluate", "./chance", "--count", "1", "--json")
    assert set(json.loads(run.out)["scores"]) == {"./chance", "chance"}


def test_reproduce_prints_what_is_there(unseen):
    run = unseen("reproduce", "--no-run", "--only", "zegclip,γ")
    assert run.code == 0 and "not run" in run.out
    assert "runs are not in runs/reproduction" in run.err


def test_small_scores_by_size_on_any_data_set(unseen):
    run = unseen("evaluate", "--small", "--count", "2", "--baselines")
    assert run.code == 0, run.err
    assert "medium from 1024, large from 9216 pixels; below is speckle" in run.out
    for title in ("zegclip-miniature-inductive", "untrained head", "CLIP alone (MaskCLIP)"):
        assert f"by size, {title}: " in run.out
    assert run.out.count("| all   | large   |") == 3
    assert "protocol" not in run.out and "small-class" not in run.out
    run = unseen("evaluate", "--small", "--relative", "--min-area", "0.05", "--count", "2")
    assert "small from 0.05, medium from 0.1, large from 1 % of the picture" in run.out
    run = unseen("evaluate", "--small", "--min-area", "1", "--count", "2", "--json")
    small = json.loads(run.out)["small"]
    assert small["protocol"] is small["small_class_miou"] is None
    (sizes,) = small["sizes"].values()
    assert sizes["all"]["speckle"]["components"] == 0 < sizes["all"]["medium"]["components"]
    assert set(sizes["classes"]) == set(MINIATURE.names)
    scenes = Scenes("test", count=2)
    labelled = [SizeScores.count(s.labels, s.labels, MINIATURE, Areas(small=1)) for s in scenes]
    counts = sum(one.components for one in labelled)
    for name, row in zip(MINIATURE.names, counts, strict=True):
        assert [sizes["classes"][name][size]["components"] for size in BINS] == row.tolist()


@pytest.fixture
def street_clip(tmp_path) -> Path:
    """Return an untrained CLIP that knows the words of streets, seen from there and from above."""
    names = [name for known in (CAMVID, UAVID, UDD6) for name in known.names]
    torch.manual_seed(0)
    clip = tiny_clip(MICRO_PRETRAINING, Vocabulary("streets", tuple(dict.fromkeys(names))))
    save_clip(clip, tmp_path / "street-clip")
    return tmp_path / "street-clip"


@pytest.mark.parametrize(
    ("data", "write", "small", "background"),
    [
        ("camvid", write_segnet, "Pole, SignSymbol, Pedestrian, Bicyclist", "void ignored"),
        ("uavid", write_uavid, "Human, Moving Car, Static Car", "Background evaluated"),
        ("uavid-foreground", write_uavid, "Human, Moving Car, Static Car", "Background ignored"),
        ("udd6", write_udd6, "Vehicle", "Other evaluated"),
        ("udd6-foreground", write_udd6, "Vehicle", "Other ignored"),
    ],
)
def test_small_follows_the_protocol_and_says_where_not(
    unseen, tmp_path, street_clip, data, write, small, background
):
    root = write(tmp_path / "data")
    given = ("evaluate", "--clip", street_clip, "--data", data, "--root", root, "--small")
    run = unseen(*given)
    assert run.code == 0, run.err
    vocabulary = open_dataset(data, root=root).vocabulary
    assert f"small-class mIoU ({small}): " in run.out
    assert f"protocol perceptual-2025 (arXiv 2504.09480), {background}\n" in run.out
    assert "\nsentences: a photo of a {}\n" in run.out
    assert f"\nnames, as they are: {', '.join(vocabulary.names)}\n" in run.out
    assert "departures: trained on nothing, not coco171; " in run.out
    assert "; short side, window, stride (48, 48, 40), not (512, 512, 426)" in run.out
    assert ("; 1 of 233 pictures" in run.out) == (data == "camvid")
    assert ("; 1 of 45 pictures" in run.out) == data.startswith("udd6")
    assert all(f"| {name} " in run.out.partition("by size")[2] for name in small.split(", "))
    result = json.loads(unseen(*given, "--json", "--count", "1").out)
    assert result["small"]["small_classes"] == small.split(", ")
    scores, _ = result["small"]["small_class_miou"].values()
    listed = [result["scores"][str(street_clip)]["classes"][n]["IoU"] for n in small.split(", ")]
    kept = [value for value in listed if value is not None]
    assert scores == (pytest.approx(np.mean(kept), abs=1e-3) if kept else None)
    assert result["small"]["protocol"]["names"] == list(vocabulary.names)
    assert " pictures" in "".join(result["small"]["protocol"]["departures"])


def test_a_coco_model_as_published_departs_from_nothing():
    about = {
        "data": "camvid", "trained_on": "coco171", "split": "test", "pictures": 233,
        "vocabulary": "camvid", "calibration": 0.0, "views": "one",
        "short_side": 512, "window": 512, "stride": 426,
    }  # fmt: skip

    def describe(names: tuple[str, ...] = CAMVID.names, **changes: object) -> dict | None:
        facts = {**about, **changes}
        return describe_protocol(facts, {"model": facts}, names, (), partial=False)

    protocol = describe()
    assert protocol is not None and protocol["departures"] == []
    for change in (
        {"split": "val"},
        {"pictures": 39},
        {"calibration": 0.1},
        {"short_side": 720},
        {"views": "scales and mirror images"},
        {"trained_on": "voc20"},
    ):
        changed = describe(**change)
        assert changed is not None and len(changed["departures"]) == 1
    fewer = describe(CAMVID.names[1:])
    assert fewer is not None and "not looked for" in fewer["departures"][0]
    assert describe(data="voc") is None


def test_pictures_are_shown_at_the_size_one_asks_for(unseen):
    def scores(*options: str) -> dict[str, float]:
        run = unseen("evaluate", "--count", "2", "--json", *options)
        result = json.loads(run.out)
        shown = [result[name] for name in ("short_side", "window", "stride")]
        numbers = result["scores"]["zegclip-miniature-inductive"]
        return {"shown": shown, "pAcc": numbers["pAcc"]}

    usual = scores()
    assert usual == scores(*"--short-side 128 --window 64 --stride 32".split())
    coarse = scores("--short-side", "64")
    assert coarse["shown"] == [64, 64, 32] and coarse["pAcc"] != usual["pAcc"]
    run = unseen("evaluate", "--count", "1", *"--short-side 40 --window 32 --stride 20".split())
    assert "short side 40, windows of 32 every 20\n" in run.out
    row = "--recipe", "zegclip-miniature-inductive", "--short-side", "64"
    assert "shown to the model at another size" in unseen("evaluate", *row, "--count", "1").err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--relative", "add --small"),
        ("--min-area 5", "add --small"),
        ("--small --min-area 5000", "must rise from 0 on, got small from 5000, medium from 1024"),
        ("--small --min-area -1", "must rise from 0 on, got small from -1"),
        ("--small --relative --min-area 2", "small from 2, medium from 0.1"),
        ("--small --curve", "--curve goes without --small"),
        ("--window 20", "must be from 1 to the window of 20, got 32: give a stride that fits"),
        ("--stride 65", "must be from 1 to the window of 64, got 65"),
        ("--stride 0", "must be from 1 to the window of 64, got 0"),
        ("--window 4 --stride 4", "the window must be at least a patch of this model, 8"),
        ("--short-side 0", "the short side must be at least a patch of this model, 8"),
    ],
)
def test_sizes_that_do_not_fit_get_one_sentence(unseen, options, says):
    run = unseen("evaluate", "--count", "1", *options.split())
    assert_one_sentence(run, says)
    assert run.code == 2


def test_clip_alone_can_be_evaluated(unseen):
    run = unseen("evaluate", "--clip", "miniature", "--count", "1")
    assert run.code == 0 and "training-free" in run.out


def test_a_report_has_the_scores_that_are_printed_and_is_kept_without_force(unseen, tmp_path):
    run = unseen("evaluate", "--count", "3", "--report", "out/report", "--baselines", "--json")
    assert run.code == 0 and "report: out/report/index.html" in run.err
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    printed = json.loads(run.out)
    assert {key: report[key] for key in printed} == printed
    (conditions,) = report["conditions"].values()
    assert conditions["data"] == "miniature, test, 3 pictures"
    assert conditions["held out"].startswith("train, sheep") and "miniature" in conditions["CLIP"]
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert "untrained head" in page and "chance" in page and page.count("<article>") == 3
    assert f"<b>{printed['scores'][DEFAULT_MODEL]['hIoU']:.1f}</b>hIoU" in page
    again = ("evaluate", "--count", "1", "--report", "out/report")
    assert_one_sentence(unseen(*again), "is there already: name another folder, or --force")
    assert (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8") == page
    assert unseen(*again, "--force").code == 0
    shorter = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert shorter.count("<article>") == 1
    (tmp_path / "out" / "report" / "notes.txt").write_text("mine")
    assert_one_sentence(unseen(*again, "--force"), "also holds notes.txt")


def test_models_are_compared_on_the_same_pictures(unseen, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(files("unseen.miniature") / "assets" / DEFAULT_MODEL, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config |= {"calibration": 0.5, "setting": "supervised"}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run = unseen("evaluate", DEFAULT_MODEL, "copy", "--count", "3", "--report", "both")
    assert run.code == 0, run.err
    assert f"| less {DEFAULT_MODEL} | pAcc " in run.out
    assert "1000 paired resamples of 3 pictures" in run.out and "other seeds" in run.out
    shown = "cpu; short side 128, windows of 64 every 32"
    assert f"{DEFAULT_MODEL}: inductive, γ = 0.1, {shown}\n" in run.out
    assert f"copy: supervised, γ = 0.5, {shown} (their masks were shown in training" in run.out
    assert "| sea " in run.out and "| giraffe (unseen) |" in run.out
    report = json.loads((tmp_path / "both" / "report.json").read_text(encoding="utf-8"))
    assert list(report["models"]) == list(report["conditions"]) == [DEFAULT_MODEL, "copy"]
    found = report["differences"]["of"]["copy"]["pAcc"]
    scores = report["scores"]
    assert found["value"] == pytest.approx(
        scores["copy"]["pAcc"] - scores[DEFAULT_MODEL]["pAcc"], abs=2e-4
    )
    assert found["low"] <= found["value"] <= found["high"]
    page = (tmp_path / "both" / "index.html").read_text(encoding="utf-8")
    assert "their masks were shown in training" in page and "B: prediction" in page


def test_train_then_evaluate_then_go_on_transductively(unseen, tmp_path):
    run = unseen("train", "zegclip-miniature-inductive", "--steps", "2", "--seed", "1", "--json")
    assert json.loads(run.out) == {
        "model": "runs/zegclip-miniature-inductive",
        "steps": 2,
        "seed": 1,
        "unseen": list(MINIATURE.unseen),
    }
    run = unseen("train", "zegclip-miniature-inductive", "--steps", "2")
    assert_one_sentence(run, "is of a model: name another folder")
    half = "runs/zegclip-miniature-inductive/halfway"
    run = unseen("train", "zegclip-miniature-transductive", "--steps", "1", "--from", half)
    assert run.code == 0 and "unseen evaluate runs/zegclip-miniature-transductive" in run.out
    run = unseen("evaluate", "runs/zegclip-miniature-transductive", "--count", "1")
    assert run.code == 0 and "transductive, γ = 0" in run.out


def test_changes_go_before_a_file_and_a_file_before_the_recipe(unseen, tmp_path):
    (tmp_path / "mine.yaml").write_text("batch_size: 2\nsteps: 9\noptions: {prompts: 3}\n")
    name = "zegclip-miniature-inductive"
    run = unseen("train", name, "steps=8", "options.heads=4", "--config", "mine.yaml", "--steps", 1)
    assert run.code == 0, run.err
    assert "note: batches of 2 instead of the recipe's 16" in run.err
    recipe = json.loads((tmp_path / "runs" / name / "config.json").read_text())["recipe"]
    assert (recipe["steps"], recipe["batch_size"]) == (1, 2)
    assert recipe["options"] == {"prompts": 3, "heads": 4}


def test_recipes_are_listed_and_shown(unseen):
    run = unseen("recipes")
    assert "| zegclip-voc-inductive " in run.out and "| cascade-coco-to-context " in run.out
    rows = json.loads(unseen("recipes", "--json").out)
    assert len(rows) == 31 and rows[0]["unseen"][0] == "pottedplant"
    shown = unseen("recipes", "show", "cliprc-coco-inductive", "steps=7").out
    assert "auxiliary_weight: 50.0" in shown and "steps: 7" in shown and "giraffe" in shown


def test_a_recipes_promise_stands_beside_what_was_measured(unseen):
    row = "zegclip-miniature-inductive"
    run = unseen("evaluate", "--recipe", row, "--count", "1", "--tta")
    told = RECIPES[row].expected
    numbers = f"{told.pacc} | {told.miou} | –    | {told.seen} "
    assert f"| expected of zegclip-miniature-inductive | {numbers}" in run.out
    assert "scales and mirror images" in run.out
    assert "expected: the shipped model, seed 0" in run.out
    run = unseen("evaluate", "--clip", "miniature", "--recipe", row, "--count", "1")
    assert "of another kind, maskclip" in run.err and "expected" not in run.out
    run = unseen("evaluate", "--recipe", row, "--split", "val", "--count", "1")
    assert "the pictures are those of val" in run.err


def test_on_another_data_set_every_class_counts_as_seen(unseen, tmp_path):
    root = write_voc(tmp_path / "voc")
    TextEmbeddings(VOC20, torch.randn(20, 128)).save("text.safetensors")
    given = ("--root", root, "--text", "text.safetensors")
    run = unseen("evaluate", "--recipe", "zegclip-coco-to-voc", *given)
    assert run.code == 0, run.err
    assert "γ = 0," in run.out
    assert "unseen classes: none (every class counts as seen)" in run.out
    assert "was trained by zegclip-miniature-inductive" in run.err and "expected" not in run.out
    run = unseen("evaluate", "--data", "voc", *given)
    assert "tvmonitor (the split of voc20; training was on miniature)" in run.out


def test_a_recipe_of_another_model_is_remarked_upon(unseen):
    run = unseen("evaluate", "--recipe", "zegclip-miniature-supervised", "--count", "1")
    assert run.code == 0 and "expected" not in run.err + run.out  # nobody measured that row
    row = RECIPES["zegclip-voc-supervised"]
    doubt = "the model was trained by zegclip-miniature-inductive"
    record = RECIPES["zegclip-miniature-inductive"].record()
    assert expectation(row, record, kind_of(row)) == (None, doubt)
    run = unseen("evaluate", "--recipe", "zegclip-miniature-inductive", "--count", "1")
    assert "not to be expected here: 1 of its pictures are scored" in run.err


def test_a_promise_is_of_the_row_a_model_was_trained_by():
    row = RECIPES["zegclip-voc-transductive"]
    kind = kind_of(row)
    assert expectation(row, {}, kind) == (row.expected, "")
    assert expectation(row, row.record(), kind) == (row.expected, "")
    plain, doubt = expectation(row, {**row.record(), "setting": "self-training"}, kind)
    assert plain.unseen == 82.2 and not doubt
    changed = {**row.record(), "steps": 3, "batch_size": 2}
    assert expectation(row, changed, kind) == (
        None,
        "the model was trained with other steps, batch_size",
    )
    half = {**row.record(), "stopped_at": 5000}
    assert expectation(row, half, kind) == (
        None,
        "the model is half-trained, stopped after step 5000",
    )
    other = {**row.record(), "setting": "supervised"}
    assert expectation(row, other, kind) == (None, "the model was trained with other setting")
    converted = ("cascade", "coco171", "inductive")
    told = "the model is of another kind, cascade coco171 inductive"
    assert expectation(row, {}, converted) == (None, told)
    unpromised = RECIPES["zegclip-miniature-transductive"]
    assert expectation(unpromised, {**unpromised.record(), "steps": 3}, kind) == (None, "")
    crossing = EVALUATIONS["zegclip-coco-to-voc"]
    trained = RECIPES["zegclip-coco-inductive"].record()
    assert expectation(crossing, trained, kind) == (crossing.expected, "")
    assert "steps" in expectation(crossing, {**trained, "steps": 3}, kind)[1]


def test_convert_makes_a_model_of_an_authors_file(unseen, micro_clip: CLIP, tmp_path):
    content = {"meta": {"epoch": 1}, "state_dict": authors_state(micro_clip), "optimizer": {}}
    torch.save(content, tmp_path / "authors.pth")
    run = unseen(*"convert authors.pth -o mine --vocabulary voc20 --setting inductive".split())
    assert run.code == 0, run.err
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert (config["setting"], config["calibration"], config["window"]) == ("inductive", 0.1, 512)
    assert config["vocabulary"]["unseen"][0] == "pottedplant"
    supervised = "convert authors.pth -o mine --vocabulary voc20 --setting supervised".split()
    assert_one_sentence(unseen(*supervised, "--overwrite"), "inductive or transductive, not")
    again = "convert authors.pth -o mine --vocabulary voc20 --setting transductive".split()
    assert_one_sentence(unseen(*again), "is of a model: name another folder")
    assert json.loads((tmp_path / "mine" / "config.json").read_text()) == config
    told = json.loads(unseen(*again, "--overwrite", "--json").out)
    assert (told["model"], told["setting"], told["vocabulary"]) == ("mine", "transductive", "voc20")
    elsewhere = [*again[:3], "authors.pth/out", *again[4:]]
    assert_one_sentence(unseen(*elsewhere), "cannot be written")


@pytest.mark.parametrize("method", ["cascade", "cliprc"])
def test_convert_recognises_what_the_file_says(unseen, micro_clip: CLIP, tmp_path, method):
    meta = {"CLASSES": VOC20.names, "config": "model = dict(self_training=True)"}
    content = {"meta": meta, "state_dict": authors_state(micro_clip, method)}
    torch.save(content, tmp_path / "authors.pth")
    run = unseen("convert", "authors.pth", "-o", "mine")
    assert run.code == 0 and "unseen: pottedplant" in run.err, run.err
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert (config["method"], config["setting"]) == (method, "transductive")
    refused = "convert authors.pth -o other".split()
    assert_one_sentence(unseen(*refused, "--setting", "inductive"), "says it was trained trans")
    assert_one_sentence(unseen(*refused, "--vocabulary", "coco171"), "on voc20, not on coco171")
    assert not (tmp_path / "other").exists()


def test_convert_asks_for_what_the_file_does_not_say(unseen, micro_clip: CLIP, tmp_path):
    torch.save({"state_dict": authors_state(micro_clip)}, tmp_path / "a.pth")
    assert_one_sentence(unseen("convert", "a.pth", "-o", "m"), "give --vocabulary")
    voc = "convert a.pth -o m --vocabulary voc20".split()
    assert_one_sentence(unseen(*voc), "give --setting inductive or transductive")


def test_an_adapter_of_cascade_clip_keeps_its_frozen_projections(
    unseen, micro_clip: CLIP, tmp_path
):
    state = authors_state(micro_clip, "cascade")
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    options = "--vocabulary voc20 --setting inductive --adapter-only".split()
    assert unseen("convert", "a.pth", "-o", "m", *options).code == 0
    kept = load_file(tmp_path / "m" / "model.safetensors")
    assert not any(key.startswith(("encoder.clip.", "text.")) for key in kept)
    assert torch.equal(kept["encoder.stages.proj"], state["backbone.proj_layers"])
    save_clip(micro_clip, tmp_path / "clip")
    with pytest.raises(InputError, match="is another than it was trained on"):  # of other heads
        load_pretrained(tmp_path / "m", clip=tmp_path / "clip")
    told = json.loads((tmp_path / "clip" / "clip.json").read_text())
    told["vision"]["heads"] = 1  # one per 64 channels, as convert takes it
    (tmp_path / "clip" / "clip.json").write_text(json.dumps(told))
    model, _, _ = load_pretrained(tmp_path / "m", clip=tmp_path / "clip")
    whole = convert(state, heads=1).model
    image, text = torch.rand(1, 3, 48, 48), torch.randn(3, 32)
    assert torch.equal(model(image, text).logits, whole(image, text).logits)


def test_embed_writes_a_file_that_says_what_it_is_of(unseen, scene, segmenter):
    run = unseen("embed", "miniature", "-o", "text.safetensors")
    assert run.code == 0 and "34 text embeddings from CLIP" in run.out, run.err
    stored = TextEmbeddings.load("text.safetensors")
    assert stored.vocabulary == MINIATURE and stored.clip == segmenter.fingerprint
    assert (stored.values == segmenter.embed(MINIATURE).values).all()
    run = unseen("segment", scene, "--text", "text.safetensors", "--json")
    assert len(json.loads(run.out)[0]["labels"]) == 34
    assert_one_sentence(unseen("embed", "cow", "-o", "text.safetensors"), "there already")
    told = unseen("embed", "cow, sky", "-o", "text.safetensors", "--overwrite", "--json")
    assert json.loads(told.out)["names"] == ["cow", "sky"]
    assert TextEmbeddings.load("text.safetensors").vocabulary.templates == MULTI_TEMPLATES
    unseen("embed", "miniature", "-o", "one.safetensors", "--templates", "single")
    assert TextEmbeddings.load("one.safetensors").vocabulary.templates == SINGLE_TEMPLATE


def test_a_data_set_file_stands_for_its_labels(unseen, scene, tmp_path):
    (tmp_path / "mine.yaml").write_text("names: [cow, sky]\nunseen: [cow]\ntemplates: single\n")
    assert unseen("embed", "mine.yaml", "-o", "text.safetensors").code == 0
    stored = TextEmbeddings.load("text.safetensors").vocabulary
    assert (stored.names, stored.templates) == (("cow", "sky"), SINGLE_TEMPLATE)
    run = unseen("segment", scene, "--labels", "mine.yaml", "--json")
    assert json.loads(run.out)[0]["labels"] == ["cow", "sky"]
    (tmp_path / "mine.yaml").write_text("nmaes: [cow, sky]\n")
    run = unseen("segment", scene, "--labels", "mine.yaml")
    assert run.code == 2 and "did you mean 'names'" in run.err


def test_embeddings_of_another_clip_are_refused(unseen, scene, tmp_path):
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_clip(tiny_clip(MICRO_PRETRAINING, MICRO), tmp_path / f"clip{seed}")
    labels = ", ".join(MICRO.names[:2])
    assert unseen("embed", labels, "-o", "text.safetensors", "--clip", "clip0").code == 0
    given = "segment", scene, "--text", "text.safetensors", "--out", "out"
    assert unseen(*given, "--clip", "clip0").code == 0
    run = unseen(*given, "--clip", "clip1")
    assert run.code == 2 and "were made by CLIP" in run.err
    run = unseen(*given)
    assert run.code == 2 and "they are of another CLIP" in run.err


def test_efficiency_prints_two_columns_and_its_conditions(unseen):
    run = unseen("efficiency", "zegclip-miniature-supervised", "--repeats", "2", "--device", "cpu")
    assert run.code == 0 and "random ones are timed" in run.err
    for heading in ("64×64, 34 classes", "as published", "windows a second", "p50 / p95", "cpu ("):
        assert heading in run.out
    run = unseen(
        *"efficiency cliprc-coco-inductive --size 512 512 --classes 20 --repeats 0 --json".split()
    )
    result = json.loads(run.out)
    assert result["classes"] == 20 and result["size"] == [512, 512]
    assert result["published"]["trained_parameters"] == 37_771_008
    assert "latency" not in result["executed"] and run.err == ""


def test_seeds_are_trained_scored_and_put_together(unseen, tmp_path):
    words = f"train zegclip-miniature-inductive data.name={make_own(tmp_path / 'own', 2)} steps=1"
    run = unseen(*words.split(), "batch_size=2", "--seeds", "0,1", "--device", "cpu")
    assert run.code == 0, run.err
    assert "| mean ± std over seeds" in run.out and "| zegclip-miniature-inductive" in run.out
    assert "± " in run.out and "| seed" in run.out
    folder = Path("runs/zegclip-miniature-inductive")
    assert json.loads((folder / "seed-1" / "scores.json").read_text())["scores"]["pAcc"] >= 0
    again = unseen("runs", "--json")
    assert [one["recipe"]["seed"] for one in json.loads(again.out)] == [0, 1]
    assert unseen("runs", folder / "seed-1").out.count("seed-1") == 1
    assert_one_sentence(unseen("runs", "nowhere"), "is no folder")
    assert_one_sentence(unseen(*words.split(), "--seeds", "0,1"), "or --overwrite")
    assert_one_sentence(unseen(*words.split(), "--seeds", "0,0"), "different whole numbers")


def test_bench_tells_what_pictures_cost_part_by_part(unseen, tmp_path):
    own = make_own(tmp_path / "own", 4)
    recipe = replace(RECIPES["zegclip-voc-inductive"], data=Source(own), window=48, stride=40)
    told = measure_loading(recipe, count=8, workers=1)
    assert set(told.parts) == set(PARTS.values()) - {PARTS["random_crop"]}
    assert all(value > 0 for value in told.parts.values())
    assert sum(told.parts.values()) <= 1000 / told.alone * 1.001
    assert f"take {told.cores} such cores" in str(told) and "70×60" in str(told)
    made_up = measure_loading(RECIPES["zegclip-voc-inductive"], count=2, workers=1)
    assert "made-up 640×480 JPEG" in str(made_up)


def test_bench_prints_a_table_and_its_conditions(unseen):
    run = unseen(
        *"bench zegclip-miniature-supervised --tasks picture,loading --classes 3,4 --sizes 48x80 "
        "--batch 2 --repeats 2 --warmup 0 --device cpu --out bench.json".split()
    )
    assert run.code == 0 and "4 classes" in run.err
    for part in ("| picture | fp32", "48×80", "18 × 64×64", "text embeddings given", "2 timed"):
        assert part in run.out
    found = json.loads(Path("bench.json").read_text())
    again = unseen(*"bench zegclip-miniature-supervised --tasks loading --repeats 1 --json".split())
    assert json.loads(again.out)[0]["case"]["task"] == "loading"
    refused = unseen(*"bench zegclip-miniature-supervised --data --out a.json".split())
    assert_one_sentence(refused, "--data goes without")
    wrong = unseen("bench", "zegclip-miniature-supervised", "--tasks", "pictur")
    assert_one_sentence(wrong, "did you mean 'picture'")
    kept = unseen(
        *"bench zegclip-miniature-supervised --tasks picture,pictur --classes 3 --sizes 48x80 "
        "--repeats 1 --warmup 0 --device cpu --out kept.json".split()
    )
    assert kept.code == 2 and "did you mean 'picture'" in kept.err and "| picture |" in kept.out
    assert len(json.loads(Path("kept.json").read_text())) == 1
    assert [one["case"]["task"] for one in found] == ["picture", "picture", "loading"]
    assert all(len(one["seconds"]) == 2 and one["memory"] > 0 for one in found)


def test_doctor_says_what_a_file_is_and_what_to_do(unseen, micro_clip: CLIP, tmp_path):
    torch.save({"state_dict": authors_state(micro_clip), "meta": {}}, tmp_path / "authors.pth")
    run = unseen("doctor", "checkpoint", "authors.pth")
    assert run.code == 0 and "method: ZegCLIP" in run.out
    assert "next: unseen convert authors.pth --output FOLDER" in run.out
    run = unseen("doctor", "checkpoint", "authors.pth", "--json")
    assert json.loads(run.out)["facts"]["prompts"] == 2
    broken = authors_state(micro_clip)
    del broken["decode_head.q_proj.bias"]
    torch.save(broken, tmp_path / "broken.pth")
    run = unseen("doctor", "checkpoint", "broken.pth")
    assert run.code == 1 and "problem: 1 keys are missing" in run.out


def test_help_imports_nothing_slow():
    code = (
        "import sys; sys.argv = ['unseen', '--help']\n"
        "from unseen.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for verb in (*VERBS, *FAMILIES):
        assert verb in result.stdout


def test_it_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "unseen", "segment"], capture_output=True, text=True
    )
    assert result.returncode == 2 and "Missing argument" in result.stderr


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(unseen):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = unseen("serve", "--port", port, "--model", "nowhere")
        assert_one_sentence(run, f"nothing can be served at 127.0.0.1:{port}")
