"""The comment line of extxyz: entries of `info` as text and back, with the meaning that ASE gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase.io import jsonio
from ase.io.extxyz import SPECIAL_3_3_KEYS, UNPROCESSED_KEYS, per_config_properties

from surefield.structures.tensors import from_voigt

__all__ = [
    "ARRAYS",
    "INFO",
    "beside_text",
    "entry_text",
    "from_beside_text",
    "is_data",
    "is_numeric",
    "parse_comment",
    "quoted",
    "same",
    "tensor",
]

#: Entries with what ASE's reader would read as something else or not at all; ours puts it in its place.
ARRAYS: Final = "surefield_arrays"
INFO: Final = "surefield_info"
_STRUCTURAL: Final = ("lattice", "properties", "pbc")
_JSON: Final = "_JSON "
_QUOTES: Final = {'"': '"', "'": "'", "{": "}", "[": "]"}
_PIECE: Final = "|".join(
    [r"\\.?", r"\[\s*+(?:\[[^][\\]*+\][\s,]*+){2,}\]"]  # rows in brackets, with blanks between them
    + [
        rf"{re.escape(start)}(?:\\.|[^{re.escape(end)}\\])*+(?:{re.escape(end)}|\\?$)"
        for start, end in _QUOTES.items()
    ]
)
_BARE: Final = r"""[^\s=\\"'{\[]"""
#: A key and its value. Blanks may stand before a value (`E =  -17.1`); in `a= b=1` that of a is empty.
_ENTRY: Final = re.compile(
    rf"(?P<key>(?:{_PIECE}|{_BARE})++)"
    rf"(?P<equals>\s*+=(?:\s++(?!{_BARE}++\s*+=))?(?P<value>(?:{_PIECE}|{_BARE}|=)++)?)?"
)
_PARTS: Final = re.compile(rf"{_PIECE}|.")
_TRUE: Final = ("T", "true", "True", "TRUE")
_BOOLEANS: Final = {word: word in _TRUE for word in (*_TRUE, "F", "false", "False", "FALSE")}

#: Keys of cells and of symmetric tensors.
_TENSOR: Final = re.compile("lattice|stress|virial", re.IGNORECASE)


def parse_comment(line: str) -> dict[str, Any]:
    """Entries of a comment line: numbers, arrays, booleans (lists of them), JSON or text, as ASE reads them.

    Nine numbers under one of ASE's names of tensors are (3, 3); other than in ASE, six stay as they are.

    Raises:
        ValueError: text that is marked as JSON and is none.
    """
    entries = {}
    for match in _ENTRY.finditer(line):
        text = _unquoted(match["value"] or "") if match["equals"] else "T"
        key = _unquoted(match["key"])
        entries[key] = _value(key, text)
    return entries


def entry_text(key: Any, value: Any) -> str | None:
    """Text of an entry, or None if no text would be read back as the same by ASE and by `parse_comment`."""
    if not isinstance(key, str) or not key or not key.isprintable():
        return None
    if key.lower() in (*_STRUCTURAL, ARRAYS, INFO):
        return None
    try:
        if key in SPECIAL_3_3_KEYS:
            value = tensor(key, value)
            text = None if value is None else " ".join(map(repr, value.ravel(order="F").tolist()))
        elif key in per_config_properties and not is_numeric(value):
            text = None  # ASE takes it for a result
        else:
            text = _text(key, value)
        if text is None:
            return None
        entry = f"{quoted(key)}={quoted(text)}"
        back = parse_comment(entry)
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return entry if list(back) == [key] and same(back[key], value) else None


def quoted(text: str) -> str:
    """Text with quotes and escapes where the comment line needs them."""
    if re.fullmatch(r"""[^\s=\\"'{}\[\]]+""", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_numeric(value: Any) -> bool:
    """Whether a value is numbers and nothing else; booleans and text with digits are none."""
    try:
        return np.asarray(value).dtype.kind in "iuf"
    except ValueError:  # lists of several lengths
        return False


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal: NaN to NaN, a list to the tuple and the array of its items and shape."""
    arrays = isinstance(a, np.ndarray), isinstance(b, np.ndarray)
    if any(arrays) and _shape(a) != _shape(b):
        return False
    if all(arrays) and a.dtype.kind == b.dtype.kind and a.dtype.kind in "iufb":
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    a, b = (x.tolist() if isinstance(x, np.ndarray | np.generic) else x for x in (a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, str | Mapping | list | tuple | None) or isinstance(
        b, str | Mapping | list | tuple | None
    ):
        return type(a) is type(b) and a == b
    return bool(a == b) or (a != a and b != b)


def _shape(value: Any) -> tuple[int, ...] | None:
    try:
        return np.shape(value)
    except ValueError:  # lists of several lengths
        return None


def is_data(name: Any, value: Any) -> bool:
    """Whether an entry comes back from JSON as it was."""
    if not isinstance(name, str):
        return False
    try:
        return same(from_beside_text(beside_text({name: value}))[name], value)
    except Exception:  # objects of users raise whatever their conversion makes them stumble over
        return False


def beside_text(values: Mapping[str, Any]) -> str:
    """JSON of entries that no other text keeps: arrays with their shape and dtype, as ASE writes them."""
    return jsonio.encode(values)


def from_beside_text(text: str) -> dict[str, Any]:
    """Entries of a text that `beside_text` wrote."""
    return json.loads(text, object_hook=_object)


def _object(entry: dict[str, Any]) -> Any:
    """Read one object of JSON as ASE does, but the items of an array of objects stay what they are."""
    if "__ndarray__" not in entry or entry["__ndarray__"][1] != "object":
        return jsonio.object_hook(entry)
    shape, _, items = entry["__ndarray__"]
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(shape)


def _unquoted(text: str) -> str:
    if not any(character in text for character in "\\\"'{["):
        return text
    return "".join(_content(part) for part in _PARTS.findall(text))


def _content(part: str) -> str:
    if part[0] in _QUOTES:
        inner = re.sub(r"\\(.?)", r"\1", part[1:])
        closed = (
            re.fullmatch(r"(?:\\.|[^\\])*", part[1:-1]) and part[-1] == _QUOTES[part[0]] and len(part) > 1
        )
        return inner[:-1] if closed else inner
    return part.removeprefix("\\")


def _value(key: str, text: str) -> Any:
    if key.lower() in UNPROCESSED_KEYS or not text:
        return text
    if text.startswith(_JSON):
        text = text.removeprefix(_JSON)
        return from_beside_text(text) if key in (ARRAYS, INFO) else _from_json(json.loads(text))
    # Tensors as rows in brackets, or with semicolons between them, are the same nine numbers.
    parts = re.findall(r"[^\s,;\[\]]+" if _TENSOR.search(key) else r"[^\s,]+", text)
    numbers = _numbers(parts)
    if numbers is not None:
        if key in SPECIAL_3_3_KEYS and numbers.shape == (9,):
            return numbers.reshape((3, 3), order="F")
        return numbers[0] if len(numbers) == 1 else numbers
    if all(part in _BOOLEANS for part in parts):
        values = [_BOOLEANS[part] for part in parts]
        return values[0] if len(values) == 1 else values
    return text


def _numbers(parts: list[str]) -> np.ndarray | None:
    for kind in (np.int64, np.float64):
        try:
            return np.array(parts, dtype=kind)
        except (ValueError, OverflowError):
            continue
    return None


def _from_json(data: Any) -> Any:
    try:
        array = np.array(data)
    except ValueError:  # lists of several lengths
        return data
    return array if array.dtype.kind in "ifb" else data


def _text(key: str, value: Any) -> str:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int | float) and same(_value(key, repr(value)), value):
        return repr(value)
    if isinstance(value, str) and value and value.isprintable() and same(_value(key, value), value):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value) > 1 and value.dtype.kind in "iufb":
        text = " ".join(_text(key, x) for x in value)
        if same(_value(key, text), value):
            return text
    text = json.dumps(value, default=lambda item: item.tolist())
    np.array(json.loads(text))  # as ASE's reader does, which fails where lists have several lengths
    return _JSON + text


def tensor(key: str, value: Any) -> np.ndarray | None:
    """Six or nine numbers as (3, 3), the only shape in which ASE reads this key; None for anything else."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.shape not in ((6,), (9,), (3, 3)):
        return None
    array = from_voigt(array) if array.shape == (6,) else array.reshape(3, 3)
    return None if key == "stress" and not same(array, array.T) else array
