"""A folder where commands of the documents find what they name: small, made up, untrained."""

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from layouts import make_own, write_coco, write_voc
from PIL import Image
from test_data import write_segnet, write_uavid
from test_prepare import DOWNLOADS
from test_published import authors_state

from unseen.checkpoints import ModelConfig
from unseen.clip import CLIP, ImageEncoder, TextConfig, TextEncoder, VisionConfig
from unseen.clip.weights import save_clip
from unseen.methods import METHODS
from unseen.miniature.scenes import Scenes
from unseen.recipes import RECIPES, Source
from unseen.segmenter import Segmenter
from unseen.video import write_video
from unseen.vocabulary import VOC20

CLIP_NAME = "openai/clip-vit-base-patch16"
SMALL = f"clip: {CLIP_NAME}\nsteps: 1\nbatch_size: 2\nshort_side: 64\nwindow: 64\nstride: 64\n"


def set_stage(folder: Path, examples: Path) -> None:
    """Write a CLIP, a model, files of authors, data sets, downloads and pictures."""
    torch.manual_seed(0)
    vision = VisionConfig(image_size=64, patch_size=32, width=32, layers=12, heads=2, embed_dim=16)
    text = TextConfig(49408, 77, width=16, layers=1, heads=1, embed_dim=16)
    clip = CLIP(ImageEncoder(vision), TextEncoder(text))
    for name in (CLIP_NAME, "ViT-B-16.pt"):
        save_clip(clip, folder / name)
    state = {"state_dict": authors_state(clip, "cliprc")}
    for name in ("FILE.pth", "coco_inductive_512_vit_base.pth"):
        torch.save(state, folder / name)
    model = METHODS["zegclip"](clip.image, prompts=2)
    recipe = RECIPES["zegclip-voc-inductive"]
    recipe = replace(recipe, data=Source("voc", "VOCdevkit"), options={"prompts": 2})
    config = ModelConfig(
        "zegclip", {"prompts": 2}, VOC20, "inductive", 0.1, 64, 64, 64, recipe=recipe.record()
    )
    for name in ("MODEL", "OTHER"):
        Segmenter(model, clip.text, config, device="cpu").save_pretrained(folder / name)

    write_voc(folder / "VOCdevkit" / "VOC2012")
    write_coco(folder / "coco")
    write_segnet(folder / "CAMVID")
    write_uavid(folder / "UAVID")
    (folder / "downloads").mkdir()
    for download in DOWNLOADS.values():
        download(folder / "downloads")
    own = Path(make_own(folder / "farm", 4)).read_text()
    (folder / "farm.yaml").write_text(f"root: farm\n{own}")
    (folder / "small.yaml").write_text(SMALL)
    (folder / "mine.yaml").write_text(SMALL)
    (folder / "examples").symlink_to(examples)
    shutil.copy(examples / "wall.png", folder / "photo.jpg")
    (folder / "photos").mkdir()
    for name in ("a", "b"):
        shutil.copy(examples / "snow.png", folder / "photos" / f"{name}.png")
    frames = [Scenes("test", count=2)[i].image for i in range(2)]
    write_video(folder / "clip.mp4", map(Image.fromarray, frames), Fraction(10))
    (folder / "labels.txt").write_text("cat\nbus\nsky\n")
