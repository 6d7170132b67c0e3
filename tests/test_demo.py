"""The web page: what stands behind it, and, with -m browser, how it is to use."""

import base64
import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image

from unseen.cli import main
from unseen.demo import DRAWN_SETS, LOOKED_FOR
from unseen.demo.exchange import (
    LONGEST_SIDE,
    MOST_LABELS,
    check_labels,
    describe,
    find,
    read_upload,
    write_file,
)
from unseen.errors import InputError
from unseen.miniature.scenes import EXAMPLES, draw_example
from unseen.ports import find_port
from unseen.segmentation import Segmentation
from unseen.segmenter import Segmenter
from unseen.vocabulary import MINIATURE

ROOT = Path(__file__).parent.parent


def make_result(height=30, width=40, **fields) -> Segmentation:
    random = np.random.default_rng(0)
    values = {
        "mask": random.integers(0, 3, (height, width)),
        "labels": ("cat", "grass", "brick wall"),
        "scores": random.uniform(-0.2, 1, (height, width)).astype(np.float32),
        "image": random.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "unseen": ("cat",),
        "source": "holiday photo.jpg",
    }
    return Segmentation(**{**values, **fields})


def unpack(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)


def test_shipped_pictures_are_those_of_the_examples_folder():
    assert EXAMPLES.keys() == LOOKED_FOR.keys()
    for name in EXAMPLES:
        drawn = np.asarray(Image.open(ROOT / "examples" / f"{name}.png"))
        np.testing.assert_array_equal(draw_example(name), drawn)


def test_the_shipped_model_knows_every_word_that_is_offered():
    words = {word for group in (LOOKED_FOR, DRAWN_SETS) for row in group.values() for word in row}
    assert words <= set(MINIATURE.names)


def test_a_picture_is_read_whole_or_reduced(tmp_path):
    drawn = draw_example("wall")
    Image.fromarray(drawn).save(tmp_path / "small.png")
    np.testing.assert_array_equal(
        read_upload(str(tmp_path / "small.png"), "small.png", tmp_path), drawn
    )
    Image.new("RGB", (3 * LONGEST_SIDE, 300), "red").save(tmp_path / "large.png")
    reduced = read_upload(str(tmp_path / "large.png"), "large.png", tmp_path)
    assert reduced.shape == (100, LONGEST_SIDE, 3)
    assert (reduced == (255, 0, 0)).all()


