"""The model card of a repository of the Hugging Face Hub, written from what a model says of itself.

A card tells nothing that is not known: scores are those measured of the model itself, or said to be
expected and by whom; a licence is the authors' where the weights are theirs, and otherwise for the
one to say who trained the model.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

import yaml

from unseen.checkpoints import ModelConfig
from unseen.errors import InputError
from unseen.hub import is_repository
from unseen.metrics import markdown, show
from unseen.published import PUBLISHED, TITLES
from unseen.recipes import OPENAI_CLIP, RECIPES, VOCABULARY_OF, Recipe, cells, expectation, kind_of
from unseen.shipped import SHIPPED_CLIP

MARK = "<!-- written by unseen, and written anew when the model is pushed again: take this line out"
"""How a card of ours begins. A README without it is somebody's own, and stays."""

_KNOWN = {
    "inductive": "neither masks nor names of the held-out classes were known in training",
    "transductive": "the names of the held-out classes, and which pixels show one of them, were "
    "known in training; which one, was not",
    "self-training": "the names of the held-out classes were known in training, no pixel of theirs",
    "supervised": "nothing was held out: training showed the masks of all classes",
    "": "nothing was trained",
}
"""What the settings tell a model of the classes that are held out."""

_DATASETS = {
    "voc": "pascal-voc-2012",
    "coco": "coco-stuff-164k",
    "context": "pascal-context",
    "context-released": "pascal-context",
}
"""Data sets as people call them; these are no names of repositories."""

_REPOSITORIES = {
    "zegclip": "https://github.com/ZiqinZhou66/ZegCLIP",
    "cascade": "https://github.com/HVision-NKU/Cascade-CLIP",
    "cliprc": "https://github.com/uyzhang/CLIP-RC",
}

_AUTHORS: dict[str, tuple[dict[str, str], str]] = {
    "zegclip": ({"license": "mit"}, "That repository is under the MIT licence."),
    "cascade": (
        {
            "license": "other",
            "license_name": "mit-and-cc-by-nc-4.0-which-contradict-each-other",
            "license_link": _REPOSITORIES["cascade"],
        },
        "That repository states two licences that contradict each other: LICENSE is MIT, the "
        "README says CC BY-NC 4.0, commercial use with the authors' permission only. Ask them "
        "before any commercial use.",
    ),
    "cliprc": (
        {"license": "unknown"},
        "That repository states no licence, and without one no right to copy, change or pass on is "
        "granted. Ask the authors.",
    ),
}
"""What the authors' repositories say of licences: for the hub, and in words."""

_PAPERS = {
    "zegclip": "zhou2023zegclip",
    "cascade": "li2024cascadeclip",
    "cliprc": "zhang2024cliprc",
}
"""What citations.bib calls the papers of methods."""


