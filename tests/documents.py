"""The code blocks of the documents, and what the comment before each says of running it.

``<!-- not run: why -->`` leaves a block out, ``<!-- tested by: test_name -->`` leaves it to another
test, and ``<!-- run with: OLD → NEW; … -->`` runs it with these changes, so that it takes seconds.
Without a comment a block is run as it stands.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NO_CODE = ("bibtex", "text", "json")

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|tested by|run with): (?P<says>[^>]+?) -->\n)?"
    r"^```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        line: of its first line of code, counted from 1.
        language: as the fence says.
        code: what is between the fences.
        mark: what the comment before it asks for; empty without one.
        says: the rest of the comment.
    """

    line: int
    language: str
    code: str
    mark: str
    says: str

    def changed(self) -> str:
        """Return the code as it is to be run.

        Raises:
            ValueError: what is to be changed is not there.
        """
        code = self.code
        for change in self.says.split("; ") if self.mark == "run with" else ():
            old, new = change.split(" → ")
            if old not in code:
                raise ValueError(f"line {self.line}: there is no {old!r} to change")
            code = code.replace(old, new)
        return code


def read_blocks(path: Path) -> list[Block]:
    """Return the code blocks of a document, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["code"],
            found["mark"] or "",
            " ".join((found["says"] or "").split()),
        )
        for found in _BLOCK.finditer(text)
        if found["language"] not in NO_CODE
    ]


def list_commands(code: str) -> list[str]:
    """Return the commands of a shell block, each on one line, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    commands = [part.strip() for line in lines for part in line.split(" && ")]
    return [command for command in commands if command and not command.startswith("#")]
