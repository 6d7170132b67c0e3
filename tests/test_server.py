"""The HTTP server: what it answers, and what it refuses with which sentence."""

import asyncio
import contextlib
import inspect
import io
import json
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from test_batching import wait_until
from test_cli import Run

from unseen import server
from unseen.embeddings import cache_folder
from unseen.errors import InputError
from unseen.segmenter import Segmenter
from unseen.server import make_app
from unseen.server.gate import Limits

NAMES = ["bear", "sky", "giraffe"]


def encode(image: np.ndarray, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()


def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture of coloured patches, which a model tells apart."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG of any size, with next to no pixels in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(9)))


PICTURE = encode(draw(40, 60))


@contextlib.contextmanager
def serving(segmenter, *limits, **threads):
    with TestClient(make_app({"shipped": segmenter}, *limits, **threads)) as client:
        yield client


@pytest.fixture(scope="module")
def client(segmenter):
    with serving(segmenter) as client:
        yield client


def post(client, picture=PICTURE, labels=NAMES, **fields):
    return client.post("/segment", files={"picture": picture}, data={"labels": labels} | fields)


def assert_refused(response, code: int, *fragments: str) -> None:
    assert response.status_code == code, response.text
    assert list(response.json()) == ["error"]
    sentence = response.json()["error"]
    assert "\n" not in sentence and len(sentence) < 400
    assert all(fragment in sentence for fragment in fragments), sentence


class Held(Segmenter):
    """The model, which only computes when it is let go."""

    def __init__(self, inner: Segmenter) -> None:
        super().__init__(inner.backend, inner.text, inner.config)
        self.begun, self.free = threading.Semaphore(0), threading.Event()

    def shown_at(self, **_) -> "Held":
        return self

    def stream(self, *arguments, **how):
        self.begun.release()
        assert self.free.wait(60)
        return super().stream(*arguments, **how)


@pytest.fixture
def held(segmenter):
    held = Held(segmenter)
    yield held
    held.free.set()


def test_an_answer_is_what_a_call_gives(client, segmenter):
    image = draw(70, 90)
    expected = segmenter(image, NAMES)
    answer = post(client, encode(image))
    assert answer.headers["content-type"] == "image/png"
    mask = Image.open(io.BytesIO(answer.content))
    assert mask.mode == "P" and (np.array(mask) == expected.mask).all()
    assert json.loads(mask.text["labels"]) == NAMES
    assert json.loads(mask.text["unseen"]) == list(expected.unseen) == ["giraffe"]
    assert post(client, encode(image), format="coco").json() == expected.to_coco()
    outlined = post(client, encode(image), format="polygons").json()
    assert outlined["polygons"] == json.loads(json.dumps(expected.polygons()))
    assert (outlined["height"], outlined["width"], outlined["labels"]) == (70, 90, NAMES)


def test_options_are_those_of_a_call(client, segmenter):
    image = draw(70, 90)
    plain = segmenter(image, NAMES)
    how = {"threshold": float(np.median(plain.scores)), "other": "rest", "calibration": 0.0}
    expected = segmenter(image, NAMES, **how)
    mask = Image.open(io.BytesIO(post(client, encode(image), **how).content))
    assert (np.array(mask) == expected.mask).all() and (expected.mask == 3).any()
    assert json.loads(mask.text["labels"]) == [*NAMES, "rest"]
    assert_refused(post(client, threshold=0.5, other="sky"), 422, "'sky' is a label")


def test_labels_may_be_fields_or_words_between_commas(client):
    for labels in ("bear, sky,giraffe", "bear\nsky\ngiraffe", ["bear,  sky ", "giraffe"], NAMES):
        answer = post(client, labels=labels, format="polygons")
        assert answer.json()["labels"] == NAMES


def test_requests_of_mixed_sizes_and_labels_at_once_get_what_they_asked_for(segmenter):
    asked = [
        (draw(30 + 17 * i % 50, 40 + 23 * i % 60, i), segmenter.config.vocabulary.names[i % 5 : 8])
        for i in range(12)
    ]
    with serving(segmenter, workers=6, passes=1) as client, ThreadPoolExecutor(12) as pool:
        answers = pool.map(lambda one: post(client, encode(one[0]), list(one[1])), asked)
        for answer, (image, names) in zip(answers, asked, strict=True):
            mask = np.array(Image.open(io.BytesIO(answer.content)))
            expected = segmenter(image, names, margins=True)
            sure = expected.margins > 1e-4  # what is computed together is rounded otherwise
            assert sure.mean() > 0.9 and (mask == expected.mask)[sure].all()


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ({"labels": []}, "labels: it is missing"),
        ({"labels": " , ,"}, "no labels were given"),
        ({"labels": "sky, sky"}, "these repeat: 'sky'"),
        ({"labels": "sky, unicorn"}, "does not know the word 'unicorn'"),
        ({"labels": ",".join(f"sky {i}" for i in range(201))}, "200 labels, got 201"),
        ({"labels": "s" * 101}, "100 characters, got one of 101"),
        ({"labels": "sky\x00"}, "labels must be words, got 'sky\\x00'"),
        ({"model": "../shipped"}, "there is no model '../shipped' here: expected shipped"),
        ({"format": "svg"}, "format: input should be 'png', 'coco' or 'polygons'"),
        ({"threshold": "2"}, "threshold: input should be less than or equal to 1"),
        ({"threshold": "nan"}, "threshold: input should be a finite number"),
        ({"calibration": "inf"}, "calibration: input should be a finite number"),
        ({"calibration": "much"}, "calibration: input should be a valid number"),
        ({"other": "o" * 101}, "other: string should have at most 100 characters"),
        ({"picture": b""}, "this is no whole picture"),
        ({"picture": b"what"}, "this is no whole picture: expected a file of JPEG, PNG"),
        ({"picture": PICTURE[:200]}, "broken picture"),
        ({"picture": encode(draw(9, 9), "TIFF")}, "this is no whole picture"),
        ({"picture": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "no whole picture"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused_in_a_sentence(client, fields, fragment):
    assert_refused(post(client, **fields), 422, fragment)


def test_a_request_that_is_no_form_is_refused(client):
    assert_refused(client.post("/segment", json={"labels": "sky"}), 415, "multipart/form-data")
    assert_refused(client.post("/segment", content=b"labels=sky"), 415, "curl -F")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert_refused(
        client.post("/segment", content=b"--y", headers=broken), 400, "the body cannot be read"
    )
    without = {"content-type": "multipart/form-data"}
    assert_refused(client.post("/segment", content=b"--y", headers=without), 400, "boundary")
    only = client.post("/segment", files={"labels": b"sky"})
    assert_refused(only, 422, "picture: it is missing")
    text = client.post("/segment", data={"picture": "photo.jpg"}, files={"x": b""})
    assert_refused(text, 422, "picture: it must be sent as a file")
    assert_refused(client.get("/"), 404, "POST /segment")
    assert_refused(client.get("/segment"), 405, "POST /segment")
    assert_refused(client.post("/healthz"), 405, "POST /segment")


def test_large_pictures_are_refused_by_their_header(client):
    for size in ((10_000, 10_000), (4001, 4000), (2**15 + 1, 1), (2**31 - 1, 2**31 - 1)):
        assert_refused(post(client, png_header(*size)), 413, "16 megapixels")
    assert_refused(post(client, png_header(40, 30)), 422, "broken picture")


def test_large_requests_are_refused_while_they_come(segmenter):
    with serving(segmenter, Limits(bytes=1000)) as client:
        assert_refused(post(client, bytes(900)), 413, "0.001 MB")
        kind = {"content-type": "multipart/form-data; boundary=x"}
        parts = (b"--x\r\ncontent-disposition: form-data; name=a\r\n\r\n", *[b"a" * 400] * 20)
        sent = client.post("/segment", content=iter(parts), headers=kind)  # its length is not said
        assert_refused(sent, 413, "0.001 MB")


def test_more_requests_than_it_may_have_at_once_are_refused_at_once(held):
    with serving(held, Limits(requests=2), workers=1) as client, ThreadPoolExecutor(2) as pool:
        inside = [pool.submit(post, client) for _ in range(2)]
        assert held.begun.acquire(timeout=60)
        wait_until(lambda: client.get("/healthz").json()["requests"] == 2)
        refused = post(client)
        assert_refused(refused, 429, "2 requests are being answered: try again")
        assert refused.headers["retry-after"] == "1"
        held.free.set()
        assert [one.result(60).status_code for one in inside] == [200, 200]
        assert post(client).status_code == 200


def test_who_waits_too_long_and_what_takes_too_long_is_told_so(held):
    with serving(held, Limits(seconds=1), workers=1) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, client)
        assert held.begun.acquire(timeout=60)
        second = pool.submit(post, client)
        assert_refused(first.result(60), 504, "took more than 1 s: send a smaller one")
        assert_refused(second.result(60), 503, "busy, this request waited for 1 s")
        held.free.set()
        assert client.get("/healthz").json()["requests"] == 0
    assert not held.begun.acquire(blocking=False)  # nobody waited for the second any more


def form(labels: str = "sky") -> bytes:
    """Return a request's body, with the boundary x."""
    return (
        b'--x\r\ncontent-disposition: form-data; name="labels"\r\n\r\n%s\r\n'
        b'--x\r\ncontent-disposition: form-data; name="picture"; filename="a"\r\n\r\n%s\r\n--x--'
    ) % (labels.encode(), PICTURE)


def call(app, *messages) -> list[dict]:
    """Return what the application sends to a client who sends this, and then nothing."""
    sent, coming = [], list(messages)

    async def receive():
        if not coming:
            await asyncio.sleep(3600)
        return coming.pop(0)

    async def send(message):
        sent.append(message)

    async def go():
        kind = (b"content-type", b"multipart/form-data; boundary=x")
        scope = {"type": "http", "method": "POST", "path": "/segment", "headers": [kind]}
        async with app.router.lifespan_context(app):
            await app(scope | {"query_string": b"", "http_version": "1.1"}, receive, send)

    asyncio.run(go())
    return sent


def test_a_request_that_does_not_arrive_is_given_up(segmenter):
    app = make_app({"shipped": segmenter}, Limits(seconds=0.05))
    part = {"type": "http.request", "body": form()[:90], "more_body": True}
    start, body = call(app, part)
    assert start["status"] == 408 and b"did not arrive within 0.05 s" in body["body"]


def test_the_work_for_a_client_who_left_is_given_up(held):
    app = make_app({"held": held}, workers=1)
    release = threading.Timer(0.2, held.free.set)
    release.start()
    written = []
    server_write, server.WRITERS["png"] = server.WRITERS["png"], written.append
    try:
        call(app, {"type": "http.request", "body": form()}, {"type": "http.disconnect"})
    finally:
        server.WRITERS["png"] = server_write
    assert not written


def test_the_picture_of_a_client_who_left_is_not_kept_until_its_turn(held, monkeypatch):
    queued, submit = [], ThreadPoolExecutor.submit

    def queue(pool, work, *arguments):
        if work.__name__ != "work":  # asyncio's own
            return submit(pool, work, *arguments)
        queued.append(inspect.getclosurevars(inspect.unwrap(work)).nonlocals["upload"])
        assert queued == [[PICTURE]]
        return Future()

    monkeypatch.setattr(server.ThreadPoolExecutor, "submit", queue)
    app = make_app({"held": held}, workers=1)
    call(app, {"type": "http.request", "body": form()}, {"type": "http.disconnect"})
    assert queued == [[]]


def test_a_fault_of_the_server_is_a_sentence_and_the_next_request_is_answered(
    segmenter, monkeypatch
):
    app = make_app({"shipped": segmenter})
    with TestClient(app, raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setitem(server.WRITERS, "png", lambda found: 1 / 0)
            assert_refused(post(client), 500, "a fault of the server")
        assert post(client).status_code == 200


def test_labels_are_words_and_no_files_or_vocabularies(client, tmp_path):
    (tmp_path / "names.txt").write_text("sky\nbear\n")
    for label in ("voc20", "/etc/passwd", str(tmp_path / "names.txt"), "coco171"):
        assert_refused(post(client, labels=label), 422, "does not know the word")


def test_nothing_of_strangers_is_kept_on_disk_and_little_in_memory(segmenter, monkeypatch):
    monkeypatch.setattr(server, "WORDS", 2)
    words = server.Words(segmenter)
    checked = []
    made = words.embed(NAMES, lambda: checked.append(1))
    assert len(checked) == 3 and list(words._known) == ["sky", "giraffe"]
    words.embed(["sky", "giraffe"], lambda: checked.append(1))
    assert len(checked) == 3
    assert not list(cache_folder().rglob("*"))
    assert (made.values == segmenter.embed(NAMES).values).all()


def test_models_are_listed_without_their_places(segmenter, tmp_path):
    other = segmenter.shown_at(short_side=64)
    with TestClient(make_app({"shipped": segmenter, "second": other})) as client:
        first, second = client.get("/models").json()
        assert (first["name"], second["name"]) == ("shipped", "second")
        assert "giraffe" in first["unseen"] and "bear" in first["seen"]
        image = draw(70, 90)
        mask = Image.open(io.BytesIO(post(client, encode(image), model="second").content))
        assert (np.array(mask) == other(image, NAMES).mask).all()
    with pytest.raises(InputError, match="without a text encoder"):
        make_app({"x": Segmenter(segmenter.backend, None, segmenter.config)})


def test_every_answer_is_described(client):
    description = client.get("/openapi.json").json()
    (asked,) = description["paths"]["/segment"].values()
    assert set(asked["responses"]) == set("200 400 408 413 415 422 429 503 504".split())
    (body,) = (s for name, s in description["components"]["schemas"].items() if "Body" in name)
    assert all(field["description"] for field in body["properties"].values())
    for path in ("/docs", "/redoc"):  # pages whose scripts would come from elsewhere
        assert client.get(path).status_code == 404


@contextlib.contextmanager
def listening(app):
    """Run a server in a thread; yield it and its address."""
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=running.run)
    thread.start()
    wait_until(lambda: running.started)
    yield running, f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def test_shutting_down_finishes_what_runs_and_lets_nobody_in(held):
    with (
        listening(make_app({"held": held})) as (running, address),
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        answer = pool.submit(post, client)
        assert held.begun.acquire(timeout=60)
        running.should_exit = True
        wait_until(lambda: not running.servers or not running.servers[0].sockets)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/healthz")
        held.free.set()
        assert answer.result(60).status_code == 200


def test_the_client_of_the_documents_gets_a_mask(segmenter, monkeypatch, capsys):
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    page = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    with listening(make_app({"shipped": segmenter})) as (_, address):
        exec(code.replace("http://localhost:8000", address), {})
    assert capsys.readouterr().out == "(512, 384) ['giraffe', 'bear', 'sky']\n"


def test_the_command_serves_what_it_is_told_to(capsys, monkeypatch):
    given, threads = {}, torch.get_num_threads()
    monkeypatch.setattr(uvicorn, "run", lambda app, **how: given.update(how, app=app))
    with warnings.catch_warnings():  # which it silences
        done = Run(capsys, monkeypatch, "serve", "--port", "80", "--max-labels", "2")
    torch.set_num_threads(threads)
    assert done.code == 0 and done.out == ""
    assert "at http://127.0.0.1:80; Ctrl-C ends it" in done.err
    assert given["host"] == "127.0.0.1"
    with TestClient(given["app"]) as client:
        assert [model["name"] for model in client.get("/models").json()] == [
            "zegclip-miniature-inductive"
        ]
        assert_refused(post(client), 422, "2 labels, got 3")
    for option in ("--timeout", "--max-megapixels", "--max-megabytes"):
        wrong = Run(capsys, monkeypatch, "serve", option, "inf")
        assert wrong.code == 2 and f"'{option}': Input should be less than" in wrong.err
    wrong = Run(capsys, monkeypatch, "serve", "--model", "a/m", "--model", "b/m")
    assert wrong.code == 2 and "called by their folders' names, got m, m" in wrong.err


def test_without_its_packages_the_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    missing = Run(capsys, monkeypatch, "serve")
    assert missing.code == 2 and "pip install 'unseen[serve]'" in missing.err
