"""``unseen convert``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from unseen.cli.options import Overwrite, refuse_existing
from unseen.errors import InputError


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' .pth file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model.")],
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", help="What it was trained on: voc20 or coco171.")
    ],
    setting: Annotated[
        Literal["inductive", "transductive", "supervised"],
        typer.Option("--setting", help="How it was trained."),
    ],
    overwrite: Overwrite = False,
) -> None:
    """Turn a ZegCLIP checkpoint of the authors into a model.

    \b
    unseen convert coco_inductive_512_vit_base.pth -o zegclip-coco-inductive \\
        --vocabulary coco171 --setting inductive
    """
    from unseen.checkpoints import ModelConfig, save_pretrained
    from unseen.checkpoints import convert as run
    from unseen.clip.archives import read_state
    from unseen.settings import SETTINGS
    from unseen.vocabulary import find_vocabulary

    refuse_existing(output, overwrite=overwrite)
    known = find_vocabulary(vocabulary)
    model, text, options = run(read_state(checkpoint))
    if text is None:
        raise InputError(f"{checkpoint} lacks the text encoder: is the file whole?")
    config = ModelConfig(
        method="zegclip",
        options=options,
        vocabulary=known,
        setting=setting,
        calibration=SETTINGS[setting].calibration,
    )
    save_pretrained(output, model, text, config)
    print(f"{output} holds the model; use it with: unseen segment PICTURE --model {output}")
