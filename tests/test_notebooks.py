"""The notebooks of examples/ run from top to end."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
SHORTER = {"STEPS, PICTURES = 20, 10": "STEPS, PICTURES = 2, 2"}


@pytest.mark.filterwarnings("default")  # of the kernel's own libraries
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_works_from_top_to_end(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the suite runs in several processes
    notebook = nbformat.read(path, as_version=4)
    shown = sum(cell.cell_type == "code" and bool(cell.outputs) for cell in notebook.cells)
    assert not shown, "commit notebooks without outputs"
    for cell in notebook.cells:
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    resources = {"metadata": {"path": EXAMPLES}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", ()) for output in outputs)