def test_a_picture_that_cannot_be_used_is_refused_by_the_name_its_owner_gave_it(tmp_path):
    def refuse(content: bytes, reason: str):
        (tmp_path / "x1f").write_bytes(content)
        with pytest.raises(InputError, match=f"^holiday.png {reason}"):
            read_upload(str(tmp_path / "x1f"), "holiday.png", tmp_path)

    whole = (ROOT / "examples" / "wall.png").read_bytes()
    refuse(b"hello", "is no picture that this page takes: JPEG")
    refuse(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is no picture")
    refuse(whole[:5000], "is a broken picture")
    for side in (
        11_000,
        60_000,
    ):  # the header alone, of a size that Pillow takes, and one it does not
        header = b"IHDR" + struct.pack(">II5B", side, side, 8, 2, 0, 0, 0)
        bomb = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
        refuse(bomb, "has .*(too many pixels|more than the 100 million)")


def test_no_picture_is_read_that_was_not_uploaded(tmp_path):
    mine, uploads = tmp_path / "mine.png", tmp_path / "uploads"
    Image.new("RGB", (8, 8)).save(mine)
    uploads.mkdir()
    (uploads / "link.png").symlink_to(mine)
    for path in (mine, uploads / "link.png", uploads / ".." / "mine.png", uploads / "gone.png"):
        with pytest.raises(InputError, match="^x.png is no longer here"):
            read_upload(str(path), "x.png", uploads)


def test_labels_that_cannot_be_used_are_one_sentence():
    assert check_labels(["cat", "brick wall"]) == ["cat", "brick wall"]
    for labels, reason in (
        ([], "at least one"),
        ([f"label {i}" for i in range(MOST_LABELS + 1)], "201 labels are more than the 200"),
        (["cat", "x" * 81], "at most 80 letters"),
    ):
        with pytest.raises(InputError, match=reason):
            check_labels(labels)


def test_one_model_or_two_are_asked_and_gamma_reaches_them(segmenter):
    image, words = draw_example("wall"), LOOKED_FOR["wall"]
    alone = Segmenter.from_clip("miniature", device="cpu")
    results = find({"a": segmenter, "b": alone}, image, "wall.png", words, 0.1)
    expected = segmenter(image, words)
    np.testing.assert_array_equal(results["a"].mask, expected.mask)
    assert results["a"].source == "wall.png" and results["a"].unseen == ("giraffe",)
    assert results["b"].unseen == ()
    shifted = find({"a": segmenter}, image, "wall.png", words, 0.9)["a"]
    giraffe = words.index("giraffe")
    assert (shifted.mask == giraffe).sum() > (expected.mask == giraffe).sum()
    for count in (0, 3):
        with pytest.raises(InputError, match="choose one model, or two"):
            find({str(i): segmenter for i in range(count)}, image, "wall.png", words, 0.1)


def test_the_page_is_told_every_label_and_score():
    result = make_result()
    confident = replace(result, confidence=result.scores.clip(0, 1) ** 2)
    told = describe({"one": result, "two": confident}, ["first", "second"])
    assert (told["width"], told["height"], told["size"]) == (40, 30, "40 × 30 pixels")
    one, two = told["results"]
    np.testing.assert_array_equal(unpack(one["mask"], "u1").reshape(30, 40), result.mask)
    scores = unpack(one["scores"], "<u2").reshape(30, 40) / 32767.5 - 1
    np.testing.assert_allclose(scores, result.scores, atol=2e-5)
    sure = unpack(two["sure"], "<u2").reshape(30, 40) / 32767.5 - 1
    np.testing.assert_allclose(sure, confident.confidence, atol=2e-5)
    assert one["sure"] is None and [one["name"], one["detail"]] == ["one", "first"]
    assert [label["unseen"] for label in one["labels"]] == [True, False, False]


def test_large_results_are_told_in_fewer_pixels():
    result = make_result(6, 2048)
    told = describe({"one": result}, [""])
    assert (told["width"], told["height"]) == (1024, 3)
    mask = unpack(told["results"][0]["mask"], "u1").reshape(3, 1024)
    np.testing.assert_array_equal(mask, result.mask[::2, ::2])


def test_files_hold_what_the_page_shows(tmp_path):
    result = make_result()
    names = {"title": "../two models", "threshold": 0.5}
    mask = np.asarray(Image.open(write_file(result, "mask", tmp_path, **names)))
    np.testing.assert_array_equal(mask, np.where(result.scores < 0.5, 3, result.mask))
    file = write_file(result, "coco", tmp_path, **names)
    assert file == tmp_path / "holiday-photo-two-models-coco.json"
    coco = json.loads(file.read_text())
    assert coco["images"][0]["file_name"] == "holiday photo.jpg"
    assert [one["name"] for one in coco["categories"]] == ["cat", "grass", "brick wall", "other"]
    assert sum(one["area"] for one in coco["annotations"]) == 30 * 40
    plain = write_file(result, "overlay", tmp_path, title="x", opacity=0.0)
    tinted = write_file(result, "overlay", tmp_path, title="y", opacity=1.0)
    assert plain.read_bytes() != tinted.read_bytes()
    called = replace(result, labels=("cat", "grass", "other"))
    file = write_file(called, "coco", tmp_path, **names)
    assert json.loads(file.read_text())["categories"][3]["name"] == "none of these"


def test_a_taken_port_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"can be served at 127.0.0.1:{port} .*--port"):
            find_port("127.0.0.1", port)
    assert find_port("127.0.0.1", port) == port
    with pytest.raises(InputError, match="--host"):
        find_port("no such host", 0)


