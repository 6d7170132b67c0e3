"""Several processes share pictures and say what one says; a journal lets a killed one go on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import assert_one_sentence, unseen

from unseen.cli.options import DEFAULT_MODEL
from unseen.errors import InputError
from unseen.journal import Journal, digest
from unseen.metrics import Scores
from unseen.miniature.scenes import Scenes
from unseen.processes import Processes
from unseen.segmenter import Segmenter
from unseen.vocabulary import MINIATURE

pytestmark = pytest.mark.filterwarnings("default")
_ = unseen  # a fixture

SHARES = """
import contextlib, io, json, os, sys
from pathlib import Path
from unseen.cli import main
for number, words in enumerate(json.loads(sys.argv[1])):
    sys.argv, out = ["unseen", *words], io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            main()
    except SystemExit as stop:
        Path(f"{number}-{os.environ['RANK']}.json").write_text(out.getvalue())
        if stop.code and number == 4:
            raise
"""
"""Runs several commands in each process: to start one takes longer than what it has to do."""

DIES = """
import os, signal, sys
from unseen.cli import main
from unseen.journal import Journal
write, written = Journal._write, []
def write_and_die(self, line):
    write(self, line)
    written.append(line)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Journal._write = write_and_die
main()
"""


@pytest.fixture
def alone(monkeypatch) -> dict[str, str]:
    """Return the environment of a process that computes as the tests do: in one thread."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def draw(folder: Path, count: int) -> None:
    """Draw pictures with their label maps, and the file that says they are a data set."""
    for kind in ("photos", "masks"):
        (folder / kind).mkdir(parents=True)
    for i, scene in enumerate(Scenes("val", size=64, count=count)):
        Image.fromarray(scene.image).save(folder / "photos" / f"{i}.png")
        Image.fromarray(scene.labels).save(folder / "masks" / f"{i}.png")
    names = ", ".join(MINIATURE.names)
    text = f"names: [{names}]\nimages: photos/*.png\nmasks: masks/*.png\n"
    (folder / "drawn.yaml").write_text(text)


def listed(journal: Path) -> list[str]:
    """Return the items of all lines of a journal."""
    lines = [line for file in journal.glob("*.jsonl") for line in file.read_text().splitlines()]
    return sorted(json.loads(line)["item"] for line in lines)


