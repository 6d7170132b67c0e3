"""What runs a model: torch itself, or an exported file by way of onnxruntime or OpenVINO.

A folder that ``unseen.export`` wrote holds ``config.json`` as other models' folders do, the
exported file in place of the weights, and the text encoder's weights, which are read when words
are to be embedded. onnxruntime and OpenVINO execute nothing but the operators of the file.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unseen.checkpoints import (
    ModelConfig,
    StoredText,
    describing,
    read_config,
    read_description,
)
from unseen.clip.model import VisionConfig
from unseen.errors import InputError, require
from unseen.journal import digest
from unseen.model import SegmentationModel

FILES = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "torch": ("model.pt2",),
}
"""What a model can be exported to, and the files it is then in."""

TEXT_FILE = "text.safetensors"

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Names of the types that torch takes matrix products in: with autocast, but the first."""


@runtime_checkable
class Backend(Protocol):
    """Runs a model; any B, C, H and W from one patch up.

    Attributes:
        name: of what computes.
        precision: in which it computes: ``fp32``, ``bf16`` or ``fp16``; logits are float32 always.
        vision: sizes of the model's image encoder.
        device: where it computes.
    """

    name: str
    precision: str
    vision: VisionConfig
    device: torch.device

    def __call__(
        self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C h w"]: ...

    def digest(self) -> str:
        """Return a hash of the weights."""
        ...


def check_precision(precision: str, known: tuple[str, ...], name: str) -> None:
    """Refuse a precision in which a backend does not compute."""
    if precision not in known:
        raise InputError(f"{name} computes in {' or '.join(known)}, got {precision!r}")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Take matrix products in a type by its name in ``PRECISIONS``; what needs more keeps float32.

    Raises:
        InputError: no such type.
    """
    check_precision(precision, tuple(PRECISIONS), "torch")
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


class TorchBackend:
    """Run a model in torch.

    Args:
        model: the model.
        device: where to.
        precision: of matrix products; what needs more keeps float32 (torch's autocast).
        compile: let torch.compile join what it can, at the first pictures: it takes a minute or
            more, and on a CPU a C++ compiler.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        device: torch.device,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        check_precision(precision, tuple(PRECISIONS), "torch")
        self.model = model.to(device).eval()
        self.device, self.precision = device, precision
        self.vision = model.encoder.clip.config
        self.name, self.compiled = "torch, compiled" if compile else "torch", compile
        self._run = torch.compile(self.model) if compile else self.model

    def __call__(
        self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C h w"]:
        try:
            with autocast(self.precision, self.device):
                logits: Tensor = self._run(image, text).logits
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"torch.compile does not do it here ({reason}): run without compiling"
            ) from error
        return logits.float()

    def run_each(
        self,
        image: Float[Tensor, "B 3 H W"],
        counts: Sequence[int],
        texts: Sequence[Float[Tensor, "_ D"]],
    ) -> list[Float[Tensor, "..."]]:
        """Encode images at once, then score some of them in a row by each text.

        Args:
            image: RGB in [0, 1].
            counts: how many images belong to each text.
            texts: class embeddings, of any number of classes each.
        """
        found, start = [], 0
        with autocast(self.precision, self.device):
            features = self.model.encode(image)
            for count, text in zip(counts, texts, strict=True):
                own = features.part(slice(start, start + count))
                found.append(self.model.head(own, text.to(image.dtype)).logits.float())
                start += count
        return found

    def digest(self) -> str:
        """Return a hash of the weights."""
        found = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            found.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
            found.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return found.hexdigest()[:32]


class OnnxBackend:
    """Run an ONNX file in onnxruntime, on the CPU and as many threads as torch takes.

    Args:
        path: the file.
        vision: sizes of the model's image encoder.
        precision: ``fp32``, there is no other.

    Raises:
        InputError: no whole ONNX file.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, vision: VisionConfig, *, precision: str = "fp32") -> None:
        check_precision(precision, ("fp32",), "onnxruntime")
        runtime = require("onnxruntime", extra="onnx")
        self.device, self.vision, self.precision = torch.device("cpu"), vision, precision
        self._path = path
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; a broken file is told of below
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception:  # its kinds of errors share no base
            raise _broken(path, "onnxruntime") from None

    def __call__(
        self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C h w"]:
        given = {"image": image.numpy(), "text": text.numpy()}
        return torch.from_numpy(self._session.run(["logits"], given)[0])

    def digest(self) -> str:
        """Return a hash of the file."""
        return _digest_files(self._path, "onnx")


class OpenVinoBackend:
    """Run an OpenVINO file, on the CPU and as many threads as torch takes.

    Args:
        path: the ``.xml``, beside its ``.bin``.
        vision: sizes of the model's image encoder.
        precision: ``fp32``, or ``bf16`` where the processor has it; OpenVINO's own choice is not
            taken, it differs between processors.

    Raises:
        InputError: no whole OpenVINO file.
    """

    name = "OpenVINO"

    def __init__(self, path: Path, vision: VisionConfig, *, precision: str = "fp32") -> None:
        check_precision(precision, ("fp32", "bf16"), "OpenVINO")
        openvino = require("openvino", extra="openvino")
        self.device, self.vision, self.precision = torch.device("cpu"), vision, precision
        self._path, self._alone = path, threading.Lock()
        settings = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self._model = _make_core(openvino).compile_model(str(path), "CPU", settings)
        except RuntimeError:
            raise _broken(path, "OpenVINO") from None

    def __call__(
        self, image: Float[Tensor, "B 3 H W"], text: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C h w"]:
        given = {"image": image.numpy(), "text": text.numpy()}
        with self._alone:  # a compiled model has one request to work with
            return torch.from_numpy(self._model(given)[0])

    def digest(self) -> str:
        """Return a hash of the files."""
        return _digest_files(self._path, "openvino")


@cache
def _make_core(openvino: Any) -> Any:
    """Return OpenVINO's core, of which a process must have no second.

    Each sets the stack that signal handlers run on and frees it when it ends, also if a later one
    will set it again: after the second, any signal with a handler in Python ends the process.
    """
    return openvino.Core()


_RUNNERS: dict[str, Any] = {"onnx": OnnxBackend, "openvino": OpenVinoBackend}


def _digest_files(path: Path, to: str) -> str:
    return " ".join(digest(path.with_name(name)) for name in FILES[to])


def _broken(path: Path, runner: str) -> InputError:
    return InputError(
        f"{path} cannot be run by this {runner}: it is not whole, or of a newer one; "
        "export the model again"
    )


def run_file(path: Path, to: str, vision: VisionConfig, *, precision: str = "fp32") -> Backend:
    """Return what runs an exported file.

    Raises:
        InputError: a broken file, a precision it cannot be run in, or a program of torch.export.
        MissingExtra: what runs it is not installed.
    """
    if to not in _RUNNERS:
        # torch.export.load unpickles parts of the file with weights_only=False
        raise InputError(
            f"{path} is a program of torch.export, whose reading can run any code that is in it: "
            "unseen writes such files for other programs and reads none; give the model it was "
            "made of"
        )
    if missing := next((name for name in FILES[to] if not path.with_name(name).is_file()), None):
        raise InputError(f"there is no {path.with_name(missing)}: export the model again")
    backend: Backend = _RUNNERS[to](path, vision, precision=precision)
    return backend


def is_exported(source: str | Path) -> bool:
    """Tell whether this is the folder of an exported model."""
    path = os.path.join(source, "config.json")
    return os.path.isfile(path) and "exported" in read_description(Path(source))


def load_exported(
    folder: Path, *, precision: str = "fp32"
) -> tuple[Backend, StoredText, ModelConfig]:
    """Read the folder of an exported model.

    Raises:
        InputError: a broken folder, a precision its file cannot be run in, or one of torch.export.
        MissingExtra: what runs the file is not installed.
    """
    description = read_description(folder)
    with describing(folder):
        config, encoders = read_config(description), description["encoders"]
        to = description["exported"]["to"]
        path, vision = folder / FILES[to][0], VisionConfig(**encoders["vision"])
        text = StoredText(folder / TEXT_FILE, encoders, description["text_fingerprint"])
    return run_file(path, to, vision, precision=precision), text, config
