"""A model as a file that other programs run: ONNX, OpenVINO's IR, a program of torch.export.

What is exported is ``SegmentationModel.forward``: an image (B, 3, H, W) in [0, 1] and text (C, D)
to logits (B, C, h, w). Batch, height, width and the number of classes stay free. Windows and the
read-out are not part of it. A file that disagrees with the model is not written.
"""

import copy
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from unseen.backends import FILES, TEXT_FILE, run_file
from unseen.checkpoints import read_description
from unseen.clip import fingerprint
from unseen.clip.weights import clip_config
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError, did_you_mean, require
from unseen.miniature.scenes import Scenes
from unseen.model import SegmentationModel
from unseen.segmenter import Segmenter
from unseen.vocabulary import MINIATURE
from unseen.writing import write_text, write_whole

TOLERANCE = 1e-4
"""How far logits may be from the model's own, as a share of its largest one."""

SHAPES = ((1, (2, 3), 1), (2, (4, 6), 5), (1, (7, 3), 40), (3, (9, 9), 2))
"""What an exported file is tried on: images, (height, width) in patches, classes. The grid on which
CLIP's positions were learned is tried too, and a single row of patches, which programs of
torch.export do not take: they want two patches a side."""

_ROW = (1, (1, 3), 2)
_NEEDED: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
_OPSET = 18
_SMALLEST = 2**10  # weights of a matrix from which int8 is worth while

Run = Callable[[Tensor, Tensor], Tensor]
Shape = tuple[int, tuple[int, int], int]


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        path: the exported file.
        to: a key of ``FILES``.
        size: of its files, in bytes.
        difference: of logits from the model's own, the largest, as a share of the largest one.
        agreement: share of pixels that get the label the model itself gives; None where the file
            cannot be run here.
        pictures: which pictures these pixels are of.
    """

    path: Path
    to: str
    size: int
    difference: float
    agreement: float | None
    pictures: str

    def describe(self) -> str:
        """Say in a line how well the file does."""
        text = (
            f"{self.path.name}, {self.size / 1e6:.1f} MB: logits off by at most "
            f"{self.difference:.1e} of the largest"
        )
        if self.agreement is not None:
            text += f", the same label on {self.agreement:.3%} of the pixels of {self.pictures}"
        return text


def export_model(
    segmenter: Segmenter, folder: str | Path, *, to: str, int8: bool = False
) -> Export:
    """Write a model's folder with an exported file in place of its weights.

    ``Segmenter.from_pretrained`` reads the folder, but not of ``torch``: reading a program of
    torch.export can run code, so that is left to those who wrote it.

    Args:
        segmenter: the model.
        folder: where to; replaced if it holds an exported model already.
        to: a key of ``FILES``.
        int8: store the weights of matrix products in 8 bits, each output channel with its own
            scale. ONNX products are then computed in 8 bits, too, their inputs' range taken anew
            for each picture.

    Raises:
        InputError: the folder cannot be written or holds another model, or the file disagrees.
        MissingExtra: what writes or runs the file is not installed.
    """
    if to not in FILES:
        hint = did_you_mean(to, FILES)
        raise InputError(f"a model is exported to {', '.join(FILES)}, not to {to!r}{hint}")
    if int8 and to == "torch":
        raise InputError("int8 is for onnx and openvino: torch programs are written in fp32")
    if segmenter.text is None:
        raise InputError("a model is exported with its text encoder, and this one has none")
    folder, model = Path(folder), segmenter.model
    written = [folder / name for name in dict.fromkeys(sum(FILES.values(), (TEXT_FILE,)))]
    if (folder / "config.json").exists():
        if "exported" not in read_description(folder):
            raise InputError(f"{folder} holds a model that is not exported: name another folder")
    elif taken := next((path for path in written if path.exists()), None):
        raise InputError(f"{taken} is of no model of unseen: name another folder, or remove it")
    for package in _NEEDED[to]:
        require(package, extra=to)
    if segmenter.device.type != "cpu":
        model = copy.deepcopy(model).cpu()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / FILES[to][0]
        run = _write(trace(model), path, to, int8=int8, model=model)
        difference = compare(run, model, SHAPES if to == "torch" else (*SHAPES, _ROW))
        if difference > TOLERANCE and not int8:
            raise InputError(
                f"the file for {to} disagrees with the model: logits are off by {difference:.1e} "
                f"of the largest, {TOLERANCE:.0e} are allowed; nothing is written"
            )
        agreement, pictures = None, ""
        if to != "torch":
            backend = run_file(path, to, model.encoder.clip.config)
            other = Segmenter(backend, segmenter.text, segmenter.config)
            agreement, pictures = agree(segmenter, other)
        try:
            for old in (folder / "config.json", *written):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror}") from None
        size = 0
        for name in FILES[to]:
            size += path.with_name(name).stat().st_size
            write_whole(folder / name, partial(shutil.copyfile, path.with_name(name)))
    _write_rest(segmenter, folder, to, int8=int8)
    return Export(folder / FILES[to][0], to, size, difference, agreement, pictures)


def _write_rest(segmenter: Segmenter, folder: Path, to: str, *, int8: bool) -> None:
    """Write the text encoder, and last what makes the folder a model's."""
    text, clip = segmenter.text, segmenter.model.encoder.clip
    assert text is not None
    state = {key: value.detach().cpu().contiguous() for key, value in text.state_dict().items()}
    write_whole(folder / TEXT_FILE, lambda part: save_file(state, part))
    versions = {"unseen": version("unseen"), "torch": torch.__version__}
    description = {
        "format": "unseen-model",
        "exported": {"to": to, "int8": int8},
        "fingerprint": fingerprint(clip),
        "text_fingerprint": segmenter.fingerprint,
        "encoders": clip_config(clip, text),
        **asdict(replace(segmenter.config, versions=versions)),
    }
    write_text(folder / "config.json", json.dumps(description, indent=1) + "\n")


