"""``unseen train``."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unseen.cli.options import Device, Json, Overwrite, refuse_existing


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
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
    unseen train zegclip-miniature-transductive \\
        --from runs/zegclip-miniature-inductive/halfway
    """
    from dataclasses import replace

    from unseen.recipes import find_recipe

    plan = find_recipe(recipe)
    if steps is not None:
        plan = replace(plan, steps=steps)
    if seed is not None:
        plan = replace(plan, seed=seed)
    out = out or Path("runs") / plan.name
    refuse_existing(out, overwrite=overwrite)
    from unseen.training import fit

    fit(plan, out=out, start=start, device=device)
    if json:
        print(json_module.dumps({"model": str(out), "steps": plan.steps, "seed": plan.seed}))
    else:
        print(f"{out} holds the model; score it with: unseen evaluate {out}")
