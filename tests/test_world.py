from dataclasses import replace

import numpy as np
import pytest

from unseen.catalogue import open_dataset
from unseen.clip import WordTokenizer, load_clip
from unseen.data.datasets import Subset
from unseen.errors import InputError
from unseen.miniature.pretrain import NOTE, zero_shot
from unseen.miniature.scenes import SPLITS, Scenes
from unseen.miniature.world import MICRO, SYNONYMS, TEXTURES, World, caption_words
from unseen.shipped import shipped_clip
from unseen.vocabulary import IGNORE, MINIATURE, Vocabulary


def test_a_seed_is_always_the_same_scene_and_seeds_differ():
    world, again = World(size=(32, 48)), World(size=(32, 48))
    first, second = world.scene(3, 7), again.scene(3, 7)
    assert (first.image == second.image).all() and (first.mask == second.mask).all()
    assert first.caption == second.caption
    assert (world.scene(3, 8).image != first.image).any()


def test_scenes_hold_labels_of_their_vocabulary_and_ignore():
    labels = set()
    for i in range(60):
        scene = World(MICRO, (40, 56)).scene(0, i)
        assert scene.image.shape == (40, 56, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == (40, 56)
        labels |= set(np.unique(scene.mask).tolist())
    assert labels <= {*range(len(MICRO)), IGNORE}
    assert IGNORE in labels and len(labels) > 10


def test_every_name_is_drawn_sooner_or_later():
    world = World(size=(48, 48), things=(3, 3))
    drawn = set()
    for i in range(150):
        drawn |= set(np.unique(world.scene(5, i).mask).tolist())
    assert drawn >= set(range(len(MINIATURE)))


def test_captions_name_only_what_is_in_the_scene():
    world = World(size=(64, 64))
    for i in range(80):
        scene = world.scene(1, i)
        for name in MINIATURE.names:
            words = (name, *SYNONYMS.get(name, ()))
            told = any(f" {word} " in f" {scene.caption.rstrip('.')} " for word in words)
            if told and name not in ("sea",):  # "water" and "sea" share no picture with others
                assert (scene.mask == MINIATURE.names.index(name)).any() or (
                    scene.mask == IGNORE
                ).any()


def test_every_caption_is_made_of_known_words():
    tokenizer = WordTokenizer(caption_words(), 32, note=NOTE)
    world = World(size=(32, 32))
    captions = [world.scene(2, i).caption for i in range(200)]
    assert tokenizer(captions).shape == (200, 32)
    assert len(set(captions)) > 150


@pytest.mark.parametrize("name", TEXTURES)
@pytest.mark.parametrize("size", [(16, 16), (5, 90), (300, 256)])
def test_textures_fill_any_size(name, size):
    image = TEXTURES[name](np.random.default_rng(0), *size)
    assert image.shape == (*size, 3)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()


def test_a_world_says_which_names_it_lacks():
    names = ("cat", "grass", "sea", "sky", "clouds")
    for stuff in ((), ("grass",), ("sky", "clouds")):
        with pytest.raises(InputError, match="two kinds of stuff"):
            World(Vocabulary("small", names, stuff=stuff))
    with pytest.raises(InputError, match="no texture of 'cat'"):
        World(Vocabulary("small", names, stuff=("cat", "grass")))
    bare = Vocabulary("bare", names[1:], stuff=names[1:])
    with pytest.raises(InputError, match=r"needs things=\(0, 0\)"):
        World(bare)
    assert (World(bare, (24, 24), things=(0, 0)).scene(0).mask != IGNORE).any()


def test_names_are_scored_wherever_they_stand_and_by_as_many_scenes_as_asked():
    clip = load_clip(shipped_clip())
    whole = zero_shot(clip, num_scenes=70)
    assert 0.5 < whole["top1"] <= 1
    swapped = replace(MINIATURE, names=MINIATURE.stuff + MINIATURE.things)
    assert zero_shot(clip, swapped, num_scenes=70) == whole


def test_splits_share_no_scene():
    pictures = {name: Scenes(name, size=24)[0].image for name in SPLITS}
    assert len({image.tobytes() for image in pictures.values()}) == len(SPLITS)


def test_scenes_are_a_data_set():
    scenes = Scenes("val", size=32, count=3)
    assert [sample.name for sample in scenes] == ["val-00000", "val-00001", "val-00002"]
    assert len(Subset(scenes, 2)) == 2 and len(Subset(scenes, 9)) == 3
    with pytest.raises(InputError, match="train, val, test"):
        Scenes("tset")


def test_data_sets_are_opened_by_name(tmp_path):
    assert open_dataset("miniature").vocabulary is MINIATURE
    assert open_dataset("micro", "val").vocabulary is MICRO
    with pytest.raises(InputError, match="known: miniature"):
        open_dataset("ade20k")
    with pytest.raises(InputError, match="--root"):
        open_dataset("voc")
