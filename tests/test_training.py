import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import MICRO_PRETRAINING

from unseen import training_folder
from unseen.building import open_source
from unseen.catalogue import DATASETS, open_dataset
from unseen.checkpoints import load_pretrained
from unseen.confidence import Confidence
from unseen.data.datasets import Sample, Subset
from unseen.errors import InputError, MissingExtra
from unseen.evaluation import (
    Judged,
    calibration_curve,
    default_calibration,
    evaluate,
    make_baselines,
)
from unseen.learning import Engine
from unseen.miniature.pretrain import Muon, drop_patches, pretrain, rate
from unseen.miniature.scenes import Scenes
from unseen.miniature.world import MICRO
from unseen.recipes import RECIPES, Recipe, find_recipe
from unseen.segmenter import Segmenter
from unseen.training import fit
from unseen.vocabulary import MINIATURE, Vocabulary


def test_a_training_leaves_a_model_a_half_trained_one_and_a_log(micro_recipe: Recipe, tmp_path):
    out = tmp_path / "run"
    segmenter = fit(micro_recipe, out=out, device="cpu")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 6]
    assert all({"rate", "focal", "dice"} <= line.keys() for line in lines)
    model, _, config = load_pretrained(out)
    assert config.setting == "inductive" and config.calibration == 0.1
    assert config.recipe["name"] == "micro"
    for key, value in segmenter.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    _, _, half = load_pretrained(out / "halfway")
    assert half.recipe["stopped_at"] == 3


def test_gradients_are_held_at_the_norm_of_the_recipe(micro_recipe: Recipe, tmp_path):
    norms = {}
    for bound in (0.0, 1e-3):
        recipe = replace(micro_recipe, steps=1, clip_norm=bound)
        model = fit(recipe, out=tmp_path / str(bound), device="cpu").model
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms[bound] = float(torch.stack([one.norm() for one in gradients]).norm())
    assert norms[0.0] > 1 and norms[1e-3] == pytest.approx(1e-3, rel=1e-4)


def test_losses_fall(micro_recipe: Recipe, tmp_path):
    recipe = replace(micro_recipe, steps=40, learning_rate=3e-3, batch_size=8)
    fit(recipe, out=tmp_path / "run", device="cpu")
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["focal"] < 0.6 * lines[0]["focal"]


def test_clip_is_not_changed_by_training_and_the_rest_is(micro_recipe: Recipe, tmp_path):
    fit(micro_recipe, out=tmp_path / "run", device="cpu")
    half, _, _ = load_pretrained(tmp_path / "run" / "halfway")
    whole, _, _ = load_pretrained(tmp_path / "run")
    for key, value in half.state_dict().items():
        frozen = key.startswith("encoder.clip.") or key in ("mean", "std")
        assert torch.equal(whole.state_dict()[key], value) == frozen, key


