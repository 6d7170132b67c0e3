"""Every row is run: two steps and one evaluation, everything of the row but its sizes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import WRITERS

from unseen.building import build, open_source
from unseen.catalogue import open_dataset
from unseen.checkpoints import ModelConfig
from unseen.clip import CLIP, ImageEncoder, TextConfig, TextEncoder, VisionConfig, WordTokenizer
from unseen.clip.weights import save_clip
from unseen.data.batches import Crops, Order, load
from unseen.data.datasets import Subset
from unseen.errors import InputError
from unseen.evaluation import default_source, evaluate
from unseen.methods import METHODS
from unseen.recipes import EVALUATIONS, RECIPES, VOCABULARY_OF, Recipe, Source
from unseen.segmenter import Segmenter
from unseen.settings import find_setting
from unseen.training import fit
from unseen.vocabulary import MULTI_TEMPLATES, SINGLE_TEMPLATE, find_vocabulary

WINDOW = 32
"""Side of crops and windows; of patches of 8, so that 4×4 regions have a patch each."""


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Return untrained CLIPs by their number of layers; they know the words of all recipes."""
    torch.manual_seed(0)
    names = [name for known in VOCABULARY_OF.values() for name in find_vocabulary(known).names]
    sentences = " ".join([*SINGLE_TEMPLATE, *MULTI_TEMPLATES, *names]).lower()
    tokenizer = WordTokenizer(sorted(set(WordTokenizer._split(sentences))), context_length=32)
    text = TextConfig(tokenizer.vocab_size, 32, width=16, layers=1, heads=1, embed_dim=16)
    folders = {}
    for layers in (6, 12):
        vision = VisionConfig(
            image_size=WINDOW, patch_size=8, width=32, layers=layers, heads=2, embed_dim=16
        )
        folders[layers] = str(tmp_path_factory.mktemp(f"clip{layers}"))
        save_clip(CLIP(ImageEncoder(vision), TextEncoder(text, tokenizer)), Path(folders[layers]))
    return folders


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return a made-up folder of each data set on disk."""
    return {name: str(write(tmp_path_factory.mktemp(name))) for name, write in WRITERS.items()}


def shrink(recipe: Recipe, clips: dict[int, str], roots: dict[str, str]) -> Recipe:
    """Return a row with nothing but its sizes changed."""
    return replace(
        recipe,
        steps=2,
        batch_size=2,
        clip=clips[6 if recipe.clip == "miniature" else 12],
        data=Source(recipe.data.name, roots.get(recipe.data.name)),
        short_side=WINDOW,
        window=WINDOW,
        stride=WINDOW - 5,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_two_steps_and_is_evaluated(
    name: str, clips: dict[int, str], roots: dict[str, str], tmp_path: Path
):
    recipe = shrink(RECIPES[name], clips, roots)
    start = None
    if recipe.starts_from:
        first = replace(shrink(RECIPES[recipe.starts_from], clips, roots), steps=1)
        fit(first, out=tmp_path / "first", device="cpu")
        start = tmp_path / "first" / "halfway"
    segmenter = fit(recipe, out=tmp_path / "run", start=start, device="cpu")
    assert segmenter.config.calibration == find_setting(recipe.setting).calibration
    assert default_source(segmenter.config) == recipe.data
    dataset = open_dataset(recipe.data.name, root=recipe.data.root)
    scores = evaluate(segmenter, Subset(dataset, 1))
    assert scores.vocabulary.name == VOCABULARY_OF[recipe.data.name]
    assert scores.matrix.sum() > 0 and np.isfinite(scores.pixel_accuracy)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_evaluation_on_other_data_runs(
    name: str, clips: dict[int, str], roots: dict[str, str], tmp_path: Path
):
    row = EVALUATIONS[name]
    recipe = replace(shrink(RECIPES[row.model], clips, roots), steps=1)
    fit(recipe, out=tmp_path / "run", device="cpu")
    segmenter = Segmenter.from_pretrained(tmp_path / "run", device="cpu")
    dataset = open_dataset(row.data.name, root=roots[row.data.name])
    scores = evaluate(segmenter, dataset, calibration=row.calibration)
    assert scores.matrix.sum() > 0 and np.isfinite(scores.mean(scores.iou))


@pytest.mark.parametrize("setting", ["self-training", "transductive"])
def test_a_model_that_labels_for_itself_starts_from_another(
    setting: str, clips: dict[int, str], roots: dict[str, str], tmp_path: Path
):
    row = shrink(RECIPES["zegclip-voc-transductive"], clips, roots)
    recipe = replace(row, setting=setting)
    with pytest.raises(InputError, match="--from, such as runs/zegclip-voc-inductive/halfway"):
        fit(recipe, out=tmp_path / "run", device="cpu")
    first = replace(shrink(RECIPES["zegclip-voc-inductive"], clips, roots), steps=1)
    fit(first, out=tmp_path / "first", device="cpu")
    segmenter = fit(recipe, out=tmp_path / "run", start=tmp_path / "first", device="cpu")
    assert segmenter.config.setting == setting and segmenter.config.calibration == 0
    assert segmenter.config.taught == segmenter.config.vocabulary.seen


def test_every_recipes_method_is_built():
    assert {recipe.method for recipe in RECIPES.values()} <= set(METHODS)


def test_a_data_set_on_disk_asks_for_its_folder():
    with pytest.raises(InputError, match="data.root=FOLDER"):
        open_source(RECIPES["zegclip-voc-inductive"])


def test_photographic_batches_are_whole_windows_that_the_seed_decides(
    clips: dict[int, str], roots: dict[str, str]
):
    recipe = shrink(RECIPES["zegclip-voc-inductive"], clips, roots)

    def first(seed: int) -> torch.Tensor:
        dataset = open_source(recipe)
        crops = Crops(dataset, recipe.augmentation, recipe.short_side, recipe.window, seed)
        return next(load(crops, Order(len(dataset), recipe.batch_size, seed))).images

    assert first(0).shape == (2, 3, WINDOW, WINDOW) and first(0).dtype == torch.float32
    assert torch.equal(first(3), first(3)) and not torch.equal(first(3), first(4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "zegclipp"}, "no method is called 'zegclipp'"),
        ({"setting": "semi"}, "no setting is called 'semi'"),
        ({"augmentation": "mixup"}, "known: photographic, crop"),
        ({"options": {"prompt": 3}}, "did you mean 'prompts"),
        ({"options": {"prompts": "ten"}}, "options.prompts must be a whole number"),
        ({"data": Source("vocc")}, "no data set is called 'vocc'"),
    ],
)
def test_recipes_that_cannot_be_followed_get_one_sentence(
    change: dict[str, object], says: str, tmp_path: Path
):
    recipe = replace(RECIPES["zegclip-miniature-inductive"], steps=1, **change)
    with pytest.raises(InputError, match=says):
        fit(recipe, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_converted_model_is_scored_on_the_data_of_its_vocabulary():
    config = ModelConfig("zegclip", {}, find_vocabulary("coco171"), "inductive")
    assert default_source(config) == Source("coco")
    assert default_source(replace(config, setting="")) == Source("miniature")
    stranger = replace(config, vocabulary=replace(config.vocabulary, name="mine"))
    assert default_source(stranger) == Source("miniature")


@pytest.mark.parametrize(
    ("options", "says"), [({"heads": 3}, "must divide"), ({"heads": 0}, "from 1, got 0")]
)
def test_options_that_fit_no_model_get_one_sentence(
    options: dict[str, int], says: str, clips: dict[int, str]
):
    recipe = replace(RECIPES["zegclip-voc-inductive"], clip=clips[12], options=options)
    with pytest.raises(InputError, match=says):
        build(recipe, None)
