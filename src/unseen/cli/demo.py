"""``unseen demo``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.options import DEFAULT_MODEL, Device, Precision, load_segmenter, say
from unseen.errors import require


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Folder of a model, or a shipped name; as often as you like."),
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(
            "--clip",
            help="CLIP alone, no model: weights file, folder or hub name; as often as you like.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="Where to listen; 0.0.0.0 lets other machines in."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes any that is free.")] = 7860,
    open: Annotated[
        bool, typer.Option("--open/--no-browser", help="Open the page in a browser.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Serve a web page on which to segment pictures with any words.

    Without --model and --clip it offers the model that ships with the package, which knows
    drawings, and the CLIP inside it. The page loads nothing from other machines.

    \b
    unseen demo --open
    unseen demo --model zegclip-coco --clip openai/clip-vit-base-patch16
    """
    require("gradio", extra="demo")
    import webbrowser

    from unseen.demo import serve
    from unseen.interruption import watch
    from unseen.ports import find_port

    port = find_port(host, port)  # before models are loaded
    wanted = [(name, None) for name in model or ()] + [(None, name) for name in clip or ()]
    if not wanted:
        wanted = [(DEFAULT_MODEL, None), (None, "miniature")]
    models = {}
    for folder, alone in wanted:
        title = f"CLIP alone, {Path(alone).name}" if alone else Path(str(folder)).resolve().name
        if title in models:
            title = str(alone or folder)
        models[title] = load_segmenter(folder, alone, device, precision)
    with serve(models, host=host, port=port) as address, watch() as request:
        say(f"{address} (Ctrl-C ends it)")
        if open:
            webbrowser.open(address)
        while not request.number:
            time.sleep(0.2)
