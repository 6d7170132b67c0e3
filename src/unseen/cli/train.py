"""``unseen train``."""

import json as json_module
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unseen.cli.completion import models, recipes
from unseen.cli.options import Device, Json, Overwrite, read_seeds, say
from unseen.errors import InputError
from unseen.processes import Processes

if TYPE_CHECKING:
    from unseen.data.datasets import Dataset
    from unseen.recipes import Source
    from unseen.segmenter import Segmenter


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a recipe; 'unseen recipes' lists them.", autocompletion=recipes
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes: data=mine.yaml, data.root=PATH, batch_size=8, options.prompts=20.",
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
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Several, as 0,1,2: trained, scored and compared."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Model whose weights to start from; with --seeds, {seed} in it is each.",
            autocompletion=models,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the model. [default: runs/RECIPE]")
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest state in --out, if any.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, help="Processes that read pictures ahead. [default: 0 on a CPU]"
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option("--precision", help="Of matrix products.")
    ] = "fp32",
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate", min=1, help="Take a batch in this many parts: less memory, same step."
        ),
    ] = 1,
    save_every: Annotated[
        int | None,
        typer.Option(
            "--save-every", min=1, help="Steps between states. [default: a twentieth of them]"
        ),
    ] = None,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Newest states that stay.")] = 2,
    validate_every: Annotated[
        int | None,
        typer.Option(
            "--validate-every",
            min=1,
            help="Steps between scores on 100 pictures of the split val; the best model is kept.",
        ),
    ] = None,
    on_bad_file: Annotated[
        Literal["error", "skip"],
        typer.Option("--on-bad-file", help="What a picture that cannot be read leads to."),
    ] = "error",
    on_failed_save: Annotated[
        Literal["warn", "error"],
        typer.Option("--on-failed-save", help="What a state that cannot be saved leads to."),
    ] = "warn",
    score: Annotated[
        bool, typer.Option("--score", help="Also score the model; --seeds always does.")
    ] = False,
    loggers: Annotated[
        list[str] | None,
        typer.Option("--logger", help="Also log to tensorboard, trackio or wandb."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a recipe.

    \b
    unseen train zegclip-miniature-inductive
    unseen train zegclip-voc-inductive data.root=data batch_size=8
    unseen train zegclip-voc-inductive data=mine.yaml clip=openai/clip-vit-base-patch16
    unseen train zegclip-miniature-transductive \\
        --from runs/zegclip-miniature-inductive/halfway
    unseen train zegclip-miniature-inductive --seeds 0,1,2
    torchrun --nproc-per-node 4 -m unseen train zegclip-coco-inductive --resume
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
    if plan.steps <= plan.warmup:
        say(
            f"note: all {plan.steps} steps lie in the warm-up of {plan.warmup}, over which the "
            f"rate rises to {plan.learning_rate:g}: it will hardly learn; set warmup"
        )
    out = out or Path("runs") / plan.name
    if seeds is not None and seed is not None:
        raise InputError("give --seed or --seeds")
    plans = {out: plan}
    if seeds is not None:
        plans = {out / f"seed-{n}": replace(plan, seed=n) for n in read_seeds(seeds)}
    from unseen.building import open_source
    from unseen.learning import Engine
    from unseen.runs import compare, read_run
    from unseen.training import fit
    from unseen.writing import refuse_existing

    if score or seeds:
        open_source(plan)  # which says better what is amiss with both
        _open_scored(plan.data)
    for folder in plans:  # the last seed's before the first is trained
        refuse_existing(folder, overwrite=overwrite or resume)
    engine = Engine(
        precision=precision,
        accumulate=accumulate,
        workers=workers,
        save_every=save_every,
        keep=keep,
        validate_every=validate_every,
        skip_broken=on_bad_file == "skip",
        need_states=on_failed_save == "error",
        loggers=loggers or (),
    )
    facts = []
    for folder, each in plans.items():
        begun = start.replace("{seed}", str(each.seed)) if start and seeds else start
        model = fit(
            each,
            out=folder,
            start=begun,
            resume=resume,
            overwrite=overwrite,
            device=device,
            engine=engine,
        )
        fact = {
            "model": str(folder),
            "steps": each.steps,
            "seed": each.seed,
            "unseen": list(model.config.vocabulary.unseen),
        }
        if score or seeds:
            fact["scores"] = _score(model, folder)
        facts.append(fact)
    if Processes.started().rank:
        return
    if json:
        print(json_module.dumps(facts if seeds else facts[0]))
    else:
        unseen = ", ".join(model.config.vocabulary.unseen) or "none"
        print(f"{model.config.setting}; unseen classes: {unseen}")
        if score or seeds:
            print(compare([read_run(folder) for folder in plans]))
        else:
            print(f"{out} holds the model; score it with: unseen evaluate {out}")


def _open_scored(source: "Source") -> "Dataset":
    """Open what scores are reported on."""
    from unseen.catalogue import open_dataset

    return open_dataset(source.name, root=source.root)


def _score(model: "Segmenter", folder: Path) -> dict[str, float | None]:
    """Score a trained model on what scores are reported on, and write that beside it."""
    from dataclasses import asdict

    from unseen.evaluation import default_source, evaluate
    from unseen.runs import read_run, save_scores

    source, processes = default_source(model.config), Processes.started()
    if not (folder / "scores.json").is_file():
        scores = evaluate(model, _open_scored(source), processes=processes)
        if not processes.rank:
            save_scores(folder, scores, {"data": asdict(source)})
    processes.gather(None)  # the others read what the first one wrote
    return read_run(folder).scores
