"""Our CLIP against transformers' with random weights, through each of the three file formats."""

import copy
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unseen.clip import CLIP, ImageEncoder, TextEncoder, fingerprint, load_clip
from unseen.clip.archives import read_state
from unseen.clip.model import TEXT_B, TEXT_L, VIT_B_16, VIT_B_32, VIT_L_14, VIT_L_14_336
from unseen.clip.weights import save_clip
from unseen.errors import InputError
from unseen.hub import is_repository

SHAPES = {
    # as B/32, B/16 and L/14 are to each other, an eighth as wide
    "B/32": {"image_size": 64, "patch_size": 32, "width": 96, "layers": 3, "heads": 12},
    "B/16": {"image_size": 64, "patch_size": 16, "width": 96, "layers": 3, "heads": 12},
    "L/14": {"image_size": 56, "patch_size": 14, "width": 128, "layers": 4, "heads": 16},
}
TEXT_WIDTH, TEXT_HEADS, EMBED_DIM = 64, 4, 48


def make_twin(shape: dict[str, int], seed: int = 0):
    """Build transformers' CLIP of a shape, with weights of some size everywhere."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={
            "hidden_size": shape["width"],
            "intermediate_size": 4 * shape["width"],
            "num_hidden_layers": shape["layers"],
            "num_attention_heads": shape["heads"],
            "image_size": shape["image_size"],
            "patch_size": shape["patch_size"],
        },
        text_config={
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 4 * TEXT_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": TEXT_HEADS,
            "vocab_size": 600,
            "bos_token_id": 598,
            "eos_token_id": 599,
            "max_position_embeddings": 20,
        },
        projection_dim=EMBED_DIM,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def openai_names(twin) -> dict[str, Tensor]:
    """Rename transformers' weights as OpenAI has them: written apart from our reader's table."""
    state = twin.state_dict()
    renamed = {"logit_scale": state["logit_scale"]}
    for side, prefix in (("vision", "visual."), ("text", "")):
        model = f"{side}_model."
        embeddings = f"{model}embeddings."
        renamed[f"{prefix}positional_embedding"] = state[f"{embeddings}position_embedding.weight"]
        if side == "vision":
            renamed["visual.class_embedding"] = state[f"{embeddings}class_embedding"]
            renamed["visual.conv1.weight"] = state[f"{embeddings}patch_embedding.weight"]
            renamed["visual.proj"] = state["visual_projection.weight"].T.contiguous()
            norms = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}
        else:
            renamed["token_embedding.weight"] = state[f"{embeddings}token_embedding.weight"]
            renamed["text_projection"] = state["text_projection.weight"].T.contiguous()
            norms = {"final_layer_norm": "ln_final"}
        for kind in ("weight", "bias"):
            for theirs, ours in norms.items():
                renamed[f"{prefix}{ours}.{kind}"] = state[f"{model}{theirs}.{kind}"]
            layers = {k.split(".")[3] for k in state if k.startswith(f"{model}encoder.layers.")}
            for i in layers:
                layer, block = f"{model}encoder.layers.{i}.", f"{prefix}transformer.resblocks.{i}."
                parts = [state[f"{layer}self_attn.{p}_proj.{kind}"] for p in "qkv"]
                renamed[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
                for theirs, ours in {
                    "self_attn.out_proj": "attn.out_proj",
                    "layer_norm1": "ln_1",
                    "layer_norm2": "ln_2",
                    "mlp.fc1": "mlp.c_fc",
                    "mlp.fc2": "mlp.c_proj",
                }.items():
                    renamed[f"{block}{ours}.{kind}"] = state[f"{layer}{theirs}.{kind}"]
    return renamed


class Tree(nn.Module):
    """Modules nested as the dots of a state dict say, so that TorchScript can save them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        children: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            head, dot, rest = key.partition(".")
            if dot:
                children.setdefault(head, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(head, nn.Parameter(value))
            else:
                self.register_buffer(head, value)
        for name, part in children.items():
            self.add_module(name, Tree(part))

    def forward(self, x: Tensor) -> Tensor:
        return x


def save_torchscript(twin, folder: Path) -> Path:
    state = openai_names(twin)
    state["input_resolution"] = torch.tensor(64)  # as OpenAI's archives hold them
    state["context_length"] = torch.tensor(20)
    state["vocab_size"] = torch.tensor(600)
    path = folder / "ViT.pt"
    with pytest.warns(DeprecationWarning):  # the format is old; files in it are not going away
        torch.jit.save(torch.jit.script(Tree(state)), path)
    return path


def save_hugging_face(twin, folder: Path) -> Path:
    twin.save_pretrained(folder)
    return folder


def save_open_clip(twin, folder: Path) -> Path:
    vision = twin.config.vision_config
    save_file(openai_names(twin), folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {
            "embed_dim": EMBED_DIM,
            "quick_gelu": True,
            "vision_cfg": {
                "width": vision.hidden_size,
                "head_width": vision.hidden_size // vision.num_attention_heads,
            },
            "text_cfg": {"width": TEXT_WIDTH, "heads": TEXT_HEADS},
        }
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


FORMATS = {
    "OpenAI": save_torchscript,
    "Hugging Face": save_hugging_face,
    "open_clip": save_open_clip,
}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_embeddings_equal_transformers(layout, shape, tmp_path):
    twin = make_twin(SHAPES[shape])
    source = FORMATS[layout](twin, tmp_path)
    heads = {"heads": SHAPES[shape]["heads"], "text_heads": TEXT_HEADS}
    clip = load_clip(source, **(heads if layout == "OpenAI" else {})).eval()
    assert clip.image.config.heads == SHAPES[shape]["heads"]
    image = torch.randn(2, 3, SHAPES[shape]["image_size"], SHAPES[shape]["image_size"])
    tokens = torch.tensor([[598, 5, 9, 599, 0, 0], [598, 7, 1, 2, 3, 599]])
    with torch.no_grad():
        theirs = twin(input_ids=tokens, pixel_values=image)
        ours_image, ours_text = clip.image(image)[:, 0], clip.text(tokens)
    for ours, golden in ((ours_image, theirs.image_embeds), (ours_text, theirs.text_embeds)):
        ours = ours / ours.norm(dim=-1, keepdim=True)
        assert (ours - golden).abs().max() < 1e-5
    assert clip.logit_scale.item() == pytest.approx(twin.logit_scale.item())


def test_torchscript_tensors_are_read_bit_by_bit(tmp_path):
    twin = make_twin(SHAPES["B/32"]).half()
    path = save_torchscript(twin, tmp_path)
    state = read_state(path)
    for key, value in openai_names(twin).items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)


def test_plain_state_dicts_and_bin_files_are_read_too(tmp_path):
    twin = make_twin(SHAPES["B/32"])
    torch.save(openai_names(twin), tmp_path / "weights.pt")
    hints = {"heads": 12, "text_heads": TEXT_HEADS, "activation": "quick_gelu"}
    direct = load_clip(tmp_path / "weights.pt", **hints)
    twin.config.save_pretrained(tmp_path)
    torch.save(twin.state_dict(), tmp_path / "pytorch_model.bin")
    folder = load_clip(tmp_path)
    for key, value in direct.state_dict().items():
        assert torch.equal(value, folder.state_dict()[key])


def test_head_counts_default_to_one_per_64_channels(tmp_path):
    torch.save(openai_names(make_twin(SHAPES["L/14"])), tmp_path / "weights.pt")
    clip = load_clip(tmp_path / "weights.pt", activation="quick_gelu")
    assert (clip.image.config.heads, clip.text.config.heads) == (2, 1)


@pytest.mark.parametrize(
    ("vision", "text", "count"),
    [
        (VIT_B_32, TEXT_B, 151_277_313),
        (VIT_B_16, TEXT_B, 149_620_737),
        (VIT_L_14, TEXT_L, 427_616_513),
        (VIT_L_14_336, TEXT_L, 427_944_193),
    ],
)
def test_published_sizes_have_as_many_parameters_as_published(vision, text, count):
    with torch.device("meta"):
        clip = CLIP(ImageEncoder(vision), TextEncoder(text))
    assert sum(parameter.numel() for parameter in clip.parameters()) == count


def test_lone_safetensors_without_configuration_warn_of_the_activation(tmp_path):
    save_file(openai_names(make_twin(SHAPES["B/32"])), tmp_path / "some.safetensors")
    with pytest.warns(UserWarning, match="activation"):
        clip = load_clip(tmp_path / "some.safetensors", heads=12)
    assert clip.image.config.activation == "quick_gelu"
    clip = load_clip(tmp_path / "some.safetensors", heads=12, activation="gelu")
    assert clip.text.config.activation == "gelu"


def test_open_clips_bin_files_are_read_by_the_configuration_beside_them(tmp_path):
    twin = make_twin(SHAPES["B/32"])
    save_open_clip(twin, tmp_path)
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(load_file(tmp_path / "open_clip_model.safetensors"), path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    del config["model_cfg"]["quick_gelu"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    for source in (tmp_path, path):
        assert load_clip(source).image.config.activation == "gelu"
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.warns(UserWarning, match="put open_clip_config.json"):
        assert load_clip(path, heads=12).image.config.activation == "quick_gelu"


def test_a_fingerprint_is_of_weights_and_of_how_they_are_read(micro_clip: CLIP):
    plain = fingerprint(micro_clip.text)
    assert fingerprint(micro_clip.text, torch.float16) == plain
    other = copy.deepcopy(micro_clip.text)
    other.config = replace(other.config, activation="gelu")
    assert fingerprint(other) != plain
    rounded = copy.deepcopy(micro_clip.text).bfloat16().float()
    assert fingerprint(micro_clip.text, torch.bfloat16) == fingerprint(rounded) != plain


class Malicious:
    """Unpickled by an ordinary reader, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "gotcha"))


@pytest.mark.parametrize("layout", ["TorchScript", "torch.save"])
def test_an_archive_that_would_run_code_is_refused_and_writes_nothing(layout, tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "weights.pt"
    if layout == "torch.save":
        torch.save({"state_dict": {}, "extra": Malicious(victim)}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/constants.pkl", pickle.dumps(()))
            archive.writestr("archive/data.pkl", pickle.dumps(Malicious(victim)))
    with pytest.raises(InputError, match="would run code"):
        load_clip(path)
    assert not victim.exists()


def test_words_of_our_own_clip_survive_saving(micro_clip: CLIP, tmp_path):
    save_clip(micro_clip, tmp_path / "clip")
    again = load_clip(tmp_path / "clip")
    assert again.text.tokenizer.words == micro_clip.text.tokenizer.words
    names = ("person", "traffic light")
    ours = micro_clip.eval().text.embed(names, ("a photo of a {}",))
    assert torch.equal(again.eval().text.embed(names, ("a photo of a {}",)), ours)


def test_text_embeddings_are_normalised_means_of_normalised_sentences(micro_clip: CLIP):
    text = micro_clip.text.eval()
    templates = ("a photo of a {}.", "There is a {} in the scene.")
    rows = [text(text.tokenizer([t.format("bus")]))[0] for t in templates]
    mean = sum(row / row.norm() for row in rows) / 2
    torch.testing.assert_close(text.embed(["bus"], templates)[0], mean / mean.norm())


def broken(kind: str, folder: Path) -> Path:
    path = folder / "weights.pt"
    state = openai_names(make_twin(SHAPES["B/32"]))
    if kind == "missing file":
        return folder / "nowhere.pt"
    if kind == "empty folder":
        return folder
    if kind == "text":
        path.write_text("these are no weights")
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "truncated safetensors":
        path = folder / "model.safetensors"
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "no state dict":
        torch.save([1, 2, 3], path)
    elif kind == "another network":
        torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, path)
    elif kind == "numbers for names":
        torch.save({1: torch.zeros(3)}, path)
    elif kind == "missing key":
        del state["visual.ln_post.bias"]
        torch.save(state, path)
    elif kind == "extra key":
        torch.save(state | {"visual.surprise": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing file", "no CLIP weights at"),
        ("empty folder", "no CLIP weights in"),
        ("text", "not a whole weights file"),
        ("truncated", "not a whole weights file"),
        ("truncated safetensors", "not a whole weights file"),
        ("no state dict", "holds no weights by name"),
        ("numbers for names", "holds no weights by name"),
        ("another network", "not a CLIP with a vision transformer"),
        ("missing key", "lacks ln_post.bias"),
        ("extra key", "unknown surprise"),
    ],
)
@pytest.mark.filterwarnings("ignore:no configuration")
def test_what_is_no_clip_gets_one_sentence(kind, says, tmp_path):
    with pytest.raises(InputError, match=says):
        load_clip(broken(kind, tmp_path))


def test_a_hub_name_that_is_not_cached_gets_one_sentence_offline():
    with pytest.raises(InputError, match="not in the local cache"):
        load_clip("openai/clip-vit-base-patch16")


def test_a_cached_hub_name_works_offline(micro_clip: CLIP, tmp_path, monkeypatch):
    """Whether or not the cache also remembers which files the hub does not have."""
    repository = tmp_path / "models--owner--clip"
    snapshot = repository / "snapshots" / "abc"
    twin = make_twin(SHAPES["B/32"])
    twin.save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    first = load_clip("owner/clip")
    missing = repository / ".no_exist" / "abc"
    missing.mkdir(parents=True)
    (missing / "open_clip_config.json").touch()
    again = load_clip("owner/clip")
    for key, value in load_clip(snapshot).state_dict().items():
        assert torch.equal(first.state_dict()[key], value)
        assert torch.equal(again.state_dict()[key], value)


def test_bad_configurations_get_one_sentence(micro_clip: CLIP, tmp_path):
    make_twin(SHAPES["B/32"]).save_pretrained(tmp_path / "twin")
    (tmp_path / "twin" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a JSON configuration"):
        load_clip(tmp_path / "twin")
    (tmp_path / "twin" / "config.json").unlink()
    with pytest.raises(InputError, match="do not divide"):
        load_clip(tmp_path / "twin", heads=5, activation="gelu")
    with pytest.raises(InputError, match="activation must be quick_gelu or gelu"):
        load_clip(tmp_path / "twin", activation="relu")
    save_clip(micro_clip, tmp_path / "clip")
    with pytest.raises(InputError, match="says its own heads"):
        load_clip(tmp_path / "clip", heads=2)
    (tmp_path / "clip" / "clip.json").write_text('{"format": "unseen-clip"}')
    with pytest.raises(InputError, match="does not describe a CLIP"):
        load_clip(tmp_path / "clip")


def test_hub_names_look_like_owner_and_name():
    assert is_repository("openai/clip-vit-base-patch16")
    others = ("clip", "./clip/weights", "../x", "a/b/c", "/abs/x", "my models/clip v2", "a/b--c")
    assert not any(map(is_repository, others))


def test_half_precision_files_are_widened(micro_clip: CLIP, tmp_path):
    save_clip(micro_clip, tmp_path / "clip", dtype=torch.float16)
    stored = load_file(tmp_path / "clip" / "clip.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    loaded = load_clip(tmp_path / "clip").state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    for key, value in micro_clip.state_dict().items():
        np.testing.assert_allclose(loaded[key], value, rtol=2e-3, atol=1e-6)
