"""What a model's card tells, and what it leaves to others; pushing to a hub on this machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fake_hub import serve
from huggingface_hub import ModelCard
from test_cli import Run, assert_one_sentence

from unseen.card import make_card, without_places
from unseen.checkpoints import ModelConfig
from unseen.errors import InputError
from unseen.published import PUBLISHED
from unseen.recipes import OPENAI_CLIP, RECIPES, VOCABULARY_OF, Recipe
from unseen.segmenter import Segmenter
from unseen.shipped import shipped_model
from unseen.vocabulary import find_vocabulary

SHIPPED = "zegclip-miniature-inductive"


def config_of(recipe: Recipe, *, converted: bool) -> ModelConfig:
    """Return what a model of a recipe says of itself."""
    return ModelConfig(
        method=recipe.method,
        options=recipe.options,
        vocabulary=find_vocabulary(VOCABULARY_OF[recipe.data.name]),
        setting=recipe.setting,
        clip=recipe.clip,
        recipe={} if converted else recipe.record(),
    )


@pytest.mark.parametrize("converted", [True, False])
def test_every_recipe_has_a_card_that_the_hub_can_read(converted):
    for name in PUBLISHED if converted else RECIPES:
        row = RECIPES[name]
        config = config_of(row, converted=converted)
        text = make_card(config, name="owner/name")
        facts = ModelCard(text).data.to_dict()
        assert facts["library_name"] == "unseen", name
        assert facts["pipeline_tag"] == "image-segmentation"
        assert {row.method, row.setting} <= {*facts["tags"]}
        assert facts.get("base_model") == (OPENAI_CLIP if row.clip == OPENAI_CLIP else None)
        held_out = config.vocabulary.unseen if row.setting != "supervised" else ()
        assert f"| {', '.join(held_out) or 'none'} " in text
        assert ("Expected of such a model" in text) == (row.expected is not None)
        assert ("converted from a checkpoint" in text.lower()) == converted
        compile(text.partition("```python\n")[2].partition("```")[0], name, "exec")
        assert "radford2021clip" in text


@pytest.mark.parametrize(
    ("name", "licence", "says"),
    [
        ("zegclip-coco-inductive", "mit", "That repository is under the MIT licence."),
        (
            "cascade-coco-inductive",
            "other",
            "each other: LICENSE is MIT, the README says CC",
        ),
        ("cliprc-coco-inductive", "unknown", "states no licence, and without one no right"),
    ],
)
def test_the_licence_of_converted_weights_is_what_their_authors_say(name, licence, says):
    config = config_of(RECIPES[name], converted=True)
    text = make_card(config, name="owner/name")
    assert ModelCard(text).data.license == licence and says in text
    assert "CLIP's weights are OpenAI's, MIT." in text
    with pytest.raises(InputError, match="for those who trained them to say"):
        make_card(config, name="owner/name", licence="mit")


def test_the_licence_of_ones_own_is_ones_own_to_say():
    config = config_of(RECIPES["cascade-voc-inductive"], converted=False)
    text = make_card(config, name="owner/name")
    assert "license: unknown" in text and "Who trained it has not said." in text
    text = make_card(config, name="owner/name", licence="apache-2.0")
    assert ModelCard(text).data.license == "apache-2.0" and "contradict" not in text
    assert "li2024cascadeclip" in text and "zhou2023zegclip" in text
    own = make_card(replace(config, clip="/home/me/clip.pt"), name="owner/name", licence="mit")
    assert "Its CLIP, clip.pt, has terms of its own." in own and "/home" not in own


def test_scores_are_measured_or_said_to_be_expected():
    config = config_of(RECIPES["zegclip-voc-inductive"], converted=False)
    measured = {"data": {"name": "voc"}, "scores": {"pAcc": 94.0, "hIoU": 83.25, "mIoU(U)": None}}
    text = make_card(config, name="owner/name", measured=measured)
    assert "Measured of this model on pascal-voc-2012, in percent:" in text
    (result,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    assert result["dataset"]["name"] == "pascal-voc-2012"
    assert {m["name"]: m["value"] for m in result["metrics"]} == {"pAcc": 94.0, "hIoU": 83.25}
    (read,) = ModelCard(text).data.eval_results[:1]
    assert read.metric_value == 94.0
    shorter = replace(config, recipe={**config.recipe, "steps": 3})
    text = make_card(shorter, name="owner/name")
    assert "was not scored" in text and "Expected" not in text
    assert "the model was trained with other steps" in text


def test_what_was_not_trained_has_neither_split_nor_scores(segmenter):
    config = Segmenter.from_clip("miniature", device="cpu").config
    text = make_card(config, name="owner/name")
    assert ModelCard(text).data.license == "mit"
    assert "training-free: nothing was trained" in text
    assert "held out" not in text and "## Scores" not in text


def test_folders_of_this_machine_are_told_to_nobody():
    recipe = RECIPES["zegclip-voc-inductive"].record() | {
        "clip": "/home/me/ViT-B-16.pt",
        "data": {"name": "/home/me/farm.yaml", "root": "/home/me/farm"},
    }
    config = config_of(RECIPES["zegclip-voc-inductive"], converted=False)
    config = replace(
        config,
        clip="/home/me/ViT-B-16.pt",
        recipe=recipe,
        start="/home/me/runs/first/halfway",
        shown_before=("Sofa", "cat"),
    )
    assert "/home" not in repr(without_places(config))
    assert "/home" not in make_card(config, name="owner/name")
    assert without_places(config).start == "first/halfway"
    assert "the model it started from was shown sofa" in make_card(config, name="owner/name")
    assert without_places(config).recipe["data"] == {"name": "farm.yaml", "root": None}


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Return the command line, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: Run(capsys, monkeypatch, *arguments)


def test_a_card_is_printed_and_a_persons_own_stays(run, segmenter, tmp_path):
    run_ = run("card", SHIPPED, "--name", "me/drawings", "--license", "mit")
    assert run_.code == 0 and 'from_pretrained("me/drawings")' in run_.out
    assert json.loads(run("card", SHIPPED, "--json").out)["card"].startswith("---\n")
    folder = tmp_path / "mine"
    segmenter.save_pretrained(folder)
    (folder / "scores.json").write_text('{"data": {"name": "miniature"}, "scores": {"hIoU": 1.5}}')
    assert "\n| 1.5  |\n" in run("card", "mine").out
    (folder / "README.md").write_text(run("card", "mine").out)  # ours: written anew
    (folder / "scores.json").unlink()
    assert "| 1.5" not in run("card", "mine").out
    (folder / "README.md").write_text("# My own words")
    assert run("card", "mine").out == "# My own words\n"
    (folder / "scores.json").write_text("{}")
    assert_one_sentence(run("card", "mine"), "scores.json is broken")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("card nowhere", "no model 'nowhere'"),
        ("card zegclip-miniature-inductiv", "did you mean 'zegclip-miniature-inductive'"),
        (f"push {SHIPPED} mine", "is called owner/name, got 'mine'"),
        (f"push {SHIPPED} owner/name", "cannot be pushed: the hub cannot be reached"),
    ],
)
def test_what_cannot_be_pushed_gets_one_sentence(run, words, says):
    told = run(*words.split())
    assert_one_sentence(told, says)
    assert told.code == 2


def test_an_adapter_is_pushed_only_if_others_can_get_its_clip(segmenter):
    mine = Segmenter(
        segmenter.backend, segmenter.text, replace(segmenter.config, clip="/home/me/clip")
    )
    with pytest.raises(InputError, match="others cannot get the CLIP '/home/me/clip'"):
        mine.push_to_hub("owner/name", adapter_only=True)


def test_what_is_pushed_to_a_hub_is_loaded_from_it(tmp_path):
    """huggingface_hub itself speaks with a server on this machine, in a process of its own."""
    code = (
        "import sys\n"
        "from unseen.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "from unseen import Segmenter\n"
        "print(Segmenter.from_pretrained('owner/name', device='cpu').config.method)\n"
    )
    words = [sys.executable, "-c", code, "push", SHIPPED, "owner/name", "--adapter-only"]
    with serve() as hub:
        hub.files["README.md"] = b"# A person wrote this"
        place = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x"}
        place |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [*words, "--private"], env=os.environ | place, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"{hub.address}/owner/name holds the model")
    assert done.stdout.splitlines()[1] == "zegclip"
    assert "README.md of owner/name is a person's own and stays" in done.stderr
    assert hub.files.pop("README.md") == b"# A person wrote this"
    assert {*hub.files} == {"config.json", "model.safetensors"}
    shipped = json.loads((shipped_model(SHIPPED) / "config.json").read_text())
    pushed = json.loads(hub.files["config.json"])
    assert pushed["recipe"] == shipped["recipe"] and pushed["adapter_only"]
    assert "private" in str(hub.made)


def test_citations_are_those_of_the_documents():
    root = Path(__file__).parent.parent
    papers = (root / "src" / "unseen" / "citations.bib").read_text(encoding="utf-8")
    assert papers in (root / "docs" / "citing.md").read_text(encoding="utf-8")
