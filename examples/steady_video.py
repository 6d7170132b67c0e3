"""Segment a video with scores that are averaged over time, so that labels flicker less.

    python examples/steady_video.py clip.mp4 "dog, grass, sky" steady.mp4

Every label's scores follow the newest frame by a share (``FOLLOW``) and keep the rest of what they
were: a mask changes when the evidence lasts, a few frames after it began.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from unseen import Segmenter
from unseen.drawing import add_legend, palette, tint
from unseen.video import Video, write_video

FOLLOW = 0.3


def steady(
    video: Video, segmenter: Segmenter, labels: list[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield every frame's image, (H, W, 3), and its steadied mask, (H, W)."""
    text = segmenter.embed(labels)
    kept = None
    for frame in video:
        scores = segmenter.score_map(frame.image, text)
        kept = scores if kept is None else torch.lerp(kept, scores, FOLLOW)
        size = frame.image.shape[:2]
        yield frame.image, F.interpolate(kept[None], size, mode="bilinear")[0].argmax(0)


def main(clip: str, words: str, out: str) -> None:
    segmenter = Segmenter.from_pretrained("zegclip-miniature-inductive")  # or your own
    labels = [word.strip() for word in words.split(",")]
    colours = palette(len(labels))
    legend = list(zip(map(tuple, colours.tolist()), labels, strict=True))
    video = Video(clip)
    painted = (
        add_legend(Image.fromarray(tint(image, mask.cpu().numpy(), colours, opacity=0.55)), legend)
        for image, mask in steady(video, segmenter, labels)
    )
    count = write_video(Path(out), painted, video.rate)
    print(f"{out}: {count} frames")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
