"""The command line's manners: completion, help, colour, JSON, and what unseen doctor says."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from test_cli import Run

import unseen
from unseen import environment
from unseen.backends import FILES
from unseen.bench import TASKS
from unseen.catalogue import DATASETS
from unseen.cli import app, completion
from unseen.cli.options import paint
from unseen.progress import track
from unseen.shipped import broken_files

PACKAGE = Path(unseen.__file__).parent
SERVICES = {"demo", "serve"}
"""What runs until it is stopped: it has no result to print."""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Return the command line, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")  # which the command line changes while it completes
    return lambda *arguments: Run(capsys, monkeypatch, *arguments)


def commands(command=None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Go through all commands, and the families that hold them."""
    command = command or typer.main.get_command(app)
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def test_every_help_has_an_example_and_every_result_a_json():
    for path, command in commands():
        examples = [line.strip() for line in (command.help or "").splitlines()]
        assert any(line.startswith(" ".join(("unseen", *path))) for line in examples), path
        if not hasattr(command, "commands") and not SERVICES & {*path}:
            assert [one.is_flag for one in command.params if "--json" in one.opts] == [True], path


# Completion --------------------------------------------------------------------------------------


def complete(run, monkeypatch, words: str, shell: str = "zsh") -> list[str]:
    """Return what a shell is offered behind some words."""
    monkeypatch.setenv("_UNSEEN_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    lines = run().out.splitlines()
    if shell == "zsh":  # _arguments '*: :(("train":"Train a recipe."))'
        return [line.split('"')[1] for line in lines]
    return [line.partition("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_verbs_and_options(run, monkeypatch, shell):
    for words, expected in {"unseen trai": "train", "unseen segment --lab": "--labels"}.items():
        assert complete(run, monkeypatch, words, shell) == [expected]
    assert complete(run, monkeypatch, "unseen convert x --setting ind", shell) == ["inductive"]
    assert complete(run, monkeypatch, "unseen doctor d", shell) == ["data"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train cliprc-voc-s", "cliprc-voc-supervised"),
        ("evaluate --recipe zegclip-coco-to-v", "zegclip-coco-to-voc"),
        ("evaluate zeg", "zegclip-miniature-inductive"),
        ("segment a.png --labels coco", "coco171"),
        ("segment a.png --clip op", "openai/clip-vit-base-patch16"),
        ("doctor data uavid-", "uavid-foreground"),
        ("reproduce --only zegclip,mask", "zegclip,maskclip"),
        ("bench x --precisions fp32,b", "fp32,bf16"),
        ("bench x --tasks win", "windows"),
        ("export x --to openv", "openvino"),
    ],
)
def test_shells_complete_names(run, monkeypatch, words, expected):
    assert complete(run, monkeypatch, f"unseen {words}", "bash") == [expected]


def test_what_is_offered_is_what_there_is():
    assert completion.datasets() == list(DATASETS)
    assert completion.formats() == list(FILES)
    assert completion.tasks("") == [*TASKS, "loading"]
    assert completion.contenders("a,")[0] == "a,plain"


def test_completion_imports_nothing_slow():
    code = (
        "import os, sys\n"
        "sys.argv = ['unseen']\n"
        "from unseen.cli import main\n"
        "for words in ('train ', 'evaluate --data ', 'evaluate ', 'embed ', 'reproduce --only '):\n"
        "    words = f'unseen {words}'\n"
        "    os.environ.update(_UNSEEN_COMPLETE='complete_bash', COMP_WORDS=words,\n"
        "                      COMP_CWORD=str(words.count(' ')))\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'cv2'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("cliprc-voc-inductive", "camvid", "zegclip-miniature-inductive", "zegclip"):
        assert name in done.stdout.splitlines()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_takes_the_script(run, monkeypatch, tmp_path):
    monkeypatch.setenv("_UNSEEN_COMPLETE", "source_bash")
    (tmp_path / "unseen").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unseen "$@"\n')
    (tmp_path / "unseen").chmod(0o755)
    asked = "COMP_WORDS=(unseen recipes show cascade-vo); COMP_CWORD=3; _unseen_completion unseen"
    code = f'{run().out}\nPATH="{tmp_path}:$PATH"; {asked}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True)
    assert done.stdout == "cascade-voc-inductive cascade-voc-transductive\n", done.stderr


# Colour ------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_and_never_with_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("error: no", Terminal()) == "\033[31merror:\033[0m no"
    assert paint("error: no", io.StringIO()) == "error: no"
    assert paint("sky: blue", Terminal()) == "sky: blue"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("error: no", Terminal()) == "error: no"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("error: no", Terminal()) == "error: no"


def test_what_is_printed_beside_a_progress_bar_is_on_standard_output(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    for number in track(range(2), "looking"):
        print(number)
    assert capsys.readouterr().out == "0\n1\n" and "looking" in sys.stderr.getvalue()


# The doctor --------------------------------------------------------------------------------------


@pytest.fixture
def requires(monkeypatch):
    """Let the package need as little as a test looks at."""

    def need(*lines: str) -> None:
        every = ["numpy>=1.26", "torch>=2.6", *lines]
        monkeypatch.setattr("importlib.metadata.requires", lambda name: every)

    return need


def test_the_doctor_says_what_there_is(run, requires):
    requires("pillow>=11.3", "nosuchpackage>=1; extra == 'some'", "x>=1; extra == 'dev'")
    told = run("doctor")
    assert told.code == 0, told.out
    assert f"torch {torch.__version__}" in told.out and "dependencies: numpy " in told.out
    assert "extra some: nosuchpackage missing (pip install 'unseen[some]')" in told.out
    assert "offline: yes" in told.out and "shipped files: whole" in told.out
    facts = json.loads(run("doctor", "--json").out)
    assert facts["devices"][0] == "cpu" and facts["extras"]["some"]["packages"] == {
        "nosuchpackage": None
    }
    assert not any(one["broken"] for one in facts["findings"])


def test_the_doctor_finds_what_is_broken_and_says_what_to_do(run, requires, monkeypatch, tmp_path):
    broken = "raise OSError('libsomething.so: cannot open shared object file\\nand more')"
    (tmp_path / "torn.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    requires("torn>=1; extra == 'some'", "pillow>=999", "nosuchpackage>=2")
    monkeypatch.setattr(environment, "broken_files", lambda: ["a.webp"])
    monkeypatch.setattr(environment, "_cores", lambda: 0)
    told = run("doctor")
    assert told.code == 1 and "Traceback" not in told.err
    lines = told.out.splitlines()
    assert (
        "broken: torn of the extra some cannot be used: OSError: libsomething.so: cannot open "
        "shared object file: pip install 'unseen[some]' --force-reinstall"
    ) in lines
    for part in (
        "is older than 999: pip install --force-reinstall 'pillow>=999'",
        "nosuchpackage cannot be used: it is not installed: pip install",
        "not whole: a.webp: install it anew",
        "this process has 0 cores: set OMP_NUM_THREADS=0",
    ):
        assert any(part in line for line in lines), part


def test_a_torch_that_does_not_load_is_reported(run, requires, monkeypatch):
    requires()
    load = environment._load
    monkeypatch.setattr(
        environment, "_load", lambda name: ("2", "boom") if name == "torch" else load(name)
    )
    told = run("doctor", "--json")
    assert told.code == 1
    assert json.loads(told.out)["findings"][0]["what"] == "torch cannot be used: boom"
    monkeypatch.setattr(
        environment, "_load", lambda name: (None, "") if name == "torch" else load(name)
    )
    told = run("doctor", "--json")
    assert "torch cannot be used: it is not installed" in told.out and told.code == 1


def test_a_package_whose_module_is_gone_is_reported(run, requires, monkeypatch):
    requires("pillow>=1")
    monkeypatch.setitem(environment._MODULES, "pillow", "nosuchmodule")
    told = run("doctor")
    assert told.code == 1
    assert "pillow cannot be used: its module nosuchmodule is missing" in told.out


def test_a_gpu_that_cannot_be_used_is_reported(run, requires, monkeypatch):
    requires()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    notes = [one["what"] for one in json.loads(run("doctor", "--json").out)["findings"]]
    assert "an NVIDIA driver is here, and this build of torch cannot use it" in notes
    gpu = SimpleNamespace(name="H200", total_memory=139 * 2**30)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: gpu)
    told = run("doctor")
    assert told.code == 1 and "devices: cpu, cuda:0 H200, 139 GiB" in told.out
    assert "broken: nothing computes on cuda:0: " in told.out
    assert "NVIDIA driver" not in told.out


def test_files_of_the_package_are_whole_and_a_torn_one_is_named(monkeypatch, tmp_path):
    listed = (PACKAGE / "SHA256SUMS").read_text().split()[1::2]
    kinds = ("*.safetensors", "*.webp", "*.gz")
    there = [path for kind in kinds for path in PACKAGE.rglob(kind)]
    assert {PACKAGE / name for name in listed} == {*there}
    assert broken_files() == []
    for name in ("SHA256SUMS", *listed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, tmp_path / name)
    (tmp_path / listed[0]).unlink()
    (tmp_path / listed[-1]).write_bytes(b"torn")
    monkeypatch.setattr("unseen.shipped.files", lambda package: tmp_path)
    assert broken_files() == [listed[0], listed[-1]]