def make_card(
    config: ModelConfig,
    *,
    name: str,
    adapter_only: bool = False,
    measured: Mapping[str, Any] | None = None,
    licence: str = "",
) -> str:
    """Return the README.md of a model's repository.

    Args:
        config: what the model is.
        name: the repository, ``owner/name``.
        adapter_only: CLIP is left out.
        measured: what ``scores.json`` of a training's folder holds, if there is one.
        licence: the hub's word for it, such as ``mit``, of a model of one's own.

    Raises:
        InputError: a licence for weights that are others'.
    """
    row = _row(config)
    front, terms = _licence(config, licence)
    scores = {k: v for k, v in (measured or {}).get("scores", {}).items() if v is not None}
    scored_on = _dataset((measured or {}).get("data", {}).get("name", ""))
    trained_on = _dataset(_source(config))
    title, words = TITLES.get(config.method, config.method), config.vocabulary
    facts: dict[str, Any] = {"library_name": "unseen", "pipeline_tag": "image-segmentation"} | front
    facts["tags"] = ["zero-shot", "semantic-segmentation", "clip", config.method]
    facts["tags"] += [config.setting or "training-free"]
    if trained_on in _DATASETS.values():
        facts["datasets"] = [trained_on]
    if is_public(config.clip) and config.clip != SHIPPED_CLIP:
        facts["base_model"] = config.clip
    if scores:
        facts["model-index"] = [_index(name, scored_on, scores)]
    example = json.dumps([*words.seen[:2], *words.unseen[:1]], ensure_ascii=False)
    held_out = words.unseen if config.setting != "supervised" else ()
    familiar = {name.casefold() for name in config.shown_before}
    known = [name for name in held_out if name.casefold() in familiar]
    rows = {
        "method": f"{title}, {_options(config.options)}",
        "setting": f"{config.setting or 'training-free'}: {_KNOWN[config.setting]}",
        "vocabulary": f"{words.name}, {len(words)} classes{trained_on and f' of {trained_on}'}",
        "held out in training": (", ".join(held_out) or "none")
        + (f"; the model it started from was shown {', '.join(known)}" if known else ""),
        "CLIP": f"{_place(config.clip)}, {'not inside' if adapter_only else 'inside'}",
        "γ, subtracted from scores of seen classes": f"{config.calibration:g}",
        "shown at": f"short side {config.short_side}, windows of {config.window} every "
        f"{config.stride} pixels",
        "made by": _origin(config, row),
        "versions": ", ".join(f"{k} {v}" for k, v in config.versions.items()) or "not told",
    }
    if not config.setting:
        rows = {key: rows[key] for key in ("method", "setting", "CLIP", "shown at", "versions")}
    parts = [
        f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---",
        f"{MARK} to keep your own words -->",
        f"# {name}",
        f"Names every pixel of a picture with words of your own, also words whose pixels nobody "
        f"labelled: {title}{f', {config.setting}' if config.setting else ''}.",
        f"```python\nfrom unseen import Segmenter\n\n"
        f'segmenter = Segmenter.from_pretrained("{name}")\n'
        f'segmenter("picture.jpg", {example}).save("overlay.png")\n```',
        "## The model",
        markdown(["", ""], [[key, value] for key, value in rows.items()]),
        *(["## Scores", *_scores(config, row, scores, scored_on)] if config.setting else []),
        "## Licence",
        terms,
        "## Cite",
        "```bibtex\n" + "\n\n".join(_papers(config)) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def read_own_card(folder: Path) -> str | None:
    """Return the README.md of a model's folder if a person wrote it."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else MARK
    return None if MARK in text else text


def read_measured(folder: Path) -> dict[str, Any] | None:
    """Return what a training's folder tells of its model's scores, if anything.

    Raises:
        InputError: the file is broken.
    """
    path = folder / "scores.json"
    if not path.is_file():
        return None
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"data": {"name": str(told["data"]["name"])}, "scores": dict(told["scores"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is broken: score the model again, or remove it") from None


def without_places(config: ModelConfig) -> ModelConfig:
    """Return a configuration without the folders of the machine the model was trained on."""
    recipe = dict(config.recipe)
    if recipe:
        recipe["clip"] = _place(config.clip)
        recipe["data"] = {"name": PurePath(recipe["data"]["name"]).name, "root": None}
    start = PurePath(config.start)
    named = "/".join([part for part in start.parts if part != start.anchor][-2:])
    return replace(config, clip=_place(config.clip), recipe=recipe, start=named)


def is_public(clip: str) -> bool:
    """Tell whether others can get a CLIP by what a model calls it."""
    return clip == SHIPPED_CLIP or (is_repository(clip) and not os.path.exists(clip))


def _place(clip: str) -> str:
    return clip if is_public(clip) else PurePath(clip).name


def _row(config: ModelConfig) -> Recipe | None:
    """Return the recipe that a model was trained by, or its authors' file is of."""
    if config.recipe:
        return RECIPES.get(config.recipe.get("name", ""))
    return next((row for row in RECIPES.values() if kind_of(row) == _kind(config)), None)


def _kind(config: ModelConfig) -> tuple[str, str, str]:
    return config.method, config.vocabulary.name, config.setting


def _source(config: ModelConfig) -> str:
    """Return the data set of the training."""
    if config.recipe:
        return str(config.recipe["data"]["name"])
    names = {vocabulary: name for name, vocabulary in VOCABULARY_OF.items()}
    return names.get(config.vocabulary.name, "") if config.setting else ""


def _dataset(name: str) -> str:
    return _DATASETS.get(name, PurePath(name).stem)


def _origin(config: ModelConfig, row: Recipe | None) -> str:
    if config.recipe:
        how = f"`unseen train {config.recipe['name']}`, seed {config.recipe['seed']}"
        _, doubt = (
            expectation(row, config.recipe, _kind(config))
            if row
            else (None, "of a recipe of its own")
        )
        return f"{how}; {doubt}" if doubt else how
    if row and row.name in PUBLISHED:
        return f"`unseen convert`, from a checkpoint of {_REPOSITORIES[config.method]}"
    return "not told"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in options.items()) or "as it is"


