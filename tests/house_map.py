"""The map of the house in CONTRIBUTING.md, made from the first lines of the modules: `make map`."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
START, END = "## The house's map\n", "\n## "


def house_map(project: Path = PROJECT) -> str:
    """Text of the section: one line per module, packages in the order of their layers, top layer first."""
    root = project / "src" / "surefield"
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    contract, *_ = settings["tool"]["importlinter"]["contracts"]
    layers = [name.strip(" ()") for line in contract["layers"] for name in re.split("[|:]", line)]
    lines = ["", "One line per module of `src/surefield`, top layer first (`make map` writes it)."]
    for name in layers:
        if (root / name).is_dir():
            lines += ["", f"### {name}", "", f"{first_line(root / name / '__init__.py')}.", *_header()]
            lines += [_line(path, root / name) for path in _modules(root / name)]
    alone = [root / f"{name}.py" for name in layers if (root / f"{name}.py").is_file()]
    lines += ["", "### modules without a package", *_header(), *(_line(path, root) for path in alone)]
    return "\n".join(lines) + "\n"


def first_line(path: Path) -> str:
    """First line of a module's docstring, without the full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].removesuffix(".")


def written_map(text: str) -> str:
    """The section as CONTRIBUTING.md has it."""
    return text.partition(START)[2].partition(END)[0]


def with_map(text: str, section: str) -> str:
    """CONTRIBUTING.md with another section."""
    return text.replace(START + written_map(text), START + section)


def _header() -> list[str]:
    return ["", "| module | what |", "|---|---|"]


def _modules(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if path != package / "__init__.py")


def _line(path: Path, package: Path) -> str:
    face = path.name == "__init__.py"
    name = f"{path.parent.relative_to(package)}/" if face else str(path.relative_to(package))
    return f"| `{name}` | {first_line(path)} |"


if __name__ == "__main__":
    contributing = PROJECT / "CONTRIBUTING.md"
    before = contributing.read_text(encoding="utf-8")
    contributing.write_text(with_map(before, house_map()), encoding="utf-8")
