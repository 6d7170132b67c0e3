import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unseen.data.datasets import MaskFolder, Subset
from unseen.data.images import decode_image, read_image, read_labels
from unseen.data.published import voc
from unseen.data.transforms import (
    MEAN_COLOUR,
    fit_short_side,
    photographic,
    random_crop,
    resize_image,
    varied_crop,
)
from unseen.drawing import mask_image, overlay, palette
from unseen.errors import InputError
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import MICRO
from unseen.model import IMAGENET_MEAN
from unseen.vocabulary import IGNORE, VOC20


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_png_pixels_are_read_unchanged(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == pixels).all()


def test_pictures_in_memory_are_read_as_files_are(pixels, tmp_path):
    Image.fromarray(pixels).convert("P").save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert (decode_image(content, "a") == read_image(tmp_path / "a.png")).all()
    with pytest.raises(InputError, match="a/b is a broken picture"):
        decode_image(content[:-30], "a/b")


def test_grey_pictures_have_equal_channels(pixels, tmp_path):
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == pixels[..., :1]).all()


def test_sixteen_bit_pictures_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert (np.abs(read[..., 0].astype(float) - ramp / 257) <= 1).all()


def test_cmyk_jpegs_are_read_as_rgb(pixels, tmp_path):
    Image.fromarray(np.full((20, 30, 3), (200, 40, 90), np.uint8)).convert("CMYK").save(
        tmp_path / "a.jpg", quality=95
    )
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (20, 30, 3)
    assert np.abs(read.mean(axis=(0, 1)) - (200, 40, 90)).max() < 6