# Writing -----------------------------------------------------------------------------------------


class Logits(nn.Module):
    """A model without its auxiliary answers."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C h w"]:
        logits: Tensor = self.model(image, text).logits
        return logits


def trace(model: SegmentationModel) -> ExportedProgram:
    """Record what a model computes, for any number of images and classes of any size."""
    # sizes that occur nowhere in the model, nor twice here
    image, text = sample(model, 2, (5, 7), 11)
    free = {"image": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, "text": {0: Dim.DYNAMIC}}
    with torch.no_grad(), _quiet():
        return torch.export.export(
            Logits(model).eval(), (image, text), dynamic_shapes=free, strict=False
        )


def _write(
    program: ExportedProgram, path: Path, to: str, *, int8: bool, model: SegmentationModel
) -> Run:
    """Write a program to a file and return what runs it."""
    if to == "torch":
        torch.export.save(program, path)
        run: Run = program.module()
        return run
    plain = path.with_name("plain.onnx")
    write_onnx(program, plain)
    if to == "onnx":
        if int8:
            with _quiet():
                _quantise(plain, path)
        else:
            plain.rename(path)
    else:
        openvino = require("openvino", extra="openvino")
        graph = openvino.convert_model(str(plain))
        if int8:
            _compress(graph, openvino)
        openvino.save_model(graph, str(path), compress_to_fp16=False)
    return run_file(path, to, model.encoder.clip.config)


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a program as one ONNX file."""
    with _quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["image", "text"],
            output_names=["logits"],
            opset_version=_OPSET,
            verbose=False,
        )
    assert exported is not None
    exported.save(str(path), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch, onnxscript and onnxruntime warn their own developers of."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _quantise(plain: Path, path: Path) -> None:
    """Turn the matrix products of an ONNX file with weights into those of 8 bits."""
    quantization = require("onnxruntime.quantization", extra="onnx")
    quantization.quantize_dynamic(
        str(plain),
        str(path),
        op_types_to_quantize=["MatMul"],
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        # 7 of the 8 bits: processors without VNNI add two products of 8 bits in 16, and overflow
        reduce_range=True,
    )


def _compress(graph: Any, openvino: Any) -> None:
    """Store the weights of an OpenVINO graph's matrix products in 8 bits, in place.

    Where a product reads a constant matrix, it then reads that matrix as int8 times a scale for
    each output channel, a pattern which OpenVINO's CPU plugin computes without unpacking it first.
    """
    opset = openvino.opset13
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant":
            continue
        weights = np.array(constant.data, dtype=np.float32)
        if weights.ndim != 2 or weights.size < _SMALLEST:
            continue
        inner = 1 if node.get_attributes()["transpose_b"] else 0
        scale = np.maximum(np.abs(weights).max(axis=inner, keepdims=True), 1e-12) / 127
        rounded = opset.constant(np.round(weights / scale).astype(np.int8))
        restored = opset.multiply(opset.convert(rounded, "f32"), opset.constant(scale))
        node.input(1).replace_source_output(restored.output(0))


# Checks ------------------------------------------------------------------------------------------


def sample(
    model: SegmentationModel, batch: int, grid: tuple[int, int], classes: int
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "C D"]]:
    """Draw images of a (height, width) in patches, a pixel more than fits, and text of a model."""
    config, random = model.encoder.clip.config, torch.Generator().manual_seed(0)
    height, width = (side * config.patch_size + 1 for side in grid)
    image = torch.rand(batch, 3, height, width, generator=random)
    text = torch.randn(classes, config.embed_dim, generator=random)
    return image, F.normalize(text, dim=-1)


@torch.no_grad()
def compare(run: Run, model: SegmentationModel, shapes: Sequence[Shape]) -> float:
    """Return how far logits are from the model's own at most, over its largest one.

    Args:
        run: what is compared with the model.
        model: the model.
        shapes: as in ``SHAPES``; the grid of CLIP's positions is added.

    Raises:
        InputError: an answer of another shape.
    """
    config = model.encoder.clip.config
    side = config.image_size // config.patch_size
    worst = 0.0
    for batch, grid, classes in (*shapes, (1, (side, side), 3)):
        image, text = sample(model, batch, grid, classes)
        theirs, ours = run(image, text), model(image, text).logits
        if theirs.shape != ours.shape or not theirs.isfinite().all():
            raise InputError(
                f"the exported file disagrees with the model: it answers {tuple(theirs.shape)} "
                f"where that says {tuple(ours.shape)}, or with numbers that are not finite; "
                "nothing is written"
            )
        largest = ours.abs().max().clamp(min=1e-6)  # one class alone has log-softmax 0
        worst = max(worst, float((theirs - ours).abs().max() / largest))
    return worst


def agree(segmenter: Segmenter, other: Segmenter) -> tuple[float, str]:
    """Return the share of pixels to which both give the same label, and of which pictures."""
    labels = segmenter.embed(segmenter.config.vocabulary)
    pictures, what = _pictures(segmenter, labels)
    same = [segmenter(one, labels).mask == other(one, labels).mask for one in pictures]
    return float(np.concatenate([one.ravel() for one in same]).mean()), what


def _pictures(
    segmenter: Segmenter, labels: TextEmbeddings
) -> tuple[Sequence[UInt8[np.ndarray, "H W 3"]], str]:
    if labels.vocabulary.names == MINIATURE.names:
        scenes = Scenes("val", count=20)
        return [scenes[i].image for i in range(len(scenes))], "20 validation scenes"
    side, random = segmenter.config.window, np.random.default_rng(0)
    noise = random.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    return list(noise), "2 pictures of noise"
