"""From a picture and words to a mask."""

import hashlib
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unseen.backends import Backend, TorchBackend, is_exported, load_exported
from unseen.card import MARK, is_public, make_card, without_places
from unseen.checkpoints import ModelConfig, StoredText, clip_place, load_pretrained, save_pretrained
from unseen.clip import TextEncoder, fingerprint, load_clip
from unseen.data.transforms import fit_short_side, resize_image
from unseen.embeddings import TextEmbeddings, cached
from unseen.errors import InputError
from unseen.hub import upload
from unseen.methods import METHODS
from unseen.model import SegmentationModel
from unseen.pictures import Picture, as_array
from unseen.pictures import name as name_picture
from unseen.readout import (
    View,
    Windows,
    find_best,
    find_likeliest,
    find_margins,
    score_map,
    view_sides,
)
from unseen.segmentation import Segmentation
from unseen.shipped import shipped_clip
from unseen.vocabulary import Vocabulary, list_groups, read_vocabulary
from unseen.writing import write_text

LARGEST_CALIBRATION = 100
"""The largest γ, beside which a score from 0 to 1 still has its digits."""

LONGEST_SIDE = 4096
"""Where ``Segmenter`` stops enlarging a very elongated picture, in pixels."""


class How(TypedDict, total=False):
    """What a call may say beside the picture and its labels: the arguments of ``stream``."""

    skip_broken: bool
    merge: Mapping[str, Sequence[str]] | None
    calibration: float | None
    threshold: float
    other: str
    margins: bool
    limit: int | None
    tta: bool


_BATCH = {"cpu": 2**18, "cuda": 2**22}
"""Pixels that are shown to the model at once: one window of 512, and 16."""

