"""``unseen train``."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.options import Device, Json, Overwrite, refuse_existing, say


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; 'unseen recipes' lists them.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Changes: steps=10, data.root=PATH, options.prompts=20."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of changes; the others go before it.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Instead of the recipe's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Instead of the recipe's.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Model whose weights to start from.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the model. [default: runs/RECIPE]")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a recipe.

    \b
    unseen train zegclip-miniature-inductive
    unseen train zegclip-voc-inductive data.root=VOCdevkit/VOC2012 batch_size=8
    unseen train zegclip-miniature-transductive \\
        --from runs/zegclip-miniature-inductive/halfway
    """
    from unseen.recipes import find_recipe, override, read_assignments, read_overrides

    row = find_recipe(recipe)
    given = {key: value for key, value in (("steps", steps), ("seed", seed)) if value is not None}
    named = read_assignments(changes or ()) | given
    plan = override(row, (read_overrides(config) if config else {}) | named)
    if plan.batch_size != row.batch_size:
        say(
            f"note: batches of {plan.batch_size} instead of the recipe's {row.batch_size}; scores "
            f"may differ, and the learning rate stays at {plan.learning_rate:g}"
        )
    out = out or Path("runs") / plan.name
    refuse_existing(out, overwrite=overwrite)
    from unseen.training import fit

    trained = fit(plan, out=out, start=start, device=device).config
    held_out = list(trained.vocabulary.unseen)
    if json:
        facts = {"model": str(out), "steps": plan.steps, "seed": plan.seed, "unseen": held_out}
        print(json_module.dumps(facts))
    else:
        print(f"{trained.setting}; unseen classes: {', '.join(held_out) or 'none'}")
        print(f"{out} holds the model; score it with: unseen evaluate {out}")