def test_without_gradio_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["unseen", "demo"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "pip install 'unseen[demo]'" in capsys.readouterr().err


def test_models_are_called_by_their_last_name_or_the_whole_path(monkeypatch, tmp_path):
    given = {}

    def serve(models, **_):
        given.update(models)
        raise InputError("enough")

    monkeypatch.setattr("unseen.demo.serve", serve)
    monkeypatch.setattr(sys.modules["unseen.cli.demo"], "require", lambda *_, **__: None)
    shipped = ROOT / "src/unseen/miniature/assets/zegclip-miniature-inductive"
    for folder in ("a/mine", "b/mine"):
        shutil.copytree(shipped, tmp_path / folder)
    options = [f"--model={tmp_path / folder}" for folder in ("a/mine", "b/mine")]
    for arguments, titles in (
        ([], ["zegclip-miniature-inductive", "CLIP alone, miniature"]),
        ([*options, "--clip=miniature"], ["mine", f"{tmp_path}/b/mine", "CLIP alone, miniature"]),
    ):
        given.clear()
        monkeypatch.setattr(sys, "argv", ["unseen", "demo", "--port=0", *arguments])
        with pytest.raises(SystemExit):
            main()
        assert list(given) == titles


SERVE_AND_LISTEN = """
import json, os, socket, sys, urllib.error, urllib.request
from unseen.demo import serve
from unseen.segmenter import Segmenter

asked, connect = set(), socket.socket.connect

def note(self, address):
    asked.add(str(address[0]))
    return connect(self, address)

def get(address):
    try:
        with urllib.request.urlopen(address) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""

socket.socket.connect = note
models = {"one": Segmenter.from_pretrained("zegclip-miniature-inductive", device="cpu")}
with serve(models, port=0) as address:
    _, page = get(address)
    refused, _ = get(f"{address}gradio_api/file={sys.argv[1]}")
    folder = os.path.dirname(os.environ["GRADIO_TEMP_DIR"])
    there = os.path.isdir(folder)
print(json.dumps([page, refused, there, os.path.isdir(folder), sorted(asked)]))
"""


def test_a_page_is_served_that_asks_nobody_else_and_gives_no_files_away():
    code = [sys.executable, "-c", SERVE_AND_LISTEN, str(ROOT / "pyproject.toml")]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    page, refused, before, after, asked = json.loads(done.stdout)
    assert "unseen" in page
    sources = re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]*)', page)
    assert sources and not [one for one in sources if "//" in one]
    assert refused == 403
    assert before and not after
    assert asked == ["127.0.0.1"]


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address():
    """Serve the page as a user does, and end it as a user does."""
    code = [sys.executable, "-m", "unseen", "demo", "--port", "0"]
    with subprocess.Popen(code, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = server.stderr.readline()
            assert "(Ctrl-C ends it)" in said
            yield said.split()[0]
            server.send_signal(signal.SIGINT)
            _, complaints = server.communicate(timeout=60)
            assert server.returncode == 0
            assert complaints == ""  # no traceback, whatever was done on the page
        finally:
            server.kill()


@pytest.fixture
def window(tmp_path, address):
    """Return a browser, and see that the page was quiet and stayed on this machine."""
    window = browser.Browser(tmp_path / "profile")
    (tmp_path / "downloads").mkdir()
    window.download_to(tmp_path / "downloads")
    try:
        yield window
        asked = [one for one in window.requests() if not one.startswith(("data:", "blob:"))]
        assert [one for one in asked if not one.startswith(address)] == []
        for one in window.complaints():
            params = one["params"]
            kind = params.get("type") or params.get("entry", {}).get("level", "exception")
            assert kind == "warning", one  # gradio warns when it closes a stream
    finally:
        window.close()


STAGES = "document.querySelectorAll('.stage canvas').length"
LEGEND = "[...document.querySelectorAll('.legend')].map((one) => one.innerText).join()"
TIP = "(document.querySelector('.tip:not([hidden])')?.innerText ?? '')"
NOTE = "(document.querySelector('.note')?.innerText ?? '').trim()"


def type_label(window, word):
    window.write(word)
    window.press("Enter")


def runs(window):
    """Count how often the page asked the server for something."""
    return sum(one.endswith("/queue/join?") for one in window.requests())


def wait_for_file(folder, name):
    browser.wait_until(lambda: (folder / name).exists())
    return folder / name


@pytest.mark.browser
@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium")
@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)]
)
def test_a_picture_is_segmented_compared_and_downloaded(window, address, tmp_path, width, dark):
    window.open(address, width=width, dark=dark)
    window.wait(f"{STAGES} === 1 && {LEGEND}.includes('giraffe')")
    window.screenshot(tmp_path / "opened.png")
    assert window.evaluate("document.documentElement.scrollWidth") == width
    ink = window.evaluate("getComputedStyle(document.querySelector('.legend')).color")
    assert (max(map(int, re.findall(r"\d+", ink))) > 200) == dark

    # another picture, and words for it
    window.click("button[aria-label='Remove Image']")
    window.wait(f"{STAGES} === 0 && {NOTE}.includes('Drop a picture')")
    window.click(".sets button[name=clear]")
    window.wait("document.querySelectorAll('.labels li').length === 0")
    window.choose_file("input[type=file]", ROOT / "examples" / "harbour.png")
    window.wait(f"{NOTE}.includes('at least one thing')")
    window.click("#label")
    type_label(window, "cow")
    type_label(window, "boat, sky,")
    type_label(window, "sand")
    window.wait(f"{STAGES} === 1 && {LEGEND}.includes('sand') && {LEGEND}.includes('cow')")
    assert "unseen" in window.evaluate("document.querySelector('.legend').innerText")

    # where the cow stands
    window.point(".stage", 0.28, 0.8)
    tip = window.wait(TIP)
    assert re.fullmatch(r"cow\s+unseen\s+0\.\d\d · \d\d % sure", tip)

    # opacity and threshold are the page's own affair
    before, colour = runs(window), "document.querySelector('canvas').getContext('2d')"
    colour += ".getImageData(140, 300, 1, 1).data.join()"
    tint = window.evaluate(colour)
    window.click(".sliders label:nth-child(1) input", 0.05)
    window.wait(f"{colour} !== '{tint}'")
    window.click(".sliders label:nth-child(2) input", 0.995)
    window.wait(f"{LEGEND}.trim().startsWith('other')")
    window.point(".stage", 0.28, 0.8)
    assert re.fullmatch(r"other\s+cow 0\.\d\d · .*", window.wait(TIP))
    window.click(".sliders label:nth-child(2) input", 0.5)
    threshold = float(window.evaluate("document.querySelectorAll('.sliders output')[1].innerText"))
    assert runs(window) == before

    # a second model beside the first
    window.click("input[type=checkbox]:not(:checked)")
    window.wait(f"{STAGES} === 2")
    boxes = window.evaluate(
        "[...document.querySelectorAll('.stage')].map((one) => one.getBoundingClientRect().top)"
    )
    assert (boxes[0] == boxes[1]) == (width == 1280)
    assert window.evaluate("document.documentElement.scrollWidth") == width
    window.screenshot(tmp_path / "compared.png")

    for kind in ("mask", "overlay", "coco"):
        window.click(f".files button[name={kind}]")
        suffix = "json" if kind == "coco" else "png"
        name = f"harbour-zegclip-miniature-inductive-{kind}.{suffix}"
        wait_for_file(tmp_path / "downloads", name)
    folder = tmp_path / "downloads"
    mask = np.asarray(Image.open(folder / "harbour-zegclip-miniature-inductive-mask.png"))
    coco = json.loads((folder / "harbour-zegclip-miniature-inductive-coco.json").read_text())
    names = [one["name"] for one in coco["categories"]]
    assert names == ["cow", "boat", "sky", "sand", "other"] and 0.4 < threshold < 0.6
    assert {names[i] for i in np.unique(mask)} == {
        names[one["category_id"] - 1] for one in coco["annotations"]
    }
    shown = window.evaluate("document.querySelector('.legend').innerText")
    assert all((names[i] in shown) == (i in mask) for i in range(5))


