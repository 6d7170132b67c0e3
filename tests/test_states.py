import errno
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unseen import interruption
from unseen.errors import InputError
from unseen.interruption import SIGNALS, Request, watch
from unseen.states import list_states, read_newest, require_same, save_state


def fill(folder: Path, *steps: int, keep: int = 5) -> list[Path]:
    return [
        save_state(folder, step, {"weights": torch.ones(9) * step}, keep=keep) for step in steps
    ]


def test_the_newest_states_stay(tmp_path: Path):
    fill(tmp_path, 10, 20, 30, 100, keep=2)
    assert [state.step for state in list_states(tmp_path)] == [100, 30]
    assert len(list(tmp_path.iterdir())) == 2
    found = read_newest(tmp_path)
    assert found is not None and found[0].step == 100
    assert torch.equal(found[1]["weights"], torch.full((9,), 100.0))


def test_no_state_is_none(tmp_path: Path):
    assert read_newest(tmp_path) is None
    assert read_newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty"])
def test_a_broken_state_is_named_and_the_one_before_is_read(tmp_path: Path, harm: str):
    _, newest = fill(tmp_path, 1, 2)
    content = bytearray(newest.read_bytes())
    if harm == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content[: {"truncated": 700, "empty": 0}.get(harm)])
    with pytest.warns(UserWarning, match=rf"{newest.name} is broken, .*the state before it"):
        found = read_newest(tmp_path)
    assert found is not None and found[0].step == 1


def test_a_disk_that_is_full_leaves_the_states_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(tmp_path, 1)

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"state-00000002.* cannot be written: No space left"):
        fill(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [list_states(tmp_path)[0].path.name]
    assert read_newest(tmp_path) is not None


def test_what_differs_is_named():
    require_same({"steps": 3}, {"steps": 3}, Path("state.pt"))
    with pytest.raises(InputError, match="a training with steps 3, and this one has 4"):
        require_same({"steps": 3}, {"steps": 4}, Path("state.pt"))
    with pytest.raises(InputError, match="with start None, and this one has runs/a"):
        require_same({}, {"start": "runs/a"}, Path("state.pt"))


def test_signals_are_noted_and_handed_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with watch() as request:
        assert all(signal.getsignal(number) == request.take for number in SIGNALS)
        request.take(signal.SIGTERM, None)
        request.take(signal.SIGINT, None)
        assert request.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_interrupt_ends_at_once_unless_a_launcher_only_passed_the_first_on(
    monkeypatch: pytest.MonkeyPatch,
):
    now = 0.0
    monkeypatch.setattr(interruption, "time", SimpleNamespace(monotonic=lambda: now))
    request = Request()
    request.take(signal.SIGINT, None)
    now = 0.5
    request.take(signal.SIGINT, None)
    assert request.number == signal.SIGINT
    now = 2.0
    with pytest.raises(KeyboardInterrupt):
        request.take(signal.SIGINT, None)
