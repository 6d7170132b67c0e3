"""The models inside the package, by name; no torch, so that a shell can ask for them."""

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
