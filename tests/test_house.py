"""The house rules that a machine can see: public names, light imports, layers, types, style."""

import subprocess
import sys
from pathlib import Path

import pytest

import unseen

ROOT = Path(__file__).parent.parent


def test_public_names_are_sorted_documented_and_there():
    assert unseen.__all__ == sorted(unseen.__all__)
    assert dir(unseen) == unseen.__all__
    for name in unseen.__all__:
        assert getattr(unseen, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'Segmentor'"):
        _ = unseen.Segmentor


def test_importing_unseen_imports_nothing_heavy():
    code = (
        "import sys, unseen, unseen.segmenter\n"
        "heavy = {'lightning_fabric', 'lightning', 'gradio', 'matplotlib', 'onnx', 'onnxruntime',"
        " 'openvino', 'transformers', 'typer', 'huggingface_hub', 'rich'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_unseen_alone_does_not_import_torch():
    code = "import sys, unseen; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["deptry", "src"],
        ["lint-imports"],
    ],
    ids=lambda command: " ".join(command),
)
def test_the_house_is_in_order(command):
    program = Path(sys.executable).parent / command[0]
    result = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
