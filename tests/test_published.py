"""The authors' checkpoints: key tables, recognition, conversion."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unseen.checkpoints import load_pretrained
from unseen.clip import CLIP
from unseen.clip.archives import read_archive
from unseen.clip.model import TEXT_B, VIT_B_16
from unseen.conversion import Converted, compare_keys, convert, read_sizes, recognise, to_published
from unseen.errors import InputError
from unseen.methods import METHODS
from unseen.published import (
    LOSS_BUFFER,
    PUBLISHED,
    Sizes,
    cascade_keys,
    cliprc_keys,
    is_trained,
    published_shapes,
    translate,
    zegclip_keys,
)
from unseen.recipes import RECIPES
from unseen.vocabulary import COCO171, VOC20

TABLES = {
    "zegclip": zegclip_keys,
    "cascade": lambda layers: cascade_keys(layers, decoders=2),
    "cliprc": cliprc_keys,
}
OPTIONS: dict[str, dict[str, object]] = {
    "zegclip": {},
    "cascade": {"groups": [[1, 2], [3]]},
    "cliprc": {"regions": 4},
}
DEAD = {
    "zegclip": ["decode_head.decoder_1.layers.{}."],
    "cascade": [f"decode_head.cascade_decoders.{i}.layers.{{}}." for i in range(2)],
    "cliprc": [f"decode_head.decoder_{part}.layers.{{}}." for part in "qv"],
}


def authors_state(clip: CLIP, method: str = "zegclip", layers: int = 3) -> dict[str, torch.Tensor]:
    """Name a model's weights as the authors do, dead weights included."""
    options = {"prompts": 2, "depth": 1, "layers": layers, "heads": 4, **OPTIONS[method]}
    model = METHODS[method](clip.image, **options)
    state = to_published(Converted(model, clip.text, method, options))
    dim = clip.image.config.embed_dim
    for start in DEAD[method]:
        for i in range(layers):
            state[f"{start.format(i)}self_attn.in_proj_weight"] = torch.zeros(3 * dim, dim)
            state[f"{start.format(i)}norm1.weight"] = torch.zeros(dim)
        if method != "cliprc":
            last = start.format(layers - 1)
            state[f"{last}multihead_attn.v.weight"] = torch.zeros(dim, dim)
            state[f"{last}linear1.weight"] = torch.zeros(4 * dim, dim)
    if method != "cliprc":
        state[LOSS_BUFFER] = torch.ones(16)
    return state


@pytest.mark.parametrize("method", TABLES)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_conversion_is_a_table_that_reads_both_ways(micro_clip: CLIP, method, layers):
    state = authors_state(micro_clip, method, layers)
    model, text, found, options = converted = convert(state, heads=2, text_heads=1, decoder_heads=4)
    back = to_published(converted)
    assert all(torch.equal(value, state[key]) for key, value in back.items())
    assert sorted(state.keys() - back.keys()) == sorted(
        key for key in state if translate(key, TABLES[method](layers)) is None
    )
    assert found == method
    assert options == {
        "prompts": 2, "depth": 1, "layers": layers, "heads": 4, **OPTIONS[method]
    }  # fmt: skip
    table = TABLES[method](layers)
    for key, value in state.items():
        ours = translate(key, table)
        if ours and ours.startswith("text."):
            assert torch.equal(text.state_dict()[ours.removeprefix("text.")], value)
        elif ours:
            assert torch.equal(model.state_dict()[ours], value)


def test_head_counts_default_to_the_published_ones(micro_clip: CLIP):
    converted = convert(authors_state(micro_clip))
    assert converted.options["heads"] == 8
    assert converted.model.encoder.clip.config.heads == 1