@pytest.mark.browser
@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium")
def test_a_mistake_is_one_sentence_on_the_page(window, address, tmp_path):
    window.open(address, width=1280, dark=False)
    window.wait(f"{STAGES} === 1")
    window.click("#label")
    type_label(window, "dragon")
    window.wait(f"{NOTE}.includes(\"does not know the word 'dragon'\")")
    assert window.evaluate(STAGES) == 1
    window.press("Backspace")
    window.wait(f"{NOTE} === ''")
    type_label(window, ",".join(f"word {i}" for i in range(200)))
    window.wait(f"{NOTE}.includes('more than the 200')")
    window.click(".sets button[name=clear]")
    window.wait(f"{NOTE}.includes('at least one thing')")
    for name, content in (("text.png", b"hello"), ("half.png", Path(ROOT / "examples/wall.png"))):
        content = content if isinstance(content, bytes) else content.read_bytes()[:5000]
        (tmp_path / name).write_bytes(content)
        window.evaluate("document.querySelector(\"[aria-label='Remove Image']\")?.click()")
        window.wait("!!document.querySelector('input[type=file]')")
        window.choose_file("input[type=file]", tmp_path / name)
        window.wait(f"{NOTE}.startsWith('{name} is ')")
        assert window.evaluate(STAGES) == 0


