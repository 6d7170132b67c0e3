"""Numbers that the authors' code produced, reached through our converter and our model.

Runs over every file of the directory in UNSEEN_GOLDENS (default: tests/goldens). A file's kind is
read off its keys and its meta, every size off its meta; a test is one check of one file.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unseen.checkpoints import ModelConfig
from unseen.clip.archives import read_state
from unseen.clip.model import ImageEncoder, VisionConfig, resample_positions
from unseen.clip.tokenizer import BytePairTokenizer
from unseen.conversion import convert
from unseen.data.datasets import MaskFolder
from unseen.data.images import read_image
from unseen.data.published import voc
from unseen.data.transforms import (
    distort,
    fit_short_side,
    fit_within,
    pad,
    resize_image,
    resize_labels,
    varied_crop,
)
from unseen.embeddings import TextEmbeddings
from unseen.evaluation import evaluate
from unseen.learning import compute_loss, learning_rate, make_optimizer
from unseen.losses import criterion
from unseen.methods.encoder import PromptedEncoder, Stages, region_mask, show_prompts
from unseen.metrics import Scores, confusion, harmonic_mean
from unseen.model import IMAGENET_MEAN, IMAGENET_STD
from unseen.published import cascade_keys, cliprc_keys, translate, zegclip_keys
from unseen.readout import View, Windows, find_best, find_likeliest, score_map
from unseen.recipes import EVALUATIONS, RECIPES, VOCABULARY_OF
from unseen.segmenter import Segmenter
from unseen.settings import INDUCTIVE, SUPERVISED, TRANSDUCTIVE, Setting
from unseen.vocabulary import (
    MULTI_TEMPLATES,
    SINGLE_TEMPLATE,
    VOC20,
    Vocabulary,
    find_vocabulary,
)

FOLDER = Path(os.environ.get("UNSEEN_GOLDENS", Path(__file__).parent / "goldens"))
KEYS = {"zegclip": zegclip_keys, "cascade": cascade_keys, "cliprc": cliprc_keys}
VARIANTS = {"ind": INDUCTIVE, "st": TRANSDUCTIVE, "full": SUPERVISED}


# Tolerances --------------------------------------------------------------------------------------


def assert_close(ours: Tensor | np.ndarray, golden: np.ndarray, scale: float = 1.0) -> None:
    """Features, queries, logits, scores: 1e-5 of the larger of 1 and the golden's largest value."""
    ours = np.asarray(ours.detach() if isinstance(ours, Tensor) else ours)
    assert ours.shape == golden.shape
    error = np.abs(ours - golden).max()
    limit = 1e-5 * max(scale, float(np.abs(golden).max()))
    assert error <= limit, f"off by {error:.2e}, allowed {limit:.2e}"


def assert_gradient(ours: Tensor, golden: np.ndarray) -> None:
    error = np.abs(ours.numpy() - golden).max()
    limit = 1e-5 * np.abs(golden).max() + 1e-7
    assert error <= limit, f"off by {error:.2e}, allowed {limit:.2e}"


def assert_same_labels(mask: np.ndarray, golden: np.ndarray, scores: Tensor) -> None:
    """Equal, except where our two best of scores (C, H, W) are closer than 2e-5."""
    best, second = scores.topk(2, dim=0).values
    certain = (best - second >= 2e-5).numpy()
    assert mask.shape == golden.shape
    assert (mask == golden)[certain].all()
    assert certain.mean() > 0.9


# Files -------------------------------------------------------------------------------------------


