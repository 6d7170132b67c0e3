"""Hundreds of malformed requests to a real server, and somebody who only wants a mask meanwhile."""

import io
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from test_batching import wait_until
from test_server import draw, encode, png_header

from unseen.data.images import UPLOAD_FORMATS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

Request = dict[str, Any]
PICTURE = draw(60, 80)
LABELS = {"labels": "sky, bear"}
FORM = {"content-type": "multipart/form-data; boundary=x"}


def upload(content: bytes, name: str = "a.png", kind: str = "image/png") -> Request:
    return {"files": {"picture": (name, content, kind)}, "data": LABELS}


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--x\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content


def cut_pictures(draw: random.Random) -> Iterator[Request]:
    for format in UPLOAD_FORMATS:
        whole = encode(PICTURE, format)
        for _ in range(45):
            yield upload(whole[: draw.randrange(len(whole) - 40)], kind=f"image/{format.lower()}")


def huge_pictures() -> Iterator[Request]:
    for side in (4001, 10_000, 65_535, 10**6, 2**31 - 1):
        yield upload(png_header(side, side))
        yield upload(png_header(side, 10**5))
        wide = min(side, 65_535)
        yield upload(b"GIF89a" + struct.pack("<HH", wide, wide) + b"\x80\0\0" + bytes(9))
        yield upload(b"BM" + bytes(12) + struct.pack("<IiiHH", 40, side, -side, 1, 24) + bytes(60))
        frame = (
            b"\xff\xc0\0\x11\x08" + struct.pack(">HH", wide, wide) + b"\x03\1\x22\0\2\x11\1\3\x11\1"
        )
        yield upload(b"\xff\xd8" + frame + b"\xff\xd9")
    bomb = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(bomb, "PNG")  # some kB of file
    yield upload(bomb.getvalue())
    for chunk in (b"zTXt", b"iCCP"):
        texts = PngImagePlugin.PngInfo()
        for _ in range(70):  # a megabyte of text each
            texts.add(chunk, b"a\0\0" + zlib.compress(bytes(10**6)))
        stuffed = io.BytesIO()
        Image.fromarray(PICTURE).save(stuffed, "PNG", pnginfo=texts)
        yield upload(stuffed.getvalue()[:-60])


def other_files() -> Iterator[Request]:
    for content in (
        *(
            b"",
            b"\0",
            b"GIF89a",
            b"\xff\xd8\xff",
            b"RIFF\0\0\0\0WEBP",
            b"BM",
            b"<svg/>",
            b"%PDF-1.7",
        ),
        *(
            b"%!PS-Adobe-3.0 EPSF-3.0",
            b"PK\3\4",
            b"\x80\4\x95",
            b"\x1f\x8b",
            b"II*\0",
            b"x" * 10**6,
        ),
        *(encode(PICTURE, format) for format in ("TIFF", "PPM", "TGA", "ICO", "JPEG2000", "PDF")),
        *(b"/etc/passwd", b"file:///etc/passwd", b"http://127.0.0.1/", b"../../etc/passwd"),
    ):
        for kind in ("image/png", "text/html"):
            yield upload(content, kind=kind)
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "a\0b",
        "a" * 9000,
        '"',
        "\r\n",
        "%00",
    ):
        yield upload(b"no picture", name)
        yield {"data": LABELS | {"picture": name}, "files": {"x": b""}}


def odd_labels(draw: random.Random) -> Iterator[Request]:
    whole = {"picture": encode(PICTURE)}
    odd = [
        "",
        " ",
        ",",
        "sky,sky",
        "Sky,sky",
        "\0",
        "\n",
        "sky\x1b[1m",
        "{0.__class__}",
        "%s",
        "<b>",
    ]
    odd += ["/etc/passwd", "../names.txt", "voc20", "http://x/y", "s" * 101, "s" * 900_000]
    odd += [",".join(f"sky{i}" for i in range(n)) for n in (201, 5000, 100_000)]
    odd += ["".join(map(chr, draw.choices(range(1, 0xD000), k=40))) for _ in range(40)]
    for labels in odd:
        yield {"files": whole, "data": {"labels": labels}}
    for count in (201, 900, 1001, 5000):
        yield {"files": whole, "data": {"labels": ["sky"] * count}}
        yield {"files": whole, "data": LABELS | {f"f{i}": "1" for i in range(1000 + count)}}


def odd_options(draw: random.Random) -> Iterator[Request]:
    strange = ["-1", "2", "nan", "inf", "1e999", "zero", "0x1", "[]", "null", "1" * 5000, "⅓", "\0"]
    for field in ("threshold", "calibration", "format", "model"):
        for value in strange:
            if (field, value) not in {("calibration", "-1"), ("calibration", "2")}:
                yield upload(encode(PICTURE)) | {"data": LABELS | {field: value}}
    for value in ("sky", "o" * 101, "bear"):
        yield upload(encode(PICTURE)) | {"data": LABELS | {"other": value, "threshold": "0.5"}}


