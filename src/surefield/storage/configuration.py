"""One configuration as bytes that come back bit by bit, and that are the same for the same content."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import dict2constraint
from ase.spacegroup import Spacegroup

from surefield.errors import DataError
from surefield.structures.label_sources import results_of

__all__ = ["CONFIGURATION_ID", "configuration_bytes", "read_configuration"]

#: Entry of `info` that holds the id of a configuration; it belongs to the dataset, not to the content.
CONFIGURATION_ID: Final = "configuration_id"
#: First bytes; the number changes when the meaning of the rest does.
_MAGIC: Final = b"SFC1"
_LENGTH: Final = 8
#: Array types that are plain numbers or text.
_KINDS: Final = "biufcSU"


def configuration_bytes(atoms: Atoms, where: str) -> bytes:
    """Pack a structure with its cell, arrays, info, constraints and the results of its calculator.

    A JSON head with sorted keys, then the arrays. Results of another geometry are left out, as everywhere.

    Args:
        atoms: the structure; it is not changed.
        where: for messages, such as "frame 3 of train.xyz".

    Raises:
        DataError: an entry that is no data: an object, an array of objects.
    """
    writer = _Writer(where)
    results = results_of(atoms)
    displacement = np.asarray(atoms.get_celldisp(), np.float64).reshape(3)
    head = {
        "arrays": {
            name: writer.array(value, f"array {name!r}") for name, value in sorted(atoms.arrays.items())
        },
        "cell": writer.array(atoms.cell.array, "cell"),
        "pbc": atoms.pbc.tolist(),
        "displacement": displacement.tolist() if displacement.any() else None,
        "info": writer.plain({k: v for k, v in atoms.info.items() if k != CONFIGURATION_ID}, "info"),
        "constraints": [writer.constraint(c) for c in atoms.constraints],
        "results": writer.plain(results, "calculator") if results else None,
        "calculator": str(getattr(atoms.calc, "name", None) or "unknown") if results else None,
    }
    text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    return b"".join([_MAGIC, len(text).to_bytes(_LENGTH, "little"), text, *writer.blobs])


def read_configuration(data: bytes) -> Atoms:
    """Structure of `configuration_bytes`; all arrays are writable and nobody else's.

    Raises:
        DataError: written by a newer version.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise DataError("the configuration was written by a newer version; update surefield")
    start = len(_MAGIC) + _LENGTH
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    reader = _Reader(data, end)
    head = json.loads(data[start:end])
    arrays = {name: reader.array(entry) for name, entry in head["arrays"].items()}
    atoms = Atoms(numbers=arrays["numbers"], cell=reader.array(head["cell"]), pbc=head["pbc"])
    atoms.arrays.update(arrays)
    if head["displacement"] is not None:
        atoms.set_celldisp(head["displacement"])
    if head["constraints"]:
        atoms.set_constraint([dict2constraint(reader.plain(entry)) for entry in head["constraints"]])
    if head["results"] is not None:
        calculator: Any = SinglePointCalculator(atoms)
        calculator.results = reader.plain(head["results"])
        calculator.name = head["calculator"]
        atoms.calc = calculator
    atoms.info = reader.plain(head["info"])
    return atoms


class _Writer:
    """Turns data into JSON with references to the arrays, which are collected in `blobs`."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.blobs: list[bytes] = []
        self.offset = 0

    def array(self, value: Any, name: str) -> list[Any]:
        """Type, shape and place of an array."""
        array = np.asarray(value)
        if array.dtype.kind not in _KINDS or (array.dtype.kind in "fc" and array.dtype.char in "gG"):
            raise self._refused(name, f"an array of {array.dtype}")
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        blob = array.tobytes()
        entry = [array.dtype.str, list(array.shape), self.offset]
        self.blobs.append(blob)
        self.offset += len(blob)
        return entry

    def plain(self, value: Any, name: str) -> Any:
        """JSON of data; what JSON has no form for is tagged with a key that begins with @."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, np.ndarray):
            return {"@array": self.array(value, name)}
        if isinstance(value, Mapping):
            return self._mapping(value, name)
        if isinstance(value, list):
            return [self.plain(item, name) for item in value]
        if isinstance(value, tuple):
            return {"@tuple": [self.plain(item, name) for item in value]}
        if isinstance(value, complex):
            return {"@complex": [value.real, value.imag]}
        if isinstance(value, bytes):
            return {"@bytes": base64.b64encode(value).decode()}
        if isinstance(value, Spacegroup):  # what ASE's CIF reader leaves in info
            return {"@spacegroup": [value.no, value.setting]}
        raise self._refused(name, f"a {type(value).__name__}")

    def _mapping(self, value: Mapping[Any, Any], name: str) -> dict[str, Any]:
        if all(isinstance(key, str) and not key.startswith("@") for key in value):
            return {key: self.plain(value[key], f"{name}[{key!r}]") for key in sorted(value)}
        pairs = sorted(value.items(), key=lambda pair: repr(pair[0]))
        return {"@dict": [[self.plain(k, name), self.plain(v, f"{name}[{k!r}]")] for k, v in pairs]}

    def constraint(self, constraint: Any) -> Any:
        """ASE's own dictionary of a constraint."""
        name = f"constraint {type(constraint).__name__}"
        if not hasattr(constraint, "todict"):
            raise self._refused(name, "no todict()")
        return self.plain(constraint.todict(), name)

    def _refused(self, name: str, got: str) -> DataError:
        fix = "turn it into numbers, text, lists or dictionaries, or remove it"
        return DataError(f"{name} cannot be stored", where=self.where, got=got, fix=fix)


class _Reader:
    """The way back of `_Writer`."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.start = start

    def array(self, entry: list[Any]) -> np.ndarray:
        """Array of a type, shape and place."""
        kind, shape, offset = entry
        dtype = np.dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        if count == 0 or dtype.itemsize == 0:
            return np.zeros(shape, dtype)
        flat = np.frombuffer(self.data, dtype, count, self.start + offset)
        return flat.reshape(shape).copy()

    def plain(self, value: Any) -> Any:
        """Data of its JSON."""
        if isinstance(value, list):
            return [self.plain(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((tag, content),) = value.items()
            if tag in _FROM_TAG:
                return _FROM_TAG[tag](self, content)
        return {key: self.plain(item) for key, item in value.items()}


_FROM_TAG: Final[Mapping[str, Any]] = {
    "@array": _Reader.array,
    "@tuple": lambda reader, items: tuple(reader.plain(item) for item in items),
    "@dict": lambda reader, pairs: {reader.plain(k): reader.plain(v) for k, v in pairs},
    "@complex": lambda _, parts: complex(*parts),
    "@bytes": lambda _, text: base64.b64decode(text),
    "@spacegroup": lambda _, entry: Spacegroup(*entry),
}