class Golden:
    """A golden file: arrays by key, and its meta; of a JSON file, meta alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix == ".json":
            self.arrays, self.meta = {}, json.loads(path.read_text(encoding="utf-8"))
            return
        self.arrays = dict(np.load(path, allow_pickle=False))
        self.meta = json.loads(str(self.arrays.pop("meta"))) if "meta" in self.arrays else {}

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self[key])

    def keys(self, start: str = "") -> list[str]:
        return [key for key in self.arrays if key.startswith(start)]

    @property
    def state(self) -> dict[str, Tensor]:
        return {key.removeprefix("state/"): self.tensor(key) for key in self.keys("state/")}

    def kinds(self) -> list[str]:
        """Which checks apply."""
        if "method" not in self.meta or "model_cfg" not in self.meta:
            return [self._kind()]
        sizes = ["method, other sizes"] if "in/img_rect" in self.arrays else []
        recovery = ["recovery"] if "out/train_ind/rec.q" in self.arrays else []
        return ["method", *sizes, *recovery]

    def _kind(self) -> str:
        if self.keys("bgr") and self.keys("state/"):
            return "end to end"
        if any(key.endswith("/pred_masks") for key in self.arrays):
            return "criterion"
        if any(key.endswith("/areas0") for key in self.arrays):
            return "metrics"
        if "ids_up_to_eot" in self.meta:
            return "tokenizer"
        if "columns" in self.meta and "configs" in self.meta:
            return "schedule"
        if any(isinstance(value, dict) and "mask_w" in value for value in self.meta.values()):
            return "configs"
        if "pos_in" in self.arrays:
            return "init"
        if self.path.name.endswith("_mmcv_expected.npz"):
            return "checkpoint"
        if "test_resize" in self.arrays:
            return "pipeline"
        return "unknown"


class Tiny:
    """A small random model of the authors', converted, and its inputs."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self.cfg = golden.meta["model_cfg"]
        self.model, self.text_encoder, self.method, self.options = convert(
            golden.state,
            heads=self.cfg["backbone"]["heads"],
            text_heads=self.cfg["text_encoder"]["transformer_heads"],
            decoder_heads=self.cfg["decode_head"]["num_heads"],
        )
        # the golden pictures are normalised already
        self.model.mean.zero_()
        self.model.std.fill_(1)
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        self.text = golden.tensor("in/text_embeddings").float()
        self.window = self.cfg["decode_head"]["img_size"]
        self.keys = KEYS[self.method](self.options["layers"])

    def vocabulary(self, variant: str) -> Vocabulary:
        """Return the classes; the "full" variant counts all of them as seen."""
        names = tuple(self.cfg["class_names"])
        unseen = () if variant == "full" else tuple(names[i] for i in self.golden.meta["unseen"])
        return Vocabulary("golden", names, unseen=unseen)

    def bias(self, variant: str) -> Tensor:
        gamma = self.golden.meta[f"out/{variant}/seen_bias"]
        vocabulary = self.vocabulary(variant)
        return torch.tensor([gamma * (name in vocabulary.seen) for name in vocabulary.names])

    def look(self, image: Tensor, variant: str, windows: Windows) -> View:
        with torch.no_grad():
            logits = self.model(windows.cut(image), self.text).logits
        return View(logits, windows, self.bias(variant), self.window)

    def whole(self, images: Tensor, variant: str) -> list[View]:
        """See pictures in one window each, as large as they are, and read it out at the head's."""
        side = max(images.shape[2:])
        windows = Windows((images.shape[2], images.shape[3]), side, side)
        return [self.look(image, variant, windows) for image in images]

    def scores(self, images: Tensor, variant: str) -> Tensor:
        return torch.stack([score_map(view) for view in self.whole(images, variant)])

    def slide(self, images: Tensor, variant: str) -> View:
        test = self.cfg["test_cfg"]
        assert test["crop_size"][0] == self.window
        size = (images.shape[2], images.shape[3])
        windows = Windows(size, self.window, test["stride"][0])
        return self.look(images[0], variant, windows)

    def losses(self, variant: str, setting: Setting) -> dict[str, Tensor]:
        vocabulary = self.vocabulary(variant)
        weights = self.cfg["decode_head"]["loss_decode"]
        self.model.train()
        return compute_loss(
            self.model,
            self.golden.tensor("in/img"),
            self.golden.tensor("in/labels")[:, 0],
            self.text[list(setting.shown(vocabulary))],
            setting=setting,
            vocabulary=vocabulary,
            focal_weight=weights["mask_weight"] * weights["loss_weight"],
            dice_weight=weights["dice_weight"] * weights["loss_weight"],
            auxiliary_weight=weights.get("recovery_loss_weight", 1.0),
        )


