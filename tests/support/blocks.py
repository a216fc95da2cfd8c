"""The code blocks of the documents, as their sources have them.

<!-- not run: REASON -->             above a block that can't run where tests do; the reason is counted
```LANGUAGE title="FILE"             a block with a title is a whole file; `text` is no code
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<info>.*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)


class Block(NamedTuple):
    """A code block.

    Attributes:
        name: File and number of the block in it, from 0.
        language: "python", "toml", "bash", "text", or "" where the source has none.
        code: The code.
        title: The file that it is; "" for a fragment.
        reason: Why it is not run; "" where it is.
    """

    name: str
    language: str
    code: str
    title: str = ""
    reason: str = ""

    @property
    def document(self) -> str:
        """The path of its document."""
        return self.name.rpartition("-")[0]


def blocks_of(path: Path) -> list[Block]:
    """The code blocks of a document."""
    return blocks_in(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))


def blocks_in(text: str, name: str) -> list[Block]:
    """The code blocks of a text."""
    found = []
    for i, match in enumerate(FENCE.finditer(text)):
        language, _, more = match["info"].strip().partition(" ")
        title = re.search(r'title="(.+?)"', more)
        found.append(Block(f"{name}-{i}", language, match["code"], title[1] if title else "", match["reason"] or ""))
    return found


def blocks() -> list[Block]:
    """All code blocks of the documents."""
    return [block for path in DOCUMENTS for block in blocks_of(path)]
