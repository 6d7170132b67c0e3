"""What was found in a picture, and the forms that people need it in."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer, UInt8
from PIL import Image

from unseen.drawing import mask_image, overlay
from unseen.errors import InputError, require
from unseen.vocabulary import list_groups
from unseen.writing import write_whole


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """A segmented picture.

    Args:
        mask: (H, W) int64, positions in ``labels``.
        labels: the names.
        scores: (H, W) float32, the score of each pixel's label: its sigmoid, averaged over windows,
            less γ for seen classes; of several views, the mean of their probabilities.
        image: (H, W, 3) uint8, the picture.
        unseen: the labels whose masks the model's training never showed; none if there was none.
        confidence: (H, W) float32, how likely each pixel's label is right, as measured on the
            pictures that the model was calibrated with; None where it was not, and of several
            views, whose scores are others.
        margins: (H, W) float32, how far each score is above that of the second best label; None
            where it was not asked for.
        source: where the picture came from, if that has a name.
    """

    mask: Integer[np.ndarray, "H W"]
    labels: tuple[str, ...]
    scores: Float[np.ndarray, "H W"]
    image: UInt8[np.ndarray, "H W 3"]
    unseen: tuple[str, ...] = ()
    confidence: Float[np.ndarray, "H W"] | None = None
    margins: Float[np.ndarray, "H W"] | None = None
    source: str = ""

    def __repr__(self) -> str:
        height, width = self.mask.shape
        found = ", ".join(f"{one['label']} {one['share']:.0%}" for one in self.regions()[:5])
        return f"<Segmentation of {width}×{height} pixels into {len(self.labels)} labels: {found}>"

    def _repr_png_(self) -> bytes:
        """Let notebooks show the overlay."""
        file = io.BytesIO()
        self.overlay().save(file, "PNG")
        return file.getvalue()

    def overlay(self, *, opacity: float = 0.55) -> Image.Image:
        """Paint the mask over the picture, with a legend."""
        return overlay(self.image, self.mask, self.labels, marked=self.unseen, opacity=opacity)

    def mask_image(self) -> Image.Image:
        """Return the mask as a palette image whose index is the label."""
        return mask_image(self.mask, len(self.labels))

    def mask_of(self, label: str) -> Bool[np.ndarray, "H W"]:
        """Return where a label was found.

        Raises:
            InputError: it is none of the labels.
        """
        if label not in self.labels:
            raise InputError(f"there is no label {label!r} here: {', '.join(self.labels)}")
        return self.mask == self.labels.index(label)

    def regions(self) -> list[dict[str, Any]]:
        """List the labels found, largest first: share of the picture, mean score, unseen or not."""
        return list_regions(self.labels, self.unseen, *self.count())

    def count(self) -> tuple[Int64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
        """Return how many pixels each label has, and the sum of their scores."""
        flat, count = self.mask.ravel(), len(self.labels)
        return np.bincount(flat, minlength=count), np.bincount(flat, self.scores.ravel(), count)

    def merge(self, groups: Mapping[str, Sequence[str]]) -> "Segmentation":
        """Return the same with several labels taken as one.

        A background is a label that many words describe:
        ``result.merge({"background": ["sky", "wall", "floor"]})``.

        Args:
            groups: new names, and the labels that each takes the place of; labels that are in no
                group stay.

        Raises:
            InputError: a label that is not there, or is in two groups; or a group of none.
        """
        home: dict[str, str] = {}
        for name, members in list_groups(groups).items():
            for label in members:
                if label in home or label not in self.labels:
                    wrong = "is in two groups" if label in home else "is no label here"
                    raise InputError(f"{name!r} cannot take the place of {label!r}, which {wrong}")
                home[label] = name
            if name in self.labels and name not in members:
                raise InputError(f"a group cannot be called {name!r}, which is no member of it")
        home = {label: home.get(label, label) for label in self.labels}
        names = tuple(dict.fromkeys(home.values()))
        lookup = np.array([names.index(home[label]) for label in self.labels])
        unseen = tuple(  # a group is seen if training showed any part of it
            name
            for name in names
            if all(label in self.unseen for label in self.labels if home[label] == name)
        )
        return replace(self, mask=lookup[self.mask], labels=names, unseen=unseen)

    def reject(self, threshold: float, other: str = "other") -> "Segmentation":
        """Return the same with a label for pixels that no word fits well.

        Args:
            threshold: least confidence, or, of a model that is not calibrated, least score, that
                leaves a pixel its label.
            other: the label of all others; it is added as the last.

        Raises:
            InputError: ``other`` is a label already, or the threshold is not from 0 to 1.
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold must be from 0 to 1, got {threshold}")
        if other in self.labels:
            raise InputError(f"{other!r} is a label: name pixels that no word fits otherwise")
        sure = self.scores if self.confidence is None else self.confidence
        mask = np.where(sure < threshold, len(self.labels), self.mask)
        return replace(self, mask=mask, labels=(*self.labels, other))

    def polygons(self) -> list[dict[str, Any]]:
        """Outline every connected region: its label, and rings of (x, y) around it and its holes.

        The first ring is the outer one. Rings go through the centres of the region's outermost
        pixels, as ``cv2.findContours`` finds them.
        """
        found = []
        for i, label in enumerate(self.labels):
            rings, family = cv2.findContours(
                (self.mask == i).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
            )
            for number, ring in enumerate(rings):  # without rings, family is None
                if family[0][number][3] >= 0:  # a hole: it comes with what is around it
                    continue
                holes = [hole for k, hole in enumerate(rings) if family[0][k][3] == number]
                points = [one[:, 0, :].tolist() for one in (ring, *holes)]
                found.append({"label": label, "points": points})
        return found

    def to_coco(self, *, image_id: int = 1) -> dict[str, Any]:
        """Return the mask as COCO JSON: an annotation a label, as an uncompressed run-length code.

        Category ids are positions in ``labels``, counted from 1. Annotations of pictures with the
        same labels have ids of their own, so their files can be joined.

        Args:
            image_id: of the picture, from 0.
        """
        height, width = self.mask.shape
        annotations = []
        for region in self.regions():
            here = self.mask_of(region["label"])
            category = self.labels.index(region["label"]) + 1
            annotations.append(
                {
                    "id": image_id * len(self.labels) + category,
                    "image_id": image_id,
                    "category_id": category,
                    "segmentation": {"size": [height, width], "counts": run_lengths(here)},
                    "area": int(here.sum()),
                    "bbox": find_box(here),
                    "iscrowd": 1,
                    "score": region["score"],
                }
            )
        return {
            "images": [
                {"id": image_id, "file_name": self.source, "height": height, "width": width}
            ],
            "categories": [
                {"id": i, "name": label, "unseen": label in self.unseen}
                for i, label in enumerate(self.labels, start=1)
            ],
            "annotations": annotations,
        }

    def to_labelme(self, *, smallest: int = 3, folder: str | Path | None = None) -> dict[str, Any]:
        """Return what LabelMe reads, to correct masks by hand: a polygon a region.

        LabelMe's polygons have no holes: what lies in a hole is a region of its own, listed after.

        Args:
            smallest: fewest points of a polygon; LabelMe needs 3.
            folder: where the file will lie, which names the picture from there; by default beside
                the picture. A picture that is no file is put into the file.
        """
        path, data = Path(self.source).name, None
        if not os.path.isfile(self.source):
            png = io.BytesIO()
            Image.fromarray(self.image).save(png, "PNG")
            path, data = path or "picture.png", base64.b64encode(png.getvalue()).decode()
        elif folder is not None:
            path = os.path.relpath(self.source, folder)
        height, width = self.mask.shape
        shapes = [
            {
                "label": region["label"],
                "points": region["points"][0],
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for region in self.polygons()
            if len(region["points"][0]) >= smallest
        ]
        return {
            "version": "5.5.0",
            "flags": {},
            "shapes": sorted(shapes, key=lambda shape: -cv2.contourArea(np.array(shape["points"]))),
            "imagePath": path,
            "imageData": data,
            "imageHeight": height,
            "imageWidth": width,
        }

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``: a mask a label found, with its mean score.

        Raises:
            MissingExtra: supervision is not installed.
        """
        supervision = require("supervision", extra="supervision")
        regions = self.regions()
        masks = np.stack([self.mask_of(region["label"]) for region in regions])
        boxes = np.array([find_box(mask) for mask in masks], dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        names = [region["label"] for region in regions]
        return supervision.Detections(
            xyxy=boxes,
            mask=masks,
            confidence=np.array([region["score"] for region in regions]),
            class_id=np.array([self.labels.index(name) for name in names]),
            data={"class_name": np.array(names)},
        )

    def save(self, path: str | Path) -> None:
        """Write the overlay to ``path``."""
        save_image(self.overlay(), path)


def list_regions(
    labels: Sequence[str],
    unseen: Sequence[str],
    areas: Int64[np.ndarray, " C"],
    sums: Float64[np.ndarray, " C"],
) -> list[dict[str, Any]]:
    """List the labels found in one picture, or in all of a video, as ``regions`` does.

    Args:
        labels: the names.
        unseen: those whose masks training never showed.
        areas: pixels of each label.
        sums: of the scores of these pixels.
    """
    return [
        {
            "label": labels[i],
            "share": round(float(areas[i] / areas.sum()), 4),
            "score": round(float(sums[i] / areas[i]), 4),
            "unseen": labels[i] in unseen,
        }
        for i in np.argsort(-areas, kind="stable")
        if areas[i]
    ]


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return COCO's run lengths: column by column, how many pixels are out, in, out, …"""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges).tolist()
    return counts if counts[-1] else counts[:-1]


def find_box(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return the box around a mask, which is not empty: left, top, width, height in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write a picture, in the format of the path's suffix.

    Raises:
        InputError: the path cannot be written, or its suffix names no format.
    """
    path = Path(path)
    check_picture_name(path)
    write_whole(path, lambda part: image.save(part))


def check_picture_name(path: Path) -> None:
    """Refuse a path whose suffix names no format of pictures."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise InputError(f"{path} names no format of pictures: end it in .png")
