"""What unseen doctor data says of data sets that are well and of such that are not."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import Run, assert_one_sentence
from test_data import write, write_camvid_colours, write_picture, write_voc

from unseen.catalogue import open_dataset
from unseen.data.doctor import draw_sheet, examine, spread
from unseen.miniature.scenes import Scenes


@pytest.fixture
def unseen(capsys, monkeypatch, tmp_path):
    """Return the command line, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: Run(capsys, monkeypatch, *arguments)


@pytest.fixture
def yard(tmp_path):
    """Return a function that writes a data set of two pictures and describes it."""

    def describe(
        labels: list[int], more: str = "", names: str = "grass, cow, fence", unseen: str = "cow"
    ) -> str:
        for name in ("a", "b"):
            write_picture(tmp_path / "in" / f"{name}.jpg", (1, len(labels)))
            write(tmp_path / "masks" / f"{name}.png", [labels])
        text = (
            f"names: [{names}]\nunseen: [{unseen}]\nimages: in/*.jpg\nmasks: masks/*.png\n{more}\n"
        )
        (tmp_path / "yard.yaml").write_text(text)
        return "yard.yaml"

    return describe


def test_ids_are_counted_against_names(yard, unseen):
    run = unseen("doctor", "data", yard([0, 0, 1, 255]))
    assert run.code == 0, run.err
    assert "yard.yaml: 2 of 2 pictures, 3 names (yard)" in run.out
    assert "height: 1 to 1, median 1" in run.out and "width: 4 to 4" in run.out
    assert "id 0 is 'grass', a class like all others; ignored: 255" in run.out
    assert "| 0   | grass        | 4      | 50.00% | 2        |" in run.out
    assert "| 1   | cow (unseen) | 2      | 25.00% | 2        |" in run.out
    assert "| 255 | (ignored)    | 2      | 25.00% | 2        |" in run.out
    assert "names that no pixel has: fence" in run.out and "look:" not in run.out


def test_json_alone_is_on_stdout(yard, unseen):
    found = json.loads(unseen("doctor", "data", yard([0, 1, 2, 2]), "--json", "--count", "1").out)
    assert (found["examined"], found["total"]) == (1, 2)
    assert found["ids"][2] == {
        "id": 2, "name": "fence", "unseen": False, "ignored": False, "pixels": 2, "pictures": 1
    }  # fmt: skip
    assert found["never"] == found["nameless"] == found["problems"] == found["hints"] == []


def test_labels_shifted_by_one_are_told(yard, unseen):
    run = unseen("doctor", "data", yard([0, 0, 1, 3]))
    assert run.code == 1
    assert "| 3  | HAS NO NAME" in run.out and "ids without a name: 3" in run.out
    assert "look shifted by one" in run.out and "id 0 is the most frequent one" in run.out
    assert "set reduce_zero: true" in run.out
    assert "look shifted" not in unseen("doctor", "data", yard([0, 0, 1, 3], "ignore: 3")).out
    run = unseen("doctor", "data", yard([1, 1, 2, 3]))
    assert run.code == 1 and "id 0 never occurs" in run.out
    run = unseen("doctor", "data", yard([0, 1, 2, 3], "reduce_zero: true"))
    assert run.code == 0 and "look:" not in run.out
    assert "id 0 is background, ignored" in run.out and "1 is 'grass'" in run.out


def test_background_that_passes_for_the_first_name_is_told(yard, unseen, tmp_path):
    path = yard([0, 0, 1, 1])
    for i in range(10):
        write_picture(tmp_path / "in" / f"{i}.jpg")
        write(tmp_path / "masks" / f"{i}.png", [[0, 0, 1, 255]])
    run = unseen("doctor", "data", path)
    assert run.code == 0 and "id 0, 'grass', has 63% of the labelled pixels" in run.out
    assert "look:" not in unseen("doctor", "data", path, "--count", "5").out
    path = yard([0, 0, 1, 1], names="Background, cow, fence")
    assert "look:" not in unseen("doctor", "data", path).out


