"""What is taken of strangers' requests: so many, so large, so slow, pictures and words alone."""

import asyncio
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from fastapi import HTTPException, Response
from fastapi.responses import JSONResponse
from jaxtyping import UInt8
from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unseen.data.images import UPLOAD_FORMATS, decode_image
from unseen.errors import InputError
from unseen.vocabulary import Vocabulary, list_words

LONGEST = 2**15
"""Pixels of a picture's longer side, each of which takes the read-out many times the memory of one
within."""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Args:
        bytes: of the whole request.
        pixels: of the picture.
        labels: how many; beyond 255 masks would be no palette images any more.
        label_length: characters of each.
        requests: being read, waiting or computed at once.
        seconds: to read a request, and then to answer it.
    """

    bytes: int = 20 * 10**6
    pixels: int = 16 * 10**6
    labels: int = 200
    label_length: int = 100
    requests: int = 32
    seconds: float = 60


LIMITS = Limits()


class Gate:
    """Bound what is read of requests: how many at once, how much of each, and for how long.

    Args:
        app: what is behind it.
        limits: the bounds.
        inside: an entry for every request that is let in.
    """

    def __init__(self, app: ASGIApp, limits: Limits, inside: set[int]) -> None:
        self.app, self.limits, self.inside = app, limits, inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", "/segment"):
            await self.app(scope, receive, send)
            return
        body = Body(receive, self.limits)
        if refusal := await self.refuse(scope, body):
            await refusal(scope, receive, send)
            return
        self.inside.add(id(body))
        try:
            await self.app(scope, body, send)
        finally:
            self.inside.discard(id(body))

    async def refuse(self, scope: Scope, body: "Body") -> Response | None:
        """Return the answer to a request that is not let in."""
        headers = {name: value for name, value in scope["headers"]}
        length, limits = headers.get(b"content-length", b""), self.limits
        if length.isdigit() and int(length) > limits.bytes:
            await body.drain()
            return refuse(413, body.too_large)
        if not headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data"):
            await body.drain()
            return refuse(
                415,
                "expected multipart/form-data with a picture and labels: "
                "curl -F picture=@photo.jpg -F 'labels=cat, grass'",
            )
        if len(self.inside) >= limits.requests:
            await body.drain()
            return refuse(
                429,
                f"{limits.requests} requests are being answered: try again in a second",
                {"Retry-After": "1"},
            )
        return None


class Body:
    """The body of a request as it comes in, up to the limits.

    Args:
        receive: brings the next message.
        limits: the bounds.
    """

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.receive, self.limits = receive, limits
        self.size, self.whole = 0, False
        self.deadline = asyncio.get_running_loop().time() + limits.seconds
        self.too_large = (
            f"a request may have {limits.bytes / 1e6:g} MB: send a smaller picture, or a JPEG"
        )

    async def __call__(self) -> Message:
        """Return the next message.

        Raises:
            HTTPException: too much came, or too slowly.
        """
        if self.whole:  # what comes now is that the client left
            return await self.receive()
        message = await self._next()
        if self.size > self.limits.bytes:
            await self.drain()
            raise HTTPException(413, self.too_large)
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(
                408,
                f"the request did not arrive within {self.limits.seconds:g} s: send a smaller "
                "picture",
            ) from None
        self.size += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Throw away what still comes, up to a bound: a client that is sending does not read."""
        try:
            while not self.whole and self.size < 4 * self.limits.bytes:
                await self._next()
        except HTTPException:
            pass


def refuse(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a refusal."""
    return JSONResponse({"error": sentence}, status, headers)


def read_words(labels: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """Return the words that fields hold, each one or several as ``list_words`` takes them.

    Raises:
        InputError: none, too many, too long or repeated ones.
    """
    names = [name for field in labels for name in list_words(field)]
    if len(names) > limits.labels:
        raise InputError(f"a request may name {limits.labels} labels, got {len(names)}: name fewer")
    for name in names:
        if len(name) > limits.label_length:
            raise InputError(
                f"a label may have {limits.label_length} characters, got one of {len(name)}: "
                "shorten it"
            )
        if not name.isprintable():
            raise InputError(f"labels must be words, got {name!r}")
    return Vocabulary("labels", tuple(names)).names


def check_picture(content: bytes, limits: Limits) -> None:
    """Refuse what no picture is, or too large a one, by its header alone.

    Raises:
        HTTPException: it has too many pixels.
        InputError: it is no picture.
    """
    try:
        with Image.open(io.BytesIO(content), formats=UPLOAD_FORMATS) as header:
            width, height = header.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        width = height = 2**16  # it has more than Pillow opens
    except Exception:  # whatever decoders raise on what is broken
        raise _no_picture() from None
    if width * height > limits.pixels or max(width, height) > LONGEST:
        raise HTTPException(
            413,
            f"a picture may have {limits.pixels / 1e6:g} megapixels, and {LONGEST} pixels on a "
            "side, this one has more: make it smaller",
        )


def decode(content: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a picture.

    Raises:
        InputError: it is broken.
    """
    try:
        return decode_image(content, "the picture", formats=UPLOAD_FORMATS)
    except (InputError, MemoryError):
        raise
    except Exception:  # whatever decoders raise on what is broken
        raise _no_picture() from None


def _no_picture() -> InputError:
    return InputError(f"this is no whole picture: expected a file of {', '.join(UPLOAD_FORMATS)}")