@pytest.mark.browser
@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_keyboard_alone_is_enough(window, address, tmp_path, width):
    def tab_to(selector):
        for _ in range(60):
            window.press("Tab")
            if window.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"no way to {selector}")

    window.open(address, width=width, dark=False)
    window.wait(f"{STAGES} === 1")
    window.ask("Page.setInterceptFileChooserDialog", enabled=True)
    tab_to("[aria-label='Remove Image']")
    window.press("Enter")
    window.wait(f"{STAGES} === 0")
    tab_to("[aria-label^='Drop an image']")
    window.press("Enter")
    window.wait("!!document.querySelector('input[type=file]')")
    window.choose_file("input[type=file]", ROOT / "examples" / "snow.png")
    tab_to("[aria-label='Remove sky']")
    window.press("Enter")
    tab_to("#label")
    type_label(window, "snow")
    window.wait(f"{STAGES} === 1 && {LEGEND}.includes('snow') && !{LEGEND}.includes('sky')")
    tab_to("input[type=checkbox]:not(:checked)")
    window.press(" ")
    window.wait(f"{STAGES} === 2")
    tab_to("button.primary")
    window.press("Enter")
    tab_to("input[type=range]")
    window.press("ArrowRight")
    assert window.evaluate("document.querySelector('.sliders output').innerText") == "0.60"
    tab_to("label:nth-child(3) input[type=range]")
    window.press("ArrowRight")
    window.wait("document.querySelector('.panels').innerText.includes('γ 0.11')")
    tab_to(".stage")
    window.press("ArrowRight")
    first = window.wait(TIP)
    for _ in range(5):
        window.press("ArrowLeft", shift=True)
    assert re.search(r"0\.\d\d · ", first) and window.wait(TIP) != first
    window.press("Escape")
    assert window.evaluate(TIP) == ""
    tab_to(".files button[name=mask]")
    window.press("Enter")
    wait_for_file(tmp_path / "downloads", "snow-zegclip-miniature-inductive-mask.png")
