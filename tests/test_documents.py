"""Every code block and every command of the documents is run, or says why it is not."""

import re
import shlex
import shutil
import sys
import warnings
from collections import Counter
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from documents import DOCUMENTS, ROOT, Block, list_commands, read_blocks
from stage import set_stage

from unseen import METHODS
from unseen.cli import main

NEVER_RUN = {
    "pip install": "installs packages",
    "pytest": "runs these tests",
    "unseen demo": "runs until it is stopped",
    "unseen serve": "runs until it is stopped",
}
"""Commands that need no comment, by how they begin."""


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the command line as a shell would; anything but exit code 0 is an error."""
    command, _, target = command.partition(" > ")
    monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
    try:
        with open(target, "w") if target else nullcontext(sys.stdout) as out, redirect_stdout(out):
            main()
    except SystemExit as stop:
        if stop.code:
            raise AssertionError(f"{command}: exit code {stop.code}") from stop


def run_block(
    block: Block, path: Path, names: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Run a block, and count what was run and what was not, by reason."""
    code = block.changed()
    if block.language == "python":
        # blank lines put the document's line into a traceback
        exec(compile("\n" * (block.line - 1) + code, path, "exec"), names)
        return Counter(["ran"])
    assert block.language == "bash", f"{path.name}:{block.line}: say how {block.language} is tested"
    counts: Counter[str] = Counter()
    for command in list_commands(code):
        reason = next((NEVER_RUN[word] for word in NEVER_RUN if command.startswith(word)), None)
        if reason is None:
            here = f"{path.name}:{block.line}: {command!r}"
            assert command.startswith("unseen "), f"{here} is not run: say why before the block"
            run_command(command, monkeypatch)
        counts[reason or "ran"] += 1
    return counts


def count_all(block: Block, title: str) -> Counter[str]:
    """Count a block that is not run here: its commands, or itself."""
    size = len(list_commands(block.code)) if block.language == "bash" else 1
    return Counter({title: size})


def work_through(path, monkeypatch, folder) -> Counter[str]:
    """Run a document from its top to its end in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))  # the user's own is nothing to try commands on
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line sets it
    names: dict[str, object] = {"__name__": "__main__"}
    counts: Counter[str] = Counter()
    for block in read_blocks(path):
        if block.mark == "not run":
            counts += count_all(block, block.says)
        elif block.mark == "tested by":
            counts += count_all(block, "ran")
        else:
            counts += run_block(block, path, names, monkeypatch)
    return counts


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """Return a folder to be copied."""
    folder = tmp_path_factory.mktemp("stage")
    set_stage(folder, ROOT / "examples")
    return folder


@pytest.mark.filterwarnings("default")  # the command line shows warnings
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_works_from_top_to_end(path, monkeypatch, tmp_path, record_property, stage):
    folder = shutil.copytree(stage, tmp_path / "stage", symlinks=True)
    with patch.dict(METHODS):  # a document adds its own
        record_property("documents", dict(work_through(path, monkeypatch, folder)))


def test_other_tests_that_the_documents_name_are_there():
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")
    )
    named = [b.says for p in DOCUMENTS for b in read_blocks(p) if b.mark == "tested by"]
    for name in named:
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```bash\nrm -r /\n```\n", "say why"),
        ("```bash\nunseen segment nowhere.png --labels sky\n```\n", "exit code 2"),
        ("```python\nassert 1 == 2, 'the sum'\n```\n", "the sum"),
        ("```yaml\na: 1\n```\n", "how yaml is tested"),
        ("<!-- not runn: a slip -->\n```bash\nrm -r /\n```\n", "say why"),
    ],
)
def test_a_block_that_neither_runs_nor_says_why_fails(text, says, monkeypatch, tmp_path):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(AssertionError, match=says):
        work_through(tmp_path / "page.md", monkeypatch, tmp_path)


def test_a_change_that_changes_nothing_fails(monkeypatch, tmp_path):
    (tmp_path / "page.md").write_text("<!-- run with: 8 → 1 -->\n```python\nsteps = 9\n```\n")
    with pytest.raises(ValueError, match="no '8' to change"):
        work_through(tmp_path / "page.md", monkeypatch, tmp_path)
