"""The HTTP server: a picture and words in, a mask out.

A picture is always an upload, never a path or an address, and labels are only words: nothing of
this machine can be asked for. What strangers send is bounded before it is read, decoded or queued,
and nothing of it is kept: embeddings of their words stay in memory, the last used ones.
"""

import asyncio
import io
import json
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, Literal

import torch
from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jaxtyping import Float
from PIL import PngImagePlugin
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as PlainHTTPException
from torch import Tensor

from unseen.batching import SharedBackend
from unseen.data.images import UPLOAD_FORMATS
from unseen.embeddings import TextEmbeddings
from unseen.errors import InputError
from unseen.segmentation import Segmentation
from unseen.segmenter import Segmenter
from unseen.server.gate import (
    LIMITS,
    Gate,
    Limits,
    check_picture,
    decode,
    read_words,
    refuse,
)
from unseen.vocabulary import Vocabulary

WORDS = 4096
"""Words of each model whose embeddings are kept."""


class Refusal(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="One sentence: what was expected, what came, what to do.")


class Model(BaseModel):
    """A model that the server has."""

    name: str = Field(description="What `model` of a request calls it.")
    method: str = Field(description="How it segments, as in the papers.")
    seen: list[str] = Field(
        description="The words whose masks training showed; empty for CLIP alone."
    )
    unseen: list[str] = Field(
        description="Words of the same data set that training never showed. Any others work too."
    )
    calibration: float = Field(description="Its own γ.")
    confidence: bool = Field(
        description="Whether `threshold` is a probability of being right, or a bare score."
    )


class Health(BaseModel):
    """That the server is there."""

    status: Literal["ok"]
    version: str = Field(description="Of unseen.")
    requests: int = Field(description="How many are being read, waiting or computed.")


class Words:
    """Embeddings of words by one model; of ``WORDS`` words, those that were used last.

    They are not in the cache on disk, where strangers' words would push out the owner's, and stay.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        text = segmenter.text
        if text is None:
            raise InputError("a model without a text encoder cannot be served: labels are words")
        self._text, self._clip = text, segmenter.fingerprint
        self._templates = segmenter.config.vocabulary.templates
        self._known: OrderedDict[str, Float[Tensor, " D"]] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, names: Sequence[str], check: Callable[[], None]) -> TextEmbeddings:
        """Embed labels; ``check`` is called before each word that is new."""
        rows = []
        for name in names:
            with self._lock:
                row = self._known.get(name)
            if row is None:
                check()
                row = self._text.embed_name(name, self._templates)
            rows.append(row)
            with self._lock:
                self._known[name] = row
                self._known.move_to_end(name)
                if len(self._known) > WORDS:
                    self._known.popitem(last=False)
        vocabulary = Vocabulary("labels", tuple(names), templates=self._templates)
        return TextEmbeddings(vocabulary, torch.stack(rows), self._clip)


class Late(Exception):
    """Nobody waits for this answer any more."""


def make_app(
    segmenters: Mapping[str, Segmenter],
    limits: Limits = LIMITS,
    *,
    workers: int = 2,
    passes: int = 2,
) -> FastAPI:
    """Return the server as an ASGI application.

    Args:
        segmenters: the models by name; the first is the default.
        limits: what a request may ask for.
        workers: threads that decode, segment and encode, a request each.
        passes: how many of them may compute at once; what waits meanwhile is computed together.

    Raises:
        InputError: a model without a text encoder.
    """
    words = {name: Words(segmenter) for name, segmenter in segmenters.items()}
    segmenters = {name: share(segmenter, passes) for name, segmenter in segmenters.items()}
    inside: set[int] = set()  # requests that were let in
    first = next(iter(segmenters))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(workers, thread_name_prefix="segmenting") as pool:
            app.state.pool = pool
            yield

    app = FastAPI(
        title="unseen",
        version=version("unseen"),
        description="Zero-shot semantic segmentation: name every pixel of a picture with any "
        'words. Every refusal is JSON, `{"error": "one sentence"}`.',
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Gate, limits=limits, inside=inside)
    _refuse_in_sentences(app)

    @app.get("/healthz", summary="Tell that the server is there")
    async def health() -> Health:
        return Health(status="ok", version=version("unseen"), requests=len(inside))

    @app.get("/models", summary="List the models")
    async def models() -> list[Model]:
        return [describe(name, segmenter) for name, segmenter in segmenters.items()]

    @app.post(
        "/segment",
        summary="Segment a picture with words",
        response_class=Response,
        responses=_RESPONSES,
    )
    async def segment(
        request: Request,
        picture: Annotated[
            UploadFile,
            File(
                description=f"The picture: {', '.join(UPLOAD_FORMATS)}, of {limits.pixels / 1e6:g} "
                f"megapixels at most (the whole request: {limits.bytes / 1e6:g} MB)."
            ),
        ],
        labels: Annotated[
            list[str],
            Form(
                description="What to look for: a field for each word, or words separated by "
                f"commas; {limits.labels} at most, of {limits.label_length} characters.",
                examples=[["cat", "grass"], ["cat, grass"]],
            ),
        ],
        model: Annotated[
            str, Form(description="A name from `GET /models`; by default the first.")
        ] = first,
        threshold: Annotated[
            float,
            Form(
                ge=0,
                le=1,
                allow_inf_nan=False,
                description="Pixels whose confidence (of an uncalibrated model: score) is less get "
                "the label `other`, which comes after all others; 0 leaves every pixel its best.",
            ),
        ] = 0.0,
        other: Annotated[
            str, Form(min_length=1, max_length=limits.label_length, description="Its name.")
        ] = "other",
        calibration: Annotated[
            float | SkipJsonSchema[None],  # a form has no null
            Form(
                allow_inf_nan=False,
                description="γ, subtracted from the scores of words seen in training; by default "
                "the model's own.",
            ),
        ] = None,
        format: Annotated[
            Literal["png", "coco", "polygons"],
            Form(
                description="`png`: a palette image whose index is the label's position, with the "
                "labels as JSON in its text chunk `labels`. `coco`: COCO JSON with run lengths. "
                "`polygons`: outlines of the regions as JSON."
            ),
        ] = "png",
    ) -> Response:
        """Give every pixel of a picture the likeliest of the labels."""
        if model not in segmenters:
            raise InputError(
                f"there is no model {model[:40]!r} here: expected {', '.join(segmenters)}"
            )
        names = read_words(labels, limits)
        upload = [await picture.read()]
        await run_in_threadpool(check_picture, upload[0], limits)
        stopped = threading.Event()

        def check() -> None:
            if stopped.is_set():
                raise Late

        def work() -> Response:
            embeddings = words[model].embed(names, check)
            image = decode(b"".join(upload))
            check()
            found = segmenters[model](
                image, embeddings, calibration=calibration, threshold=threshold, other=other
            )
            check()
            return WRITERS[format](found)

        try:
            return await wait(request, app.state.pool.submit(work), stopped, limits.seconds)
        finally:
            upload.clear()  # the pool keeps what nobody waits for until its turn comes

    return app


def share(segmenter: Segmenter, passes: int) -> Segmenter:
    """Return the same model for several threads, of which some may compute at once."""
    most = 2**18 if segmenter.device.type == "cpu" else 2**22
    shared = segmenter.shown_at()
    shared.backend = SharedBackend(segmenter.backend, passes=passes, most=most)
    return shared


async def wait(
    request: Request, future: "Future[Response]", stopped: threading.Event, seconds: float
) -> Response:
    """Return what a worker answers, unless it takes too long or the client leaves."""
    answer, gone = asyncio.wrap_future(future), asyncio.ensure_future(request.receive())
    try:
        either: list[asyncio.Future[Any]] = [answer, gone]
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        begun = future.running()
        if gone.done():
            raise HTTPException(400, "the client left")
    finally:
        stopped.set()
        answer.cancel()
        gone.cancel()
    if begun:
        raise HTTPException(
            504,
            f"the picture took more than {seconds:g} s: send a smaller one, or fewer labels",
        )
    raise HTTPException(
        503,
        f"the server is busy, this request waited for {seconds:g} s: try again later",
        {"Retry-After": "10"},
    )


def write_png(found: Segmentation) -> Response:
    """Return the mask as a palette image that says what its indices mean."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("labels", json.dumps(found.labels))
    text.add_itxt("unseen", json.dumps(found.unseen))
    file = io.BytesIO()
    found.mask_image().save(file, "PNG", pnginfo=text)
    return Response(file.getvalue(), media_type="image/png")