def test_transparent_pixels_of_a_palette_are_put_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:, :30] = 255
    turned = Image.fromarray(np.rot90(upright).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned.save(tmp_path / "a.jpg", exif=exif, quality=100)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (40, 60, 3)
    assert read[:, :25].mean() > 240 and read[:, 35:].mean() < 15


def write(kind: str, folder: Path) -> Path:
    path = folder / "a.jpg"
    if kind == "folder":
        return folder
    if kind == "text":
        path.write_text("not a picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        data = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data, "JPEG")
        path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    elif kind == "bomb":
        Image.new("1", (20000, 20000)).save(path, "PNG")
    elif kind == "32 bits":
        path = folder / "a.tif"
        Image.fromarray(np.full((3, 3), 70000, np.int32)).save(path)
    elif kind == "float":
        path = folder / "a.tif"
        Image.fromarray(np.zeros((3, 3), np.float32)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no picture at"),
        ("folder", "is a folder"),
        ("text", "is no picture"),
        ("empty", "is no picture"),
        ("truncated", "broken picture"),
        ("bomb", "too many pixels"),
        ("float", "a.tif: pictures of floating-point"),
        ("32 bits", "a.tif: pictures of 32-bit"),
    ],
)
def test_what_is_no_picture_gets_one_sentence(kind, says, tmp_path):
    with pytest.raises(InputError, match=says):
        read_image(write(kind, tmp_path))


def test_label_maps_keep_their_indices_and_refuse_colour(pixels, tmp_path):
    labels = np.array([[0, 7, 255]], np.uint8)
    image = Image.fromarray(labels)
    image.save(tmp_path / "grey.png")
    image.putpalette(palette(256).tobytes())
    image.save(tmp_path / "palette.png")
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    assert (read_labels(tmp_path / "grey.png") == labels).all()
    assert (read_labels(tmp_path / "palette.png") == labels).all()
    with pytest.raises(InputError, match="colour.png: a label map has one"):
        read_labels(tmp_path / "colour.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_label_maps_of_few_bits_keep_their_indices(bits, tmp_path):
    ids = np.arange(2**bits, dtype=np.uint8)
    rows = np.packbits(np.unpackbits(ids[:, None], axis=1)[:, 8 - bits :])

    def part(kind: bytes, content: bytes) -> bytes:
        said = kind + content
        return struct.pack(">I", len(content)) + said + struct.pack(">I", zlib.crc32(said))

    header = part(b"IHDR", struct.pack(">IIBBBBB", len(ids), 1, bits, 0, 0, 0, 0))
    content = part(b"IDAT", zlib.compress(b"\0" + rows.tobytes())) + part(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + content)
    found = read_labels(tmp_path / "a.png")
    assert found.dtype == np.uint8 and (found == ids).all()


def test_pictures_and_labels_must_have_one_size(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((20, 29), np.uint8)).save(tmp_path / "b.png")
    dataset = MaskFolder([(tmp_path / "a.png", tmp_path / "b.png")], VOC20)
    with pytest.raises(InputError, match="must be of one size"):
        dataset[0]


def test_a_subset_ends():
    scenes = Subset(Scenes("val", vocabulary=MICRO, size=24), 2)
    assert len(scenes) == len(list(scenes)) == 2


def test_a_folder_that_is_not_voc_gets_one_sentence(tmp_path):
    with pytest.raises(InputError, match="JPEGImages"):
        voc(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(InputError, match="names no pictures"):
        voc(tmp_path)


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (1, 1), (10, 20000), (64, 64)])
def test_the_short_side_becomes_exact(size):
    height, width = fit_short_side(size, 64)
    assert min(height, width) == 64
    assert (height >= width) == (size[0] >= size[1])


def test_crops_lie_everywhere_and_labels_go_with_their_pixels():
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    image = np.repeat(labels[..., None], 3, axis=2)
    random, corners = np.random.default_rng(0), set()
    for _ in range(200):
        part, its_labels = random_crop(image, labels, 4, random)
        assert part.shape == (4, 4, 3) and (part[..., 0] == its_labels).all()
        corners.add(int(its_labels[0, 0]))
    assert corners == {8 * y + x for y in range(3) for x in range(5)}
    part, its_labels = random_crop(image, labels, 7, random)
    assert part.shape == (6, 7, 3) and its_labels.shape == (6, 7)


def test_photographic_crops_are_padded_squares_that_a_seed_decides(pixels):
    labels = np.repeat(np.arange(20, dtype=np.uint8)[:, None], 30, axis=1)
    padded = 0
    for seed in range(20):
        crop, its_labels = photographic(pixels, labels, 16, np.random.RandomState(seed))
        again, _ = photographic(pixels, labels, 16, np.random.RandomState(seed))
        assert (crop == again).all()
        assert crop.shape == (16, 16, 3) and crop.dtype == np.float32
        assert its_labels.shape == (16, 16) and its_labels.dtype == np.uint8
        outside = its_labels == IGNORE
        assert (crop[outside] == np.array(IMAGENET_MEAN, np.float32)).all()
        assert (crop[~outside] == crop[~outside].round()).all()
        assert not outside[0, 0] and (outside[-1, -1] or not outside.any())
        padded += outside.any()
    assert 0 < padded < 20
    assert MEAN_COLOUR == IMAGENET_MEAN


def test_photographic_draws_come_in_the_published_order(pixels):
    class Recorder(np.random.RandomState):
        def __getattribute__(self, name):
            if name in ("random_sample", "randint", "uniform"):  # rand is random_sample
                drawn.append(name)
            return super().__getattribute__(name)

    labels = np.repeat(np.arange(20, dtype=np.uint8)[:, None], 30, axis=1)
    orders = set()
    for seed in range(100):
        drawn: list[str] = []
        photographic(pixels, labels, 16, Recorder(seed))
        assert drawn[:4] == ["random_sample", "randint", "randint", "random_sample"]
        orders.add(tuple(drawn[4:]))
    coin, value, shift = "randint", "uniform", "randint"
    assert (coin,) * 5 in orders  # no change: brightness, order, contrast, saturation, hue
    assert (coin, value, coin, coin, value, coin, value, coin, shift) in orders  # contrast first
    assert (coin, value, coin, coin, value, coin, shift, coin, value) in orders  # contrast last


def test_photographic_crops_are_turned_over_half_of_the_time(pixels):
    labels = np.tile(np.arange(30, dtype=np.uint8), (20, 1))  # rising to the right
    flipped = 0
    for seed in range(200):
        _, its_labels = photographic(pixels, labels, 16, np.random.RandomState(seed))
        row = its_labels[0][its_labels[0] != IGNORE].astype(int)
        assert (np.diff(row) >= 0).all() or (np.diff(row) <= 0).all()
        flipped += row[0] > row[-1]
    assert 70 < flipped < 130


def test_crops_avoid_places_that_one_class_fills():
    labels = np.zeros((40, 40), np.uint8)
    labels[20:] = 1
    labels[:, 30:] = IGNORE
    image = np.zeros((40, 40, 3), np.uint8)
    crops = [varied_crop(image, labels, 16, np.random.RandomState(s))[1] for s in range(50)]
    shares = [np.mean(crop[crop != IGNORE]) for crop in crops]
    assert sum(0.25 < share < 0.75 for share in shares) > 45


def test_a_picture_of_the_right_size_is_not_touched(pixels):
    assert resize_image(pixels, (20, 30)) is pixels


def test_the_palettes_colours_all_differ():
    assert len(np.unique(palette(171), axis=0)) == 171


def test_label_pngs_hold_positions_also_above_255_classes(tmp_path):
    mask = np.arange(300).reshape(20, 15)
    mask_image(mask, 300).save(tmp_path / "many.png")
    assert (np.asarray(Image.open(tmp_path / "many.png")) == mask).all()
    mask_image(mask % 7, 7).save(tmp_path / "few.png")
    assert (read_labels(tmp_path / "few.png") == mask % 7).all()


def test_the_legend_has_the_colours_that_regions_have():
    mask = np.zeros((480, 480), int)
    mask[:, 240:] = 1
    image = np.full((480, 480, 3), 90, np.uint8)
    painted = np.asarray(overlay(image, mask, ["cow", "sky"], opacity=0.3))
    swatches = [painted[480 + 14, x] for x in range(480)]
    for region in (painted[100, 100], painted[100, 400]):
        assert min(np.abs(region.astype(int) - one).max() for one in swatches) <= 1


def test_overlays_of_any_size_have_a_legend_below(pixels):
    for size in ((1, 1), (20, 30), (700, 20)):
        image = np.zeros((*size, 3), np.uint8)
        painted = overlay(image, np.zeros(size, int), ["cow"], marked=["cow"])
        assert painted.height > size[0] and painted.width >= size[1]


def test_plain_jpegs_are_what_pillow_decodes(tmp_path: Path):
    random = np.random.default_rng(0)
    pixels = cv2.resize(random.integers(0, 256, (20, 30, 3), np.uint8), (151, 97))
    for number, options in enumerate(({"subsampling": 0}, {"subsampling": 2}, {"quality": 40})):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(pixels).save(path, **options)
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_image(path), np.array(image))


def test_jpegs_that_are_not_plain_are_left_to_pillow(tmp_path: Path):
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = Image.new("RGB", (40, 20), "red")
    wide.save(tmp_path / "turned.jpg", exif=turned)
    assert read_image(tmp_path / "turned.jpg").shape == (40, 20, 3)
    wide.convert("CMYK").save(tmp_path / "print.jpg")
    assert read_image(tmp_path / "print.jpg").shape == (20, 40, 3)
    whole = (tmp_path / "turned.jpg").read_bytes()
    for name, content in (("cut", whole[:-40]), ("cut-and-closed", whole[:300] + b"\xff\xd9")):
        (tmp_path / f"{name}.jpg").write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.jpg is a broken picture"):
            read_image(tmp_path / f"{name}.jpg")
