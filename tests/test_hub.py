"""Models to and from the hub, without one."""

from pathlib import Path

import pytest
import torch

from unseen import hub
from unseen.card import make_card
from unseen.checkpoints import load_pretrained
from unseen.errors import InputError
from unseen.segmenter import Segmenter


class Api:
    """Stands for huggingface_hub's: keeps what it was asked for."""

    calls: list[tuple]
    readme: Path | None = None

    def __init__(self) -> None:
        Api.calls = []

    def create_repo(self, repository, **options):
        self.calls.append((repository, options))
        return f"https://hub/{repository}"

    def file_exists(self, repository, name):
        return name == "README.md" and self.readme is not None

    def hf_hub_download(self, repository, name):
        return self.readme

    def upload_folder(self, *, repo_id, folder_path, commit_message, ignore_patterns):
        names = {path.name for path in Path(folder_path).iterdir()} - {*(ignore_patterns or ())}
        self.calls.append((repo_id, sorted(names)))


@pytest.fixture
def online(monkeypatch):
    """Pretend a hub that answers, and a login."""
    monkeypatch.setattr(hub, "_reachable", lambda endpoint: True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr("huggingface_hub.HfApi", Api)


def test_a_model_is_pushed_as_its_folder(segmenter: Segmenter, online):
    assert segmenter.push_to_hub("owner/name", private=True) == "https://hub/owner/name"
    assert Api.calls == [
        ("owner/name", {"private": True, "exist_ok": True}),
        ("owner/name", ["README.md", "config.json", "model.safetensors"]),
    ]


def test_only_a_card_of_ours_is_replaced(segmenter, online, monkeypatch, tmp_path):
    monkeypatch.setattr(Api, "readme", tmp_path / "README.md")
    Api.readme.write_text(make_card(segmenter.config, name="owner/name"))
    segmenter.push_to_hub("owner/name")
    assert Api.calls[-1][1] == ["README.md", "config.json", "model.safetensors"]
    Api.readme.write_text("# A person's own")
    with pytest.warns(UserWarning, match="a person's own and stays"):
        segmenter.push_to_hub("owner/name")
    assert Api.calls[-1][1] == ["config.json", "model.safetensors"]
    segmenter.push_to_hub("owner/name", card="# Their new words")
    assert "README.md" in Api.calls[-1][1]


def test_what_keeps_a_push_from_working_gets_one_sentence(segmenter, online, monkeypatch):
    with pytest.raises(InputError, match="owner/name, got 'mine'"):
        segmenter.push_to_hub("mine")
    monkeypatch.setattr(Api, "create_repo", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="owner/name cannot be pushed: division"):
        segmenter.push_to_hub("owner/name")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="log in first"):
        segmenter.push_to_hub("owner/name")
    monkeypatch.setattr(hub, "_reachable", lambda endpoint: False)
    with pytest.raises(InputError, match="cannot be reached"):
        segmenter.push_to_hub("owner/name")


def cached(folder: Path, monkeypatch) -> Path:
    """Return the folder of the one version of owner/model that the cache holds."""
    repository = folder / "models--owner--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return snapshot


def test_a_model_of_the_hub_is_loaded_by_name_offline(segmenter, tmp_path, monkeypatch):
    segmenter.save_pretrained(cached(tmp_path, monkeypatch))
    again = Segmenter.from_pretrained("owner/model", device="cpu")
    ours = segmenter.model.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in again.model.state_dict().items())
    assert again.config.vocabulary == segmenter.config.vocabulary


def test_hub_repositories_without_a_model_get_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="not in the local cache"):
        load_pretrained("owner/model")
    snapshot = cached(tmp_path, monkeypatch)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_text("")
    with pytest.raises(InputError, match="does not describe a model of unseen"):
        load_pretrained("owner/model")
    monkeypatch.setattr("unseen.checkpoints.fetch", lambda repository, name: None)
    with pytest.raises(InputError, match="holds no model of unseen"):
        load_pretrained("owner/model")


def test_a_newer_file_of_the_hub_is_taken_and_the_cached_one_without_it(monkeypatch, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    monkeypatch.setattr(hub, "find_cached", lambda repository, name: old)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name: str(new))
    monkeypatch.setattr(hub, "_reachable", lambda endpoint: True)
    assert hub.fetch("owner/name", "config.json") == new

    def fail(repository, name):
        raise OSError("the connection broke")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert hub.fetch("owner/name", "config.json") == old
    monkeypatch.setattr(hub, "_reachable", lambda endpoint: False)
    assert hub.fetch("owner/name", "config.json") == old
    monkeypatch.setattr(hub, "find_cached", lambda repository, name: None)
    with pytest.raises(InputError, match="hub cannot be reached"):
        hub.fetch("owner/name", "config.json")
