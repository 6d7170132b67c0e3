"""Write the generated parts of documents: the table of published files, what models cost, what was
reproduced.

python scripts/write_tables.py
"""

import json
import re
from functools import partial
from pathlib import Path

from unseen.claims import CLAIMS, TABLE
from unseen.efficiency import compare_costs, describe, measure
from unseen.metrics import markdown
from unseen.published import PUBLISHED, list_files
from unseen.reproduction import claims_table, load, needed, table, trials

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COSTED = [
    f"{pair}-inductive"
    for pair in (
        "zegclip-voc",
        "zegclip-coco",
        "cascade-voc",
        "cascade-context",
        "cascade-coco",
        "cliprc-voc",
        "cliprc-coco",
    )
]


def list_commands() -> str:
    """Return the commands that convert the authors' files, as a block of shell."""
    return "\n".join(["```bash", *(entry.command() for entry in PUBLISHED.values()), "```"])


def list_costs() -> str:
    """Return parameters and GFLOPs at 512×512, a row for each published configuration's sizes."""
    return compare_costs([measure(describe(name), size=(512, 512), repeats=0) for name in COSTED])


SEEDS = (0, 1, 2)


def list_reproduction() -> str:
    """Return the scores of the runs that are committed."""
    return table(load(DOCS / "results" / "reproduction", trials(list(TABLE), SEEDS)))


def list_claims() -> str:
    """Return the verdicts that follow from the runs that are committed."""
    return claims_table(load(DOCS / "results" / "reproduction", needed(CLAIMS, SEEDS)))


SPEED = DOCS / "results" / "speed"


def list_speed(folder: Path = SPEED) -> str:
    """Return what ways of running took beside the yardstick, and the conditions."""
    rows, conditions = [], {}
    for path in sorted(folder.glob("*-*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        conditions[facts["conditions"]] = None
        for row in facts["costs"]:
            model, same = row["model"].removesuffix("-inductive"), row.get("same labels %")
            rows.append(
                [
                    f"{model}, {row['task']}",
                    row["by"],
                    f"{row['s']:.3g}",
                    f"{row['times sooner']:.2f}",
                    f"{row['MB']:,.0f}",
                    f"{row['times less']:.2f}",
                    "–" if same is None else f"{same:.3f}",
                ]
            )
    header = ["", "by", "s", "times sooner", "MB", "times less", "same labels, %"]
    return "\n\n".join([markdown(header, rows), *(f"{one}." for one in conditions)])


def list_encoders() -> str:
    """Return the yardstick's encoder against another library's."""
    rows = {}
    for path in sorted(SPEED.glob("*-picture.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["encoders"]:
            cells = row.values()
            rows[row["model"]] = [
                f"{one:.2f}" if isinstance(one, float) else str(one) for one in cells
            ]
            header = list(row)
    return markdown(header, list(rows.values()))


def list_labels() -> str:
    """Return what pictures took over the number of labels and their size."""
    rows = []
    for one in json.loads((SPEED / "labels.json").read_text(encoding="utf-8")):
        height, width = one["case"]["size"]
        rows.append(
            [
                f"{width}×{height}",
                f"{one['classes']:,}",
                f"{one['p50']:.3g}",
                f"{one['memory'] / 1e6:,.0f}",
            ]
        )
    return markdown(["pixels", "labels", "s", "MB"], rows)


PARTS = {
    "../README.md": {"table": list_reproduction},
    "reproduction.md": {"table": list_reproduction, "claims": list_claims},
    "models.md": {"files": list_files, "commands": list_commands},
    "efficiency.md": {"costs": list_costs},
    "speed.md": {
        "speed": list_speed,
        "kept": partial(list_speed, SPEED / "kept"),
        "avx512": partial(list_speed, SPEED / "avx512"),
        "encoders": list_encoders,
        "labels": list_labels,
    },
}


def fill_in(text: str, name: str, part: str) -> str:
    """Put a generated part between its two marks."""
    marks = f"<!-- {name}: scripts/write_tables.py -->\n", f"\n<!-- end of {name} -->"
    pattern = re.escape(marks[0]) + ".*?" + re.escape(marks[1])
    filled, count = re.subn(pattern, lambda _: part.join(marks), text, flags=re.DOTALL)
    assert count == 1, name
    return filled


def main() -> None:
    for file, parts in PARTS.items():
        text = (DOCS / file).read_text(encoding="utf-8")
        for name, make in parts.items():
            text = fill_in(text, name, make())
        (DOCS / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
