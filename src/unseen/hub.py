"""A model hub: one file from it, by way of the local cache, and a folder to it."""

import os
import re
import socket
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from unseen.errors import InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def fetch(repository: str, filename: str) -> Path | None:
    """Return the path of a hub repository's file, downloading it where what is cached is not it.

    Returns:
        The path, or None where the repository has no such file.

    Raises:
        InputError: the repository is unknown, or it is not cached and the hub cannot be reached.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    found = find_cached(repository, filename)
    if not _reachable(constants.ENDPOINT):
        if found:
            return found
        raise InputError(
            f"{repository!r} is no file or folder here, not in the local cache of the hub, and the "
            "hub cannot be reached: give a path, or run once with a network connection"
        )
    try:
        return Path(hf_hub_download(repository, filename))
    except errors.RepositoryNotFoundError:  # which the hub also says of what may not be read
        raise InputError(
            f"{repository!r} is no file or folder here and no repository of the hub that you may "
            "read: a private one needs a login ('hf auth login'), a gated one consent on its page"
        ) from None
    except errors.LocalEntryNotFoundError as error:  # it falls back on the cache itself
        raise InputError(f"the hub did not answer for {repository!r}: {error}") from None
    except errors.EntryNotFoundError:
        return None
    except (errors.HfHubHTTPError, OSError) as error:
        if found:
            return found
        raise InputError(
            f"{filename} of the hub's {repository!r} cannot be fetched: {error}"
        ) from None


def find_cached(repository: str, filename: str) -> Path | None:
    """Return the path of a hub repository's file if the local cache holds it."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, filename)  # a marker, if known not to exist
    return Path(cached) if isinstance(cached, str) else None


def upload(folder: Path, repository: str, *, private: bool, mark: str) -> str:
    """Put a folder's files into a hub repository, which is made if need be; return its address.

    Args:
        folder: what to put there.
        repository: ``owner/name``.
        private: hide a repository that is made.
        mark: what a README.md holds that a program wrote; such a one replaces no other.

    Raises:
        InputError: no name of a repository, the hub cannot be reached, or it refuses.
    """
    from huggingface_hub import HfApi, constants, get_token

    if not is_repository(repository):
        raise InputError(f"a repository of the hub is called owner/name, got {repository!r}")
    if not _reachable(constants.ENDPOINT):
        raise InputError(
            f"{repository} cannot be pushed: the hub cannot be reached; save_pretrained writes a "
            "folder"
        )
    if get_token() is None:
        raise InputError(
            f"{repository} cannot be pushed: log in first, with 'hf auth login' or HF_TOKEN"
        )
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        written = mark in (folder / "README.md").read_text(encoding="utf-8")
        stays = written and _has_own_readme(api, repository, mark)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Push a model of unseen",
            ignore_patterns=["README.md"] if stays else None,
        )
    except Exception as error:  # the hub's own, and those of its transport: requests or httpx
        raise InputError(f"{repository} cannot be pushed: {error}") from None
    if stays:
        warnings.warn(f"the README.md of {repository} is a person's own and stays", stacklevel=2)
    return str(address)


def _has_own_readme(api: "HfApi", repository: str, mark: str) -> bool:
    """Tell whether a repository's README.md is there and was not written by a program."""
    if not api.file_exists(repository, "README.md"):
        return False
    return mark not in Path(api.hf_hub_download(repository, "README.md")).read_text("utf-8")


def is_repository(name: str) -> bool:
    """Tell whether a string could name a hub repository: ``owner/name``."""
    part = r"\w(?:[\w.-]*\w)?"
    return bool(re.fullmatch(f"{part}/{part}", name, re.ASCII)) and not re.search(r"--|\.\.", name)


def is_offline() -> bool:
    """Tell whether huggingface_hub was told to leave the network alone."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _reachable(endpoint: str) -> bool:
    """Look the hub's host up, unless offline mode is on or a proxy would do it.

    huggingface_hub itself retries an unreachable host for half a minute.
    """
    if is_offline():
        return False
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlparse(endpoint).hostname, 443)
    except OSError:
        return False
    return True
