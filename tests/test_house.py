"""Rules that keep the house: no import circles, one meaning per class name, sizes, the map of its rooms."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from tests.house_map import house_map, written_map

LINES_OF_A_PACKAGE, LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 8000, 600, 100
#: How many functions may be longer.
#: Documented as classes that change nothing by themselves, and that users derive from.
BASES_THAT_DO_NOTHING = {"FeatureTransformation.apply"}
LONG_FUNCTIONS = 1

Sources = dict[str, tuple[Path, ast.Module]]


def sources(root: Path) -> Sources:
    """Path and syntax tree of every module under a folder, by its dotted name."""
    paths = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    return {
        name.removesuffix(".__init__"): (path, ast.parse(path.read_text(encoding="utf-8")))
        for name, path in paths.items()
    }


def n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(tree: ast.Module) -> Iterator[str]:
    """Every name that is imported anywhere in a module: late and type-only imports count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circle(modules: Sources) -> list[str]:
    """Modules that import each other in a circle, if there is one; faces of packages do not count."""
    rooms = {name for name, (path, _) in modules.items() if path.name != "__init__.py"}
    needs = {name: {*imported(modules[name][1])} & rooms - {name} for name in rooms}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def classes_twice(modules: Sources) -> dict[str, list[str]]:
    """Public classes whose name is defined in more than one module."""
    homes = defaultdict(list)
    for name, (_, tree) in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    return {name: sorted(places) for name, places in homes.items() if len(places) > 1}


def package_sizes(modules: Sources) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for name, (path, _) in modules.items():
        sizes[".".join(name.split(".")[:2])] += n_lines(path)
    return sizes


def long_functions(modules: Sources, limit: int) -> dict[str, int]:
    return {
        f"{name}.{node.name}": length
        for name, (_, tree) in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > limit
    }


def classes_of(modules: Sources) -> dict[str, list[ast.ClassDef]]:
    """Classes anywhere in the modules, by name."""
    classes = defaultdict(list)
    for _, tree in modules.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(node)
    return classes


def methods_of(node: ast.ClassDef) -> dict[str, bool]:
    """Methods and properties of a class, and whether they are abstract; without `__init__` and the like."""
    return {
        entry.name: any("abstractmethod" in ast.unparse(mark) for mark in entry.decorator_list)
        for entry in node.body
        if isinstance(entry, ast.FunctionDef | ast.AsyncFunctionDef) and not entry.name.startswith("__")
    }


def ancestors(node: ast.ClassDef, classes: dict[str, list[ast.ClassDef]]) -> Iterator[ast.ClassDef]:
    """Parents of a class in the house, and theirs, nearest first."""
    for base in node.bases:
        name = base.value if isinstance(base, ast.Subscript) else base
        for parent in classes.get(ast.unparse(name).split(".")[-1], []):
            yield parent
            yield from ancestors(parent, classes)


def overridden(modules: Sources) -> list[str]:
    """Methods that have a body in one class of the house and another in a class below it."""
    classes = classes_of(modules)
    return sorted(
        f"{parent.name}.{method} in {node.name}"
        for nodes in classes.values()
        for node in nodes
        for method, abstract in methods_of(node).items()
        for parent in ancestors(node, classes)
        if not abstract and methods_of(parent).get(method) is False
    )


@pytest.fixture(scope="module")
def house(project: Path) -> Sources:
    return sources(project / "src")


def test_imports_make_no_circle(house: Sources) -> None:
    assert circle(house) == []


def test_a_class_name_has_one_meaning(house: Sources) -> None:
    assert classes_twice(house) == {}


def test_no_package_is_too_large(house: Sources) -> None:
    sizes = package_sizes(house)
    assert {name: n for name, n in sizes.items() if n >= LINES_OF_A_PACKAGE} == {}


def test_no_file_is_too_long(house: Sources) -> None:
    lines = {str(path): n_lines(path) for path, _ in house.values()}
    assert {path: n for path, n in lines.items() if n > LINES_OF_A_FILE} == {}


def test_no_function_is_too_long(house: Sources) -> None:
    functions = long_functions(house, LINES_OF_A_FUNCTION)
    assert len(functions) <= LONG_FUNCTIONS, functions


def test_only_abstract_methods_are_overridden(house: Sources) -> None:
    """What has a body is final: what differs is declared in attributes, or an abstract method of its own."""
    rest = [entry for entry in overridden(house) if entry.split(" in ")[0] not in BASES_THAT_DO_NOTHING]
    assert rest == []


def test_map_follows_the_modules(project: Path) -> None:
    section = written_map((project / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert section == house_map(project), "`make map` writes it anew"


def test_faults_of_a_small_house_are_seen(tmp_path: Path) -> None:
    (tmp_path / "h" / "room").mkdir(parents=True)
    files = {
        "h/__init__.py": "from h.a import Door",
        "h/a.py": "def f():\n    from h.room.b import g\n\n\nclass Door: ...\n",
        "h/room/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import h.c\n",
        "h/c.py": "from h import a\n\n\nclass Door: ...\n\n\nclass _Own: ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    small = sources(tmp_path)

    assert set(circle(small)) == {"h.a", "h.room.b", "h.c"}
    assert classes_twice(small) == {"Door": ["h.a", "h.c"]}
    assert package_sizes(small)["h.room"] == 3
    assert long_functions(small, 1) == {"h.a.f": 2}

    twice = "class Low(Door):\n    def open(self):\n        return 2\n"
    (tmp_path / "h" / "d.py").write_text(f"class Door:\n    def open(self):\n        return 1\n\n\n{twice}")
    assert overridden(sources(tmp_path)) == ["Door.open in Low"]
    marked = "class Door:\n    @abc.abstractmethod\n    def open(self): ...\n\n\n"
    (tmp_path / "h" / "d.py").write_text(marked + twice)
    assert overridden(sources(tmp_path)) == []

    (tmp_path / "h" / "c.py").write_text("import h\n")
    assert circle(sources(tmp_path)) == []
