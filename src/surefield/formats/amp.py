"""Files of the program Amp (.amp): read as data, never evaluated.

The text is `dict(descriptor="dict(...)", model="dict(...)")`. It and the two strings in it are parsed into
syntax trees, and the trees are interpreted here: literals, signed numbers, nan and inf, and a few calls that
only hold data. Anything else is an error at its place, before anything is built.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefield.errors import DataError, PotentialError

__all__ = ["AmpFile", "read_amp"]

#: The constructors known here; the names are compared, never imported.
DESCRIPTORS = (".descriptor.gaussian.Gaussian", ".descriptor.zernike.Zernike")
MODELS = (".model.neuralnetwork.NeuralNetwork", ".model.chargeneuralnetwork.ChargeNeuralNetwork")
BISPECTRUM = ".descriptor.bispectrum.Bispectrum"
#: Half a million parameters, more than real files have; a syntax tree takes up to 500 times the memory of
#: its text.
LARGEST = 10_000_000
DEEPEST = 50
_CALLS = "dict, OrderedDict, array, matrix, np.float64, float64, np.int64"
_ALLOWED = f"literals, signed numbers, nan, inf and the calls {_CALLS}"


@dataclass(frozen=True, eq=False)
class AmpFile:
    """Content of a .amp file as plain Python and NumPy data.

    Attributes:
        descriptor: keywords of the descriptor: importname, Gs, cutoff, elements, mode, version.
        model: keywords of the model: importname, hiddenlayers, activation, weights, scalings, fprange, ...
    """

    descriptor: dict[str, Any]
    model: dict[str, Any]


def read_amp(path: str | Path) -> AmpFile:
    """Read a potential of the program Amp without running anything in the file.

    Args:
        path: file as written by Amp's `calc.save` or after its training.

    Raises:
        DataError: no such file, not text, cut short, something in it other than data, or an unknown
            descriptor or model; with line and column.
        PotentialError: its descriptor is the bispectrum, which is not built.
    """
    path = Path(path)
    outer = _Text(_read(path), str(path))
    parts = outer.entries()
    texts = {}
    for name, node in parts.items():
        if name not in ("descriptor", "model"):
            raise outer.error(node, f"unknown entry {name!r:.80}", "descriptor and model")
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            raise outer.error(node, f"{name} is not a text", f'{name}="dict(...)"')
        texts[name] = _Text(node.value, f"{name} of {path}")
    for name in ("descriptor", "model"):
        if name not in texts:
            raise outer.error(outer.tree, f"no {name}", 'dict(descriptor="dict(...)", model="dict(...)")')
    entries = {name: text.entries() for name, text in texts.items()}
    content = {
        name: {key: texts[name].value(node, 1) for key, node in nodes.items()}
        for name, nodes in entries.items()
    }
    for name, known in (("descriptor", (*DESCRIPTORS, BISPECTRUM)), ("model", MODELS)):
        class_name = content[name].get("importname")
        if not isinstance(class_name, str) or class_name not in known:
            node = entries[name].get("importname", texts[name].tree)
            raise texts[name].error(node, f"unknown {name} {class_name!r:.80}", ", ".join(known))
    if content["descriptor"]["importname"] == BISPECTRUM:
        raise PotentialError(
            "the bispectrum descriptor of Amp is not built here",
            where=path,
            fix="use Gaussian or Zernike; of the bispectrum only SNAP's form is supported",
        )
    return AmpFile(**content)


def _read(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"there is no .amp file at {path.resolve()}")
    size = path.stat().st_size
    if size > LARGEST:
        raise DataError(f"{path} is too large", got=f"{size} bytes", expected=f"at most {LARGEST} bytes")
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        where, got = f"{path}, line {line}, column {column}", f"byte 0x{data[error.start]:02x}"
        raise DataError("not a text file", where=where, got=got) from None


class _Text:
    """One text and its syntax tree."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        try:
            # Odd escapes in strings are no error here, whatever the warning filters say.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.tree = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            what = f"cut short or malformed ({error.msg})"
            raise self._error_at(error.lineno or 1, error.offset or 1, what) from None
        except (RecursionError, MemoryError):
            raise self._error_at(1, 1, "nested too deeply") from None
        except ValueError as error:  # null bytes, lone surrogates
            raise self._error_at(1, 1, f"malformed ({error})") from None

    def error(self, node: ast.AST, what: str, expected: str = _ALLOWED) -> DataError:
        """Make the error that points to a node."""
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        return self._error_at(line, column, what, expected)

    def _error_at(self, line: int, column: int, what: str, expected: str | None = None) -> DataError:
        place = f"{self.name}, line {line}, column {column}"
        return DataError(what, where=place, expected=expected, fix="nothing in the file was run")

    def entries(self) -> dict[str, ast.expr]:
        """Values of the whole text, which must be dict(name=..., ...), not yet interpreted."""
        tree = self.tree
        if not isinstance(tree, ast.Call) or _name(tree.func) != "dict" or tree.args:
            raise self.error(tree, "not an Amp potential", "dict(name=value, ...)")
        return self._keywords(tree)

    def _keywords(self, call: ast.Call) -> dict[str, ast.expr]:
        values: dict[str, ast.expr] = {}
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in values:
                what = "unpacked argument" if keyword.arg is None else f"{keyword.arg!r:.80} twice"
                raise self.error(keyword, what)
            values[keyword.arg] = keyword.value
        return values

    def value(self, node: ast.expr, depth: int) -> Any:
        """Interpret a node as data."""
        if depth > DEEPEST:
            raise self.error(node, f"nested more than {DEEPEST} deep")
        match node:
            case ast.Constant():
                return ast.literal_eval(node)
            case ast.Name(id="nan" | "inf"):
                return float(node.id)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self._signed(node, depth)
            case ast.List():
                return [self.value(item, depth + 1) for item in node.elts]
            case ast.Tuple():
                return tuple(self.value(item, depth + 1) for item in node.elts)
            case ast.Dict():
                return self._dict_literal(node, depth)
            case ast.Call():
                return self._call(node, depth)
            case _:
                raise self.error(node, f"{_name(node) or _kind(node)} is not data")

    def _signed(self, node: ast.UnaryOp, depth: int) -> Any:
        number = self.value(node.operand, depth + 1)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise self.error(node, "sign before something that is not a number")
        return -number if isinstance(node.op, ast.USub) else number

    def _dict_literal(self, node: ast.Dict, depth: int) -> dict[Any, Any]:
        entries: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                raise self.error(item, "unpacked dictionary")
            self._add(entries, self.value(key, depth + 1), self.value(item, depth + 1), key)
        return entries

    def _add(self, entries: dict[Any, Any], key: Any, value: Any, node: ast.AST) -> None:
        if not isinstance(key, str | int | float) or key in entries:
            raise self.error(node, f"unusable key {key!r:.80}", "text or number as key, each once")
        entries[key] = value

    def _call(self, node: ast.Call, depth: int) -> Any:
        name = _name(node.func)
        match name:
            case "dict" | "OrderedDict":
                return self._dict_call(node, depth)
            case "array" | "matrix":
                return self._array(node, self._argument(node, depth), name)
            case "np.float64" | "float64" | "np.int64":
                return self._number(node, self._argument(node, depth), name)
        raise self.error(node, f"call of {name or _kind(node.func)}")

    def _argument(self, node: ast.Call, depth: int) -> Any:
        n = len(node.args) + len(node.keywords)
        if n != 1 or node.keywords:
            raise self.error(node, f"{_name(node.func)} with {n} arguments or with keywords", "one argument")
        return self.value(node.args[0], depth + 1)

    def _dict_call(self, node: ast.Call, depth: int) -> dict[Any, Any]:
        """Both kinds of dictionary become plain ones, which keep their order."""
        entries: dict[Any, Any] = {}
        if len(node.args) > 1:
            raise self.error(node, f"{_name(node.func)} with {len(node.args)} arguments", "at most one")
        for argument in node.args:
            content = self.value(argument, depth + 1)
            pairs = content.items() if isinstance(content, dict) else content
            if not isinstance(content, dict | list | tuple) or any(
                not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs
            ):
                raise self.error(argument, "not pairs of key and value", "[(key, value), ...]")
            for key, value in pairs:
                self._add(entries, key, value, argument)
        for name, item in self._keywords(node).items():
            self._add(entries, name, self.value(item, depth + 1), item)
        return entries

    def _array(self, node: ast.AST, value: Any, name: str) -> np.ndarray:
        try:
            array = np.array(value)
        except (ValueError, OverflowError):
            what = f"{name} with rows of different lengths or numbers that are too large"
            raise self.error(node, what, "a rectangular list of numbers") from None
        array = np.atleast_2d(array) if name == "matrix" else array
        if array.dtype.kind not in "iuf" or (name == "matrix" and array.ndim != 2):
            what = f"{name} of {array.dtype}, shape {array.shape}"
            raise self.error(node, what, "a rectangular list of numbers")
        return array

    def _number(self, node: ast.AST, value: Any, name: str) -> float | int:
        wanted = int if name == "np.int64" else int | float
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise self.error(node, f"{name} of something else than a number", "a number")
        try:
            return value if name == "np.int64" else float(value)
        except OverflowError:
            raise self.error(node, f"{name} of a number that is too large", "a number") from None


def _name(node: ast.expr) -> str:
    """Name of what is called, as in "dict" or "np.float64"; empty for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return f"{module}.{name}"
    return ""


def _kind(node: ast.AST) -> str:
    return type(node).__name__
