"""Tensors by name from weights files of any kind, executing nothing."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from unseen.errors import InputError

State = dict[str, Tensor]


class Archive(NamedTuple):
    """A weights file's tensors by name, and what was stored beside them (mmcv's ``meta``)."""

    state: State
    meta: dict[str, Any]


# plain numbers in numpy's clothes, as training hooks leave them in a checkpoint's meta: nothing but
# numbers can be made of these. numpy 1 and numpy 2 write different names for the first
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in "fdqilh?"},
]


def read_state(path: str | Path, *, wanted: Callable[[str], bool] = lambda name: True) -> State:
    """Read the tensors of a weights file by name, executing nothing.

    Takes safetensors, whose tensors stay on disk until they are used, ``torch.save`` files of
    tensors (also nested under ``state_dict``), and TorchScript archives.

    Args:
        path: the file.
        wanted: which names to read.
    """
    state = read_archive(path, wanted=wanted).state
    return {name: value for name, value in state.items() if wanted(name)}


def read_archive(path: str | Path, *, wanted: Callable[[str], bool] = lambda name: True) -> Archive:
    """Read what ``read_state`` reads, and the ``meta`` that lies beside a ``state_dict``."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a weights file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return Archive({k: file.get_tensor(k) for k in file.keys() if wanted(k)}, {})
        if is_torchscript(path):
            with zipfile.ZipFile(path) as archive:
                return Archive(_read_torchscript(archive), {})
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except Exception as error:  # a broken pickle can raise anything
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked and isinstance(error, pickle.UnpicklingError):
            raise InputError(
                f"{path} was refused: it holds more than tensors and would run code ({asked[1]})"
            ) from None
        reason = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise InputError(
            f"{path} is not a whole weights file{reason}: "
            "expected safetensors, what torch.save writes, or TorchScript"
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    named = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not isinstance(state, dict) or not named:
        raise InputError(f"{path} holds no weights by name: expected a state dict")
    meta = content.get("meta") if state is not content else None
    return Archive(dict(state), meta if isinstance(meta, dict) else {})


def is_torchscript(path: Path) -> bool:
    """Tell a TorchScript archive, as OpenAI publishes its models, from other files."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _ScriptedModule:
    """Stands for any class of a TorchScript archive: keeps its attributes, has no behaviour."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


def _view_storage(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


class _ArchiveUnpickler(pickle.Unpickler):
    """Reads the object tree of a TorchScript archive with nothing but tensors and attributes."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _ScriptedModule
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view_storage
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list  # lists of plain numbers
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _: value
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        data = self._archive.read(f"{self._root}/data/{key}")
        if not data:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(data), dtype=dtype)


def _read_torchscript(archive: zipfile.ZipFile) -> State:
    """Read every tensor of a TorchScript archive, as OpenAI published CLIP."""
    root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    module = _ArchiveUnpickler(archive, root.removesuffix("/data.pkl")).load()
    state: State = {}

    def collect(node: _ScriptedModule, prefix: str) -> None:
        for name, value in node.attributes.items():
            if isinstance(value, Tensor):
                state[prefix + name] = value
            elif isinstance(value, _ScriptedModule):
                collect(value, f"{prefix}{name}.")

    if not isinstance(module, _ScriptedModule):
        raise pickle.UnpicklingError("its root is no module")
    collect(module, "")
    return state