def test_checkpoints_of_several_processes_lose_their_prefix(micro_clip: CLIP):
    state = {f"module.{key}": value for key, value in authors_state(micro_clip).items()}
    convert(state)


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("zegclip", {"decode_head.surprise": torch.zeros(1)}, "decode_head.surprise"),
        ("zegclip", {"decode_head.q_proj.bias": None}, "lacks decode_head.q_proj.bias"),
        ("zegclip", {"backbone.conv1.weight": None}, "lacks 'backbone.conv1.weight'"),
        ("zegclip", {"backbone.prompt_embeddings": None}, "lacks backbone.prompt_emb"),
        ("zegclip", {"backbone.conv1.weight": torch.zeros(64, 3)}, "number of dimensions"),
        ("zegclip", {"backbone.proj": torch.zeros(64)}, "number of dimensions"),
        ("zegclip", {"backbone.ln_pre.bias": torch.zeros(3)}, r"misshapen: .* is \[3\]"),
        ("zegclip", {"backbone.surprise": torch.zeros(1)}, "unknown backbone.surprise"),
        ("cascade", {"backbone.proj_layers": None}, "lacks backbone.proj_layers"),
        ("cascade", {"decode_head.weights_s1": None}, "no whole checkpoint of Cascade-CLIP"),
        ("cliprc", {"backbone.region_level_bridge": None}, "lacks 'backbone.region_level_bridge'"),
        (
            "cliprc",
            {"decode_head.lateral_proj.weight": None},
            "lacks decode_head.lateral_proj.weight",
        ),
    ],
)
def test_keys_missing_or_too_many_get_one_sentence(micro_clip: CLIP, method, change, says):
    state = authors_state(micro_clip, method)
    for key, value in change.items():
        state.pop(key) if value is None else state.update({key: value})
    with pytest.raises(InputError, match=says):
        convert(state)