def write_coco(found: Segmentation) -> Response:
    """Return the mask as COCO JSON."""
    return JSONResponse(found.to_coco())


def write_polygons(found: Segmentation) -> Response:
    """Return outlines of the regions."""
    height, width = found.mask.shape
    return JSONResponse(
        {
            "width": width,
            "height": height,
            "labels": found.labels,
            "unseen": found.unseen,
            "polygons": found.polygons(),
        }
    )


WRITERS: dict[str, Callable[[Segmentation], Response]] = {
    "png": write_png,
    "coco": write_coco,
    "polygons": write_polygons,
}


def describe(name: str, segmenter: Segmenter) -> Model:
    """Say what a model is; nothing of where it lies."""
    config = segmenter.config
    names = config.vocabulary.names if config.setting else ()
    return Model(
        name=name,
        method=config.method,
        seen=list(config.taught),
        unseen=[word for word in names if word not in config.taught],
        calibration=config.calibration,
        confidence=bool(config.confidence),
    )


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The mask, in the format asked for.",
        "content": {
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": {"type": "object"}},
        },
    },
    **{
        code: {"model": Refusal, "description": text}
        for code, text in {
            400: "The multipart body is broken.",
            408: "The request did not arrive in time.",
            413: "Too many bytes or pixels.",
            415: "No multipart/form-data.",
            422: "A picture, label or option that cannot be used.",
            429: "Too many requests at once.",
            503: "The request waited too long.",
            504: "The picture took too long.",
        }.items()
    },
}

_ADDRESSES = "POST /segment, GET /models, GET /healthz and GET /openapi.json"


def _refuse_in_sentences(app: FastAPI) -> None:
    @app.exception_handler(InputError)
    async def _(_: Request, error: InputError) -> Response:
        return refuse(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = str(first["loc"][1]) if len(first["loc"]) > 1 else "the request"
        said = first["msg"][:1].lower() + first["msg"][1:]
        if first["type"] == "missing":
            said = "it is missing; a request has a picture, as a file, and labels"
        elif field == "picture":
            said = "it must be sent as a file, with a file name"
        return refuse(422, f"{field}: {said}")

    @app.exception_handler(PlainHTTPException)
    async def _(_: Request, error: PlainHTTPException) -> Response:
        sentence = {
            400: f"the body cannot be read ({error.detail.rstrip('.')}): let a library write it",
            404: f"there is nothing at this address: there are {_ADDRESSES}",
            405: f"this address is asked otherwise: there are {_ADDRESSES}",
        }.get(error.status_code, error.detail)
        return refuse(error.status_code, sentence, error.headers)

    @app.exception_handler(Exception)
    async def _(_: Request, error: Exception) -> Response:
        return refuse(500, "this is a fault of the server, whose log says more")
