"""The Python blocks of README.md and the guides run as they stand, in order, in one namespace each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BLOCK = re.compile(
    r"(?P<skip><!--\s*not run\s*-->\s*\n)?^```python[^\n]*\n(?P<code>.*?)^```\s*$", re.M | re.S
)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """Line number and code of every block that is meant to run."""
    return [
        (text.count("\n", 0, found.start("code")), found["code"])
        for found in BLOCK.finditer(text)
        if not found["skip"]
    ]


def test_blocks_are_found_and_skipped() -> None:
    first, second, third = "```python\nx = 1\n```\n", "```python\nx = 2\n```\n", "```python\ny\n```\n"
    text = f"a\n{first}<!-- not run -->\n{second}\n```bash\nls\n```\n{third}"

    assert python_blocks(text) == [(2, "x = 1\n"), (13, "y\n")]


COMING_FROM = [f"docs/coming-from/{name}.md" for name in ("amp", "apax", "orchestrator")]
PAGES = ["README.md", "docs/loop.md", "docs/properties.md", "docs/selection.md", *COMING_FROM]


#: Scripts of other packages, word for word: longer than they need to be for what they show.
SLOW = COMING_FROM


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in PAGES]
)
def test_pages_run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    blocks = python_blocks((project / page).read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}

    assert blocks, f"{page} has no ```python block that runs"
    for line, code in blocks:
        # empty lines in front make a traceback show the line of the page
        exec(compile("\n" * line + code, page, "exec"), namespace)