def odd_bodies(draw: random.Random) -> Iterator[Request]:
    picture = part("picture", encode(PICTURE), '; filename="a"') + b"\r\n"
    labels = part("labels", b"sky") + b"\r\n"
    for body in (
        *(b"", b"--x", b"--x--", b"--y\r\n", b"\r\n" * 999, labels, picture, labels + b"--x--"),
        *(picture + b"--x--", picture[:-300], b"--x\r\n\r\n\r\n--x--", b"--x\r\n: a\r\n\r\n--x--"),
        b"--x\r\ncontent-disposition: form-data\r\n\r\nsky\r\n" + picture + b"--x--",
        b"--x\r\ncontent-disposition: " + b"a" * 10**6 + b"\r\n\r\nsky\r\n" + picture + b"--x--",
        b"--x\r\n" + b"a: b\r\n" * 10**5 + b"\r\n" + picture + b"--x--",
        part("picture", b"", '; filename="a"') + b"\r\n" + labels + b"--x--",
        part("labels", b"sky", '; filename="l"') + b"\r\n" + picture + b"--x--",
        bytes(21 * 10**6),
    ):
        yield {"content": body, "headers": FORM}
        yield {"content": iter([body]), "headers": FORM}
    for kind in (
        *("application/json", "text/plain", "application/x-www-form-urlencoded", "", "multipart"),
        *("multipart/mixed; boundary=x", "multipart/form-data", "multipart/form-data; boundary="),
        *(
            "image/png",
            "multipart/form-data; boundary=" + "x" * 5000,
            "a;b;c",
            "application/pickle",
        ),
        "multipart/form-data; boundary=y; charset=rot13",
    ):
        for body in (picture + labels + b"--x--", b"labels=sky&" * 10**5, b"{}"):
            yield {"content": body, "headers": {"content-type": kind}}
    for _ in range(40):
        yield {"content": draw.randbytes(draw.randrange(5000)), "headers": FORM}


def make_malformed() -> list[Request]:
    draw = random.Random(0)
    found = [*cut_pictures(draw), *huge_pictures(), *other_files(), *odd_labels(draw)]
    found += [*odd_options(draw), *odd_bodies(draw)]
    draw.shuffle(found)
    return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    command = [sys.executable, "-m", "unseen", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or answers(address))
        yield address
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "Traceback" not in told, told


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_malformed_requests_are_refused_in_a_sentence_and_others_are_answered(address, capsys):
    malformed = make_malformed()
    over, polite = threading.Event(), []

    def ask_politely() -> None:
        with httpx.Client(base_url=address, timeout=120) as client:
            while not over.is_set():
                start = time.perf_counter()
                answer = client.post("/segment", **upload(encode(PICTURE)))
                assert answer.status_code == 200, answer.text
                polite.append(time.perf_counter() - start)

    def ask(request: Request) -> httpx.Response:
        return stranger.post("/segment", **request)

    with (
        httpx.Client(base_url=address, timeout=120) as stranger,
        ThreadPoolExecutor(9) as pool,
    ):
        asking = pool.submit(ask_politely)
        wait_until(lambda: len(polite) >= 5)
        alone = median(polite)
        polite.clear()
        answers = list(pool.map(ask, malformed))
        over.set()
        asking.result()
    codes = Counter(answer.status_code for answer in answers)
    with capsys.disabled():
        print(f"\n{len(answers)} malformed requests, 8 at once: {dict(sorted(codes.items()))}")
        print(f"a proper one meanwhile: {len(polite)} answered, in {median(polite):.2f} s "
              f"({alone:.2f} s before), {max(polite):.2f} s at most")  # fmt: skip
    assert len(answers) >= 500
    wrong = [
        (str(request)[:200], answer.status_code, answer.text[:200])
        for request, answer in zip(malformed, answers, strict=True)
        if not 400 <= answer.status_code < 500 or not is_sentence(answer)
    ]
    assert not wrong


def is_sentence(answer: httpx.Response) -> bool:
    """Tell whether an answer is a sentence as JSON, which tells nothing of the server's files."""
    error = answer.json()["error"]
    return 10 < len(error) < 2000 and "\n" not in error and "root:" not in error


def test_damaged_pictures_never_make_a_fault(address):
    draw = random.Random(1)
    codes: Counter[int] = Counter()
    with httpx.Client(base_url=address, timeout=120) as client:
        for format in UPLOAD_FORMATS:
            whole = encode(np.ascontiguousarray(PICTURE), format)
            for _ in range(60):
                damaged = bytearray(whole)
                for _ in range(draw.choice([1, 3, 20])):
                    damaged[draw.randrange(len(damaged))] = draw.randrange(256)
                codes[client.post("/segment", **upload(bytes(damaged))).status_code] += 1
    assert set(codes) <= {200, 413, 422}, codes
    assert codes[200] and codes[422]