Labels = str | Sequence[str] | Vocabulary | TextEmbeddings
Groups = Mapping[str, str | Sequence[str]]
"""Labels, each with the words that it stands for."""


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

    Examples:
        >>> segmenter = Segmenter.from_pretrained("zegclip-miniature-inductive")
        >>> result = segmenter("examples/wall.png", ["giraffe", "grass", "sky"])
        >>> result.mask.shape, result.labels
        ((384, 512), ('giraffe', 'grass', 'sky'))

    Args:
        model: the segmentation model, or what runs it.
        text: the text encoder of the model's CLIP; without one, labels must be text embeddings.
        config: what the model is and how pictures are shown to it.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        InputError: no such device here, or what runs the model runs elsewhere.
    """

    def __init__(
        self,
        model: SegmentationModel | Backend,
        text: TextEncoder | StoredText | None,
        config: ModelConfig,
        *,
        device: str = "auto",
    ) -> None:
        if isinstance(model, SegmentationModel):
            model = TorchBackend(model, device=resolve_device(device))
        elif device not in ("auto", str(model.device)):
            raise InputError(f"this model runs on {model.device} only: use --device {model.device}")
        self.backend, self.device = model, model.device
        self._text = text
        self.config = config
        self._embedded: dict[tuple[tuple[str, ...], tuple[str, ...]], TextEmbeddings] = {}

    @property
    def model(self) -> SegmentationModel:
        """The model itself.

        Raises:
            InputError: it is an exported file.
        """
        if not isinstance(self.backend, TorchBackend):
            raise InputError(
                "an exported model can segment and be scored only: for this, load the model it "
                "was made of"
            )
        return self.backend.model

    @cached_property
    def text(self) -> TextEncoder | None:
        """The text encoder; that of a model's folder is read when it is first asked for."""
        text = self._text.load() if isinstance(self._text, StoredText) else self._text
        return text.to(self.device).eval() if text else None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        clip: str | Path | None = None,
        device: str = "auto",
        precision: str = "fp32",
        compile: bool = False,
    ) -> "Segmenter":
        """Load a model from its folder, or by name: a shipped one, or the hub's ``owner/name``.

        Args:
            source: the folder, also of an exported model, or the name.
            clip: the CLIP of a folder without one, if not where its configuration says.
            device: as everywhere; exported models run on the CPU.
            precision: in which matrix products are computed: ``fp32``; ``bf16`` in torch and
                OpenVINO; ``fp16`` in torch.
            compile: let torch.compile work a minute or more on the first pictures, for less time
                on all others.

        Raises:
            InputError: no such model, a broken file, or a device or precision it does not run in.
            MissingExtra: what runs the exported file is not installed.
        """
        if is_exported(source):
            if clip is not None:
                raise InputError(f"{source} is exported with its CLIP: leave clip out")
            if compile:
                raise InputError(f"{source} is compiled when it is loaded: leave compile out")
            backend, stored, config = load_exported(Path(source), precision=precision)
            return cls(backend, stored, config, device=device)
        model, text, config = load_pretrained(source, clip=clip)
        run = TorchBackend(
            model, device=resolve_device(device), precision=precision, compile=compile
        )
        return cls(run, text, config)

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
        self,
        repo_id: str,
        *,
        private: bool = False,
        adapter_only: bool = False,
        card: str | None = None,
    ) -> str:
        """Write the model's folder to a repository of the Hugging Face Hub; return its address.

        Folders of this machine are left out of its configuration.

        Args:
            repo_id: ``owner/name``; made if it is not there.
            private: hide a repository that is made.
            adapter_only: as in ``save_pretrained``.
            card: its README.md; by default ``make_card`` writes one, which replaces none that a
                person wrote.

        Raises:
            InputError: not logged in, offline, refused by the hub, or others cannot get the CLIP
                that is left out.
        """
        config = without_places(self.config)
        if adapter_only and not is_public(config.clip):
            raise InputError(
                f"others cannot get the CLIP {self.config.clip!r}: push without adapter_only"
            )
        card = card or make_card(config, name=repo_id, adapter_only=adapter_only)
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(folder, self.model, self.text, config, adapter_only=adapter_only)
            write_text(Path(folder) / "README.md", card)
            return upload(Path(folder), repo_id, private=private, mark=MARK)

    @classmethod
    def from_clip(
        cls,
        source: str | Path,
        *,
        method: str = "maskclip",
        heads: int | None = None,
        short_side: int | None = None,
        device: str = "auto",
        precision: str = "fp32",
        compile: bool = False,
    ) -> "Segmenter":
        """Segment with CLIP alone, nothing trained.

        Args:
            source: what ``load_clip`` takes: a file, a folder, a hub name; or ``miniature``.
            method: ``maskclip``, whose last block keeps every patch's own value, or ``plain``.
            heads: attention heads of the image encoder, where they are not one per 64 channels.
            short_side: pixels of a picture's short side, by default twice what CLIP was trained on.
            device: as everywhere.
            precision: in which matrix products are computed: ``fp32``, ``bf16`` or ``fp16``.
            compile: as in ``from_pretrained``.
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
            clip=clip_place(source),
        )
        model = METHODS[method](clip.image)
        run = TorchBackend(
            model, device=resolve_device(device), precision=precision, compile=compile
        )
        return cls(run, clip.text, config)

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
        patch = self.backend.vision.patch_size
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
        return Segmenter(self.backend, self.__dict__.get("text", self._text), config)

    @cached_property
    def fingerprint(self) -> str:
        """Which CLIP reads the labels: a hash of the text encoder, empty without one."""
        if isinstance(self._text, StoredText):
            return self._text.fingerprint
        return fingerprint(self._text) if self._text else ""

    def embed(self, labels: Labels) -> TextEmbeddings:
        """Return labels with their embeddings, from a cache on disk if they were made before.

        Args:
            labels: as for a call. Embeddings made before are only checked.

        Raises:
            InputError: labels that cannot be used, or embeddings of another CLIP.
        """
        if isinstance(labels, TextEmbeddings):
            labels.check(self.backend.vision.embed_dim, self.fingerprint)
            return labels
        vocabulary = read_vocabulary(labels, templates=self.config.vocabulary.templates)
        key = vocabulary.names, vocabulary.templates
        if key not in self._embedded:
            if self._text is None:
                raise InputError("this model has no text encoder: give text embeddings")
            if len(self._embedded) >= 8:
                self._embedded.pop(next(iter(self._embedded)))

            def make() -> Float[Tensor, "C D"]:
                assert self.text is not None
                return self.text.embed(vocabulary.names, vocabulary.templates)

            self._embedded[key] = cached(vocabulary, self.fingerprint, make)
        return replace(self._embedded[key], vocabulary=vocabulary)

    def conditions(
        self, embeddings: TextEmbeddings, *, calibration: float | None = None, tta: bool = False
    ) -> dict[str, Any]:
        """Return, as JSON takes it, all that a mask depends on beside the picture.

        Args:
            embeddings: the labels.
            calibration: as for a call.
            tta: as for a call.
        """
        config, backend = self.config, self.backend
        values = embeddings.values.float().cpu().contiguous().numpy()
        return {
            "model": [config.method, config.options, asdict(backend.vision), backend.digest()],
            "classes seen in training": list(config.taught),
            "labels": list(embeddings.vocabulary.names),
            "text embeddings": hashlib.sha256(values.tobytes()).hexdigest()[:32],
            "γ": config.calibration if calibration is None else calibration,
            "confidence": hashlib.sha256(repr(config.confidence).encode()).hexdigest()[:32],
            "sizes": [config.short_side, config.window, config.stride],
            "views": tta,
            "precision": backend.precision,
            "device": f"{self.device.type}, {backend.name}",
            # with another number, matrix products are rounded otherwise, and pixels change sides
            "threads (OMP_NUM_THREADS)": self.device.type == "cpu" and torch.get_num_threads(),
            "versions": {"unseen": version("unseen"), "torch": torch.__version__},
        }

    def is_taught(
        self, names: Sequence[str], merge: Mapping[str, Sequence[str]] | None = None
    ) -> list[bool]:
        """Tell of each name whether training showed masks of it; case does not matter to CLIP.

        Args:
            names: the labels.
            merge: those that are one: if training showed any of them, or what they are called, it
                showed them all.
        """
        taught = {name.casefold() for name in self.config.taught}
        listed = list_groups(merge or {}).items()
        groups = [{one.casefold() for one in (name, *members)} for name, members in listed]
        known = taught.union(*(group for group in groups if group & taught))
        return [name.casefold() in known for name in names]

    @torch.inference_mode()
    def look(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        text: Float[Tensor, "C D"],
        bias: Float[Tensor, " C"],
    ) -> View:
        """Show a picture, already resized, to the model window by window."""
        config = self.config
        pixels = torch.tensor(np.ascontiguousarray(image), device=self.device)
        windows = Windows((image.shape[0], image.shape[1]), config.window, config.stride)
        crops = windows.cut(pixels.permute(2, 0, 1).float() / 255)
        most = _BATCH.get(self.device.type, 2**20)
        count = max(1, most // (crops.shape[2] * crops.shape[3]))
        logits = torch.cat([self.backend(batch, text) for batch in crops.split(count)])
        if not logits.sum(dtype=torch.float32).isfinite():  # in one pass, without a copy
            raise InputError(
                "the model answers what is no number: its weights, or the text embeddings, are "
                "broken, or it was trained until it diverged"
            )
        return View(logits, windows, bias, config.window)

    @overload
    def __call__(
        self, picture: Picture, labels: Labels | Groups, **how: Unpack[How]
    ) -> Segmentation: ...

    @overload
    def __call__(
        self, picture: list[Any] | tuple[Any, ...], labels: Labels | Groups, **how: Unpack[How]
    ) -> list[Segmentation]: ...

    @overload
    def __call__(
        self, picture: Iterator[Picture], labels: Labels | Groups, **how: Unpack[How]
    ) -> Iterator[Segmentation]: ...

    def __call__(
        self,
        picture: Picture | list[Any] | tuple[Any, ...] | Iterator[Picture],
        labels: Labels | Groups,
        **how: Unpack[How],
    ) -> Segmentation | list[Segmentation] | Iterator[Segmentation]:
        """Give every pixel the likeliest of the labels.

        Args:
            picture: path, http or https address, PIL image, (H, W, 3) uint8 RGB array, or (3, H, W)
                tensor; a list of them gives a list; an iterator gives an iterator, which holds one
                at a time.
            labels: names, a vocabulary or its name, or embeddings made before. A mapping gives
                several words to a name: ``{"cat": ["cat", "kitten"], "background": ["sky",
                "wall"]}``.
            how: as in ``stream``.

        Raises:
            InputError: a picture that cannot be read, or labels that cannot be used.
        """
        if isinstance(picture, Iterator):
            return self.stream(picture, labels, **how)
        if isinstance(picture, (list, tuple)):
            return list(self.stream(picture, labels, **how))
        return next(self.stream([picture], labels, **how))

    def stream(
        self,
        pictures: Iterable[Picture],
        labels: Labels | Groups,
        *,
        skip_broken: bool = False,
        merge: Mapping[str, Sequence[str]] | None = None,
        calibration: float | None = None,
        threshold: float = 0.0,
        other: str = "other",
        margins: bool = False,
        limit: int | None = LONGEST_SIDE,
        tta: bool = False,
    ) -> Iterator[Segmentation]:
        """Segment pictures one after the other, however many, in the memory of one.

        Args:
            pictures: each as for a call.
            labels: as for a call.
            skip_broken: warn of pictures that cannot be read, and go on with the next.
            merge: labels that are one, as in ``Segmentation.merge``; γ takes them for one too.
            calibration: γ to subtract from the scores of seen classes; the model's own by default.
            threshold: least confidence that leaves a pixel its label; of a model without
                ``unseen calibrate``, least score. It goes without ``tta``.
            other: the label of pixels below the threshold, added as the last if there is one.
            margins: find also how far the best score is above the second best.
            limit: longest side in pixels that a picture is enlarged to, None for no limit.
            tta: look at pictures at the authors' scales and mirrored, and average; 8 passes, most
                of them larger, for one. There is no confidence then: it was measured of one.

        Raises:
            InputError: as a call; or a threshold with ``tta``.
        """
        if tta and threshold:
            raise InputError(
                "a threshold is for scores of one view, those of --tta are others: leave one out"
            )
        groups = list_groups(merge or {})
        if isinstance(labels, Mapping):
            named = list_groups(labels)
            groups = named | groups
            labels = [word for words in named.values() for word in words]
        embeddings = self.embed(labels)
        for picture in pictures:
            try:
                image = as_array(picture)
            except InputError as error:
                if not skip_broken:
                    raise
                warnings.warn(f"skipped: {error}", stacklevel=2)
                continue
            found = self._segment(image, embeddings, groups, calibration, margins, limit, tta)
            found = replace(found, source=name_picture(picture))
            found = found.merge(groups) if groups else found
            yield found.reject(threshold, other) if threshold else found

    def _segment(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        embeddings: TextEmbeddings,
        merge: Mapping[str, Sequence[str]],
        calibration: float | None,
        margins: bool,
        limit: int | None,
        tta: bool,
    ) -> Segmentation:
        views = self.views(
            image, embeddings, merge=merge, calibration=calibration, limit=limit, tta=tta
        )
        size = (image.shape[0], image.shape[1])
        mask, best = find_likeliest(views, size) if tta else find_best(views[0], size)
        names = embeddings.vocabulary.names
        taught = self.is_taught(names, merge)
        unseen = [name for name, known in zip(names, taught, strict=True) if not known]
        homes = {word: name for name, words in merge.items() for word in words}
        labels = [homes.get(name, name) for name in names]
        own, sure = self.config.calibration, None if tta else self.config.confidence
        gamma = own if calibration is None else calibration
        return Segmentation(
            mask,
            names,
            best,
            image,
            tuple(unseen if self.config.setting else ()),
            confidence=sure(best, mask, taught, gamma) if sure else None,
            margins=find_margins(views, size, labels) if margins else None,
        )

    def score_map(
        self,
        picture: Picture,
        labels: Labels,
        *,
        calibration: float | None = None,
        limit: int | None = LONGEST_SIDE,
    ) -> Float[Tensor, "C h w"]:
        """Score every label, at the size at which the model is shown the picture.

        Arguments and errors are those of a call, which does not need all these scores at once.
        """
        return score_map(self.views(picture, labels, calibration=calibration, limit=limit)[0])

    def views(
        self,
        picture: Picture,
        labels: Labels,
        *,
        merge: Mapping[str, Sequence[str]] | None = None,
        calibration: float | None = None,
        limit: int | None = LONGEST_SIDE,
        tta: bool = False,
    ) -> list[View]:
        """Look at a picture, once or as often as ``tta`` does, and read nothing out yet.

        Arguments and errors are those of a call.
        """
        image, embeddings = as_array(picture), self.embed(labels)
        text = embeddings.values.float().to(self.device)
        gamma = self.config.calibration if calibration is None else calibration
        if not abs(gamma) <= LARGEST_CALIBRATION:
            raise InputError(
                f"calibration must be a number from -{LARGEST_CALIBRATION} to "
                f"{LARGEST_CALIBRATION}, got {gamma}: scores are from 0 to 1"
            )
        taught = self.is_taught(embeddings.vocabulary.names, merge)
        bias = float(gamma) * torch.tensor(taught, device=self.device)
        size = (image.shape[0], image.shape[1])

        sides = view_sides(self.config.short_side) if tta else {self.config.short_side: 1}
        shown = {side: self._shown_size(size, side, limit) for side in sides}
        self._warn_if_capped(size, max(sides), shown[max(sides)])
        found = []
        for side, weight in sides.items():
            resized = resize_image(image, shown[side])
            for flipped in (False, True) if tta else (False,):
                view = self.look(resized[:, ::-1] if flipped else resized, text, bias)
                found.append(replace(view, flipped=flipped, weight=weight))
        return found

    def _shown_size(
        self, size: tuple[int, int], short_side: int, limit: int | None
    ) -> tuple[int, int]:
        """Return the size a picture is resized to before it is cut into windows."""
        height, width = fit_short_side(size, short_side)
        if limit is None or max(height, width) <= limit:
            return height, width
        factor = limit / max(height, width)
        patch = self.backend.vision.patch_size
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
