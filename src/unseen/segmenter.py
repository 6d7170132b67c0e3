"""From a picture and words to a mask: sliding windows, the read-out, and ``Segmenter``."""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor

from unseen.checkpoints import ModelConfig, load_pretrained, save_pretrained, shipped_clip
from unseen.clip import TextEncoder, fingerprint, load_clip
from unseen.data.images import read_image, to_rgb
from unseen.data.transforms import fit_short_side, resize_image
from unseen.drawing import mask_image, overlay
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError
from unseen.hub import upload
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.vocabulary import Vocabulary, read_vocabulary
from unseen.writing import write_whole

LONGEST_SIDE = 4096
"""Where ``Segmenter`` stops enlarging a very elongated picture, in pixels."""

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of the authors' ``--aug-test``, each of which is also shown mirrored."""

Picture = str | Path | Image.Image | UInt8[np.ndarray, "H W 3"]
Labels = str | Sequence[str] | Vocabulary | TextEmbeddings


def slide(
    predict: Callable[[Tensor], Tensor],
    image: Float[Tensor, "B 3 H W"],
    *,
    window: int,
    stride: int,
) -> Float[Tensor, "B C H W"]:
    """Average predictions over overlapping windows.

    Windows start every ``stride`` pixels; the last of a row or column is moved back inside the
    image. A side shorter than ``window`` has one window, as long as that side.

    Args:
        predict: from a crop (B, 3, y, x) to scores (B, C, y, x).
        image: the picture.
        window: side of a window.
        stride: step from one window to the next.

    Raises:
        InputError: a stride beyond the window, which would leave pixels out.
    """
    if not 1 <= stride <= window:
        raise InputError(f"the stride must be from 1 to the window of {window}, got {stride}")
    height, width = image.shape[2:]
    total: Tensor | None = None
    count = image.new_zeros(1, 1, height, width)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            crop = image[:, :, top : top + window, left : left + window]
            scores = predict(crop)
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], height, width)
            total[:, :, top : top + window, left : left + window] += scores
            count[:, :, top : top + window, left : left + window] += 1
    assert total is not None
    return total.div_(count)


def _starts(length: int, window: int, stride: int) -> list[int]:
    steps = max(length - window + stride - 1, 0) // stride + 1
    return [min(i * stride, max(length - window, 0)) for i in range(steps)]


def read_out(
    logits: Float[Tensor, "B C h w"],
    size: tuple[int, int],
    *,
    window: int,
    bias: Float[Tensor, " C"],
) -> Float[Tensor, "B C H W"]:
    """Turn logits on the patch grid into scores at pixels: enlarge, sigmoid, subtract the bias.

    Of a square crop the sigmoid is taken at the window's size and then resized, as the authors do.
    Other crops, which their code cannot take, are read out at their own size.

    Args:
        logits: scores on the patch grid.
        size: (height, width) of the crop.
        window: side of the windows the model was trained on.
        bias: γ for seen classes, 0 for the others.
    """
    fine = (window, window) if size[0] == size[1] else size
    scores = F.interpolate(logits, fine, mode="bilinear", align_corners=False).sigmoid()
    scores = scores - bias.view(-1, 1, 1)
    if fine == size:
        return scores
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)


