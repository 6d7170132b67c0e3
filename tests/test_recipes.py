"""Rows of published trainings, and changes to them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from unseen.errors import InputError
from unseen.metrics import harmonic_mean
from unseen.recipes import (
    EVALUATIONS,
    RECIPES,
    Expected,
    Recipe,
    Source,
    describe,
    differing,
    find_recipe,
    find_row,
    override,
    read_assignments,
    read_overrides,
    to_yaml,
)

ROOT = Path(__file__).parent.parent
ZEGCLIP = RECIPES["zegclip-voc-inductive"]


def test_recipes_are_named_as_the_models_they_make():
    for name, recipe in RECIPES.items():
        data = recipe.data.name.removesuffix("-released")
        assert name == recipe.name == f"{recipe.method}-{data}-{recipe.setting}"
    assert not set(RECIPES) & set(EVALUATIONS)


def test_what_a_recipe_starts_from_is_an_inductive_recipe_of_the_same_sizes():
    for recipe in RECIPES.values():
        assert bool(recipe.starts_from) == (recipe.setting == "transductive")
        if recipe.starts_from:
            start = RECIPES[recipe.starts_from]
            assert start.setting == "inductive" and 2 * recipe.steps == start.steps
            assert (start.method, start.options) == (recipe.method, recipe.options)
            assert (start.data, start.clip) == (recipe.data, recipe.clip)


def test_every_published_recipe_promises_scores_that_fit_together():
    for recipe in RECIPES.values():
        expected = recipe.expected
        if recipe.clip != "miniature":
            assert expected is not None and expected.note
        if expected is not None:
            assert expected.hiou == pytest.approx(
                harmonic_mean(expected.seen, expected.unseen), abs=0.11
            )
    for row in EVALUATIONS.values():
        assert row.expected.miou and row.expected.note and row.model in RECIPES


def test_context_rows_say_that_their_split_is_uncertain():
    rows = [recipe for recipe in RECIPES.values() if "context" in recipe.name]
    assert len(rows) == 2
    for recipe in rows:
        assert recipe.data.name == "context-released" and "uncertain" in recipe.expected.note


def test_the_shipped_models_promise_is_what_was_measured():
    name = "zegclip-miniature-inductive"
    stored = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())["scores"][name]
    expected = RECIPES[name].expected
    for ours, theirs in (
        (expected.pacc, "pAcc"),
        (expected.seen, "mIoU(S)"),
        (expected.unseen, "mIoU(U)"),
        (expected.hiou, "hIoU"),
        (expected.miou, "mIoU"),
    ):
        assert ours == round(stored[theirs], 1)


def test_what_is_saved_with_a_model_is_json_and_leaves_the_promise_out():
    for recipe in RECIPES.values():
        record = recipe.record()
        assert json.loads(json.dumps(record)) == record and "expected" not in record
        rest = {key: value for key, value in record.items() if key != "data"}
        again = Recipe(**rest, data=Source(**record["data"]), expected=recipe.expected)
        assert again == recipe


def test_a_row_in_full_names_its_classes_and_reads_back():
    facts = yaml.safe_load(to_yaml(describe(RECIPES["cascade-context-inductive"])))
    assert facts["data"] == {"name": "context-released", "root": None}
    assert set(facts["unseen"]) == set(
        "aeroplane bed bedclothes boat bottle car cloth cow keyboard plate".split()
    )
    assert len(facts["seen"]) == 49 and facts["expected"]["unseen_spread"] == 1.0
    cross = describe(EVALUATIONS["zegclip-coco-to-voc"])
    assert cross["unseen"] == [] and len(cross["seen"]) == 20
    assert cross["templates"] == ["a photo of a {}"]


def test_dotted_keys_change_nested_fields():
    words = ["steps=10", "data.root=/voc/2012", "options.prompts=20", "learning_rate=2e-4"]
    changed = override(ZEGCLIP, read_assignments(words))
    assert changed == replace(
        ZEGCLIP,
        steps=10,
        data=Source("voc", "/voc/2012"),
        options={"prompts": 20},
        expected=None,
    )
    assert ZEGCLIP.options == {"prompts": 10}
    assert override(ZEGCLIP, read_assignments(["data=coco"])).data == Source("coco")
    assert override(ZEGCLIP, read_assignments(["data.root=2012"])).data.root == "2012"
    groups = override(ZEGCLIP, read_assignments(["options.groups=[[1, 2], [3]]"])).options["groups"]
    assert groups == [[1, 2], [3]]


def test_options_can_be_taken_out_and_another_method_starts_without():
    assert override(ZEGCLIP, read_assignments(["options.prompts=null"])).options == {}
    words = ["method=frozen", "options.heads=2"]
    for order in (words, words[::-1]):
        assert override(ZEGCLIP, read_assignments(order)).options == {"heads": 2}
    assert override(ZEGCLIP, {"method": "zegclip"}) == ZEGCLIP


def test_a_record_is_compared_with_its_row():
    record = json.loads(json.dumps(override(ZEGCLIP, {"seed": 4, "data.root": "/voc"}).record()))
    assert differing(ZEGCLIP, record) == []
    record |= {"steps": 5, "options": {"prompts": 10, "heads": 4}, "stopped_at": 3}
    assert differing(ZEGCLIP, record) == ["steps", "options.heads", "stopped_at"]


def test_later_changes_win_over_earlier_ones(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\nseed: 3\ndata:\n  root: /voc\noptions: {prompts: 5}\n")
    named = read_assignments(["steps=8", "options.heads=4"])
    changed = override(ZEGCLIP, read_overrides(file) | named)
    assert (changed.steps, changed.seed, changed.data.root) == (8, 3, "/voc")
    assert changed.options == {"prompts": 5, "heads": 4}
    file.write_text("options.prompts: 6\ndata: micro\n")
    changed = override(ZEGCLIP, read_overrides(file))
    assert (changed.options["prompts"], changed.data.name) == (6, "micro")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("stesp=3", "did you mean 'steps"),
        ("data.rot=x", "did you mean 'data.root"),
        ("option.prompts=3", "did you mean 'options.prompts"),
        ("expected=3", "no 'expected'"),
        ("steps=many", "steps must be a whole number, got 'many'"),
        ("steps=1.5", "whole number"),
        ("seed=true", "whole number"),
        ("steps=0", "steps must be at least 1"),
        ("stride=600", "stride must be at most the window of 512"),
        ("seed=-1", "seed must be at least 0"),
        ("learning_rate=fast", "must be a number"),
        ("learning_rate=.nan", "at least 0"),
        ("steps", "expected KEY=VALUE"),
        ("steps=[", "not YAML"),
    ],
)
def test_bad_changes_get_one_sentence(word, says):
    with pytest.raises(InputError, match=says):
        override(ZEGCLIP, read_assignments([word]))


@pytest.mark.parametrize(
    ("text", "says"),
    [("- 1", "must hold a mapping"), ("steps: [", "not YAML"), ("data: {rot: 1}", "data.root")],
)
def test_bad_files_of_changes_get_one_sentence(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        override(ZEGCLIP, read_overrides(tmp_path / "a.yaml"))
    with pytest.raises(InputError, match="no readable YAML file"):
        read_overrides(tmp_path / "b.yaml")


def test_a_promise_holds_only_for_the_row_it_was_given_for():
    assert override(ZEGCLIP, {"seed": 4, "data.root": "/voc"}).expected == ZEGCLIP.expected
    assert override(ZEGCLIP, {"steps": 20000}).expected == ZEGCLIP.expected
    assert override(ZEGCLIP, {"steps": 10}).expected is None
    plain = override(RECIPES["zegclip-voc-transductive"], {"setting": "self-training"})
    assert plain.expected == Expected(95.1, 91.8, 82.2, 86.7, note=plain.expected.note)
    plain = override(
        RECIPES["zegclip-coco-transductive"], {"setting": "self-training", "data.root": "/coco"}
    )
    assert (plain.expected.seen, plain.expected.unseen) == (40.6, 54.8)


def test_unknown_recipes_and_evaluations_say_what_to_do():
    with pytest.raises(InputError, match="did you mean 'zegclip-miniature-inductive"):
        find_recipe("zegclip-miniature-inductve")
    with pytest.raises(InputError, match="unseen evaluate MODEL --recipe zegclip-coco-to-voc"):
        find_recipe("zegclip-coco-to-voc")
    assert find_row("zegclip-coco-to-voc") is EVALUATIONS["zegclip-coco-to-voc"]
