"""``unseen export``."""

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.completion import formats, models
from unseen.cli.options import Json, Overwrite, say


def export(
    model: Annotated[
        str, typer.Argument(help="Folder of a model, or a shipped name.", autocompletion=models)
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="What to: onnx or openvino, which unseen runs too; or torch.",
            autocompletion=formats,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--out", "--output", "-o", help="Folder for the exported model.")
    ],
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Weights of matrix products in 8 bits; of onnx, products too."),
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a model as a file for onnxruntime, OpenVINO or torch.export.

    The file takes any number of pictures and classes, and pictures of any size; it is compared with
    the model before it is written. The folder is used as a model's. Files of torch are for other
    programs: reading one can run code, so unseen reads none.

    \b
    unseen export zegclip-miniature-inductive --to openvino -o fast
    unseen segment examples/wall.png --model fast --precision bf16
    """
    from unseen.export import export_model
    from unseen.segmenter import Segmenter
    from unseen.writing import refuse_existing

    refuse_existing(output, overwrite=overwrite)
    written = export_model(Segmenter.from_pretrained(model, device="cpu"), output, to=to, int8=int8)
    say(written.describe())
    if json:
        facts = {"model": str(output), **asdict(written), "path": str(written.path)}
        print(json_module.dumps(facts, indent=1))
    elif to == "torch":
        print(f"{written.path} holds the program; torch.export.load reads it")
    else:
        print(f"{output} holds the model; use it with: unseen segment PICTURE --model {output}")