def test_the_same_seed_trains_the_same_model(micro_recipe: Recipe, tmp_path):
    recipe = replace(micro_recipe, steps=3)
    states = [
        fit(replace(recipe, seed=seed), out=tmp_path / name, device="cpu").model.state_dict()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    key = "head.project.weight"
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


def test_transductive_training_goes_on_from_a_model(micro_recipe: Recipe, tmp_path):
    fit(micro_recipe, out=tmp_path / "first", device="cpu")
    recipe = replace(micro_recipe, setting="transductive", steps=2)
    with pytest.raises(InputError, match="give --from"):
        fit(recipe, out=tmp_path / "second", device="cpu")
    assert not (tmp_path / "second").exists()
    fit(recipe, out=tmp_path / "second", start=tmp_path / "first" / "halfway", device="cpu")
    _, _, config = load_pretrained(tmp_path / "second")
    assert (config.setting, config.calibration) == ("transductive", 0.0)


def test_a_start_that_was_shown_what_is_held_out_is_told_and_remembered(
    micro_recipe: Recipe, tmp_path
):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    recipe = replace(micro_recipe, steps=1)
    fit(replace(recipe, setting="supervised"), out=first, device="cpu")
    with pytest.warns(UserWarning, match="was shown masks of train, boat, grass, which this"):
        fit(recipe, out=second, start=first, device="cpu")
    with pytest.warns(UserWarning, match="no zero-shot score"):  # also from what came of it
        fit(recipe, out=third, start=second, device="cpu")
    again = Segmenter(*load_pretrained(third), device="cpu")
    assert again.config.start == str(second)
    assert set(again.config.taught) == set(MICRO.names)
    assert again(np.zeros((48, 48, 3), np.uint8), "boat, lorry").unseen == ("lorry",)
    assert load_pretrained(first)[2].start == ""


def test_what_is_saved_describes_the_model_that_training_went_on_from(
    micro_recipe: Recipe, tmp_path
):
    first = fit(
        replace(micro_recipe, options={"prompts": 3, "heads": 2}, steps=1),
        out=tmp_path / "first",
        device="cpu",
    )
    assert (tmp_path / "first" / "halfway" / "config.json").is_file()
    assert first.config.options == {"prompts": 3, "heads": 2}
    other = replace(micro_recipe, setting="transductive", steps=1, clip="miniature")
    with pytest.raises(InputError, match=r"prompts 3, .* asks for 2: add options.prompts=3"):
        fit(other, out=tmp_path / "second", start=tmp_path / "first", device="cpu")
    other = replace(other, options={"prompts": 3, "heads": 2, "depth": 2})
    trained = fit(other, out=tmp_path / "second", start=tmp_path / "first", device="cpu")
    again, _, config = load_pretrained(tmp_path / "second")
    assert config.options == other.options and config.clip == micro_recipe.clip
    image = torch.rand(1, 3, 48, 48)
    text = trained.embed(MICRO).values
    with torch.inference_mode():
        assert torch.equal(again(image, text).logits, trained.model.eval()(image, text).logits)


def test_a_start_brings_its_own_clip(tmp_path):
    recipe = replace(RECIPES["zegclip-miniature-supervised"], clip="elsewhere")
    with pytest.raises(InputError, match="brings its own CLIP, miniature: leave clip out"):
        fit(recipe, out=tmp_path / "run", start="zegclip-miniature-inductive", device="cpu")


def test_a_vocabulary_must_have_what_a_setting_is_about(
    micro_recipe: Recipe, tmp_path, monkeypatch
):
    def vocabulary(unseen):
        entry = partial(Scenes, vocabulary=replace(MICRO, unseen=unseen), size=48)
        monkeypatch.setitem(DATASETS, "micro", replace(DATASETS["micro"], draw=entry))

    vocabulary(MICRO.names)
    with pytest.raises(InputError, match="every name of micro is unseen"):
        fit(micro_recipe, out=tmp_path / "run", device="cpu")
    vocabulary(())
    for setting in ("transductive", "self-training"):
        with pytest.raises(InputError, match="micro names none: train it inductive or supervised"):
            fit(replace(micro_recipe, setting=setting), out=tmp_path / "run", device="cpu")
    fit(replace(micro_recipe, steps=1), out=tmp_path / "run", device="cpu")


def test_a_window_below_a_patch_is_refused(micro_recipe: Recipe, tmp_path):
    with pytest.raises(InputError, match="at least one patch of 8 pixels"):
        fit(replace(micro_recipe, window=5, stride=5), out=tmp_path / "run", device="cpu")


def test_a_loss_that_is_no_number_ends_the_training(micro_recipe: Recipe, tmp_path):
    with pytest.raises(
        InputError, match="no longer a number at step 2 .*, of the pictures .* none"
    ):
        fit(replace(micro_recipe, learning_rate=1e30), out=tmp_path / "run", device="cpu")
    json.loads((tmp_path / "run" / "log.jsonl").read_text())  # of step 1
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_training_that_cannot_begin_costs_nothing(micro_recipe: Recipe, tmp_path):
    fit(replace(micro_recipe, steps=2), out=tmp_path / "run", device="cpu")
    for changes, start in (
        ({"batch_size": 10**6}, None),
        ({"setting": "transductive"}, tmp_path / "run"),
        ({"setting": "transductive"}, tmp_path / "run" / "halfway"),
    ):
        with pytest.raises(InputError, match="fewer than a batch|to be replaced"):
            other = replace(micro_recipe, **changes)
            fit(other, out=tmp_path / "run", start=start, overwrite=True, device="cpu")
    load_pretrained(tmp_path / "run")


def test_a_training_does_not_go_on_with_other_classes(micro_recipe: Recipe, tmp_path, monkeypatch):
    recipe = replace(micro_recipe, steps=4)
    fit(recipe, out=tmp_path / "done", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(training_folder.TrainingFolder, "save_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # after a state
            fit(recipe, out=tmp_path / "half", engine=Engine(save_every=1), device="cpu")
    other = Subset(open_dataset("micro", "train"), 20)
    other.vocabulary = replace(MICRO, unseen=("bus",))
    monkeypatch.setattr("unseen.training.open_source", lambda _: other)
    for folder in ("done", "half"):
        with pytest.raises(
            InputError, match="with unseen classes .*'grass'.*and this one has .'bus'"
        ):
            fit(recipe, out=tmp_path / folder, resume=True, device="cpu")


def test_pictures_without_a_class_to_learn_are_told_of(micro_recipe, tmp_path, monkeypatch):
    blank = Sample(np.zeros((48, 48, 3), np.uint8), np.full((48, 48), 255, np.uint8), "blank")

    class Blank(list[Sample]):
        vocabulary = MICRO

    monkeypatch.setattr("unseen.training.open_source", lambda _: Blank([blank] * 20))
    with pytest.warns(UserWarning, match="in any picture of the first 2 steps: it learns nothing"):
        fit(replace(micro_recipe, steps=2), out=tmp_path / "run", device="cpu")


def test_a_recipes_data_is_a_source(micro_recipe: Recipe):
    recipe = replace(micro_recipe)
    object.__setattr__(recipe, "data", "farm.yaml")  # as users may, whose types nothing checks
    with pytest.raises(InputError, match=r"data is a Source, such as .*; got 'farm\.yaml'"):
        open_source(recipe)


def test_training_again_asks_first_and_then_removes_what_was_there(
    micro_recipe: Recipe, tmp_path, monkeypatch
):
    fit(replace(micro_recipe, steps=2), out=tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match=r"run/config\.json is of a model: .* or --overwrite"):
        fit(micro_recipe, out=tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="--resume or --overwrite"):
        fit(micro_recipe, out=tmp_path / "run", resume=True, overwrite=True, device="cpu")
    load_pretrained(tmp_path / "run")
    monkeypatch.setattr(training_folder, "save_pretrained", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(micro_recipe, out=tmp_path / "run", overwrite=True, device="cpu")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"log.jsonl", "run.json", "states"}


def test_supervised_training_sees_every_class(micro_recipe: Recipe, tmp_path):
    recipe = replace(micro_recipe, setting="supervised", steps=2)
    assert fit(recipe, out=tmp_path / "run", device="cpu").config.setting == "supervised"


def test_a_missing_extra_says_what_to_install(micro_recipe: Recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(MissingExtra, match=r"pip install 'unseen\[train\]'"):
        fit(micro_recipe, out=tmp_path / "run", device="cpu")


def test_unknown_recipes_name_the_nearest():
    with pytest.raises(InputError, match="did you mean 'zegclip-miniature-inductive"):
        find_recipe("zegclip-miniature-inductve")
    with pytest.raises(InputError, match="mine.yaml describes a data set: .* data=mine.yaml"):
        find_recipe("mine.yaml")


def test_evaluation_counts_every_labelled_pixel_once(micro_recipe: Recipe, tmp_path):
    segmenter = fit(replace(micro_recipe, steps=2), out=tmp_path / "run", device="cpu")
    dataset = Subset(open_dataset("micro"), 4)
    seen: list[Judged] = []
    scores = evaluate(segmenter, dataset, watch=[seen.append])
    labelled = sum(int((dataset[i].labels != 255).sum()) for i in range(4))
    assert scores.matrix.sum() == labelled
    assert [one.sample.name for one in seen] == [dataset[i].name for i in range(4)]
    np.testing.assert_array_equal(sum(one.scores.matrix for one in seen), scores.matrix)
    assert scores.vocabulary is MICRO
    baselines = make_baselines(segmenter)
    assert list(baselines) == ["untrained head", "CLIP alone (MaskCLIP)"]
    for baseline in baselines.values():
        assert evaluate(baseline, dataset).matrix.sum() == labelled
    segmenter.config = replace(segmenter.config, confidence=Confidence(seen=((0.0,), (1.0,))))
    assert all(one.config.confidence is None for one in make_baselines(segmenter).values())


def test_the_curve_is_what_each_gamma_scores(micro_recipe: Recipe, tmp_path):
    segmenter = fit(replace(micro_recipe, steps=20), out=tmp_path / "run", device="cpu")
    dataset = Subset(open_dataset("micro"), 4)
    curve = calibration_curve(segmenter, dataset, [0.3, 0.0, 0.02])
    assert list(curve) == [0.0, 0.02, 0.3]
    for gamma, scores in curve.items():
        alone = evaluate(segmenter, dataset, calibration=gamma).matrix
        # sums of windows round otherwise with γ than without: next to no pixel may differ
        assert np.abs(scores.matrix - alone).sum() <= 1e-3 * alone.sum()
    shares = [scores.unseen_as_seen for scores in curve.values()]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]
    with pytest.raises(InputError, match="trained on all of these 2"):
        names = Vocabulary(name="two", names=("person", "sky"))
        calibration_curve(segmenter, dataset, [0.0], labels=names)
    dataset.vocabulary = Vocabulary("things", MICRO.names[:12], unseen=("train", "boat"))
    with pytest.raises(InputError, match="labels must be below 12"):
        calibration_curve(segmenter, dataset, [0.0])


def test_another_data_sets_names_are_scored_without_calibration(micro_recipe: Recipe, tmp_path):
    segmenter = fit(replace(micro_recipe, steps=1), out=tmp_path / "run", device="cpu")
    assert default_calibration(segmenter, MICRO.names) == 0.1
    assert default_calibration(segmenter, MINIATURE.names) == 0.0


def test_pictures_are_never_capped_in_an_evaluation(micro_recipe: Recipe, tmp_path, monkeypatch):
    segmenter = fit(replace(micro_recipe, steps=1), out=tmp_path / "run", device="cpu")
    wide = Sample(np.zeros((8, 800, 3), np.uint8), np.zeros((8, 800), np.uint8), "wide")
    with pytest.warns(UserWarning, match="held at 4096"):
        segmenter(wide.image, "bus")
    dataset = Subset(open_dataset("micro"), 1)
    monkeypatch.setattr(Subset, "__getitem__", lambda self, index: wide)
    evaluate(segmenter, dataset)  # a warning would fail the test


def test_words_in_place_of_a_name_are_scored_as_that_name(micro_recipe: Recipe, tmp_path):
    segmenter = fit(replace(micro_recipe, steps=6), out=tmp_path / "run", device="cpu")
    dataset = Subset(open_dataset("micro"), 3)
    words = {"grass": ["lorry", "stop"], "sea": ["sea", "light"]}
    scores = evaluate(segmenter, dataset, words=words)
    every = {name: words.get(name, [name]) for name in MICRO.names}
    expected = np.zeros_like(scores.matrix)
    for i in range(3):
        found = segmenter(dataset[i].image, every, limit=None)
        assert found.labels == MICRO.names
        valid = dataset[i].labels != 255
        np.add.at(expected, (dataset[i].labels[valid], found.mask[valid]), 1)
    np.testing.assert_array_equal(scores.matrix, expected)
    assert (scores.matrix != evaluate(segmenter, dataset).matrix).any()
    curve = calibration_curve(segmenter, dataset, [0.1], words=words)[0.1]
    assert np.abs(curve.matrix - expected).sum() <= 1e-3 * expected.sum()
    for wrong, says in (
        ({"skyy": ["sky"]}, "'skyy' is no label of the data set; did you mean 'sky'"),
        ({"sky": []}, "'sky' is given no words"),
        ({"sky": ["sea"]}, "these repeat: 'sea'"),
    ):
        with pytest.raises(InputError, match=says):
            evaluate(segmenter, dataset, words=wrong)
    with pytest.raises(InputError, match="read already"):
        evaluate(segmenter, dataset, labels=segmenter.embed(MICRO), words=words)


def test_evaluation_refuses_names_the_data_set_does_not_have(micro_recipe: Recipe, tmp_path):
    segmenter = fit(replace(micro_recipe, steps=2), out=tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="has no labels sheep"):
        evaluate(segmenter, Subset(open_dataset("micro"), 1), labels=Vocabulary("x", ("sheep",)))


def test_pretraining_stopped_and_resumed_is_pretraining_in_one_go(tmp_path):
    constant = replace(MICRO_PRETRAINING, decay=0.0)
    straight = pretrain(tmp_path / "a", constant, vocabulary=MICRO, report_every=2)
    pretrain(tmp_path / "b", replace(constant, steps=2), vocabulary=MICRO, report_every=2)
    resumed = pretrain(tmp_path / "b", constant, vocabulary=MICRO, report_every=2)
    for key, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    lines = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert (tmp_path / "b" / "clip.safetensors").is_file()


def test_muon_is_torchs_but_for_its_rounding():
    torch.manual_seed(0)
    weight = torch.randn(24, 16)
    ours, theirs = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(weight.clone())
    optimizers = (
        Muon([ours], lr=0.1, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        ours.grad = torch.randn(24, 16)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - weight).abs().max()
    assert (ours - theirs).abs().max() < 0.02 * moved  # torch's computes in bfloat16


def test_dropped_patches_leave_the_class_token_and_a_share_of_the_others():
    tokens = torch.arange(2 * 9, dtype=torch.float32).view(2, 9, 1)
    kept = drop_patches(tokens, 0.5, torch.Generator().manual_seed(0))[..., 0]
    assert kept.shape == (2, 5)
    assert kept[:, 0].tolist() == [0.0, 9.0]
    for row, first in zip(kept[:, 1:].tolist(), (0, 9), strict=True):
        assert len(set(row)) == 4 and all(first < value < first + 9 for value in row)
    assert set(kept[0, 1:].tolist()) != {value - 9 for value in kept[1, 1:].tolist()}


def test_pretraining_rate_rises_holds_and_falls():
    plan = replace(MICRO_PRETRAINING, steps=100, warmup=10, decay=0.2)
    rates = [rate(plan, step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[50] == rates[80] == 1.0
    assert rates[90] == 0.5 and 0 < rates[99] < 0.06
