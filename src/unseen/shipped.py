"""What lies inside the package: models by name, and whether all is whole; no torch is needed."""

import hashlib
from importlib.resources import as_file, files
from pathlib import Path

SHIPPED_CLIP = "miniature"


def shipped_models() -> list[str]:
    """Return the names of the models inside the package."""
    assets = files("unseen.miniature") / "assets"
    return sorted(
        entry.name
        for entry in assets.iterdir()
        if entry.is_dir() and (entry / "config.json").is_file()
    )


def shipped_clip() -> Path:
    """Return the folder of the miniature's CLIP."""
    return shipped_model("clip")


def shipped_model(name: str) -> Path:
    """Return the folder of a model inside the package."""
    with as_file(files("unseen.miniature") / "assets" / name) as path:
        return path


def broken_files() -> list[str]:
    """Return the weights and drawings of the package that are missing, or not as they were made."""
    package = files("unseen")
    broken = []
    for line in (package / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        sha256, name = line.split()
        file = package / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            broken.append(name)
    return broken
