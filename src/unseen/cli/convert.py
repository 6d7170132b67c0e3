"""``unseen convert``."""

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from unseen.cli.completion import vocabularies
from unseen.cli.options import Json, Overwrite, say
from unseen.errors import InputError


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' .pth file.")],
    output: Annotated[Path, typer.Option("--out", "--output", "-o", help="Folder for the model.")],
    vocabulary: Annotated[
        str | None,
        typer.Option(
            "--vocabulary",
            help="What it was trained on: voc20, coco171, context59-released. "
            "[default: what the file says]",
            autocompletion=vocabularies,
        ),
    ] = None,
    setting: Annotated[
        Literal["inductive", "transductive", "supervised"] | None,
        typer.Option("--setting", help="How it was trained. [default: what the file says]"),
    ] = None,
    adapter_only: Annotated[
        bool,
        typer.Option(
            "--adapter-only",
            help="Leave CLIP out; using the model then needs it: ViT-B/16 from the hub.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Turn a checkpoint of ZegCLIP's, Cascade-CLIP's or CLIP-RC's authors into a model.

    \b
    unseen convert coco_inductive_512_vit_base.pth -o zegclip-coco-inductive \\
        --vocabulary coco171 --setting inductive
    """
    from unseen.checkpoints import ModelConfig, save_pretrained
    from unseen.clip.archives import read_archive
    from unseen.conversion import convert as run
    from unseen.conversion import recognise
    from unseen.settings import SETTINGS
    from unseen.vocabulary import find_vocabulary
    from unseen.writing import refuse_existing

    refuse_existing(output, overwrite=overwrite)
    given = None if vocabulary is None else find_vocabulary(vocabulary)
    archive = read_archive(checkpoint)
    known = given or recognise(archive.state, archive.meta).vocabulary
    if known is None:
        raise InputError(
            f"{checkpoint} does not say what it was trained on: give --vocabulary voc20, coco171 "
            "or context59-released"
        )
    says = recognise(archive.state, archive.meta, known)
    chosen = _choose_setting(setting, says.settings, checkpoint)
    model, text, method, options = run(archive.state)
    if text is None and not adapter_only:
        raise InputError(f"{checkpoint} lacks the text encoder: is the file whole?")
    config = ModelConfig(
        method=method,
        options=options,
        vocabulary=known,
        setting=chosen,
        calibration=SETTINGS[chosen].calibration,
        clip="openai/clip-vit-base-patch16",
    )
    save_pretrained(output, model, text, config, adapter_only=adapter_only)
    say(f"{method}, {chosen}, {known.name}; unseen: {', '.join(known.unseen)}")
    if json:
        facts = {"model": str(output), "method": method, "setting": chosen}
        print(json_module.dumps({**facts, "vocabulary": known.name, "unseen": list(known.unseen)}))
    else:
        print(f"{output} holds the model; use it with: unseen segment PICTURE --model {output}")


def _choose_setting(given: str | None, allowed: tuple[str, ...], path: Path) -> str:
    """Settle how a checkpoint was trained, from what the user and the file say."""
    if given is None and len(allowed) == 1:
        return allowed[0]
    if given is None:
        raise InputError(
            f"{path} does not say how it was trained: give --setting {' or '.join(allowed)}"
        )
    if given not in allowed:
        raise InputError(f"{path} says it was trained {' or '.join(allowed)}, not {given}")
    return given
