"""Videos: frames in, painted frames out, one at a time."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unseen.drawing import add_legend, palette, tint
from unseen.errors import InputError, require
from unseen.progress import track
from unseen.segmentation import Segmentation, list_regions
from unseen.writing import write_whole

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")


def is_video(path: str | Path) -> bool:
    """Tell by its suffix whether a file is a video."""
    return str(path).lower().endswith(SUFFIXES)


class Unreadable(InputError):
    """A video that cannot be read; others may be."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video.

    Args:
        number: counted from 0, those that are broken left out.
        seconds: from the start.
        image: the picture, the right way up.
    """

    number: int
    seconds: float
    image: UInt8[np.ndarray, "H W 3"]


class Video:
    """A video file, whose frames are decoded as they are asked for.

    Args:
        path: the file.

    Raises:
        Unreadable: there is no video at ``path``.
        MissingExtra: PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self._av = require("av", extra="video")
        self.path = Path(path)
        with self._open() as container:
            stream = container.streams.video[0]
            self.rate: Fraction = stream.average_rate or Fraction(25)
            self.count: int = stream.frames  # 0 where the file does not say

    def _open(self) -> Any:
        if not self.path.is_file():
            raise Unreadable(f"there is no video at {self.path}: check the path")
        try:
            container = self._av.open(str(self.path))
        except self._av.error.FFmpegError as error:
            raise Unreadable(
                f"{self.path} is no video that can be read: {error.strerror}"
            ) from None
        if not container.streams.video:
            container.close()
            raise Unreadable(f"{self.path} holds no pictures: it is no video")
        if container.streams.video[0].codec_context is None:
            container.close()
            raise Unreadable(f"{self.path} is in a code that nothing here reads: convert it first")
        # or decoders would fill broken parts with what they guess, and say nothing
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        return container

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames; broken ones are warned of and left out."""
        number = 0
        with self._open() as container:
            stream = container.streams.video[0]
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                    frames = packet.decode() if packet is not None else []
                except self._av.error.FFmpegError as error:
                    warnings.warn(
                        f"{self.path}: what comes after frame {number} is broken and skipped "
                        f"({error.strerror})",
                        stacklevel=2,
                    )
                    continue
                if packet is None:
                    return
                for frame in frames:
                    if frame.is_corrupt:
                        warnings.warn(
                            f"{self.path}: a broken frame after frame {number} is skipped",
                            stacklevel=2,
                        )
                        continue
                    pixels = frame.to_ndarray(format="rgb24")
                    # as the display matrix says: phones turn pictures no sooner
                    upright = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
                    yield Frame(number, frame.time or 0.0, upright)
                    number += 1


def write_video(path: Path, pictures: Iterable[Image.Image], rate: Fraction) -> int:
    """Write pictures, all of one size, as an MP4 that browsers play; return how many.

    Args:
        path: ends in ``.mp4``; it appears when it is whole.
        pictures: taken one at a time.
        rate: pictures a second.

    Raises:
        InputError: the path cannot be written.
        MissingExtra: PyAV is not installed.
    """
    av = require("av", extra="video")
    count = 0

    def write(part: Path) -> None:
        nonlocal count
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.pix_fmt = "yuv420p"
            for picture in pictures:
                width, height = (side - side % 2 for side in picture.size)  # as yuv420p asks
                if not count:
                    stream.width, stream.height = width, height
                pixels = np.asarray(picture)[:height, :width]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                count += 1
            container.mux(stream.encode())

    write_whole(path, write)
    return count


def segment_video(
    video: Video,
    look: Callable[[UInt8[np.ndarray, "H W 3"]], Segmentation],
    overlay: Path,
    report: Path,
    *,
    every: int = 1,
    opacity: float = 0.55,
) -> dict[str, Any]:
    """Paint what is found in a video over it, and write down what that is, a line of JSON a frame.

    Args:
        video: whose frames are shown.
        look: segments a picture, always into the same labels.
        overlay: an ``.mp4`` to be written; its legend lists all labels.
        report: lines of frame, seconds and regions, to be written.
        every: frames from one that is looked at to the next; between them the mask stays.
        opacity: share of the tint, 0 to 1.

    Returns:
        How many frames were looked at, the labels, and of those found the mean share of the picture
        and the mean score, largest first.

    Raises:
        Unreadable: no frame can be read.
        InputError: the files cannot be written.
    """
    looked_at = 0
    areas, sums = np.zeros(0, np.int64), np.zeros(0)
    result: Segmentation | None = None

    def painted(lines: TextIO) -> Iterator[Image.Image]:
        nonlocal looked_at, areas, sums, result
        for frame in track(video, f"segmenting {video.path.name}", total=video.count or None):
            if result is None or frame.number % every == 0:
                result = look(frame.image)
                counted = result.count()
                areas, sums = counted if not looked_at else (areas + counted[0], sums + counted[1])
                looked_at += 1
                regions = list_regions(result.labels, result.unseen, *counted)
                told = {"frame": frame.number, "seconds": round(frame.seconds, 3), "found": regions}
                lines.write(json.dumps(told) + "\n")
            yield _paint(frame.image, result, opacity)

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as lines:
            if not write_video(overlay, painted(lines), video.rate):
                overlay.unlink()
                raise Unreadable(f"{video.path} holds no frame that can be read")

    write_whole(report, write)
    assert result is not None
    found = list_regions(result.labels, result.unseen, areas, sums)
    return {"frames": looked_at, "labels": list(result.labels), "found": found}


def _paint(image: UInt8[np.ndarray, "H W 3"], result: Segmentation, opacity: float) -> Image.Image:
    """Return a frame with a mask over it and a legend of all labels: all frames are of one size."""
    colours = palette(len(result.labels))
    shown = np.rint(opacity * colours + (1 - opacity) * 128).astype(int)  # as over a mid grey
    entries = [
        (tuple(colour), name + ("*" if name in result.unseen else ""))
        for colour, name in zip(shown.tolist(), result.labels, strict=True)
    ]
    return add_legend(Image.fromarray(tint(image, result.mask, colours, opacity=opacity)), entries)