def resized(scores: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(scores, tuple(size), mode="bilinear", align_corners=False)


# Checks ------------------------------------------------------------------------------------------

Check = Callable[[Golden, Path], None]
CHECKS: dict[str, dict[str, Check]] = {}


def check(kind: str) -> Callable[[Check], Check]:
    """Register a check for all files of a kind, under its function's name."""

    def register(function: Check) -> Check:
        CHECKS.setdefault(kind, {})[function.__name__] = function
        return function

    return register


def method_check(name: str, kind: str = "method") -> Callable[[Callable[[Tiny], None]], None]:
    def register(function: Callable[[Tiny], None]) -> None:
        CHECKS.setdefault(kind, {})[name] = lambda golden, _: function(Tiny(golden))

    return register


@method_check("embedded tokens")
def _(tiny: Tiny) -> None:
    tokens, _ = tiny.model.encoder.embed(tiny.golden.tensor("in/img"))
    assert_close(tokens, tiny.golden["out/ind/backbone/ln_pre"])


@method_check("every hooked block")
def _(tiny: Tiny) -> None:
    outputs: list[Tensor] = []
    for block in tiny.model.encoder.clip.transformer.resblocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        tiny.model.encoder(tiny.golden.tensor("in/img"))
    keys = tiny.golden.keys("out/ind/backbone/block")
    assert keys
    for key in keys:
        block = int(key.removeprefix("out/ind/backbone/block"))
        # ours compute nothing of what becomes of prompts, which stand after the class token there
        prompted = block <= tiny.model.encoder.prompts.depth
        count = tiny.model.encoder.prompts.count if prompted else 0
        theirs = np.delete(tiny.golden[key], range(1, 1 + count), axis=0)
        assert_close(outputs[block].transpose(0, 1), theirs)


@method_check("features")
def _(tiny: Tiny) -> None:
    with torch.no_grad():
        features = tiny.model.encoder(tiny.golden.tensor("in/img"))
    *stages, last = tiny.golden.keys("out/ind/backbone/feat")
    assert_close(features.patches, tiny.golden[last])
    assert_close(features.cls, tiny.golden["out/ind/backbone/global"])
    if tiny.method == "cascade":
        assert len(features.stages) == len(stages) + 1
        for ours, key in zip(features.stages, stages, strict=False):
            assert_close(ours, tiny.golden[key])
    if tiny.method == "cliprc":
        assert_close(features.regions, tiny.golden["out/ind/backbone/rlb"])


@method_check("features of a picture that is not square", "method, other sizes")
def _(tiny: Tiny) -> None:
    with torch.no_grad():
        features = tiny.model.encoder(tiny.golden.tensor("in/img_rect"))
    assert_close(features.patches, tiny.golden["out/rect/feat_last"])
    assert_close(features.cls, tiny.golden["out/rect/global"])


def record(module: torch.nn.Module, seen: dict[str, Tensor], name: str) -> None:
    module.register_forward_hook(lambda m, args, out: seen.update({name: out}))


@method_check("queries and scores of every decoder layer")
def _(tiny: Tiny) -> None:
    golden, seen = tiny.golden, {}
    if tiny.method == "cliprc":
        head = tiny.model.head
        record(head.project, seen, "queries")
        record(head.merge, seen, "lateral_proj")
        for part, layers in (("q", head.query_layers), ("v", head.patch_layers)):
            for i, layer in enumerate(layers):
                record(layer, seen, f"dec_{part}.layer{i}")
    else:
        zegclip = tiny.method == "zegclip"
        heads = [tiny.model.head] if zegclip else tiny.model.head.heads
        for s, head in enumerate(heads):
            record(head.project, seen, "queries" if zegclip else f"queries_{s}")
            start = "dec" if zegclip else f"dec{s}"
            for i, layer in enumerate(head.layers):
                record(layer, seen, f"{start}.layer{i}.q")
            record(head.similarity, seen, f"{start}.layer{len(head.layers)}.attn")
    with torch.no_grad():
        tiny.model(golden.tensor("in/img"), tiny.text)
    assert len(seen) == {"zegclip": 4, "cascade": 12, "cliprc": 8}[tiny.method]
    for name, ours in seen.items():
        expected = golden[f"out/ind/head/{name}"]
        assert_close(ours.transpose(0, 1) if name.endswith(".q") else ours, expected)


@method_check("what the recovery decoder recovers, and from what", "recovery")
def _(tiny: Tiny) -> None:
    for variant, setting in VARIANTS.items():
        golden, seen = tiny.golden, {}
        record(tiny.model.head.recovery, seen, "recovered")
        tiny.model.head.project.register_forward_hook(
            lambda m, args, out, seen=seen: seen.update(given=args[0])
        )
        tiny.losses(variant, setting)
        assert_close(seen["recovered"].queries, golden[f"out/train_{variant}/rec.q"])
        assert_close(seen["recovered"].patches, golden[f"out/train_{variant}/rec.lateral"])
        assert_close(seen["given"], golden[f"out/train_{variant}/rec.ori_q"])


@method_check("mask logits")
def _(tiny: Tiny) -> None:
    golden = tiny.golden["out/ind/pred_masks"]
    with torch.no_grad():
        logits = tiny.model(tiny.golden.tensor("in/img"), tiny.text).logits
    assert_close(resized(logits, golden.shape[2:]), golden)


@method_check("text encoder")
def _(tiny: Tiny) -> None:
    with torch.no_grad():
        embedded = tiny.text_encoder(tiny.golden.tensor("in/tokens"))
    assert_close(embedded, tiny.golden["out/text_encoder/raw"])
    assert_close(F.normalize(embedded, dim=-1), tiny.golden["out/text_encoder/normalised"])


@method_check("scores of a larger picture", "method, other sizes")
def _(tiny: Tiny) -> None:
    scores = tiny.scores(tiny.golden.tensor("in/img_big"), "ind")
    assert_close(scores, tiny.golden["out/big/encode_decode"])


@method_check("averaged windows, and their softmax")
def _(tiny: Tiny) -> None:
    golden = tiny.golden
    scores = score_map(tiny.slide(golden.tensor("in/img_slide"), "ind"))
    assert_close(scores[None], golden["out/ind/slide/preds"])
    final = resized(scores[None], golden.meta["out/ind/slide_ori"])
    assert_close(final.softmax(dim=1), golden["out/ind/slide/softmax"])


@method_check("labels of a picture and its mirror image")
def _(tiny: Tiny) -> None:
    golden = tiny.golden
    image, size = golden.tensor("in/img_slide"), golden.meta["out/ind/slide_ori"]
    views = [tiny.slide(image, "ind"), replace(tiny.slide(image.flip(3), "ind"), flipped=True)]
    mask, _ = find_likeliest(views, tuple(size))
    fine = [resized(score_map(view)[None], size).softmax(dim=1)[0] for view in views]
    mean = (fine[0] + fine[1].flip(2)) / 2
    # a softmax over C classes is some C times flatter than the scores it is of
    assert_same_labels(mask, golden["out/ind/aug/label"], mean * len(mean))


def _register_variants() -> None:
    for variant, setting in VARIANTS.items():

        def scores(tiny: Tiny, variant: str = variant) -> None:
            key = f"out/{variant}/encode_decode"
            assert_close(tiny.scores(tiny.golden.tensor("in/img"), variant), tiny.golden[key])

        def windows(tiny: Tiny, variant: str = variant) -> None:
            golden, size = tiny.golden, tiny.golden.meta[f"out/{variant}/slide_ori"]
            view = tiny.slide(golden.tensor("in/img_slide"), variant)
            final = resized(score_map(view)[None], size)
            assert_close(final, golden[f"out/{variant}/slide/preds_rescaled"])
            mask, best = find_best(view, tuple(size))
            assert_same_labels(mask, golden[f"out/{variant}/slide/label"], final[0])
            assert np.allclose(best, final[0].amax(dim=0))

        def whole(tiny: Tiny, variant: str = variant) -> None:
            golden, size = tiny.golden, tiny.golden.meta[f"out/{variant}/whole_ori"]
            views = tiny.whole(golden.tensor("in/img"), variant)
            for view, expected in zip(views, golden[f"out/{variant}/whole/label"], strict=True):
                mask, _ = find_best(view, tuple(size))
                assert_same_labels(mask, expected, resized(score_map(view)[None], size)[0])

        def losses(tiny: Tiny, variant: str = variant, setting: Setting = setting) -> None:
            ours, start = tiny.losses(variant, setting), f"out/train_{variant}/loss/"
            pairs = {"focal": "decode.loss_mask", "dice": "decode.loss_dice"}
            if tiny.method == "cliprc":
                pairs["recovery_queries"] = "decode.recovery_loss_q"
                pairs["recovery_patches"] = "decode.recovery_loss_k"
            assert ours.keys() == pairs.keys()
            for name, theirs in pairs.items():
                assert ours[name].item() == pytest.approx(tiny.golden[start + theirs], rel=1e-5)
            total = sum(ours.values()).item()
            assert total == pytest.approx(tiny.golden[start + "total"], rel=1e-5)

        def targets(tiny: Tiny, variant: str = variant, setting: Setting = setting) -> None:
            vocabulary, golden = tiny.vocabulary(variant), tiny.golden
            text = tiny.text[list(setting.shown(vocabulary))]
            with torch.no_grad():
                logits = tiny.model(golden.tensor("in/img"), text).logits
            labels = golden.tensor("in/labels")[:, 0]
            ours = setting.target(labels, logits, vocabulary).numpy()
            theirs = golden[f"out/train_{variant}/label_in_loss"][:, 0]
            differ = ours != theirs
            if differ.any():  # only a tie between two unseen classes may be settled otherwise
                unseen = list(vocabulary.positions(vocabulary.unseen))
                scores = resized(logits[:, unseen], labels.shape[1:]).sigmoid()
                best, second = scores.topk(2, dim=1).values.unbind(dim=1)
                assert (best - second).numpy()[differ].max() < 2e-5

        def norms(tiny: Tiny, variant: str = variant, setting: Setting = setting) -> None:
            sum(tiny.losses(variant, setting).values()).backward()
            parameters = dict(tiny.model.named_parameters())
            for theirs, norm in tiny.golden.meta[f"out/train_{variant}/grad_norm"].items():
                ours = parameters[translate(theirs, tiny.keys)]
                if not _meets_only_a_softmax(theirs, tiny):
                    assert ours.grad.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6)

        for name, function in {
            "scores": scores,
            "labels from windows": windows,
            "labels from whole pictures": whole,
            "losses": losses,
            "training targets": targets,
            "gradient norms": norms,
        }.items():
            method_check(f"{name}, {setting.name}")(function)


