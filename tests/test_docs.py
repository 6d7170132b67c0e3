"""What the documents say is run, or compared with what the commands print."""

import doctest
import hashlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image
from test_data import write, write_picture

import unseen.segmenter
from unseen import learning
from unseen.catalogue import DATASETS, open_dataset
from unseen.checkpoints import ModelConfig
from unseen.claims import CONTENDERS
from unseen.cli import app
from unseen.cli.options import DEFAULT_MODEL
from unseen.data.own import KEYS
from unseen.evaluation import evaluate, make_baselines
from unseen.losses import criterion
from unseen.methods import METHODS
from unseen.metrics import Scores, chance, compare
from unseen.miniature.scenes import Scenes
from unseen.recipes import table
from unseen.sizes import SizeScores
from unseen.vocabulary import MINIATURE

ROOT = Path(__file__).parent.parent
NOTHING = Scores(np.zeros((len(MINIATURE), len(MINIATURE)), np.int64), MINIATURE)
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [README] + [p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md")]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_first_python_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict[str, object] = {}
    exec(blocks(README, "python")[0], names)
    assert names["result"].mask.shape == (384, 512)
    assert (tmp_path / "wall-overlay.png").is_file()


def test_the_first_command_names_a_class_that_training_never_showed(tmp_path):
    command = blocks(README, "bash")[0].splitlines()[0].partition("&& unseen ")[2]
    result = subprocess.run(
        [sys.executable, "-m", "unseen", *shlex.split(command), "--json", "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (picture,) = json.loads(result.stdout)
    found = [region for region in picture["found"] if region["unseen"]]
    assert {region["label"] for region in found} <= set(MINIATURE.unseen)
    assert sum(region["share"] for region in found) > 0.02  # the giraffe is 3 % of it


def test_the_readme_has_a_screen_of_pictures_and_commands_before_any_table():
    lines = README.splitlines()
    screen = lines[: next(i for i, line in enumerate(lines) if line.startswith("|"))]
    assert len(screen) <= 50
    assert "\n".join(screen).count("![") >= 2 and screen.count("```bash") >= 2


def test_the_test_command_is_what_ci_runs():
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install -c constraints.txt -e '.[dev]' && pytest" in README
    assert "README.md" in script


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda text: text.splitlines()[0])
def test_every_command_uses_verbs_and_options_that_exist(document):
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    calls = [
        line.partition("unseen ")[2] for line in lines if re.search(r"(^|&& |-m )unseen ", line)
    ]
    for call in calls:
        command, arguments = typer.main.get_command(app), shlex.split(call, comments=True)
        # a verb may have verbs of its own, and need none of them
        while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
            verb = arguments.pop(0)
            assert verb in command.commands, call
            command = command.commands[verb]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        assert {a for a in arguments if a.startswith("-")} <= known, call


def test_the_data_set_file_of_the_documents_opens(tmp_path, monkeypatch):
    data = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (text,) = blocks(data, "yaml")
    (tmp_path / "farm.yaml").write_text(text)
    labels = [[0, 1, 2, 7, 8, 9, 10, 255]]
    for name in ("a", "b"):
        write_picture(tmp_path / "farm" / "photos" / f"{name}.jpg", (1, 8))
        write(tmp_path / "farm" / "masks" / f"{name}_ids.png", labels)
    write_picture(tmp_path / "farm" / "later" / "photos" / "c.png", (1, 8))
    write(tmp_path / "farm" / "later" / "masks" / "c.png", labels)
    (tmp_path / "farm" / "train.txt").write_text("a\n")
    (tmp_path / "farm" / "val.txt").write_text("photos/b.jpg\n")
    for split, name in {"train": "a", "val": "b", "test": "c", None: "c"}.items():
        dataset = open_dataset("farm.yaml", split)
        assert dataset.names == [name]
        assert dataset[0].labels.tolist() == [[255, 0, 1, 2, 3, 4, 4, 255]]
    assert set(yaml.safe_load(text)) <= set(KEYS)
    for key in KEYS:
        assert f"`{key}`" in data or f"\n{key}:" in text, key
    assert all(f"`{name}`" in data for name in DATASETS)


def test_the_journal_of_the_documents_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (code,) = (block for block in blocks(page, "python") if "Journal(" in block)
    exec(code, {})
    assert len(list((tmp_path / "journal").iterdir())) == 2


def test_the_results_are_what_evaluate_printed():
    stored = json.loads((ROOT / "docs" / "results" / f"{DEFAULT_MODEL}.json").read_text())
    rows = {}
    for title, numbers in stored["scores"].items():
        rows[title] = {name: numbers[name] for name in NOTHING.summary()}
    assert compare(rows) in README


def test_a_method_of_ones_own_is_sixty_lines_at_most():
    page = (ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
    assert len(blocks(page, "python")[0].splitlines()) <= 60


def test_the_command_line_knows_a_method_of_ones_own(tmp_path):
    code = blocks((ROOT / "docs" / "own-method.md").read_text(encoding="utf-8"), "python")
    (tmp_path / "neighbour.py").write_text(code[0].partition("recipe = ")[0], encoding="utf-8")
    (mine,) = (block for block in code if "# mine.py" in block)
    (tmp_path / "mine.py").write_text(mine, encoding="utf-8")
    made = """
from neighbour import neighbour
from unseen import Segmenter, load_clip
from unseen.checkpoints import ModelConfig, shipped_clip
from unseen.vocabulary import MINIATURE

clip = load_clip(shipped_clip())
config = ModelConfig("neighbour", {}, MINIATURE, "inductive", 0.1, 128, 64, 32)
Segmenter(neighbour(clip.image), clip.text, config).save_pretrained("runs/neighbour")
"""
    for command in (
        ["-c", made],
        shlex.split(f"mine.py evaluate --compare runs/neighbour {DEFAULT_MODEL} --count 2"),
        shlex.split("mine.py bench runs/neighbour --tasks picture --repeats 1 --sizes 64x64"),
    ):
        run = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr


def test_every_score_is_explained():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    explained = text.partition("| --- |")[2]
    for name in NOTHING.to_dict()["classes"]["sky"] | NOTHING.summary() | NOTHING.details():
        if name != "unseen":
            assert name.partition("(")[0] in explained, name


def test_every_score_by_size_is_explained():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    explained = text.partition("### By size")[2]
    counted = SizeScores(np.zeros((5, len(MINIATURE), 4), np.int64), MINIATURE)
    for size, columns in counted.summary().items():
        assert f"| {size} | " in explained
        assert all(column in explained for column in columns)
    for name, entry in DATASETS.items():
        assert f"| {', '.join(entry.small)} |" in explained or not entry.small, name


def test_the_tables_of_recipes_are_what_the_command_prints():
    printed = table()
    document = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert printed in document, "put what 'unseen recipes' prints into docs/recipes.md"


def test_the_shipped_model_beats_chance_and_its_untrained_head_on_unseen_classes(segmenter):
    scenes = Scenes("test", count=40)
    scores = evaluate(segmenter, scenes)
    untrained = evaluate(make_baselines(segmenter)["untrained head"], scenes)
    assert scores.unseen > 2 * max(untrained.unseen, chance(scores).unseen)
    assert scores.seen > 2 * max(untrained.seen, chance(scores).seen)


def test_examples_in_docstrings_hold(monkeypatch):
    monkeypatch.chdir(ROOT)
    failures, tried = doctest.testmod(unseen.segmenter)
    assert tried and not failures


def test_documents_link_to_files_that_exist():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def load_script(name: str) -> ModuleType:
    """Return a module of scripts/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_variants_of_the_log_are_trained(monkeypatch, tmp_path):
    script = load_script("train_variants")
    monkeypatch.setattr(learning, "criterion", learning.criterion)  # and back
    for name in script.VARIANTS:
        monkeypatch.setitem(METHODS, name, None)
        monkeypatch.setitem(CONTENDERS, name, None)
        words = f"train_variants {name} 0 --steps 1 --count 1 --out {tmp_path}"
        monkeypatch.setattr(sys, "argv", words.split())
        script.main()
        assert (tmp_path / f"{name}-inductive-0.json").is_file()


def test_what_the_log_leaves_out_of_the_loss_is_all_it_changes():
    script = load_script("train_variants")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 4, generator=generator)
    target = torch.randint(5, (2, 16, 16), generator=generator)
    weights = {"focal_weight": 100.0, "dice_weight": 60.0, "num_pairs": torch.tensor(9.0)}
    ours, whole = (f(logits, target, **weights) for f in (script.labelled_alone, criterion))
    for name, value in ours.items():
        torch.testing.assert_close(value, whole[name])
    target[:, :3] = 255
    less = script.labelled_alone(logits, target, **weights)
    assert all(less[name] < criterion(logits, target, **weights)[name] for name in less)


def test_generated_tables_are_in_step():
    """Run scripts/write_tables.py if this fails."""
    script = load_script("write_tables")
    for file, parts in script.PARTS.items():
        text = (ROOT / "docs" / file).read_text(encoding="utf-8")
        for name, make in parts.items():
            assert script.fill_in(text, name, make()) == text, f"{file}: {name}"


def test_the_pictures_of_the_concepts_are_drawn_by_their_script(segmenter):
    """Run scripts/draw_concepts.py if this fails."""
    drawn = load_script("draw_concepts").draw(segmenter)
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(pictures/(\w+)\.webp\)", page)) == set(drawn)
    for name, picture in drawn.items():
        with Image.open(ROOT / "docs" / "pictures" / f"{name}.webp") as stored:
            assert stored.size == picture.size
            difference = np.abs(np.asarray(stored.convert("RGB"), int) - np.asarray(picture, int))
        assert difference.mean() < 8, name  # what WebP loses, and rounding elsewhere


def test_the_format_of_models_is_described_field_by_field():
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    description = text.partition("## Our format")[2]
    named = {field for row in re.findall(r"^\| (`.*?) \|", description, flags=re.MULTILINE)
             for field in re.findall(r"`(\w+)`", row)}  # fmt: skip
    written = {field.name for field in fields(ModelConfig)}
    assert named == written | {"format", "adapter_only", "encoders", "fingerprint"}


def test_the_citation_file_is_whole():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["cff-version"] == "1.2.0" and content["license"] == "MIT"
    citing = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    for paper in content["references"]:
        assert paper["authors"] and paper["year"]
        title = (
            paper["title"].replace("ZegCLIP", "{ZegCLIP}").replace("Cascade-CLIP", "{Cascade-CLIP}")
        )
        assert re.sub(r" CLIP ", " {CLIP} ", title) in citing


def test_the_miniatures_page_names_the_weights_and_drawings_that_are_shipped():
    page = (ROOT / "docs" / "miniature.md").read_text(encoding="utf-8")
    assets = ROOT / "src" / "unseen" / "miniature" / "assets"
    weights = (assets / "clip" / "clip.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in page
    count = 0
    for path in (assets / "sprites").glob("*.webp"):
        with Image.open(path) as strip:
            count += strip.width // strip.height
    assert f"{count} drawings from" in page
