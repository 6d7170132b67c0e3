"""Text embeddings and position grid of the authors' files: real tensors of CLIP ViT-B/16.

Three files of ZegCLIP's repository are here. Those that may not be are looked for in the folder
UNSEEN_EMBEDDINGS: coco_single.npy (ZegCLIP) and context-59_multi.npy (Cascade-CLIP).
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import bilinear

from unseen.checkpoints import StoredText
from unseen.clip import TextEncoder
from unseen.clip.model import resample_positions
from unseen.embeddings import TextEmbeddings, cache_folder
from unseen.errors import InputError
from unseen.segmenter import Segmenter
from unseen.vocabulary import COCO171, CONTEXT59, VOC20, Vocabulary

HERE = Path(__file__).parent / "goldens" / "embeddings"
ELSEWHERE = os.environ.get("UNSEEN_EMBEDDINGS")
GRID = "vit-b-16-pos_emb_197x768.npy"

FILES = {
    "voc12_single.npy": VOC20,
    "coco_multi.npy": COCO171,
    "coco_single.npy": COCO171,
    "context-59_multi.npy": CONTEXT59,
}


def load(name: str, vocabulary: Vocabulary) -> TextEmbeddings:
    path = HERE / name
    if path.is_file():
        return TextEmbeddings.load(path, vocabulary)
    if not ELSEWHERE:
        pytest.skip("UNSEEN_EMBEDDINGS names no folder of the authors' other files")
    return TextEmbeddings.load(Path(ELSEWHERE, name), vocabulary)


def test_what_is_written_ends_as_it_is_read(tmp_path):
    one = TextEmbeddings(Vocabulary("one", ("cat",)), torch.ones(1, 4))
    with pytest.raises(InputError, match=r"q\.npy must end in \.safetensors"):
        one.save(tmp_path / "q.npy")
    one.save(tmp_path / "q.safetensors")
    assert TextEmbeddings.load(tmp_path / "q.safetensors").vocabulary.names == ("cat",)


@pytest.mark.parametrize(("name", "vocabulary"), FILES.items())
def test_the_authors_files_hold_a_unit_row_for_each_name(name, vocabulary):
    embeddings = load(name, vocabulary)
    assert embeddings.values.shape == (len(vocabulary), 512)
    assert embeddings.values.dtype == torch.float16
    norms = embeddings.values.float().norm(dim=1)
    assert (norms - 1).abs().max() < 1e-3  # rounded after normalising, and used as they are
    embeddings.check(512, "")
    with pytest.raises(InputError, match="of another vocabulary"):
        load(name, Vocabulary("short", vocabulary.names[1:]))


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("voc12_single.npy", "coco_multi.npy", 14),
        ("coco_single.npy", "voc12_single.npy", 14),
        ("coco_single.npy", "coco_multi.npy", 171),
        ("context-59_multi.npy", "voc12_single.npy", 19),
        ("context-59_multi.npy", "coco_multi.npy", 36),
    ],
)
def test_a_name_in_two_files_is_the_nearest_row_in_each(first, second, shared):
    its_names, other_names = FILES[first], FILES[second]
    rows, others = (load(file, FILES[file]).values.float() for file in (first, second))
    similarity = rows @ others.T
    names = [name for name in its_names.names if name in other_names.names]
    assert len(names) == shared
    for name in names:
        i, j = its_names.names.index(name), other_names.names.index(name)
        assert similarity[i].argmax() == j, f"{name} in {first} is not where {second} has it"
        assert similarity[:, j].argmax() == i, f"{name} in {second} is not where {first} has it"


def test_the_real_position_grid_is_resampled_as_by_hand():
    positions = torch.from_numpy(np.load(HERE / GRID, allow_pickle=False))
    assert positions.shape == (197, 768) and positions.dtype == torch.float32
    assert torch.equal(resample_positions(positions, (14, 14)), positions)
    for size in ((32, 32), (20, 43)):
        resampled = resample_positions(positions, size)
        assert resampled.shape == (1 + size[0] * size[1], 768)
        assert (resampled[0] == positions[0]).all()
        for channel in (0, 300, 767):
            slow = bilinear(positions[1:, channel].reshape(14, 14), *size)
            torch.testing.assert_close(resampled[1:, channel].reshape(size), slow)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Segmenter.from_clip("miniature").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def kept() -> list[Path]:
    return sorted((cache_folder() / "text").glob("*"))


def test_labels_that_were_read_before_need_no_text_encoder(folder, monkeypatch):
    names = ("bus", "giraffe")
    first = Segmenter.from_pretrained(folder).embed(names)
    monkeypatch.setattr(StoredText, "load", lambda self: pytest.fail("the text encoder was read"))
    again = Segmenter.from_pretrained(folder).embed(names)
    assert torch.equal(again.values, first.values)
    assert (again.clip, again.vocabulary) == (first.clip, first.vocabulary)
    result = Segmenter.from_pretrained(folder)(np.zeros((40, 64, 3), np.uint8), names)
    assert result.labels == names


def test_other_names_templates_or_weights_are_read_anew(folder):
    segmenter = Segmenter.from_pretrained(folder)
    values = [segmenter.embed(Vocabulary("mine", ("bus", "dog"))).values]
    values.append(segmenter.embed(Vocabulary("mine", ("bus dog",))).values)
    values.append(segmenter.embed(Vocabulary("mine", ("bus", "dog"), templates=("{}",))).values)
    with torch.no_grad():
        segmenter.text.text_projection.mul_(-1)
    other = Segmenter(segmenter.backend, segmenter.text, segmenter.config)
    values.append(other.embed(Vocabulary("mine", ("bus", "dog"))).values)
    assert len(kept()) == len(values)
    assert torch.allclose(values[0], -values[3], atol=1e-6)
    assert not torch.allclose(values[0], values[2], atol=1e-3)


@pytest.mark.parametrize("content", [b"", b"not a tensor" * 9])
def test_a_broken_file_of_the_cache_is_made_anew(folder, content):
    first = Segmenter.from_pretrained(folder).embed("bus, dog")
    (path,) = kept()
    path.write_bytes(content)
    assert torch.equal(Segmenter.from_pretrained(folder).embed("bus, dog").values, first.values)
    assert path.stat().st_size > len(content)


def test_a_cache_that_cannot_be_written_is_done_without(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("UNSEEN_CACHE", str(tmp_path / "file"))
    assert len(Segmenter.from_pretrained(folder).embed("bus, dog").values) == 2
    monkeypatch.delenv("UNSEEN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert len(Segmenter.from_pretrained(folder).embed("bus, dog").values) == 2


def test_the_cache_keeps_what_was_used_last(folder, monkeypatch):
    monkeypatch.setattr("unseen.embeddings.KEPT", 2)
    segmenter = Segmenter.from_pretrained(folder)
    for number, names in enumerate(("bus, dog", "sky", "giraffe")):
        segmenter.embed(names)
        for path in kept():
            os.utime(path, (number, number)) if path.stat().st_mtime > 10 else None
    assert len(kept()) == 2
    monkeypatch.setattr(TextEncoder, "embed", lambda *given: pytest.fail("read anew"))
    again = Segmenter.from_pretrained(folder)
    again.embed("sky")
    again.embed("giraffe")