_register_variants()


def _meets_only_a_softmax(key: str, tiny: Tiny) -> bool:
    """Tell keys' biases whose gradient is mathematically zero: rounding noise."""
    last = f"layers.{tiny.options['layers'] - 1}."
    scored = tiny.method != "cliprc" and last in key
    return key.endswith("multihead_attn.k.bias") and not scored


@method_check("gradients")
def _(tiny: Tiny) -> None:
    sum(tiny.losses("ind", INDUCTIVE).values()).backward()
    parameters = dict(tiny.model.named_parameters())
    keys = tiny.golden.keys("out/train_ind/grad/")
    assert keys
    for key in keys:
        theirs = key.removeprefix("out/train_ind/grad/")
        if not _meets_only_a_softmax(theirs, tiny):
            assert_gradient(parameters[translate(theirs, tiny.keys)].grad, tiny.golden[key])


@method_check("what is trained")
def _(tiny: Tiny) -> None:
    meta = tiny.golden.meta
    idle = set(meta["out/train_ind/grad_none"])
    assert all(translate(key, tiny.keys) is None for key in idle)
    trained = {translate(key, tiny.keys) for key in set(meta["trainable"]) - idle}
    ours = {name for name, value in tiny.model.named_parameters() if value.requires_grad}
    assert ours == trained


