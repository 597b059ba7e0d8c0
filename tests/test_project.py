"""Rules for the project as a whole: no traces of one machine, documented modules, a quick command line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import surefield

# Put together here, so that this file does not contain them itself.
MACHINE_PATHS = ["/" + "work/", "/" + "root/", "shared/" + "hooks", "bash" + "_jobs"]
MACHINE_PATH = re.compile("|".join(rf"(?<![\w.-]){re.escape(path)}" for path in MACHINE_PATHS))


def project_files(project: Path) -> list[Path]:
    """Tracked files, and new ones that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=project, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("needs a git checkout to know which files belong to the project")
    return [project / name for name in listed.stdout.split("\0") if name and (project / name).is_file()]


def lines_with_machine_paths(path: Path) -> list[int]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [number for number, line in enumerate(text.splitlines(), 1) if MACHINE_PATH.search(line)]


def test_machine_paths_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(f"fine\nsee {MACHINE_PATHS[0]}main\nmy{MACHINE_PATHS[0]}\n")

    assert lines_with_machine_paths(file) == [2]


def test_no_machine_path_in_the_project(project: Path) -> None:
    found = {
        str(path.relative_to(project)): lines
        for path in project_files(project)
        if (lines := lines_with_machine_paths(path))
    }

    assert not found


def test_every_module_has_a_docstring(project: Path) -> None:
    modules = sorted((project / "src" / "surefield").rglob("*.py"))
    bare = [
        str(path.relative_to(project))
        for path in modules
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert modules
    assert not bare


def test_help_does_not_import_jax() -> None:
    code = "import sys; sys.argv = ['surefield', '--help']; from surefield.cli import main; main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}

    assert done.returncode == 0, done.stderr[-2000:]
    assert "Usage" in done.stdout
    assert "surefield.cli" in imported
    assert "jax" not in imported


def test_names_of_the_package_are_what_type_checkers_see(project: Path) -> None:
    tree = ast.parse((project / "src" / "surefield" / "__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    places = {a.name: n.module for n in checked.body if isinstance(n, ast.ImportFrom) for a in n.names}

    assert places == surefield._homes
    assert {*places, "load"} == {*surefield.__all__}
    assert all(getattr(surefield, name) is not None for name in surefield.__all__)


def test_every_benchmark_can_be_imported(project: Path) -> None:
    scripts = sorted((project / "benchmarks").glob("*.py"))
    read = f"import runpy\nfor path in {[str(path) for path in scripts]}: runpy.run_path(path)"
    found = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True)

    assert scripts
    assert found.returncode == 0, found.stderr
