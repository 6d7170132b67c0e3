"""This installation and this machine: what is there, what is broken, what to do about it.

Everything else is imported when it is looked at, torch too: what does not load is reported.
"""

import importlib
import math
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from unseen.errors import InputError
from unseen.hub import is_offline
from unseen.progress import track
from unseen.shipped import broken_files

_MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "tensorboardx": "tensorboardX",
}
"""Modules that are not called as what installs them."""

_INSTRUCTIONS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "AMX": {"amx_tile"},
}
"""What makes matrix products fast, by the words Linux has for it."""


@dataclass(frozen=True)
class Finding:
    """Something to do something about.

    Args:
        broken: it keeps something from working; what is not broken may stay as it is.
        what: was found.
        advice: what to do.
    """

    broken: bool
    what: str
    advice: str


@dataclass(frozen=True)
class Environment:
    """What was found.

    Args:
        facts: by name, as JSON takes them.
        findings: what to do something about.
    """

    facts: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is broken."""
        return not any(one.broken for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {**self.facts, "findings": [asdict(one) for one in self.findings]}

    def describe(self) -> list[str]:
        """Return everything, a line each."""
        lines = []
        for name, value in self.facts.items():
            if name == "extras":
                for extra, one in value.items():
                    install = f" ({one['install']})" if one["install"] else ""
                    lines.append(f"extra {extra}: {_list(one['packages'])}{install}")
            else:
                lines.append(f"{name}: {_list(value) if isinstance(value, dict) else _show(value)}")
        for one in self.findings:
            lines.append(f"{'broken' if one.broken else 'note'}: {one.what}: {one.advice}")
        return lines


def _list(named: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'missing' if v is None else _show(v)}" for name, v in named.items())


def _show(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}.get(value, str(value)) if type(value) is bool else str(value)


def examine() -> Environment:
    """Look at everything; nothing is changed and nothing is fetched.

    Raises:
        InputError: the package is not installed, so nothing says what it needs.
    """
    found: list[Finding] = []
    try:
        needed, extras = _requirements()
    except metadata.PackageNotFoundError:
        raise InputError(
            f"unseen runs from {Path(__file__).parent} and is not installed: pip install it"
        ) from None
    facts: dict[str, Any] = {
        "unseen": f"{metadata.version('unseen')}, {Path(__file__).parent}",
        "Python": f"{platform.python_version()}, {sys.executable}",
        "system": platform.platform(),
        **_processor(),
    }
    loaded = {}
    every = dict.fromkeys([*needed, *(name for names in extras.values() for name in names)])
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages, about each other
        for name in track(["torch", *(one for one in every if one != "torch")], "looking"):
            loaded[name] = _load(name)
    if loaded["torch"][0] and not loaded["torch"][1]:
        facts |= _torch(facts, found)
    facts["dependencies"] = {name: loaded[name][0] for name in needed}
    for name, least in needed.items():
        version, problem = loaded[name]
        problem = problem or ("it is not installed" if version is None else _age(version, least))
        if problem:
            advice = f"pip install --force-reinstall '{name}>={least}'"
            found.append(Finding(True, f"{name} cannot be used: {problem}", advice))
    facts["extras"] = {}
    for extra, names in extras.items():
        install = f"pip install 'unseen[{extra}]'"
        versions = {name: loaded[name][0] for name in names}
        for name, least in names.items():
            version, problem = loaded[name]
            problem = problem or (_age(version, least) if version else "")
            if problem:
                what = f"{name} of the extra {extra} cannot be used: {problem}"
                found.append(Finding(True, what, f"{install} --force-reinstall"))
        lacking = None in versions.values()
        facts["extras"][extra] = {"packages": versions, "install": install if lacking else ""}
    facts |= _caches(found)
    facts["offline"] = is_offline()
    if broken := broken_files():
        found.append(
            Finding(True, f"files of the package are not whole: {_show(broken)}", "install it anew")
        )
    facts["shipped files"] = "broken" if broken else "whole"
    return Environment(facts, tuple(found))


# Packages ----------------------------------------------------------------------------------------


def _requirements() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the least versions of what is needed, and of what each extra is of."""
    needed: dict[str, str] = {}
    extras: dict[str, dict[str, str]] = {}
    for line in metadata.requires("unseen") or ():
        name = re.match(r"[\w.-]+", line)
        least = re.search(r">=\s*([\d.]+)", line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and name[0] != "unseen" and not (extra and extra[1] == "dev"):
            group = extras.setdefault(extra[1], {}) if extra else needed
            group[name[0]] = least[1] if least else "0"
    return needed, extras


def _load(name: str) -> tuple[str | None, str]:
    """Return the version of a package, None if it is not there, and what keeps it from loading."""
    module = _MODULES.get(name, name.replace("-", "_"))
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None  # it may be there under another name, as OpenCV is
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return version, f"its module {module} is missing" if version else ""
        return version or "?", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return version or str(getattr(loaded, "__version__", "?")), ""


def _age(version: str, least: str) -> str:
    """Say that a version is too old, or nothing."""
    have, want = ([int(n) for n in re.findall(r"\d+", v)[:3]] for v in (version, least))
    return f"{version} is older than {least}" if have and have < want else ""


# The machine -------------------------------------------------------------------------------------


def _processor() -> dict[str, Any]:
    """Return the processor's name, and which fast instructions it has, where Linux tells."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {"processor": platform.processor() or platform.machine()}
    name = re.search(r"model name\s*:\s*(.+)", told)
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", told)
    words = set(flags[1].split()) if flags else set()
    return {
        "processor": name[1] if name else platform.machine(),
        "instructions": [one for one, names in _INSTRUCTIONS.items() if names & words],
    }


def _torch(facts: dict[str, Any], found: list[Finding]) -> dict[str, Any]:
    """Return what torch computes on, and add what hinders it."""
    import torch

    cores, threads = _cores(), torch.get_num_threads()
    devices = ["cpu"]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            one = torch.cuda.get_device_properties(index)
            devices.append(f"cuda:{index} {one.name}, {one.total_memory / 2**30:.0f} GiB")
            torch.ones(1, device=f"cuda:{index}").item()
        except Exception as error:  # of the driver, of the build, of torch
            reason = str(error).partition("\n")[0]
            advice = "install a build of torch for it, https://pytorch.org/get-started/locally"
            found.append(Finding(True, f"nothing computes on cuda:{index}: {reason}", advice))
    if torch.backends.mps.is_available():
        devices.append("mps")
    if threads > cores:
        what = f"torch uses {threads} threads and this process has {cores} cores"
        found.append(Finding(False, what, f"set OMP_NUM_THREADS={cores}"))
    if len(devices) == 1:
        _advise_on_cpu(facts, found)
    return {
        "devices": devices,
        "threads": f"{threads}, for {cores} cores",
        "allocator": " ".join([*platform.libc_ver(), *_allocator()]).strip() or "the system's",
    }


def _advise_on_cpu(facts: dict[str, Any], found: list[Finding]) -> None:
    if shutil.which("nvidia-smi"):
        what = "an NVIDIA driver is here, and this build of torch cannot use it"
        advice = "install one for its version of CUDA, https://pytorch.org/get-started/locally"
        found.append(Finding(False, what, advice))
    if "instructions" in facts:
        has = "bf16" in facts["instructions"]
        what = f"this processor has {'' if has else 'no '}instructions for bf16"
        advice = "--precision bf16 takes about half the time" if has else "leave --precision alone"
        found.append(Finding(False, what, f"{advice} (docs/speed.md)"))
    if platform.libc_ver()[0] == "glibc" and not _allocator():
        found.append(
            Finding(
                False,
                "glibc keeps memory that was freed",
                "if a training on the CPU takes too much, MALLOC_MMAP_THRESHOLD_=1048576 takes "
                "less, and up to 1.5 times the time (docs/speed.md)",
            )
        )


def _allocator() -> list[str]:
    """Return how the environment changes the way memory is allocated."""
    return [
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith("MALLOC_") or (name == "LD_PRELOAD" and "malloc" in value)
    ]


def _cores() -> int:
    """Return how many cores this process may use: a container often has fewer than its machine."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such thing
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or one without a limit
        return cores


# Folders -----------------------------------------------------------------------------------------


def _caches(found: list[Finding]) -> dict[str, str]:
    """Return where caches are and how large, and add those that cannot be written."""
    places: dict[str, tuple[Path, str]] = {}
    try:
        from huggingface_hub import constants

        from unseen.embeddings import cache_folder
    except Exception:  # which is among what was found already
        return {}
    places["hub"] = Path(constants.HF_HUB_CACHE), "HF_HUB_CACHE"
    places["text embeddings"] = cache_folder() / "text", "UNSEEN_CACHE"
    facts = {}
    for name, (folder, variable) in places.items():
        facts[f"cache of {name}"] = f"{folder}, {_size(folder.rglob('*')) / 1e6:.1f} MB"
        there = next(one for one in (folder, *folder.parents) if os.path.exists(one))
        if not (there.is_dir() and os.access(there, os.W_OK)):
            what = f"the cache of {name} cannot be written: {there}"
            found.append(Finding(False, what, f"name another folder in {variable}"))
    return facts


def _size(files: Iterable[Path]) -> int:
    """Return how many bytes files have; what links to another counts once."""
    return sum(one.stat().st_size for one in files if one.is_file() and not one.is_symlink())
