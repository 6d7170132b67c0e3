"""``unseen serve``."""

import contextlib
import math
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.options import DEFAULT_MODEL, Clip, Device, Precision, load_segmenter, say
from unseen.errors import InputError, require


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Folder of a model, or a shipped name; may be given several times, the first is "
            f"the default. [default: {DEFAULT_MODEL}]",
        ),
    ] = None,
    clip: Clip = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address to listen at; 0.0.0.0 lets other machines in, all of them."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8000,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Requests worked on at once; CPU cores are shared out among them. "
            "[default: as many as cores, 4 at most; with a GPU 8]",
        ),
    ] = None,
    max_megabytes: Annotated[
        float, typer.Option("--max-megabytes", min=0.001, max=2000, help="Of a request.")
    ] = 20,
    max_megapixels: Annotated[
        float,
        typer.Option(
            "--max-megapixels", min=0.001, max=178, help="Of a picture; Pillow opens no more."
        ),
    ] = 16,
    max_labels: Annotated[
        int, typer.Option("--max-labels", min=1, max=254, help="Of a request.")
    ] = 200,
    max_label_length: Annotated[
        int, typer.Option("--max-label-length", min=1, help="Characters of a label.")
    ] = 100,
    max_requests: Annotated[
        int, typer.Option("--max-requests", min=1, help="At once, those that wait included.")
    ] = 32,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=0.1,
            max=86400,
            help="Seconds to read a request, and to answer it.",
        ),
    ] = 60,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Segment pictures over HTTP: POST /segment with a picture and labels.

    There is no password and no encryption: it listens to this machine alone unless --host says
    otherwise, and then belongs behind a proxy that has both. GET /openapi.json describes it.

    \b
    unseen serve
    curl -F picture=@examples/wall.png -F "labels=giraffe, sky" localhost:8000/segment -o mask.png
    """
    for package in ("fastapi", "python_multipart", "uvicorn"):
        require(package, extra="serve")

    import logging
    import warnings

    import torch
    import uvicorn

    from unseen.backends import is_exported
    from unseen.ports import find_port
    from unseen.segmenter import resolve_device
    from unseen.server import make_app
    from unseen.server.gate import Limits

    port = find_port(host, port)
    sources = model or ([] if clip else [DEFAULT_MODEL])
    names = [Path(source).name for source in [*sources, *([clip] if clip else [])]]
    if len(set(names)) < len(names):
        raise InputError(f"models are called by their folders' names, got {', '.join(names)}")
    if resolve_device(device).type == "cpu":
        cores = torch.get_num_threads()
        workers = workers or min(cores, 4)
        # a core a picture wastes none on waiting; exported models are quick with all of them
        passes = 1 if any(map(is_exported, sources)) else min(workers, cores)
        torch.set_num_threads(cores // passes)
    else:
        workers, passes = workers or 8, 1
    loaded = [load_segmenter(source, None, device, precision) for source in sources]
    if clip:
        loaded.append(load_segmenter(None, clip, device, precision))
    limits = Limits(
        bytes=round(max_megabytes * 10**6),
        pixels=round(max_megapixels * 10**6),
        labels=max_labels,
        label_length=max_label_length,
        requests=max_requests,
        seconds=timeout,
    )
    app = make_app(dict(zip(names, loaded, strict=True)), limits, workers=workers, passes=passes)
    # what is odd about strangers' requests is not the owner's concern, and Python remembers each
    warnings.simplefilter("ignore")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    say(f"serving {', '.join(names)} at http://{host}:{port}; Ctrl-C ends it, after what it does")
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended what it did
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=math.ceil(timeout),
        )