def test_a_class_taken_for_background_is_told(yard, unseen):
    run = unseen("doctor", "data", yard([0, 0, 1, 2], "reduce_zero: true"))
    assert run.code == 0 and "the last name 'fence', never occurs" in run.out
    run = unseen("doctor", "data", yard([5] * 30 + [0], "label_map: {5: ignore, 0: cow}"))
    assert "97% of all pixels are ignored" in run.out and "id 0 is 'cow'" in run.out


def test_classes_that_no_pixel_shows_are_told(yard, unseen):
    run = unseen("doctor", "data", yard([0, 0, 1, 1], unseen="fence"))
    assert run.code == 0 and "no pixel shows a class that is unseen (fence)" in run.out
    run = unseen("doctor", "data", yard([2, 2, 2, 2], unseen="fence"))
    assert "no pixel shows a class that is seen (grass, cow)" in run.out
    assert "look:" not in unseen("doctor", "data", yard([0, 1, 2, 2], unseen="fence")).out


def test_files_that_cannot_be_used_are_listed(yard, unseen, tmp_path):
    path = yard([0, 1, 2, 2])
    (tmp_path / "masks" / "a.png").write_text("no picture")
    write(tmp_path / "masks" / "b.png", [[0, 1]])
    run = unseen("doctor", "data", path)
    assert run.code == 1 and "2 files that cannot be used" in run.out
    assert "a.png is no picture" in run.out and "b.png are (1, 2)" in run.out
    assert "no label was read" in run.out
    run = unseen("doctor", "data", path, "--out", "sheet.png")
    assert run.code == 1 and "nothing to draw" in run.err
    (tmp_path / "masks" / "b.png").unlink()
    assert_one_sentence(unseen("doctor", "data", path), "b.jpg has no label map")
    assert_one_sentence(unseen("doctor", "data", "vco"), "did you mean 'voc'")


def test_the_sheet_shows_labels_over_pictures(unseen, tmp_path):
    write_voc(tmp_path / "VOC2012")
    arguments = "doctor data voc --root . --split train --out out/sheet.png".split()
    assert unseen(*arguments).code == 0
    sheet = Image.open(tmp_path / "out" / "sheet.png")
    assert sheet.width > 3 * 160 and len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 3
    run = unseen(*arguments[:-1], "sheet.txt")
    assert_one_sentence(run, "names no format of pictures")
    assert not run.out  # before anything is read


def test_colours_that_stand_for_nothing_are_told(unseen, tmp_path):
    folder = write_camvid_colours(tmp_path)
    assert "stand for nothing" not in unseen("doctor", "data", "camvid", "--root", folder).out
    path = next((folder / "test_labels").iterdir())
    pixels = np.array(Image.open(path).convert("RGB"))
    pixels[0, 0] = 1, 2, 3
    Image.fromarray(pixels).save(path)
    run = unseen("doctor", "data", "camvid", "--root", folder)
    assert "% of the pixels have colours that stand for nothing (id 12)" in run.out


def test_large_pictures_and_ids_without_names_fit_on_the_sheet(yard, tmp_path):
    path = yard([0, 1, 2, 9])
    write_picture(tmp_path / "in" / "a.jpg", (900, 1500))
    write(tmp_path / "masks" / "a.png", np.full((900, 1500), 9))
    sheet = draw_sheet(open_dataset(str(tmp_path / path)))
    assert sheet.width < 1100 and sheet.height < 700


def test_drawn_data_sets_can_be_examined():
    found = examine(Scenes("val", size=64), count=3)
    assert found.is_healthy and len(found.examined) == 3 and found.examined[1] == 100
    assert found.pixels.sum() == 3 * 64 * 64
    assert draw_sheet(Scenes("val", size=64, count=4), count=2).height > 400


def test_numbers_are_spread_evenly():
    assert spread(10, None) == spread(10, 20) == list(range(10))
    assert spread(10, 3) == [0, 3, 6]


def test_it_leaves_the_data_as_it_is(yard, unseen, tmp_path):
    path = yard([0, 1, 2, 2])
    before = {p: p.stat().st_mtime_ns for p in Path(tmp_path).rglob("*")}
    unseen("doctor", "data", path)
    assert {p: p.stat().st_mtime_ns for p in Path(tmp_path).rglob("*")} == before