def test_what_is_no_checkpoint_of_theirs_is_refused():
    with pytest.raises(InputError, match="no decoder of theirs"):
        convert({"visual.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("method", "buffer", "config", "settings"),
    [
        ("zegclip", 16, "", ("inductive", "transductive")),
        ("zegclip", 16, "model = dict(self_training=False)", ("inductive",)),
        ("zegclip", 21, "", ("transductive", "supervised")),
        ("zegclip", 21, "self_training = True", ("transductive",)),
        ("cascade", 21, "self_training=False", ("supervised",)),
        ("cliprc", None, "", ("inductive", "transductive", "supervised")),
    ],
)
def test_a_checkpoint_tells_what_it_can(micro_clip: CLIP, method, buffer, config, settings):
    state = authors_state(micro_clip, method)
    if buffer:
        state[LOSS_BUFFER] = torch.ones(buffer)
    found = recognise(state, {"CLASSES": VOC20.names, "config": config})
    assert found == (method, VOC20, settings)
    assert recognise(state, {}).vocabulary is None


def test_a_vocabulary_that_the_file_contradicts_is_refused(micro_clip: CLIP):
    state = authors_state(micro_clip)  # its loss counts 15 classes
    assert recognise(state, {}, VOC20) == ("zegclip", VOC20, ("inductive", "transductive"))
    with pytest.raises(InputError, match="loss is of 15 classes, and coco171 has 171, 156"):
        recognise(state, {}, COCO171)
    with pytest.raises(InputError, match="trained on voc20, not on coco171"):
        recognise(state, {"CLASSES": VOC20.names}, COCO171)
    with pytest.raises(InputError, match="trained on 2 classes, a, b, …, not on voc20"):
        recognise(state, {"CLASSES": ("a", "b")}, VOC20)


def test_methods_the_authors_do_not_have_have_no_names_of_theirs(micro_clip: CLIP):
    model = METHODS["frozen"](micro_clip.image, heads=4)
    with pytest.raises(InputError, match="published no frozen"):
        to_published(Converted(model, None, "frozen", {"heads": 4}))


def test_numbers_of_training_hooks_do_not_keep_a_checkpoint_from_being_read(tmp_path):
    meta = {"hook_msgs": {"best_score": np.float64(0.5), "best": np.float32(1), "n": np.int64(3)}}
    torch.save({"meta": meta, "state_dict": {"a": torch.ones(2)}}, tmp_path / "x.pth")
    archive = read_archive(tmp_path / "x.pth")
    assert archive.meta["hook_msgs"]["best_score"] == 0.5
    assert torch.equal(archive.state["a"], torch.ones(2))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_names_say_where_the_file_is_and_how_to_convert_it(name):
    with pytest.raises(InputError, match="download the authors' file.*unseen convert"):
        load_pretrained(name)


GRID_512 = replace(VIT_B_16, image_size=512)
FULL_SIZE = {
    "zegclip": Sizes("zegclip", GRID_512, TEXT_B, loss_classes=15),
    "cascade": Sizes("cascade", GRID_512, TEXT_B, loss_classes=15),
    "cliprc": Sizes("cliprc", GRID_512, TEXT_B),
}


def listed(method: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes, and the tags, that the authors' full-size VOC models have."""
    name = {"cliprc": "clip_rc"}.get(method, method)
    text = (Path(__file__).parent / "goldens" / f"state_keys_{name}_voc.txt").read_text()
    rows = [line.split(None, 2) for line in text.splitlines()]
    return {key: tuple(json.loads(shape)) for _, key, shape in rows}, {key: t for t, key, _ in rows}


@pytest.mark.parametrize("method", FULL_SIZE)
def test_published_shapes_are_the_authors_key_by_key(method):
    shapes, tags = listed(method)
    assert published_shapes(FULL_SIZE[method]) == shapes
    assert {key for key in shapes if is_trained(key)} == {
        k for k, t in tags.items() if t == "train"
    }
    assert [key for key, tag in tags.items() if tag == "buffer"] in ([], [LOSS_BUFFER])


@pytest.mark.parametrize(
    ("method", "trained", "total"),
    [
        ("zegclip", 13_821_184, 164_077_840),
        ("cascade", 40_094_982, 192_720_150),
        ("cliprc", 36_941_568, 187_210_496),
    ],
)
def test_parameter_counts_are_the_authors(method, trained, total):
    """The totals count the 16 numbers of the loss buffer that two of the methods have."""
    shapes = published_shapes(FULL_SIZE[method])
    assert sum(math.prod(s) for key, s in shapes.items() if is_trained(key)) == trained
    assert sum(math.prod(s) for s in shapes.values()) == total


@pytest.mark.parametrize("method", FULL_SIZE)
def test_a_state_of_exactly_the_authors_keys_converts_with_nothing_left_over(method):
    with torch.device("meta"):  # shapes without memory
        state = {key: torch.empty(shape) for key, shape in listed(method)[0].items()}
        sizes = read_sizes(state)
        converted = convert(state)
    assert compare_keys(state, sizes) == ([], [], [], [])
    assert published_shapes(sizes) == published_shapes(FULL_SIZE[method])
    assert sizes.vision == GRID_512 and sizes.text == TEXT_B
    assert converted.method == method and converted.text is not None
    assert converted.options["prompts"] == 10 and converted.options["depth"] == 11


def test_keys_that_differ_are_told_apart(micro_clip: CLIP):
    state = authors_state(micro_clip)
    state["backbone.surprise"] = state.pop("backbone.prompt_norm.bias")
    state["decode_head.q_proj.bias"] = torch.zeros(3)
    report = compare_keys(state, read_sizes(state))
    assert report.missing == ["backbone.prompt_norm.bias"]
    assert report.unknown == ["backbone.surprise"]
    assert report.misshapen == ["decode_head.q_proj.bias is [3], expected [32]"]
    assert "decode_head.decoder_1.layers.0.self_attn.out_proj.bias" in report.unused


def test_every_published_file_has_its_recipe_and_the_other_way_round():
    trained = {name for name, recipe in RECIPES.items() if recipe.clip != "miniature"}
    assert PUBLISHED.keys() == trained


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_expected_scores_are_consistent(recipe):
    said = recipe.expected
    if said and said.hiou is not None:
        assert abs(2 * said.seen * said.unseen / (said.seen + said.unseen) - said.hiou) < 0.11