def test_torchrun_prints_and_writes_what_one_process_does(unseen, alone, tmp_path):
    words = "evaluate --count 5 --json --small --baselines --device cpu --report".split()
    run = unseen(*words, "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), "-m", "unseen", *words, "two"]
    result = subprocess.run(command, env=alone, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == run.out
    assert result.stderr.count("report: two/index.html") == 1
    one, two = (json.loads((tmp_path / n / "report.json").read_text()) for n in ("one", "two"))
    for report in (one, two):
        report["conditions"][DEFAULT_MODEL].pop("date")
    assert one == two and len(one["by_picture"][DEFAULT_MODEL]) == 5


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_three_processes_say_what_one_says_and_an_error_in_one_ends_all(unseen, alone, tmp_path):
    draw(tmp_path / "drawn", 5)
    (tmp_path / "drawn" / "photos" / "4.png").write_bytes(b"no picture")
    commands = [
        "evaluate --count 5 --json --device cpu".split(),
        "evaluate --count 2 --json --device cpu".split(),  # fewer than processes
        "evaluate --count 4 --json --device cpu --curve".split(),
        "segment drawn/photos --labels miniature --json --device cpu".split(),
    ]
    printed = [unseen(*words).out for words in commands]
    files = {path.name: path.read_bytes() for path in (tmp_path / "segmented").iterdir()}
    shutil.rmtree(tmp_path / "segmented")

    commands[0] += ["--journal", "journal"]
    commands.append("evaluate --data drawn/drawn.yaml --device cpu --json".split())
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "3"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARES, json.dumps(commands)],
            env={**alone, **meeting, "RANK": str(rank)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    said = [one.communicate(timeout=120)[1] for one in started]
    assert [one.returncode for one in started] == [2, 2, 2], said
    for number, text in enumerate(printed):
        assert (tmp_path / f"{number}-0.json").read_text() == text
        assert (tmp_path / f"{number}-1.json").read_text() == ""
    assert {path.name: path.read_bytes() for path in (tmp_path / "segmented").iterdir()} == files
    assert len(set(listed(tmp_path / "journal" / "1"))) == len(listed(tmp_path / "journal" / "1"))
    assert "1 of 5 pictures" in said[0]
    assert said[1].count("4.png is no picture") == 2 and "(process 1 of 3)" in said[1]
    assert "another process ended" in said[0] and "another process ended" in said[2]
    assert "Traceback" not in "".join(said)


def test_a_killed_evaluation_goes_on_and_ends_as_if_it_had_not_been(
    unseen, alone, tmp_path, monkeypatch
):
    words = "evaluate --count 5 --json --small --device cpu".split()
    uninterrupted = unseen(*words).out
    words += ["--journal", "journal"]
    command = [sys.executable, "-c", DIES, *words]
    killed = subprocess.run(command, env=alone, cwd=tmp_path, capture_output=True)
    assert killed.returncode == -signal.SIGKILL and killed.stdout == b""
    (journal,) = (tmp_path / "journal" / "1").glob("*.jsonl")
    assert len(listed(journal.parent)) == 2
    with open(journal, "ab") as file:  # killed while it wrote the third
        file.write(journal.read_bytes().splitlines()[0][:100])

    shown = []
    segment = Segmenter.__call__

    def watched(self, picture, *rest, **options):
        shown.append(picture)
        return segment(self, picture, *rest, **options)

    monkeypatch.setattr(Segmenter, "__call__", watched)
    assert unseen(*words).out == uninterrupted
    assert len(shown) == 3
    assert unseen(*words).out == uninterrupted  # nothing is left to do
    assert len(shown) == 3
    more = unseen(*words, "--count", "6")
    assert json.loads(more.out)["pictures"] == 6 and len(shown) == 4
    for change, what in (
        ("--clip miniature", "model"),
        ("--calibration 0.2", "γ"),
        ("--short-side 64", "sizes"),
        ("--split val", "data"),
        ("--precision bf16", "precision"),
        ("--relative", "options"),
        ("--tta", "views"),
    ):
        run = unseen(*words, *change.split())
        assert_one_sentence(run, "1 is the journal of another run, with other ")
        assert what in run.err
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert_one_sentence(unseen(*words), "with other threads (OMP_NUM_THREADS): name another")
    assert_one_sentence(unseen(*words, "--show-dir", "shown"), "goes without --show-dir")
    assert len(shown) == 4


def test_a_stopped_segmentation_goes_on_with_what_is_whole(unseen, alone, tmp_path, monkeypatch):
    draw(tmp_path / "drawn", 4)
    words = "segment drawn/photos --labels miniature --json --device cpu --journal j".split()
    uninterrupted = unseen(*words[:-2])
    files = {path: path.read_bytes() for path in (tmp_path / "segmented").iterdir()}
    shutil.rmtree(tmp_path / "segmented")
    read, done = "unseen.pictures.read_image", []
    from unseen.data.images import read_image

    def read_two(path):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(Path(path).name)
        return read_image(path)

    monkeypatch.setattr(read, read_two)
    assert unseen(*words).code == 130
    assert done == ["0.png", "1.png"] and len(listed(tmp_path / "j")) == 2
    done.clear()
    monkeypatch.setattr(read, lambda path: done.append(Path(path).name) or read_image(path))
    assert unseen(*words).out == uninterrupted.out
    assert done == ["2.png", "3.png"]
    assert {path: path.read_bytes() for path in (tmp_path / "segmented").iterdir()} == files

    # another run wrote to the same place, one file is lost, one picture is another
    unseen(*"segment drawn/photos/0.png --labels cow --device cpu --json".split())
    (tmp_path / "segmented" / "1-mask.png").unlink()
    shutil.copy(tmp_path / "drawn" / "photos" / "0.png", tmp_path / "drawn" / "photos" / "3.png")
    done.clear()
    again = unseen(*words)
    assert done == ["0.png", "1.png", "3.png"]
    assert json.loads(again.out)[:3] == json.loads(uninterrupted.out)[:3]
    assert (tmp_path / "segmented" / "0-mask.png").read_bytes() == files[
        tmp_path / "segmented" / "0-mask.png"
    ]
    words[words.index("miniature")] = "cow, sky"
    assert_one_sentence(unseen(*words), "j is the journal of another run, with other labels")


def test_a_journal_forgets_what_is_torn_and_remembers_the_rest(tmp_path):
    journal = Journal(tmp_path / "j", {"model": [1, 2]})
    assert not (tmp_path / "j").exists()
    assert journal.recall("a", lambda: {"share": 0.1}) == {"share": 0.1}
    assert journal.recall("b", lambda: None) is None
    (file,) = (tmp_path / "j").glob("*.jsonl")
    with open(file, "ab") as torn:
        torn.write(b'{"item": "c", "made": [1\n\0\0\n[]\n{"item"')
    again = Journal(tmp_path / "j", {"model": (1, 2)})
    assert again.recall("a", lambda: 1 / 0) == {"share": 0.1}
    assert [again.recall(item, lambda: 5) for item in "bc"] == [5, 5]
    with pytest.raises(InputError, match="another run, with other model, labels: name another"):
        Journal(tmp_path / "j", {"model": [1], "labels": []})
    (tmp_path / "j" / "journal.json").write_text('{"model": [')
    with pytest.raises(InputError, match="not whole"):
        Journal(tmp_path / "j", {"model": [1, 2]})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "file", {}).recall("a", lambda: 1)


def test_a_file_that_changes_is_made_again(tmp_path):
    made = tmp_path / "made"
    journal = Journal(tmp_path / "j", {})
    for text in ("old", "new", "lost"):
        made.write_text(text)
        journal = Journal(tmp_path / "j", {})
        assert journal.recall("a", lambda text=text: text, [made]) == text
    made.unlink()
    assert digest(made) == ""
    assert Journal(tmp_path / "j", {}).recall("a", lambda: "again", [made]) == "again"


def test_packed_scores_are_the_same_scores():
    generator = np.random.default_rng(0)
    labels, prediction = generator.integers(0, len(MINIATURE), (2, 20, 30))
    scores = Scores.count(prediction, labels, MINIATURE, generator.random((20, 30)))
    again = Scores.unpack(json.loads(json.dumps(scores.pack())), MINIATURE)
    for name in ("matrix", "boundary", "reliability"):
        found, expected = getattr(again, name), getattr(scores, name)
        assert found.dtype == np.int64 and np.array_equal(found, expected)


def test_the_environment_says_how_many_processes_there_are(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")  # as in a batch script, which is one process
    assert Processes.started() == Processes(0, 1)
    for name, value in (("STEP_NUM_TASKS", "4"), ("PROCID", "3"), ("LOCALID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert Processes.started() == Processes(3, 4, 1)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="MASTER_ADDR expected, but not set"):
        list(Processes.started().share(2, int, "counting"))
    for name, value in (("WORLD_SIZE", "8"), ("RANK", "5"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    assert Processes.started() == Processes(5, 8, 2)


def test_each_process_takes_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for processes in (Processes(), Processes(4, 6, 1), Processes(5, 6, 2)):
        processes.take_gpu()
    assert taken == [1, 0]