def _scores(
    config: ModelConfig, row: Recipe | None, scores: Mapping[str, float], scored_on: str
) -> list[str]:
    """Return what was measured of this model, and what is expected of such a one."""
    parts = []
    if scores:
        table = markdown([*scores], [[show(value) for value in scores.values()]])
        parts += [f"Measured of this model on {scored_on}, in percent:", table]
    else:
        parts.append("This model was not scored where it was pushed from.")
    promised = expectation(row, config.recipe, _kind(config))[0] if row else None
    if promised:
        table = markdown(["pAcc", "mIoU(S)", "mIoU(U)", "hIoU"], [cells(promised)])
        note = f" ({promised.note})" if promised.note else ""
        parts += [f"Expected of such a model, not measured of this one{note}:", table]
    return parts


def _index(name: str, data: str, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return scores as the hub lists them."""
    kinds = {"pAcc": "accuracy", "mAcc": "mean_accuracy"}
    return {
        "name": name,
        "results": [
            {
                "task": {"type": "image-segmentation"},
                "dataset": {"name": data, "type": data},
                "metrics": [
                    {"name": key, "type": kinds.get(key, "mean_iou"), "value": value}
                    for key, value in scores.items()
                ],
            }
        ],
    }


def _licence(config: ModelConfig, given: str) -> tuple[dict[str, str], str]:
    """Return the licence for the hub, and in words what holds for the weights and CLIP's."""
    known = {
        OPENAI_CLIP: "CLIP's weights are OpenAI's, MIT.",
        SHIPPED_CLIP: "Its CLIP ships with unseen, MIT.",
    }
    clip = known.get(config.clip, f"Its CLIP, {_place(config.clip)}, has terms of its own.")
    if not config.recipe and config.method in _AUTHORS:
        if given:
            raise InputError(
                f"these weights were converted: whether {given!r} is their licence is for those "
                "who trained them to say; a README.md of your own in the folder can say more"
            )
        front, words = _AUTHORS[config.method]
        where = f"[{TITLES[config.method]}]({_REPOSITORIES[config.method]})"
        return front, f"Converted from a checkpoint of the authors' code, {where}. {words} {clip}"
    if given:
        return {"license": given}, f"{given}. {clip}"
    if not config.setting:
        return {"license": "mit" if config.clip in known else "unknown"}, clip
    return {"license": "unknown"}, f"Who trained it has not said. {clip}"


def _papers(config: ModelConfig) -> list[str]:
    """Return the papers a model is of, in BibTeX."""
    papers = (files("unseen") / "citations.bib").read_text(encoding="utf-8").strip().split("\n\n")
    methods = [config.method, config.options.get("over", "zegclip")]
    wanted = [_PAPERS.get(one) for one in methods[: 1 + (config.method == "cascade")]]
    wanted.append("radford2021clip")
    return [one for one in papers if one.partition("{")[2].partition(",")[0] in wanted]
