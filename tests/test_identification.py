"""What a file is told to be."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_published import authors_state

from unseen import identification
from unseen.clip import CLIP
from unseen.clip.weights import save_clip
from unseen.errors import InputError
from unseen.identification import identify
from unseen.published import LOSS_BUFFER
from unseen.vocabulary import VOC20


@pytest.mark.parametrize("method", ["zegclip", "cascade", "cliprc"])
def test_an_authors_checkpoint(micro_clip: CLIP, tmp_path, method):
    state = authors_state(micro_clip, method)
    meta = {"CLASSES": VOC20.names, "iter": 20000, "mmcv_version": "1.4.4"}
    path = tmp_path / "x.pth"
    torch.save({"meta": meta, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    found = identify(path)
    assert found.kind == "a checkpoint of the authors" and not found.problems
    facts = found.facts
    assert facts["method"].casefold().startswith(method[:5].replace("clipr", "clip-"))
    assert (facts["prompts"], facts["prompted blocks"], facts["layers of a decoder"]) == (2, 2, 3)
    assert facts["decoders"] == {"zegclip": 1, "cascade": 2, "cliprc": 2}[method]
    assert facts["vocabulary"] == "voc20" and facts["iteration"] == 20000
    assert facts["keys missing"] == facts["keys unknown"] == []
    assert found.advice.startswith(f"unseen convert {path} --output FOLDER --setting SETTING")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and not found.known
    assert json.loads(json.dumps(found.to_dict()))["facts"]["mmcv"] == "1.4.4"


def test_keys_missing_and_unknown_are_problems(micro_clip: CLIP, tmp_path):
    state = authors_state(micro_clip)
    state["decode_head.surprise"] = state.pop("decode_head.q_proj.bias")
    torch.save(state, tmp_path / "x.pth")
    found = identify(tmp_path / "x.pth")
    assert found.facts["keys missing"] == ["decode_head.q_proj.bias"]
    assert found.facts["keys unknown"] == ["decode_head.surprise"]
    assert found.problems == ("1 keys are missing", "1 keys are unknown")
    assert "problem: 1 keys are missing\n" in found.describe()
    assert "get the file again" in found.advice and "--vocabulary NAME" in found.advice


def test_a_loss_of_another_split_is_a_problem(micro_clip: CLIP, tmp_path):
    state = authors_state(micro_clip) | {LOSS_BUFFER: torch.ones(11)}
    torch.save({"meta": {"CLASSES": VOC20.names}, "state_dict": state}, tmp_path / "x.pth")
    found = identify(tmp_path / "x.pth")
    assert found.facts["vocabulary"] == "voc20" and found.sha256
    assert any("loss is of 10 classes" in problem for problem in found.problems)


def test_a_checkpoint_without_its_text_encoder_converts_to_an_adapter(micro_clip: CLIP, tmp_path):
    state = {k: v for k, v in authors_state(micro_clip).items() if "text_encoder" not in k}
    torch.save(state, tmp_path / "x.pth")
    assert "--adapter-only" in identify(tmp_path / "x.pth").advice


def test_a_shipped_model_goes_by_its_name():
    found = identify("zegclip-miniature-inductive")
    assert found.facts["method"] == "zegclip" and not found.problems
    assert "SHA-256" in found.describe() and "numbers stored: 511,430\n" in found.describe()


def test_a_model_of_ours(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path / "whole")
    segmenter.save_pretrained(tmp_path / "adapter", adapter_only=True)
    whole, adapter = identify(tmp_path / "whole"), identify(tmp_path / "adapter")
    assert whole.kind == adapter.kind == "a model of unseen"
    assert whole.problems == adapter.problems == ()
    assert "everything" in whole.facts["holds"] and "adapter" in adapter.facts["holds"]
    assert "giraffe" in whole.facts["held out"]
    path = tmp_path / "adapter" / "model.safetensors"
    save_file({"head.surprise": torch.zeros(1)}, path)
    broken = identify(tmp_path / "adapter")
    assert len(broken.problems) == 2 and broken.facts["keys unknown"] == ["head.surprise"]
    with pytest.raises(InputError, match="belongs to a folder"):
        identify(tmp_path / "whole" / "config.json")


def test_weights_of_clip(micro_clip: CLIP, tmp_path, monkeypatch):
    save_clip(micro_clip, tmp_path / "clip")
    found = identify(tmp_path / "clip")
    assert found.kind == "weights of CLIP" and "width 64" in found.facts["image encoder"]
    state = {f"visual.{k}": v for k, v in micro_clip.image.state_dict().items()}
    torch.save(state | micro_clip.text.state_dict(), tmp_path / "clip.pt")
    alone = identify(tmp_path / "clip.pt")
    assert alone.facts["parameters"] == found.facts["parameters"]
    monkeypatch.setattr(identification, "KNOWN_SHA256", {alone.sha256: "an old friend"})
    assert "(an old friend)" in identify(tmp_path / "clip.pt").describe()


def test_text_embeddings(segmenter, tmp_path):
    segmenter.embed(["cow", "sky"]).save(tmp_path / "text.safetensors")
    found = identify(tmp_path / "text.safetensors")
    assert found.facts["names"] == ["cow", "sky"] and found.facts["CLIP"] == segmenter.fingerprint
    np.save(tmp_path / "rows.npy", np.eye(3, 5, dtype=np.float16))
    rows = identify(tmp_path / "rows.npy")
    assert rows.facts["rows"] == "3 of width 5"
    assert rows.facts["lengths of rows"] == "1.0000 to 1.0000"


def test_what_is_none_of_these_gets_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "a.npy").write_text("words")
    (tmp_path / "a.safetensors").write_text("words")
    np.save(tmp_path / "labels.npy", np.zeros((4, 4), dtype=np.uint8))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"decode_head.x": torch.zeros(1)}, tmp_path / "head.pth")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"format": "unseen-model"}')
    for name, says in {
        "nothing": "no file or folder",
        "a.txt": "not a whole weights file",
        "a.npy": "not a whole .npy",
        "a.safetensors": "not a whole safetensors",
        "labels.npy": "rows of floats",
        "other.pth": "none of what is known",
        "head.pth": "no decoder of theirs",
        "empty": "none of what is known",
        "half": "no model.safetensors",
    }.items():
        with pytest.raises(InputError, match=says):
            identify(tmp_path / name)