@method_check("optimiser")
def _(tiny: Tiny) -> None:
    theirs = tiny.golden.meta["optimizer"]
    groups = [group for group in theirs["groups"] if group["requires_grad"]]
    rate, decay = groups[0]["lr"], groups[0]["weight_decay"]
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(rate, decay)}
    ours = make_optimizer(tiny.model, learning_rate=rate, weight_decay=decay)
    for option in ("betas", "eps", "amsgrad"):
        expected = theirs["defaults"][option]
        assert ours.defaults[option] == (tuple(expected) if option == "betas" else expected)
    trained = {id(p) for group in ours.param_groups for p in group["params"]}
    assert trained == {id(p) for p in tiny.model.parameters() if p.requires_grad}


@method_check("trajectory of training steps")
def _(tiny: Tiny) -> None:
    golden, plan = tiny.golden, tiny.golden.meta["out/traj"]
    base = 10 * plan["optimizer"]["lr"]  # the factor every trained parameter has
    optimizer = make_optimizer(
        tiny.model, learning_rate=base, weight_decay=plan["optimizer"]["weight_decay"]
    )
    for step in range(plan["iters"]):
        rate = learning_rate(
            step, total=plan["max_iters"], base=base, warmup=plan["lr_config"]["warmup_iters"]
        )
        assert rate == pytest.approx(golden["out/traj/lr"][step], abs=1e-9)
        optimizer.param_groups[0]["lr"] = rate
        loss = sum(tiny.losses("ind", INDUCTIVE).values())
        assert loss.item() == pytest.approx(golden["out/traj/loss"][step], rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parameters = dict(tiny.model.named_parameters())
    for key in golden.keys("out/traj/prompt"):
        ours = parameters[translate("backbone." + key.removeprefix("out/traj/"), tiny.keys)]
        np.testing.assert_allclose(ours.detach().numpy(), golden[key], rtol=1e-4, atol=1e-6)


@check("criterion")
def losses_and_their_gradient(golden: Golden, folder: Path) -> None:
    cases = [k.removesuffix("/pred_masks") for k in golden.keys() if k.endswith("/pred_masks")]
    assert cases
    for case in cases:
        logits = golden.tensor(f"{case}/pred_masks").requires_grad_()
        losses = criterion(logits, golden.tensor(f"{case}/label").long())
        for name, theirs in (("focal", "loss_mask"), ("dice", "loss_dice")):
            assert losses[name].item() == pytest.approx(golden[f"{case}/{theirs}"], rel=1e-5)
        sum(losses.values()).backward()
        assert_gradient(logits.grad, golden[f"{case}/grad"])


@check("metrics")
def areas_and_scores(golden: Golden, folder: Path) -> None:
    for name, facts in golden.meta.items():
        names = tuple(facts["classes"])
        vocabulary = Vocabulary(name, names, unseen=tuple(names[i] for i in facts["unseen"]))
        meaning = MaskFolder([], vocabulary, reduce_zero=facts["reduce_zero_label"]).meaning
        matrix = np.zeros((len(names), len(names)), np.int64)
        for i in range(facts["n_images"]):
            truth = meaning[golden[f"{name}/gt{i}"]].astype(np.uint8)
            counted = confusion(golden[f"{name}/pred{i}"], truth, len(names))
            hit, given, true = np.diag(counted), counted.sum(axis=0), counted.sum(axis=1)
            areas = np.stack([hit, given + true - hit, given, true])
            assert (areas == golden[f"{name}/areas{i}"]).all()
            matrix += counted
        scores = Scores(matrix, vocabulary)
        for key, ours in {
            "mIoU/IoU": scores.iou,
            "mIoU/Acc": scores.accuracy,
            "mIoU/aAcc": scores.pixel_accuracy,
            "mDice/Dice": scores.dice,
            "mFscore/Fscore": scores.f_score,
            "mFscore/Precision": scores.precision,
            "mFscore/Recall": scores.accuracy,
        }.items():
            np.testing.assert_allclose(ours, golden[f"{name}/{key}"], rtol=1e-6, equal_nan=True)
        returned = facts["evaluate_return"]
        assert round(scores.mean(scores.iou), 4) == pytest.approx(returned["mIoU"], abs=1e-4)
        assert round(scores.mean(scores.accuracy), 4) == pytest.approx(returned["mAcc"], abs=1e-4)
        for subset, value in ((vocabulary.seen, scores.seen), (vocabulary.unseen, scores.unseen)):
            theirs = [golden[f"{name}/mIoU/IoU"][i] for i in vocabulary.positions(subset)]
            expected = np.nanmean(theirs) if subset else np.nan
            np.testing.assert_allclose(value, expected, equal_nan=True)
        if vocabulary.unseen:
            assert scores.hiou == pytest.approx(harmonic_mean(scores.seen, scores.unseen))


@check("init")
def position_grid(golden: Golden, folder: Path) -> None:
    checked = [key for key in golden.arrays if key.endswith("/pos_out")]
    assert len(checked) == 3
    for key in checked:
        theirs = golden[key]
        side = round((len(theirs) - 1) ** 0.5)
        assert_close(resample_positions(golden.tensor("pos_in"), (side, side)), theirs)


@check("init")
def first_values_of_stages(golden: Golden, folder: Path) -> None:
    stages = Stages(VisionConfig(512, 16, 768, 12, 12, 512), range(6, 13))
    assert stages.proj.std().item() == pytest.approx(golden["cascade/proj_layers_std"], rel=0.01)
    assert torch.equal(stages.norms[0].weight[:8], golden.tensor("cascade/ln_layers0_weight"))


@check("init")
def region_tokens_and_their_mask(golden: Golden, folder: Path) -> None:
    theirs = golden.tensor("clip_rc/region_level_bridge")
    clip = ImageEncoder(VisionConfig(512, 16, 8, 1, 1, 4))
    clip.class_embedding.data = golden.tensor("cls_in")
    clip.positional_embedding.data = golden.tensor("clip_rc/pos_out")
    assert_close(PromptedEncoder(clip, prompts=2, regions=len(theirs)).regions, theirs.numpy())
    rows = np.unpackbits(golden["clip_rc/mask_rows"], axis=1)[:, : 1 + 2 + 1024 + 16]
    ours = (show_prompts(region_mask((32, 32), 4), 2, 16)[-16:] == 0).numpy()
    prompts, others = np.split(rows, [1, 3], axis=1)[1], np.delete(rows, [1, 2], axis=1)
    assert (ours == np.concatenate([others, prompts], axis=1)).all()


def write_voc(golden: Golden, root: Path) -> None:
    """Write a file's pictures in VOC's layout (PNG data, so that pixels survive)."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    names = [key.removeprefix("bgr") for key in golden.keys("bgr")]
    for name in names:
        rgb = Image.fromarray(np.ascontiguousarray(golden[f"bgr{name}"][..., ::-1]))
        rgb.save(root / "JPEGImages" / f"{name}.jpg", format="PNG")
        Image.fromarray(golden[f"label{name}"]).save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))


@check("end to end")
def resized_pixels(golden: Golden, folder: Path) -> None:
    write_voc(golden, folder)
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    for key in golden.keys("net_input"):
        name = key.removeprefix("net_input")
        image = read_image(folder / "JPEGImages" / f"{name}.jpg")
        size = fit_short_side(image.shape[:2], golden.meta["spec"]["res"])
        ours = (resize_image(image, size) - mean) / std
        assert (ours.transpose(2, 0, 1) == golden[key]).all()


@check("end to end")
def labels_and_scores(golden: Golden, folder: Path) -> None:
    write_voc(golden, folder)
    spec = golden.meta["spec"]
    model, text, method, options = convert(
        golden.state, heads=spec["heads"], decoder_heads=spec["num_heads"]
    )
    names = VOC20.names[: len(golden["text_embeddings"])]
    known = Vocabulary("known", names, unseen=tuple(names[i] for i in spec["unseen"]))
    stride = int(golden.meta["note"].partition("stride ")[2].partition(";")[0])
    config = ModelConfig(
        method=method,
        options=options,
        vocabulary=known,
        setting="inductive",
        calibration=INDUCTIVE.calibration,
        short_side=spec["res"],
        window=spec["res"],
        stride=stride,
    )
    segmenter = Segmenter(model, text, config, device="cpu")
    embeddings = TextEmbeddings(known, golden.tensor("text_embeddings"))
    dataset = voc(folder)
    bias = INDUCTIVE.calibration * torch.tensor([name in known.seen for name in names])
    for i in range(len(dataset)):
        sample = dataset[i]
        size = sample.labels.shape
        shown = resize_image(sample.image, fit_short_side(size, spec["res"]))
        scores = score_map(segmenter.look(shown, embeddings.values.float(), bias))
        scores = F.interpolate(scores[None], size, mode="bilinear")[0]
        result = segmenter(sample.image, embeddings, limit=None)
        assert_same_labels(result.mask, golden[f"pred{sample.name}"], scores)
    scores = evaluate(segmenter, dataset, labels=embeddings)
    theirs = golden.meta["evaluate_return"]
    assert scores.pixel_accuracy == pytest.approx(theirs["aAcc"], abs=6e-5)
    assert scores.mean(scores.iou) == pytest.approx(theirs["mIoU"], abs=6e-5)
    for name, iou, accuracy in zip(VOC20.names, scores.iou, scores.accuracy, strict=True):
        for key, value in ((f"IoU.{name}", iou), (f"Acc.{name}", accuracy)):
            expected = np.nan if theirs[key] is None else theirs[key]
            np.testing.assert_allclose(value, expected, atol=6e-5, equal_nan=True)


@check("pipeline")
def sizes_at_test(golden: Golden, folder: Path) -> None:
    for height, width, new_height, new_width in golden["test_resize"].tolist():
        assert fit_short_side((height, width), 512) == (new_height, new_width)


def rgb(golden: Golden, key: str) -> np.ndarray:
    """Return a picture that the authors' code holds as BGR."""
    return np.ascontiguousarray(golden[key][..., ::-1])


@check("pipeline")
def sizes_in_training(golden: Golden, folder: Path) -> None:
    for height, width, ratio, *expected in golden["train_resize"].tolist():
        scale = int(2048 * ratio), int(512 * ratio)
        assert (*scale, *fit_within((int(height), int(width)), scale)) == tuple(expected)


@check("pipeline")
def training_pixels(golden: Golden, folder: Path) -> None:
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    names = [key.removesuffix("/bgr") for key in golden.keys("pix") if key.endswith("/bgr")]
    assert names
    for name in names:
        image, labels = rgb(golden, f"{name}/bgr"), golden[f"{name}/label"]
        size = fit_within(labels.shape, (150, 75))  # 128 and 64 times one ratio
        assert (resize_image(image, size) == rgb(golden, f"{name}/train_img")).all()
        assert (resize_labels(labels, size) == golden[f"{name}/train_label"]).all()
        shown = resize_image(image, fit_short_side(labels.shape, 64))
        assert (((shown - mean) / std).transpose(2, 0, 1) == golden[f"{name}/out"]).all()
    # tail200 is left out: it pads labels with 200, which no configuration does
    pixels, target = pad(rgb(golden, "tail255/bgr"), golden["tail255/label"], 64, IMAGENET_MEAN)
    assert (((pixels - mean) / std).transpose(2, 0, 1) == golden["tail255/img"]).all()
    assert (target == golden["tail255/gt"][0]).all()


@check("pipeline")
def training_draws(golden: Golden, folder: Path) -> None:
    seeds = [key.partition("seed")[2] for key in golden.keys("photo/seed")]
    assert seeds
    image = rgb(golden, "photo/bgr")
    for seed in seeds:
        random = np.random.RandomState(int(seed))
        assert (distort(image, random) == rgb(golden, f"photo/seed{seed}")).all()
    image, labels = rgb(golden, "crop/bgr"), golden["crop/label"]
    side = len(golden["crop/seed0/label"])
    for key in [key for key in golden.keys("crop/seed") if key.endswith("/img")]:
        seed = key.removeprefix("crop/seed").removesuffix("/img")
        crop, its_labels = varied_crop(image, labels, side, np.random.RandomState(int(seed)))
        assert (crop == rgb(golden, key)).all()
        assert (its_labels == golden[f"crop/seed{seed}/label"]).all()


@check("tokenizer")
def token_ids(golden: Golden, folder: Path) -> None:
    tokenizer = BytePairTokenizer(golden.meta["context_length"])
    for sentence, ids in golden.meta["ids_up_to_eot"].items():
        assert tokenizer.encode(sentence) == ids
        row = tokenizer([sentence])[0].tolist()
        assert row == ids + [golden.meta["pad"]] * (golden.meta["context_length"] - len(ids))


@check("schedule")
def learning_rates(golden: Golden, folder: Path) -> None:
    plans = [plan for plan in golden.meta["configs"].values() if "error" not in plan]
    assert plans
    for plan in plans:
        warmup = plan["lr_config"]["warmup_iters"]
        for step, fast, slow in plan["samples"]:
            for base, expected in ((10 * plan["base_lr"], fast), (plan["base_lr"], slow)):
                rate = learning_rate(step, total=plan["max_iters"], base=base, warmup=warmup)
                assert rate == pytest.approx(expected, abs=1e-9)


METHOD_OF = {"zegclip": "zegclip", "cascade": "cascade", "clip_rc": "cliprc"}
DATA_OF = {"voc12": "voc", "voc_20": "voc", "coco": "coco", "coco_171": "coco"}
DATA_OF |= {"context_59": "context"}
GPUS = {"zegclip": 4, "cascade": 4, "clip_rc": 2}


def _trainings(golden: Golden) -> Iterator[tuple[str, dict]]:
    """Yield each published training and the name of its recipe."""
    for config in golden.meta.values():
        _, folder, file = config["config"].split("/")
        if folder == "cross_dataset":
            continue
        setting = "supervised" if "fully" in file else "inductive"
        setting = "transductive" if config["self_training"] else setting
        yield f"{METHOD_OF[config['method']]}-{DATA_OF[folder]}-{setting}", config


@check("configs")
def every_training_is_a_recipe(golden: Golden, folder: Path) -> None:
    published = [name for name, recipe in RECIPES.items() if recipe.clip != "miniature"]
    assert sorted(name for name, _ in _trainings(golden)) == sorted(published)
    assert len(published) == 18


@check("configs")
def recipes_say_what_the_configurations_say(golden: Golden, folder: Path) -> None:
    for name, config in _trainings(golden):
        recipe, test = RECIPES[name], config["test"]
        gpus = 8 if name.startswith("cliprc-coco") else GPUS[config["method"]]
        assert config["loss_w"] == 1 and config["optimizer_config"] == {} and config["depth"] == 11
        assert (config["dec_layers"], config["heads"]) == (3, 8)  # what builders take by default
        assert recipe.options["prompts"] == config["tokens"]
        assert recipe.options.get("regions") == config["rlb"]
        if groups := recipe.options.get("groups"):
            assert [block - 1 for group in groups[:-1] for block in group] == config["out_indices"]
            assert groups[-1] == [12]
        assert (recipe.steps, recipe.batch_size) == (config["iters"], gpus * config["spg"])
        assert recipe.focal_weight == config["mask_w"]
        assert recipe.dice_weight == config["dice_w"]
        assert recipe.auxiliary_weight == (1 if config["rec_w"] is None else config["rec_w"])
        # every trained parameter gets ten times the base rate
        assert recipe.learning_rate == pytest.approx(10 * config["lr"])
        assert (recipe.weight_decay, recipe.warmup) == (
            config["wd"],
            config["lr_config"]["warmup_iters"],
        )
        assert (test["mode"], test["crop_size"]) == ("slide", [recipe.window] * 2)
        assert test["stride"] == [recipe.stride] * 2
        assert recipe.augmentation == "photographic"


@check("configs")
def recipes_hold_out_the_names_the_configurations_hold_out(golden: Golden, folder: Path) -> None:
    for name, config in _trainings(golden):
        vocabulary = find_vocabulary(VOCABULARY_OF[RECIPES[name].data.name])
        assert len(vocabulary) == config["n_all"]
        if config["n_unseen"]:
            assert sorted(vocabulary.positions(vocabulary.unseen)) == config["novel_class"]
            assert list(vocabulary.positions(vocabulary.seen)) == config["base_class"]
        single = "_single" in config["text"]
        assert vocabulary.templates == (SINGLE_TEMPLATE if single else MULTI_TEMPLATES)


@check("configs")
def evaluations_on_other_data(golden: Golden, folder: Path) -> None:
    crossing = [c for c in golden.meta.values() if "cross_dataset" in c["config"]]
    names = set()
    for config in crossing:
        name = f"{METHOD_OF[config['method']]}-{Path(config['config']).stem}"
        names.add(name)
        row = EVALUATIONS[name]
        vocabulary = find_vocabulary(VOCABULARY_OF[row.data.name])
        # ZegCLIP's file for Context wants 60 classes and cannot run
        assert len(vocabulary) == config["n_all"] or config["note"].startswith("BROKEN")
        assert config["n_unseen"] == 0 and row.calibration == 0
        assert RECIPES[row.model].options["prompts"] == config["tokens"]
        single = "_single" in config["text"]
        assert vocabulary.templates == (SINGLE_TEMPLATE if single else MULTI_TEMPLATES)
    assert names == set(EVALUATIONS)


@check("checkpoint")
def scores_of_a_file_that_mmcv_wrote(golden: Golden, folder: Path) -> None:
    state = read_state(golden.path.with_name(golden.path.name.replace("_expected.npz", ".pth")))
    converted = convert(state, heads=2, text_heads=2, decoder_heads=2)
    assert converted.method == "cascade"
    converted.model.mean.zero_()
    converted.model.std.fill_(1)
    images, windows = golden.tensor("img"), Windows((64, 64), 64, 64)
    with torch.no_grad():
        logits = converted.model(images, golden.tensor("text_embeddings")).logits
    seen = [0, 1, 3, 4, 6]
    assert len(state["decode_head.loss_decode.criterion.empty_weight"]) == len(seen) + 1
    bias = torch.tensor([INDUCTIVE.calibration * (i in seen) for i in range(logits.shape[1])])
    scores = [score_map(View(one[None], windows, bias, 64)) for one in logits]
    assert_close(torch.stack(scores), golden["encode_decode"])


@check("unknown")
def recognised(golden: Golden, folder: Path) -> None:
    pytest.fail(f"no check knows what {golden.path.name} is of")


def all_checks() -> Iterator[object]:
    for path in sorted([*FOLDER.glob("*.npz"), *FOLDER.glob("*.json")]):
        for kind in Golden(path).kinds():
            for name, function in CHECKS[kind].items():
                yield pytest.param(path, function, id=f"{path.stem}: {name}")


def test_there_are_goldens() -> None:
    assert list(FOLDER.glob("*.npz")), f"no golden files in {FOLDER}"


@pytest.mark.parametrize(("path", "function"), list(all_checks()))
def test_golden(path: Path, function: Check, tmp_path: Path) -> None:
    function(Golden(path), tmp_path)
