"""What a segmentation turns into."""

import base64
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from unseen.errors import InputError
from unseen.segmentation import Segmentation

LABELS = ("sky", "wall", "cat", "bus")


@pytest.fixture
def made() -> Segmentation:
    """A wall with a cat on it, which has a hole, under the sky; and the cat's other half."""
    mask = np.zeros((12, 16), np.int64)
    mask[4:] = 1
    mask[5:11, 2:9] = 2
    mask[7:9, 4:6] = 1
    mask[6:8, 12:15] = 2
    image = np.full((12, 16, 3), 90, np.uint8)
    scores = np.linspace(0.2, 0.9, mask.size, dtype=np.float32).reshape(mask.shape)
    return Segmentation(mask, LABELS, scores, image, unseen=("cat",), source="a/b.jpg")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_coco_says_the_same_as_the_mask(made: Segmentation):
    coco = json.loads(json.dumps(made.to_coco(image_id=7)))
    assert coco["images"] == [{"id": 7, "file_name": "a/b.jpg", "height": 12, "width": 16}]
    assert [c["name"] for c in coco["categories"] if c["unseen"]] == ["cat"]
    mask_utils = pytest.importorskip("pycocotools.mask")
    again = np.full(made.mask.shape, -1)
    for one in coco["annotations"]:
        code = mask_utils.frPyObjects(one["segmentation"], 12, 16)
        where = mask_utils.decode(code).astype(bool)
        assert one["area"] == mask_utils.area(code) == where.sum()
        assert one["bbox"] == mask_utils.toBbox(code).tolist()
        again[where] = one["category_id"] - 1
    assert (again == made.mask).all()
    assert {one["category_id"] for one in coco["annotations"]} == {1, 2, 3}  # no bus was found
    ids = [one["id"] for k in range(3) for one in made.to_coco(image_id=k)["annotations"]]
    assert len(set(ids)) == 9 and min(ids) == 1


def test_a_label_everywhere_and_a_pixel_alone_have_run_lengths(made: Segmentation):
    everywhere = replace(made, mask=np.zeros_like(made.mask))
    assert everywhere.to_coco()["annotations"][0]["segmentation"]["counts"] == [0, 192]
    mask = np.zeros_like(made.mask)
    mask[0, 0] = 3
    last = replace(made, mask=mask).to_coco()["annotations"]
    assert [one["segmentation"]["counts"] for one in last] == [[1, 191], [0, 1, 191]]


def test_polygons_drawn_again_are_the_mask(made: Segmentation):
    again = np.full(made.mask.shape, -1, np.int32)
    for region in made.polygons():  # holes are of other labels, which are drawn, too
        number = LABELS.index(region["label"])
        outer, *holes = [np.array(ring, np.int32) for ring in region["points"]]
        here = np.zeros(made.mask.shape, np.uint8)
        cv2.fillPoly(here, [outer], 1)
        for hole in holes:  # its ring goes over pixels of the region around it
            inside = np.zeros_like(here)
            cv2.fillPoly(inside, [hole], 1)
            cv2.polylines(inside, [hole], isClosed=True, color=0)
            here[inside > 0] = 0
        again[here > 0] = number
    assert (again == made.mask).all()
    labels = sorted(region["label"] for region in made.polygons())
    assert labels == ["cat", "cat", "sky", "wall", "wall"]


def test_labelme_lists_large_regions_first(made: Segmentation):
    told = made.to_labelme()
    assert [shape["label"] for shape in told["shapes"]] == ["wall", "sky", "cat", "cat", "wall"]
    assert (told["imagePath"], told["imageHeight"], told["imageWidth"]) == ("b.jpg", 12, 16)


def test_labelme_finds_the_picture(made: Segmentation, tmp_path):
    inside = Image.open(io.BytesIO(base64.b64decode(made.to_labelme()["imageData"])))
    assert (np.array(inside) == made.image).all()  # there is no file a/b.jpg
    Image.fromarray(made.image).save(tmp_path / "b.png")
    there = replace(made, source=str(tmp_path / "b.png"))
    told = there.to_labelme(folder=tmp_path / "seg")
    assert (told["imagePath"], told["imageData"]) == ("../b.png", None)
    assert there.to_labelme()["imagePath"] == "b.png"
    assert replace(made, source="").to_labelme()["imagePath"] == "picture.png"


def test_supervision_takes_masks_and_boxes(made: Segmentation):
    pytest.importorskip("supervision")
    found = made.to_supervision()
    assert found.data["class_name"].tolist() == ["wall", "sky", "cat"]
    assert found.xyxy.tolist() == [[0, 4, 16, 12], [0, 0, 16, 4], [2, 5, 15, 11]]
    assert (found.mask[2] == made.mask_of("cat")).all()


def test_words_become_one_label(made: Segmentation):
    merged = made.merge({"background": ["sky", "wall"]})
    assert merged.labels == ("background", "cat", "bus") and merged.unseen == ("cat",)
    assert (merged.mask_of("background") == (made.mask < 2)).all()
    assert made.merge({"animal": "cat, bus"}).unseen == ()  # a bus was shown
    assert made.merge({"cat": ["cat", "wall"]}).labels == ("sky", "cat", "bus")
    with pytest.raises(InputError, match="'dog', which is no label here"):
        made.merge({"animal": ["cat", "dog"]})
    with pytest.raises(InputError, match="'sky', which is in two groups"):
        made.merge({"sky": ["sky"], "up": ["sky"]})
    with pytest.raises(InputError, match="called 'bus', which is no member"):
        made.merge({"bus": ["cat"]})


def test_pixels_that_no_word_fits_are_other(made: Segmentation):
    rejected = made.reject(0.5)
    assert rejected.labels == (*LABELS, "other")
    assert (rejected.mask_of("other") == (made.scores < 0.5)).all()
    sure = replace(made, confidence=np.ones_like(made.scores))
    assert not sure.reject(0.5).mask_of("other").any()
    with pytest.raises(InputError, match="'sky' is a label"):
        made.reject(0.5, "sky")
    with pytest.raises(InputError, match="no label 'dog'"):
        made.mask_of("dog")


def test_a_threshold_is_a_share(made: Segmentation):
    with pytest.raises(InputError, match="from 0 to 1, got 5"):
        made.reject(5)


def test_notebooks_show_the_overlay(made: Segmentation):
    shown = Image.open(io.BytesIO(made._repr_png_()))
    assert (np.array(shown) == np.array(made.overlay())).all()
