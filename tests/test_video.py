"""Videos in, painted videos out."""

import json
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unseen.errors import InputError
from unseen.segmentation import Segmentation
from unseen.video import Video, segment_video, write_video

pytest.importorskip("av")
SIZE = (64, 48)


def draw(number: int) -> Image.Image:
    """Return a frame: a bright square that moves over grey."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
    pixels[16:32, 2 * number : 2 * number + 16] = 230
    return Image.fromarray(pixels)


def look(image: np.ndarray) -> Segmentation:
    """Call bright pixels a square."""
    mask = (image.mean(axis=2) > 150).astype(np.int64)
    scores = np.full(mask.shape, 0.5, np.float32)
    return Segmentation(mask, ("ground", "square"), scores, image, unseen=("square",))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    assert write_video(tmp_path / "clip.mp4", map(draw, range(20)), Fraction(10)) == 20
    return tmp_path / "clip.mp4"


def test_what_was_written_is_read(clip: Path):
    video = Video(clip)
    assert (video.rate, video.count) == (10, 20)
    frames = list(video)
    assert [frame.number for frame in frames] == list(range(20))
    assert frames[7].seconds == pytest.approx(0.7)
    for frame in frames:
        assert np.abs(frame.image.astype(int) - np.array(draw(frame.number))).mean() < 3


def test_frames_are_held_one_at_a_time(clip: Path):
    alive: list[weakref.ref] = []
    for frame in Video(clip):
        alive.append(weakref.ref(frame))
        assert sum(ref() is not None for ref in alive) <= 2  # this one, and the one before


def test_a_video_is_painted_and_what_was_found_written_down(clip: Path, tmp_path: Path):
    told = segment_video(
        Video(clip), look, tmp_path / "over.mp4", tmp_path / "frames.jsonl", every=4
    )
    lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 4, 8, 12, 16] and told["frames"] == 5
    assert told["labels"] == ["ground", "square"]
    square = 256 / (SIZE[0] * SIZE[1])
    assert told["found"][1] == {
        "label": "square",
        "share": pytest.approx(square, abs=0.01),
        "score": 0.5,
        "unseen": True,
    }
    painted = list(Video(tmp_path / "over.mp4"))
    assert len(painted) == 20 and painted[0].image.shape[0] > SIZE[1]  # the legend
    inside = painted[0].image[20:28, 56:64].mean(axis=(0, 1))  # centred on a wider canvas
    outside = painted[0].image[2:10, 56:64].mean(axis=(0, 1))
    assert np.abs(inside - outside).max() > 30


def test_frames_of_a_phone_held_upright_are_turned(clip: Path, tmp_path: Path):
    content = bytearray(clip.read_bytes())
    one, plain = (1 << 16).to_bytes(4, "big"), bytes(12)
    start = content.index(one + plain + one + plain, content.index(b"tkhd"))
    turn = (0, 1 << 16, 0, -1 << 16, 0)  # a quarter, clockwise
    content[start : start + 20] = b"".join(n.to_bytes(4, "big", signed=True) for n in turn)
    (tmp_path / "phone.mp4").write_bytes(content)
    for lying, frame in zip(Video(clip), Video(tmp_path / "phone.mp4"), strict=True):
        assert (frame.image == np.rot90(lying.image, -1)).all() and frame.image.flags.c_contiguous
    overlay, report = tmp_path / "over.mp4", tmp_path / "frames.jsonl"
    segment_video(Video(tmp_path / "phone.mp4"), look, overlay, report)
    painted = next(iter(Video(overlay))).image
    assert painted.shape[0] > SIZE[0]  # height is the width there was, and the legend


def test_a_label_of_few_pixels_is_counted_to_the_end(tmp_path: Path):
    grey = (Image.new("RGB", (320, 240), "grey") for _ in range(3))
    write_video(tmp_path / "grey.mp4", grey, Fraction(10))

    def speck(image: np.ndarray) -> Segmentation:
        found = look(image)
        found.mask[0, :3] = 1  # of 76800
        return found

    told = segment_video(
        Video(tmp_path / "grey.mp4"), speck, tmp_path / "over.mp4", tmp_path / "frames.jsonl"
    )
    assert [(one["share"], one["score"]) for one in told["found"]] == [(1.0, 0.5), (0.0, 0.5)]


def test_broken_frames_are_told_of_and_the_rest_is_read(tmp_path: Path):
    noise = np.random.default_rng(0)
    pictures = (Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(20))
    write_video(tmp_path / "noise.mp4", pictures, Fraction(10))
    content = bytearray((tmp_path / "noise.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content)
    with pytest.warns(UserWarning, match="broken.mp4: .*(broken|skipped)"):
        frames = list(Video(broken))
    assert 0 < len(frames) < 20


def test_what_is_no_video_gets_one_sentence(clip: Path, tmp_path: Path):
    (tmp_path / "words.mp4").write_text("no video")
    with pytest.raises(InputError, match="words.mp4 is no video"):
        Video(tmp_path / "words.mp4")
    (tmp_path / "odd.mp4").write_bytes(clip.read_bytes().replace(b"avc1", b"odd!"))
    with pytest.raises(InputError, match="odd.mp4 is in a code that nothing here reads"):
        Video(tmp_path / "odd.mp4")
    with pytest.raises(InputError, match="there is no video at"):
        Video(tmp_path / "none.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_video(tmp_path / "file" / "a.mp4", map(draw, range(2)), Fraction(10))


def test_the_example_steadies_a_video(clip: Path, tmp_path: Path):
    example = Path(__file__).parent.parent / "examples" / "steady_video.py"
    out = tmp_path / "steady.mp4"
    command = [sys.executable, example, clip, "bus, road, sky", out]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(Video(out))) == 20
