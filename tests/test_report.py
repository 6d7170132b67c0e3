"""The report: what it remembers, what its page shows, and what it never overwrites."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image

from unseen import charts
from unseen.data.datasets import Sample
from unseen.drawing import palette
from unseen.errors import InputError
from unseen.evaluation import Judged
from unseen.metrics import Scores, chance
from unseen.page import KINDS, errors, html, write_report
from unseen.report import Record, Report, check_folder, shrink
from unseen.segmentation import Segmentation
from unseen.sizes import SizeScores
from unseen.vocabulary import Vocabulary
from unseen.writing import write_folder

NAMES = ("<script>alert(1)</script>", "cow & calf", "sky", "never seen here")
VOCABULARY = Vocabulary("odd", NAMES, unseen=("cow & calf",), stuff=("sky",))
ALONE = {"img", "meta", "link"}
"""Elements that HTML never closes."""


class Pictures:
    """Six pictures in halves; a model errs in more and more of each."""

    vocabulary = VOCABULARY

    def __init__(self, size: tuple[int, int] = (30, 40)) -> None:
        self.size = size

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        labels = np.zeros(self.size, np.uint8)
        labels[:, self.size[1] // 2 :] = 1 + index % 2
        labels[:4] = 255
        image = np.full((*self.size, 3), 40 * index, np.uint8)
        return Sample(image, labels, f'"{index}"')


def judged(dataset: Pictures, index: int, *, slips: int) -> Judged:
    """Return a picture of which ``slips`` columns for each number are given to the third class."""
    sample = dataset[index]
    prediction = np.where(sample.labels == 255, 0, sample.labels).astype(np.int64)
    prediction[:, : slips * index] = 2
    sure = np.full(prediction.shape, 0.7, np.float32)
    result = Segmentation(prediction, NAMES, sure, sample.image)
    scores = Scores.count(prediction, sample.labels, VOCABULARY, sure)
    return Judged(sample, result, prediction, scores)


def make_report(*names: str, dataset: Pictures | None = None, facts: dict | None = None) -> Report:
    dataset = dataset or Pictures()
    records = {name: Record() for name in names}
    scores: dict[str, Scores] = {}
    sizes: dict[str, SizeScores] = {}
    for slips, (name, record) in enumerate(records.items(), start=1):
        for i in range(len(dataset)):
            one = judged(dataset, i, slips=slips)
            record.add(record.look(one))
            scores[name] = scores[name] + one.scores if name in scores else one.scores
            sized = SizeScores.count(one.prediction, one.sample.labels, VOCABULARY)
            sizes[name] = sizes[name] + sized if name in sizes else sized
    scores["chance"] = chance(scores[names[0]])
    conditions = {name: {"model": name, "held out": "cow & calf"} for name in names}
    return Report({"data": "<data>", **(facts or {})}, dataset, scores, records, conditions, sizes)


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed, and what it refers to is collected."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[dict] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        self.addresses += [found[k] for k in ("src", "href", "xlink:href") if k in found]
        if tag in ("img", "svg"):
            self.pictures.append(found)
        if tag not in ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ALONE:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def images(page: str) -> list[np.ndarray]:
    """Return the pictures of a page in their order."""
    found = re.findall(r"data:image/\w+;base64,([\w+/=]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def test_the_page_is_whole_and_asks_for_nothing_outside():
    page = html(make_report("model"))
    reader = Reader(page)
    outside = [a for a in reader.addresses if not a.startswith(("data:", "#"))]
    assert outside == ["report.json"]
    assert "http" not in page.replace("http-equiv", "") and "url(" not in page
    assert all(one.get("alt") or one.get("aria-label") for one in reader.pictures)
    assert "script" not in reader.tags


def test_names_are_escaped_everywhere():
    report = make_report("<b>model</b>", "a & b")
    page = html(report)
    reader = Reader(page)
    assert "script" not in reader.tags and "<script>" not in page
    shown = "".join(reader.text)
    assert "<script>alert(1)</script>" in shown and "cow & calf*" in shown
    assert "<b>model</b> against a & b" in shown and "pictures of <data>" in shown


def test_the_pictures_are_picture_labels_prediction_and_errors():
    dataset = Pictures()
    report = make_report("model", dataset=dataset)
    shown = images(html(report))
    assert len(shown) == 4 * 6
    colours = palette(len(NAMES))
    ranked = sorted(range(6), key=lambda i: -report.records["model"].score(i))
    assert ranked[0] == 0 and ranked != list(range(6))
    # from the best down, then from the worst up
    for place, index in enumerate([*ranked[:3], *ranked[:2:-1]]):
        picture, labels, prediction, wrong = shown[4 * place : 4 * place + 4]
        one, counted = judged(dataset, index, slips=1), dataset[index].labels != 255
        assert np.abs(picture.astype(int) - one.sample.image).max() <= 2
        assert (labels[counted] == colours[one.sample.labels[counted]]).all()
        assert (prediction == colours[one.prediction]).all()
        kinds = wrong[counted]
        right = (one.prediction == one.sample.labels)[counted]
        assert len(np.unique(kinds[right], axis=0)) == 1
        assert not (kinds[~right] == kinds[right][0]).all(axis=1).any()
        grey = wrong[~counted]
        assert (grey == grey[:, :1]).all() and len(np.unique(grey)) == 2, "striped"


def test_kinds_of_errors():
    truth = np.array([[0, 0, 1, 1, 1, 255]], np.uint8)
    given = np.array([[0, 2, 1, 0, 3, 1]], np.uint8)
    unseen = np.isin(np.arange(256), [1, 3])
    kinds = [KINDS[k] for k in errors(truth, given, unseen)[0]]
    seen_instead = "unseen class given to a seen one"
    assert kinds == ["right", "wrong", "right", seen_instead, "wrong", "not labelled, ignored"]


def test_large_pictures_become_small_ones_and_keep_their_shape():
    record = Record()
    one = judged(Pictures((300, 900)), 3, slips=40)
    record.add(record.look(one))
    assert record.mask(0).shape == (107, 320) == shrink(one.sample.labels).shape
    assert (shrink(np.eye(9, dtype=np.uint8)) == np.eye(9)).all(), "small ones stay as they are"
    assert (record.mask(0) == shrink(one.prediction.astype(np.uint8))).all()


def test_a_pictures_score_is_its_mean_iou_over_what_it_is_labelled_with():
    record, dataset = Record(), Pictures()
    for i in range(6):
        one = judged(dataset, i, slips=2)
        record.add(record.look(one))
        counted = one.sample.labels != 255
        ious = []
        for c in np.unique(one.sample.labels[counted]):
            ours, theirs = one.prediction[counted] == c, one.sample.labels[counted] == c
            ious.append((ours & theirs).sum() / (ours | theirs).sum())
        assert record.score(i) == pytest.approx(np.mean(ious))
    blank = dataset[0]._replace(labels=np.full(dataset.size, 255, np.uint8))
    nothing = Scores.count(np.zeros(dataset.size, np.int64), blank.labels, VOCABULARY)
    record.add(record.look(Judged(blank, one.result, one.prediction, nothing)))
    assert np.isnan(record.score(6))


def test_the_json_has_what_the_page_shows_and_no_number_that_json_lacks():
    facts = {"scores": {"model": {"mIoU": 1.5}}}
    report = make_report("model", facts=facts)
    text = json.dumps(report.to_dict(), allow_nan=False)
    content = json.loads(text)
    assert content["format"] == "unseen-report" and content["scores"] == facts["scores"]
    assert content["confusion"]["model"] == report.scores["model"].matrix.tolist()
    assert list(content["by_picture"]["model"]) == [f'"{i}"' for i in range(6)]
    assert content["by_picture"]["model"]['"0"'] == 100.0


def test_several_models_stand_side_by_side():
    interval = {"value": -1.25, "low": -2.0, "high": 0.5}
    clear = {"value": 3.0, "low": 1.0, "high": 4.0}
    nothing = {"value": None, "low": None, "high": None}
    of = {"pAcc": interval, "mIoU": clear, "mIoU(S)": nothing, "mIoU(U)": clear, "hIoU": clear}
    found = {"to": "one", "pictures": 6, "resamples": 1000, "note": "a note", "of": {"two": of}}
    page = html(make_report("one", "two", facts={"differences": found}))
    text = "".join(Reader(page).text)
    assert "−1.2−2.0 to +0.5" in text and "+3.0+1.0 to +4.0" in text and "A note." in text
    assert page.count('<span class="clear">') == 3
    assert "A: prediction" in text and "B: errors" in text and "mean IoU A 100.0, B 100.0" in text
    assert len(images(page)) == 6 * 6
    assert page.count('class="heat"') == 2 and page.count('class="plot"') == 4


def test_a_size_curve_is_drawn_of_points():
    points = [("tiny", 12, 0.0), ("<small>", 1500, 0.5), ("none", 0, float("nan"))]
    drawn = charts.size_curve_svg(points)
    assert "&lt;small&gt;" in drawn and "1,500 regions" in drawn and drawn.count("<circle") == 2
    report = make_report("model")
    sizes = report.sizes["model"]
    counted = [f"{count:,} regions" for count in sizes.components.sum(axis=0)[1:].tolist()]
    text = "".join(Reader(html(report)).text)
    assert all(one in text for one in counted) and "medium from 1024" in text
    assert report.to_dict()["sizes"]["model"] == sizes.to_dict()


def test_a_heat_map_of_many_classes_shows_the_most_confused():
    matrix = np.diag(np.full(60, 100))
    matrix[7, 50], matrix[3, 20] = 60, 30
    assert charts.most_confused(matrix, 4) == [3, 7, 20, 50]
    assert charts.most_confused(matrix[:9, :9], 40) == list(range(9))
    assert charts.confusions(matrix)[0] == (7, 50, 0.375)
    names = [f"class {i}" for i in range(60)]
    drawn = charts.heat_map_svg(matrix, names, ["class 7"], [3, 7, 20, 50])
    assert "class 7 given to class 50: 37.5%" in drawn and "class 7*" in drawn
    # seen before unseen, so the last row is of class 7
    assert drawn.index("class 50</text>") < drawn.index("class 7*</text>")


def test_a_heat_map_keeps_the_star_of_a_long_name():
    drawn = charts.heat_map_svg(np.eye(2, dtype=int), ["a" * 30, "b" * 30], ["b" * 30], [0, 1])
    assert f">{'a' * 16}…<" in drawn and f">{'b' * 15}…*<" in drawn


def test_a_name_that_is_not_utf_8_is_written_all_the_same(tmp_path):
    class Odd(Pictures):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index)._replace(name=f"caf\udce9-{index}")

    write_report(make_report("model", dataset=Odd()), tmp_path / "out")
    assert "caf\\udce9-5" in (tmp_path / "out" / "index.html").read_text()
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "caf\udce9-5" in told["by_picture"]["model"]


def test_the_page_says_when_a_heat_map_leaves_classes_out(monkeypatch):
    assert "with the largest confusions" not in html(make_report("model"))
    monkeypatch.setattr(charts, "MOST", 2)
    assert "Of 3 classes these are the 2 with the largest confusions" in html(make_report("model"))


def test_reliability_by_bin_is_what_the_error_is_made_of():
    scores = make_report("model").scores["model"]
    pixels, right, mean = scores.reliability_by_bin
    there = pixels > 0
    assert pixels.sum() == pytest.approx(1) and mean[there] == pytest.approx(0.7)
    gaps = np.abs(mean - right)[there] * pixels[there]
    assert gaps.sum() == pytest.approx(scores.calibration_error)
    assert charts.reliability_svg(scores.reliability_by_bin).count("<circle") == there.sum()


def test_a_folder_that_is_there_is_kept_without_force(tmp_path):
    folder = tmp_path / "new" / "report"
    check_folder(folder, force=False)
    write_report(make_report("model"), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "report.json"]
    with pytest.raises(InputError, match="is there already: name another folder, or --force"):
        check_folder(folder, force=False)
    with pytest.raises(InputError, match="is there already"):
        write_report(make_report("other"), folder)
    check_folder(folder, force=True)
    write_report(make_report("other"), folder, force=True)
    assert "other" in (folder / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in folder.parent.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"report.json": '{"format": "unseen-report"}', "notes.txt": ""}, "also holds notes.txt"),
        ({"report.json": '{"format": "other"}'}, "holds no report of unseen"),
        ({"report.json": "[broken"}, "holds no report of unseen"),
        ({"index.html": "my own page"}, "holds no report of unseen"),
    ],
)
def test_what_is_no_report_is_not_replaced_even_by_force(tmp_path, files, says):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        check_folder(tmp_path, force=True)


def test_an_empty_folder_is_taken_by_force_and_a_file_never(tmp_path):
    check_folder(tmp_path, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        check_folder(tmp_path / "file", force=True)
    with pytest.raises(InputError, match="no folder can be made in"):
        check_folder(tmp_path / "file" / "report", force=False)


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "report"
    write_folder(folder, {"a": "1", "b": "2"})
    (folder / "mine").write_text("kept")
    with pytest.raises(InputError, match="also holds mine"):
        write_folder(folder, {"a": "3", "b": "4"})
    (folder / "mine").unlink()
    write_text = Path.write_text

    def fail(self, text, **options):
        if self.name == "b":
            raise OSError(28, "No space left on device")
        return write_text(self, text, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(InputError, match="No space left"):
        write_folder(folder, {"a": "3", "b": "4"})
    assert [(folder / name).read_text() for name in "ab"] == ["1", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.browser
@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium")
def test_a_browser_shows_the_page_without_a_complaint_or_a_request(tmp_path):
    write_report(make_report("one", "two", dataset=Pictures((96, 128))), tmp_path / "report")
    page = (tmp_path / "report" / "index.html").as_uri()
    window = browser.Browser(tmp_path / "profile")
    try:
        for width in (1280, 390):
            for dark in (False, True):
                window.open(page, width=width, dark=dark)
                assert [r for r in window.requests() if not r.startswith("data:")] == [page]
                assert window.complaints() == []
                assert window.evaluate("document.documentElement.scrollWidth") == width
                loaded = "[...document.images].every(i => i.complete && i.naturalWidth)"
                assert window.evaluate(loaded) and window.evaluate("document.images.length") == 6
                ink = window.evaluate("getComputedStyle(document.body).color")
                assert (ink == "rgb(231, 234, 237)") == dark
                window.screenshot(tmp_path / f"{width}-{'dark' if dark else 'light'}.png")
    finally:
        window.close()
