"""How many requests a second ``unseen serve`` answers, how soon, and in how much memory.

    python benchmarks/serve.py
    python benchmarks/serve.py --requests 400 --model zegclip-voc-inductive

Two servers run on this machine: one works on one request at a time, with all cores (``--workers
1``); the other is as it comes. Clients that wait for nothing but their answers ask both in turns,
the same mixed pictures and labels, so that what else the machine does meets both; the ratio is the
median of the turns'. A busy machine decides it all the same: its load is printed.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import httpx
import torch
from PIL import Image

from unseen.efficiency import hardware
from unseen.metrics import markdown
from unseen.miniature.scenes import Scenes
from unseen.vocabulary import MINIATURE

SIZES = [(512, 384), (384, 512), (640, 480), (320, 200), (800, 600), (1200, 900), (300, 300)]
"""(width, height) of the pictures that are sent."""


def make_requests(count: int) -> list[tuple[bytes, str]]:
    """Return files of pictures, and labels; the same ones every time."""
    draw, scenes = random.Random(0), Scenes("test", count=8)
    found = []
    for i in range(count):
        file = io.BytesIO()
        image = Image.fromarray(scenes[i % 8].image).resize(draw.choice(SIZES))
        image.save(file, draw.choice(["PNG", "JPEG"]))
        names = draw.sample(MINIATURE.names, draw.randint(2, 12))
        found.append((file.getvalue(), ",".join(names)))
    return found


@contextlib.contextmanager
def serve(*options: str) -> Iterator[tuple[str, int]]:
    """Start a server; yield its address and process id."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    command = [sys.executable, "-m", "unseen", "serve", "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{address}/healthz")
                break
            if process.poll() is not None:
                raise SystemExit(f"the server ended: {' '.join(command)}")
            time.sleep(0.2)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(60)


async def ask(address: str, requests: list[tuple[bytes, str]], clients: int) -> list[float]:
    """Ask with several clients at once; return each answer's seconds."""
    left, seconds = list(requests), []

    async def one(client: httpx.AsyncClient) -> None:
        while left:
            picture, labels = left.pop()
            start = time.perf_counter()
            answer = await client.post(
                "/segment", files={"picture": picture}, data={"labels": labels}
            )
            seconds.append(time.perf_counter() - start)
            if answer.status_code != 200:
                raise SystemExit(f"{answer.status_code}: {answer.text}")

    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return seconds


def resident(process: int) -> float:
    """Return the megabytes of memory that a process has, by Linux."""
    (line,) = (
        line
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="zegclip-miniature-inductive")
    parser.add_argument("--requests", type=int, default=300, help="of each server")
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    requests = make_requests(args.requests // args.turns)
    ways = {"one at a time": ["--workers", "1"], "as it comes": []}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, list[float]] = {way: [] for way in ways}
    with contextlib.ExitStack() as stack:
        servers = {
            way: stack.enter_context(serve("--model", args.model, *options))
            for way, options in ways.items()
        }
        for address, _ in servers.values():  # the first answers take longer
            asyncio.run(ask(address, requests[: 2 * args.clients], args.clients))
        for _ in range(args.turns):
            for way, (address, process) in servers.items():
                start = time.perf_counter()
                took = asyncio.run(ask(address, requests, args.clients))
                rates[way].append(len(took) / (time.perf_counter() - start))
                seconds[way] += took
                memory[way].append(resident(process))
    found = {
        way: {
            "requests a second": median(rates[way]),
            "p50, s": median(seconds[way]),
            "p95, s": quantiles(seconds[way], n=20)[-1],
            "MB": memory[way],
        }
        for way in ways
    }
    rows = [
        [way, *(f"{value:.3g}" for value in list(one.values())[:3])]
        + [" ".join(f"{value:.0f}" for value in one["MB"])]
        for way, one in found.items()
    ]
    print(markdown(["", "requests a second", "p50, s", "p95, s", "MB after each turn"], rows))
    plain, ours = rates.values()
    ratio = median(b / a for a, b in zip(plain, ours, strict=True))
    print(f"throughput: {ratio:.2f} times (turns: "
          f"{', '.join(f'{b / a:.2f}' for a, b in zip(plain, ours, strict=True))})")  # fmt: skip
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{len(seconds['as it comes'])} requests of each, {args.clients} at once, {args.model}; "
          f"{hardware(torch.device('cpu'))}; load {load}")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({"ratio": ratio, "load": load, "ways": found}, indent=1))


if __name__ == "__main__":
    main()
