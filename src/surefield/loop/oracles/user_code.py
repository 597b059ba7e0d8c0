"""Code of users that labels depend on: calculators and scripts, with what they import beside them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final, final

from surefield.errors import ConfigError, nearest
from surefield.execution.identity import digest

__all__ = ["MakeFromFile", "argument_files", "code_digest", "module_digest", "script_digests"]

#: A file that a command names by its place.
_PLACED: Final = re.compile(r"(?:\{here\}|(?<![\w.])/)[^\s'\";|&<>]+")
#: Programs have zeros among their first bytes, scripts do not.
_HEAD: Final = 4096


@final
@dataclass(frozen=True)
class MakeFromFile:
    """Makes calculators by a function or class in a Python file, in whatever process it is sent to.

    Attributes:
        file: the file; modules in its folder can be imported by it.
        name: of the function or class.
        arguments: of it.
        code: `code_digest` of the file, without which nothing is made.
    """

    file: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""

    def __call__(self, **changes: Any) -> Any:
        """A calculator."""
        return self.function()(**{**self.arguments, **changes})

    def function(self) -> Callable[..., Any]:
        """What makes the calculator.

        Raises:
            ConfigError: no such file, it cannot be imported, has no such name, or is another by now.
        """
        module = _load(self.file, self.code)
        if not hasattr(module, self.name):
            known = [name for name in vars(module) if not name.startswith("_")]
            raise ConfigError(f"no {self.name!r} in {self.file}; {nearest(self.name, known)}")
        return getattr(module, self.name)


def code_digest(file: Path, root: Path | None = None) -> str:
    """Hash of a program in Python that does not change with comments and layout.

    Modules of the user that it imports, and those that these import, are part of it.

    Args:
        file: of the program.
        root: folder of the modules of the user; that of the file by default.

    Raises:
        ConfigError: no such file, or one that is not Python.
    """
    root = file.parent if root is None else root
    trees = {path.relative_to(root).as_posix(): ast.dump(tree) for path, tree in _sources(file, root)}
    return digest(*trees.values()) if len(trees) == 1 else digest(sorted(trees.items()))


@cache
def module_digest(name: str, folder: Path) -> str | None:
    """`code_digest` of a module that lies in the folder of the user; None for one that is installed.

    Args:
        name: of a module that can be imported.
        folder: of the user.
    """
    path = getattr(import_module(name), "__file__", None)
    if path is None or not path.endswith(".py"):
        return None
    file = Path(path).resolve()
    root = folder.resolve()
    installed = "site-packages" in file.parts or not file.is_relative_to(root)
    return None if installed else code_digest(file, root)


def argument_files(arguments: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Files that arguments name, by these names: what is in them is what labels depend on.

    Args:
        arguments: of a calculator.
        folder: that they may be relative to, beside the current one.
    """
    paths = {}
    for text in _texts(arguments):
        for path in (folder / text, Path(text)):
            if len(text) < _HEAD and path.is_file():
                paths[text] = path
                break
    return paths


def script_digests(command: str, folder: Path) -> dict[str, str]:
    """Hashes of the scripts that a command names by `{here}` or by an absolute path; not of programs.

    Args:
        command: with `{here}` for the folder.
        folder: of the user.
    """
    digests = {}
    for word in _PLACED.findall(command):
        path = Path(word.replace("{here}", str(folder)))
        if path.is_file() and b"\0" not in (content := path.read_bytes())[:_HEAD]:
            digests[word] = code_digest(path) if path.suffix == ".py" else digest(content.hex())
    return digests


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _sources(file: Path, root: Path) -> Iterator[tuple[Path, ast.Module]]:
    """A file, and the modules under `root` that it imports, with their syntax trees."""
    waiting, seen = [file], {file}
    while waiting:
        path = waiting.pop()
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except OSError:
            raise ConfigError(f"there is no file {path} to take the calculator from") from None
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
        yield path, tree
        for beside in _imported(tree, path, root):
            if beside not in seen and beside.is_relative_to(root):
                seen.add(beside)
                waiting.append(beside)


def _imported(tree: ast.Module, path: Path, root: Path) -> Iterator[Path]:
    """Files under `root` that a module imports; of a package all."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            place = path.parents[node.level - 1] if node.level else root
            start = f"{node.module}." if node.module else ""
            names = [(place, f"{start}{alias.name}") for alias in node.names]
        else:
            continue
        for place, name in names:
            first = place / name.partition(".")[0]
            if first.with_suffix(".py").is_file():
                yield first.with_suffix(".py")
            elif (first / "__init__.py").is_file():
                yield from (part for part in sorted(first.rglob("*.py")) if part.is_file())


@cache
def _load(file: str, code: str) -> ModuleType:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"there is no file {path} to take the calculator from")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    beside = {str(other) for other, _ in _sources(path, path.parent)} - {str(path)}
    if code and code != code_digest(path):
        raise ConfigError(f"{path} has changed since the oracle was made", fix="start the program anew")
    # What an earlier state of the file has imported may be of that time.
    for other, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in beside:
            del sys.modules[other]
    # By this name its classes can be sent between processes that have loaded the file.
    name = f"surefield_engine_{digest(file, code)[:8]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