def label(
    scores: Float[Tensor, "C h w"], size: tuple[int, int]
) -> tuple[Integer[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Resize scores to (height, width) and return each pixel's best class and its score.

    Classes are enlarged a few at a time: what is needed beside the scores is bounded.
    """
    step = max(1, 2**25 // (size[0] * size[1]))
    best = torch.full(size, -torch.inf)
    mask = torch.zeros(size, dtype=torch.long)
    for start in range(0, len(scores), step):
        group = scores[None, start : start + step]
        if group.shape[2:] != size:
            group = F.interpolate(group, size, mode="bilinear", align_corners=False)
        values, winners = group[0].max(dim=0)
        values, winners = values.cpu(), winners.cpu()
        better = values > best
        best = torch.where(better, values, best)
        mask = torch.where(better, winners + start, mask)
    return mask.numpy(), best.numpy()


def view_sides(short_side: int) -> dict[int, int]:
    """Return the short sides at which a picture is looked at several times, and how often each.

    As the authors' ``--aug-test`` does it, which is not what it seems: ratios scale the side, but
    the configurations' ``min_size``, the same side, holds it from below. So the ratios under 1 are
    that side three times over: of 512 come 512 (three times), 640, 768 and 896.
    """
    sides = [max(short_side, int(ratio * short_side)) for ratio in RATIOS]
    return {side: sides.count(side) for side in sides}


def average_views(
    views: Iterable[tuple[Tensor, bool, int]], size: tuple[int, int]
) -> Float[Tensor, "C H W"]:
    """Average what several views of a picture say: probabilities over classes, at (height, width).

    One running sum is kept, so memory is that of two score maps however many views there are.

    Args:
        views: scores (C, h, w) of each, of any size, whether it was mirrored, how often it counts.
        size: of the picture.
    """
    total: Tensor | None = None
    count = 0
    for scores, mirrored, weight in views:
        fine = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
        probabilities = fine.softmax(dim=0).mul_(weight)
        probabilities = probabilities.flip(2) if mirrored else probabilities
        total = probabilities if total is None else total.add_(probabilities)
        count += weight
    assert total is not None
    return total.div_(count)


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
    """

    mask: Integer[np.ndarray, "H W"]
    labels: tuple[str, ...]
    scores: Float[np.ndarray, "H W"]
    image: UInt8[np.ndarray, "H W 3"]
    unseen: tuple[str, ...] = ()

    def __repr__(self) -> str:
        height, width = self.mask.shape
        found = ", ".join(f"{one['label']} {one['share']:.0%}" for one in self.regions()[:5])
        return f"<Segmentation of {width}×{height} pixels into {len(self.labels)} labels: {found}>"

    def overlay(self, *, opacity: float = 0.55) -> Image.Image:
        """Paint the mask over the picture, with a legend."""
        return overlay(self.image, self.mask, self.labels, marked=self.unseen, opacity=opacity)

    def mask_image(self) -> Image.Image:
        """Return the mask as a palette image whose index is the label."""
        return mask_image(self.mask, len(self.labels))

    def regions(self) -> list[dict[str, Any]]:
        """List the labels found, largest first: share of the picture, mean score, unseen or not."""
        areas = np.bincount(self.mask.ravel(), minlength=len(self.labels))
        sums = np.bincount(self.mask.ravel(), self.scores.ravel(), minlength=len(self.labels))
        return [
            {
                "label": self.labels[i],
                "share": round(float(areas[i] / self.mask.size), 4),
                "score": round(float(sums[i] / areas[i]), 4),
                "unseen": self.labels[i] in self.unseen,
            }
            for i in np.argsort(-areas, kind="stable")
            if areas[i]
        ]

    def save(self, path: str | Path) -> None:
        """Write the overlay to ``path``."""
        save_image(self.overlay(), path)


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


def resolve_device(device: str) -> torch.device:
    """Return the device a name means; ``auto`` takes a GPU where there is one.

    Raises:
        InputError: no such device on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next((name for name, there in available.items() if there), "cpu"))
    if device.split(":")[0] not in ("cpu", *available):
        raise InputError(f"device must be auto, cpu, cuda or mps, got {device!r}")
    if not available.get(device.split(":")[0], True):
        raise InputError(f"this machine or this build of torch has no {device}: use --device cpu")
    return torch.device(device)


class Segmenter:
    """Names the pixels of pictures with any words.

    >>> segmenter = Segmenter.from_pretrained("zegclip-miniature-inductive")
    >>> result = segmenter("examples/desert.png", ["cow", "grass", "sky"])
    >>> result.mask.shape, result.labels
    ((384, 512), ('cow', 'grass', 'sky'))

    Args:
        model: the segmentation model.
        text: the text encoder of the model's CLIP; without one, labels must be text embeddings.
        config: what the model is and how pictures are shown to it.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    def __init__(
        self,
        model: SegmentationModel,
        text: TextEncoder | None,
        config: ModelConfig,
        *,
        device: str = "auto",
    ) -> None:
        self.device = resolve_device(device)
        self.model = model.to(self.device).eval()
        self.text = text.to(self.device).eval() if text else None
        self.config = config
        self._embedded: dict[tuple[tuple[str, ...], tuple[str, ...]], TextEmbeddings] = {}

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, clip: str | Path | None = None, device: str = "auto"
    ) -> "Segmenter":
        """Load a model from its folder, or by name: a shipped one, or the hub's ``owner/name``."""
        model, text, config = load_pretrained(source, clip=clip)
        return cls(model, text, config, device=device)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        adapter_only: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write the model's folder, which ``from_pretrained`` reads.

        Args:
            folder: where to; replaced if it holds a model already.
            adapter_only: leave CLIP out; loading then needs the one that ``config.clip`` names.
            dtype: of the stored weights.

        Raises:
            InputError: the folder cannot be written, or nothing says which CLIP was left out.
        """
        save_pretrained(
            folder, self.model, self.text, self.config, adapter_only=adapter_only, dtype=dtype
        )

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, adapter_only: bool = False
    ) -> str:
        """Write the model's folder to a repository of the Hugging Face Hub; return its address.

        Args:
            repo_id: ``owner/name``; made if it is not there.
            private: hide a repository that is made.
            adapter_only: as in ``save_pretrained``.

        Raises:
            InputError: not logged in, offline, or refused by the hub.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, adapter_only=adapter_only)
            return upload(Path(folder), repo_id, private=private)

    @classmethod
    def from_clip(
        cls,
        source: str | Path,
        *,
        method: str = "maskclip",
        heads: int | None = None,
        short_side: int | None = None,
        device: str = "auto",
    ) -> "Segmenter":
        """Segment with CLIP alone, nothing trained.

        Args:
            source: what ``load_clip`` takes: a file, a folder, a hub name; or ``miniature``.
            method: ``maskclip``, whose last block keeps every patch's own value, or ``plain``.
            heads: attention heads of the image encoder, where they are not one per 64 channels.
            short_side: pixels of a picture's short side, by default twice what CLIP was trained on.
            device: as everywhere.
        """
        if method not in ("maskclip", "plain"):
            raise InputError(f"CLIP alone is read by maskclip or plain, got {method!r}")
        clip = load_clip(shipped_clip() if source == "miniature" else source, heads=heads)
        side = short_side or 2 * clip.image.config.image_size
        config = ModelConfig(
            method=method,
            options={},
            vocabulary=read_vocabulary("miniature" if source == "miniature" else "coco171"),
            setting="",
            short_side=side,
            window=side,
            stride=max(1, round(side * 426 / 512)),
            clip=str(source),
        )
        return cls(METHODS[method](clip.image), clip.text, config, device=device)

    def shown_at(
        self, *, short_side: int | None = None, window: int | None = None, stride: int | None = None
    ) -> "Segmenter":
        """Return the same model, shown pictures at another size.

        Args:
            short_side: pixels of a picture's short side when it is shown to the model.
            window: side of the windows it is cut into.
            stride: step from one window to the next.

        Raises:
            InputError: less than a patch is shown at once, or windows leave pixels out.
        """
        own = self.config
        config = replace(
            own,
            short_side=own.short_side if short_side is None else short_side,
            window=own.window if window is None else window,
            stride=own.stride if stride is None else stride,
        )
        patch = self.model.encoder.clip.config.patch_size
        for title, side in (("short side", config.short_side), ("window", config.window)):
            if side < patch:
                raise InputError(
                    f"the {title} must be at least a patch of this model, {patch} pixels, "
                    f"got {side}"
                )
        if not 1 <= config.stride <= config.window:
            raise InputError(
                f"the stride must be from 1 to the window of {config.window}, got {config.stride}: "
                "give a stride that fits"
            )
        return Segmenter(self.model, self.text, config, device=str(self.device))

    @cached_property
    def fingerprint(self) -> str:
        """Which CLIP reads the labels: a hash of the text encoder, empty without one."""
        return fingerprint(self.text) if self.text else ""

    def embed(self, labels: Labels) -> TextEmbeddings:
        """Return labels with their embeddings; the last few are remembered.

        Args:
            labels: as for a call. Embeddings made before are only checked.

        Raises:
            InputError: labels that cannot be used, or embeddings of another CLIP.
        """
        if isinstance(labels, TextEmbeddings):
            labels.check(self.model.encoder.clip.config.embed_dim, self.fingerprint)
            return labels
        vocabulary = read_vocabulary(labels, templates=self.config.vocabulary.templates)
        key = vocabulary.names, vocabulary.templates
        if key not in self._embedded:
            if self.text is None:
                raise InputError("this model has no text encoder: give text embeddings")
            if len(self._embedded) >= 8:
                self._embedded.pop(next(iter(self._embedded)))
            values = self.text.embed(vocabulary.names, vocabulary.templates)
            self._embedded[key] = TextEmbeddings(vocabulary, values, self.fingerprint)
        return self._embedded[key]

    def is_taught(self, names: Sequence[str]) -> list[bool]:
        """Tell of each name whether training showed masks of it; case does not matter to CLIP."""
        taught = {name.casefold() for name in self.config.taught}
        return [name.casefold() in taught for name in names]

    @torch.inference_mode()
    def score(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        text: Float[Tensor, "C D"],
        bias: Float[Tensor, " C"],
    ) -> Float[Tensor, "C H W"]:
        """Score every class at every pixel of a picture already resized."""
        config = self.config
        pixels = torch.tensor(np.ascontiguousarray(image), device=self.device)
        pixels = pixels.permute(2, 0, 1)[None].float() / 255

        def predict(crop: Tensor) -> Tensor:
            logits = self.model(crop, text).logits
            size = (crop.shape[2], crop.shape[3])
            return read_out(logits, size, window=config.window, bias=bias)

        return slide(predict, pixels, window=config.window, stride=config.stride)[0]

    def __call__(
        self,
        picture: Picture,
        labels: Labels,
        *,
        calibration: float | None = None,
        limit: int | None = LONGEST_SIDE,
        tta: bool = False,
    ) -> Segmentation:
        """Give every pixel the likeliest of the labels.

        Args:
            picture: path, PIL image, or (H, W, 3) uint8 RGB array.
            labels: names, a vocabulary or its name, or embeddings made before.
            calibration: γ to subtract from the scores of seen classes; the model's own by default.
            limit: longest side in pixels that the picture is enlarged to, None for no limit.
            tta: look at the picture at the authors' scales and mirrored, and average; 8 passes,
                most of them larger, for one; scores of all labels at every pixel in memory.

        Raises:
            InputError: a picture that cannot be read, or labels that cannot be used.
        """
        image, embeddings = as_array(picture), self.embed(labels)
        scores = self.score_map(image, embeddings, calibration=calibration, limit=limit, tta=tta)
        mask, best = label(scores, (image.shape[0], image.shape[1]))
        names = embeddings.vocabulary.names
        taught = self.is_taught(names)
        unseen = [name for name, known in zip(names, taught, strict=True) if not known]
        return Segmentation(mask, names, best, image, tuple(unseen if self.config.setting else ()))

    def score_map(
        self,
        picture: Picture,
        labels: Labels,
        *,
        calibration: float | None = None,
        limit: int | None = LONGEST_SIDE,
        tta: bool = False,
    ) -> Float[Tensor, "C h w"]:
        """Score every label, at the size at which the model is shown the picture.

        With ``tta`` these are probabilities at the picture's own size. Arguments and errors are
        those of a call, which picks the best of the enlarged scores.
        """
        image, embeddings = as_array(picture), self.embed(labels)
        text = embeddings.values.float().to(self.device)
        gamma = self.config.calibration if calibration is None else calibration
        if not math.isfinite(gamma):
            raise InputError(f"calibration must be a finite number, got {gamma}")
        taught = self.is_taught(embeddings.vocabulary.names)
        bias = gamma * torch.tensor(taught, device=self.device)
        size = (image.shape[0], image.shape[1])

        sides = view_sides(self.config.short_side) if tta else {self.config.short_side: 1}
        shown = {side: self._shown_size(size, side, limit) for side in sides}
        self._warn_if_capped(size, max(sides), shown[max(sides)])

        def look(side: int, mirrored: bool) -> Tensor:
            resized = resize_image(image, shown[side])
            return self.score(resized[:, ::-1] if mirrored else resized, text, bias)

        if not tta:
            return look(self.config.short_side, False)
        return average_views(
            ((look(side, m), m, n) for side, n in sides.items() for m in (False, True)), size
        )

    def _shown_size(
        self, size: tuple[int, int], short_side: int, limit: int | None
    ) -> tuple[int, int]:
        """Return the size a picture is resized to before it is cut into windows."""
        height, width = fit_short_side(size, short_side)
        if limit is None or max(height, width) <= limit:
            return height, width
        factor = limit / max(height, width)
        patch = self.model.encoder.clip.config.patch_size
        return max(patch, round(height * factor)), max(patch, round(width * factor))

    def _warn_if_capped(
        self, size: tuple[int, int], short_side: int, shown: tuple[int, int]
    ) -> None:
        height, width = fit_short_side(size, short_side)
        if shown != (height, width):
            warnings.warn(
                f"a picture of {size[1]}×{size[0]} pixels would be shown to the model at "
                f"{width}×{height}; its long side is held at {max(shown)}: {shown[1]}×{shown[0]}",
                stacklevel=4,
            )


def as_array(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture, given in any way, as 8-bit RGB."""
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if not isinstance(picture, np.ndarray):
        raise InputError(
            f"expected one picture: a path, a PIL image or an array; got a {type(picture).__name__}"
        )
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise InputError(
            "an array must be a picture of (height, width, 3) and uint8, RGB; "
            f"got {picture.shape} and {picture.dtype}"
        )
    return picture
