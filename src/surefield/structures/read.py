"""Structures in and out: every format of ASE, compressed extxyz read once, exact float64 on the way back."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import filetype

from surefield.errors import DataError, nearest
from surefield.quantities import ENSEMBLE, UNCERTAINTY
from surefield.structures.compression import compress, decompress, readable_part, without_compression
from surefield.structures.database import read_database, restore_arrays, write_database, write_trajectory
from surefield.structures.extxyz import check_read_back, cut_frames, extxyz_text, frame_of, lines_of

__all__ = ["Frames", "Source", "read_frames", "write_frames"]

_log = logging.getLogger(__name__)
_XYZ = {".xyz", ".extxyz"}
#: Readers of what ASE does not read, by the ends of names.
_OTHER_READERS = {".xyzf": "surefield.formats.chimes.read_xyzf"}
_FITSNAP_READER = "surefield.formats.fitsnap_json.read_fitsnap_json"
#: Origins of structures of a list.
_IN_MEMORY = re.compile(r"frame \d+")
#: Formats in which ASE stores results as they are.
_STORES = {"traj", "bundletrajectory", "extxyz"}


@dataclass(frozen=True, eq=False)
class Frames(Sequence[Atoms]):
    """Structures that remember where they come from; never changed, only cut into new `Frames`.

    Attributes:
        atoms: the structures (objects of the reader or of the caller; nobody in the package changes them).
        origins: one text per structure, such as "frame 7 of train.xyz" (counted from 0, as in ASE's `@7`).
    """

    atoms: tuple[Atoms, ...]
    origins: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.atoms) != len(self.origins):
            raise DataError(f"{len(self.atoms)} structures need as many origins, got {len(self.origins)}")

    def __len__(self) -> int:
        return len(self.atoms)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Frames: ...
    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Atoms | Frames:
        if isinstance(index, int | np.integer):
            return self.atoms[index]
        chosen = np.arange(len(self))[index if isinstance(index, slice) else _index_array(index)]
        return Frames(tuple(self.atoms[i] for i in chosen), tuple(self.origins[i] for i in chosen))

    def __iter__(self) -> Iterator[Atoms]:
        return iter(self.atoms)

    def __add__(self, other: Frames) -> Frames:
        return Frames(self.atoms + other.atoms, self.origins + other.origins)

    def __repr__(self) -> str:
        ends = f": {self.origins[0]} ... {self.origins[-1]}" if self.origins else ""
        return f"Frames({len(self)} structures{ends})"

    def of_set(self, name: str) -> Frames:
        """The same structures; those that were given in memory say of which set they are."""
        origins = tuple(f"{o} of {name}" if _IN_MEMORY.fullmatch(o) else o for o in self.origins)
        return Frames(self.atoms, origins)

    def origin(self, index: int) -> str:
        """Where a structure comes from, e.g. "frame 7 of train.xyz"."""
        return self.origins[index]


Source = str | Path | Atoms | Frames | Sequence[str | Path] | Sequence[Atoms]


def read_frames(source: Source, index: str | int | slice = ":") -> Frames:
    """Read structures from files, or take those in memory as they are.

    Args:
        source: a file of any format of ASE (also `name@0:10`), a list of files, `Atoms`, a list of
            `Atoms`, or `Frames`. Files ending in .xz, .gz or .bz2 are decompressed once, in memory:
            ASE seeks in the compressed stream, which costs a time quadratic in its length.
        index: which frames of each file (ASE's index: ":", "-1", 5, "::10"); also for structures in memory.

    Returns:
        The structures; those given in memory are the same objects, and whole `Frames` come back as they are.

    Raises:
        DataError: no such file, an empty, damaged or truncated one, content that ASE cannot parse.
    """
    if isinstance(source, Frames):
        # Every public function begins here, so what comes from another one passes as it is.
        return source if index == ":" else source[_as_slice(index, len(source))]
    if isinstance(source, Atoms):
        return Frames((source,), ("frame 0",))
    if isinstance(source, str | Path):
        return _read_file(source, index)
    structures = tuple(item for item in source if isinstance(item, Atoms))
    paths = [item for item in source if isinstance(item, str | Path)]
    if len(structures) == len(source):
        frames = Frames(structures, tuple(f"frame {i}" for i in range(len(structures))))
        return frames[_as_slice(index, len(frames))]
    if len(paths) != len(source):
        kinds = ", ".join(sorted({type(item).__name__ for item in source}))
        raise DataError(f"structures come from files or as ase.Atoms, got a list of {kinds}")
    parts = [_read_file(path, index) for path in paths]
    return Frames(tuple(a for p in parts for a in p.atoms), tuple(o for p in parts for o in p.origins))


def write_frames(path: str | Path, frames: Sequence[Atoms]) -> None:
    """Write structures with their info, arrays and results; the file appears whole or not at all.

    Args:
        path: extxyz (.xyz, .extxyz, also with .xz, .gz, .bz2), .traj or .db; these keep everything, and every
            number bit by bit; what is no data, such as an object, is left out with a word. Other formats of
            ASE, such as POSCAR, keep what the format has room for.
        frames: the structures; they are not changed.

    Raises:
        DataError: nothing to write, no such folder, a result that contradicts an entry of the same name, or a
            file that does not read back as it was written.
    """
    path = Path(path)
    if len(frames) == 0:
        raise DataError(f"no structures to write to {path}")
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent} to write {path.name} to")
    inner, compression = without_compression(path)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", suffix=inner.suffix, dir=path.parent)
    os.close(handle)
    try:
        if compression and inner.suffix not in _XYZ:
            raise DataError(f"only extxyz is written compressed, got {path.name}")
        _write(Path(temporary), path, frames)
        # mkstemp makes files private; data sets follow the user's mask.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _write(temporary: Path, path: Path, frames: Sequence[Atoms]) -> None:
    """Write a file; those that keep everything are read back and compared."""
    inner, compression = without_compression(path)
    if inner.suffix in _XYZ:
        texts = [extxyz_text(atoms, f"frame {i}") for i, atoms in enumerate(frames)]
        temporary.write_bytes(compress("".join(text for text, _ in texts).encode(), compression))
        left_out = [names for _, names in texts]
        back, _ = _read_extxyz(temporary, compression, ":")
    elif path.suffix in (".db", ".traj"):
        temporary.unlink()  # ASE would try to append to the empty file
        left_out = (write_database if path.suffix == ".db" else write_trajectory)(temporary, frames)
        back = _read_other(temporary, temporary, "", ":")
    else:
        try:
            ase.io.write(temporary, list(frames), format=filetype(path.name, read=False))
        except Exception as error:  # ASE's writers raise whatever their format makes them stumble over
            raise DataError(f"ASE cannot write {path}", got=_cause(error)) from error
        return
    if len(back) != len(frames):
        raise DataError("the file is not read back as it was written", got=len(back), expected=len(frames))
    for i, (atoms, again) in enumerate(zip(frames, back, strict=True)):
        _restore(again)
        check_read_back(atoms, again, left_out[i], f"frame {i}")
    for name in dict.fromkeys(name for names in left_out for name in names):
        first = next(i for i, names in enumerate(left_out) if name in names)
        _log.warning("%r is no data that a file can hold; left out (first in frame %d)", name, first)


def _read_file(source: str | Path, index: str | int | slice) -> Frames:
    path = Path(source)
    if not path.exists() and "@" in path.name:
        name, _, index = str(source).rpartition("@")
        path = Path(name)
    if path.is_file():
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty")
    elif not path.is_dir():
        folder = path.parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        hint = (
            nearest(path.name, names)
            if names
            else f"the folder {folder} " + ("is empty" if folder.is_dir() else "does not exist")
        )
        raise DataError(f"no file {path}; {hint if len(hint) < 300 else hint[:300] + ' ...'}")
    inner, compression = without_compression(path)
    if inner.suffix in _XYZ:
        atoms, numbers = _read_extxyz(path, compression, index)
    else:
        atoms = _read_other(path, inner, compression, index)
        numbers = _numbers(index, len(atoms))
    if not atoms:
        raise DataError(f"{path} has no frames at index {index!r}")
    for structure in atoms:
        _restore(structure)
    # Short in messages where it is as clear.
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return Frames(tuple(atoms), tuple(f"frame {i} of {shown}" for i in numbers))


def _read_extxyz(path: Path, compression: str, index: str | int | slice) -> tuple[list[Atoms], list[int]]:
    content = _content(path, compression)
    try:
        lines = lines_of(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not a text file (line {line}), so not extxyz; is its extension right?"
        ) from None
    everything = index == ":"
    length = 0 if everything else sum(1 for _ in cut_frames(lines, path))
    wanted = range(length)[_as_slice(index, length)] if length else range(0)
    read = {}
    for number, piece in enumerate(cut_frames(lines, path)):
        if everything or number in wanted:
            try:
                read[number] = frame_of(piece)
            except Exception as error:  # whatever Atoms and NumPy raise at words that are no numbers
                raise DataError(
                    "unreadable extxyz", where=f"frame {number} of {path}", got=_cause(error)
                ) from error
    if not read and not length:
        raise DataError(f"{path} is empty")
    numbers = list(read if everything else wanted)
    return [read[number] for number in numbers], numbers


def _content(path: Path, compression: str) -> bytes:
    try:
        return decompress(path, compression)
    except DataError as error:
        lines = readable_part(path, compression).decode("utf-8", errors="replace").split("\n")
        whole = 0
        with contextlib.suppress(DataError):
            for _ in cut_frames(lines, path):
                whole += 1
        raise DataError(f"{error}; readable up to frame {whole}") from None


def _read_other(path: Path, inner: Path, compression: str, index: str | int | slice) -> list[Atoms]:
    try:
        if not compression:
            return _read_by_ase(path, index)
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / inner.name
            plain.write_bytes(decompress(path, compression))
            return _read_by_ase(plain, index)
    except DataError:
        raise
    except Exception as error:  # ASE's readers raise whatever their format makes them stumble over
        reader = _other_reader(path, inner)
        fix = f"read it by {reader} and write it by sf.write_frames('NAME.xyz', ...)" if reader else ""
        raise DataError(f"ASE cannot read {path}", got=_cause(error), fix=fix) from error


def _other_reader(path: Path, inner: Path) -> str | None:
    """The function that reads what ASE does not."""
    if path.is_dir():
        return _FITSNAP_READER if any(path.rglob("*.json")) else None
    if inner.suffix == ".json":
        return f"{_FITSNAP_READER}, which takes the folder of its groups," if _is_fitsnap(path) else None
    return _OTHER_READERS.get(inner.suffix)


def _is_fitsnap(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"Dataset"' in file.read(4096)


def _read_by_ase(path: Path, index: str | int | slice) -> list[Atoms]:
    kind = None if path.suffix == ".db" else filetype(str(path))
    if kind in (None, "db", "json"):
        rows = read_database(path)
        return rows[_as_slice(index, len(rows))]
    units: dict[str, Any] = _lammps_head(path) if kind == "lammps-dump-text" else {}
    frames = ase.io.read(path, index=index, do_not_split_by_at_sign=True, **units)
    frames = frames if isinstance(frames, list) else [frames]
    if kind not in _STORES:
        for atoms in frames:
            _drop_invented(atoms)
    return frames


def _lammps_head(path: Path) -> dict[str, str]:
    """Units that a dump states (`dump_modify ... units yes`); ASE takes metal units where none are given.

    Raises:
        DataError: units that are none of eV and Å, or atoms of which only the type is known, of which ASE's
            reader makes hydrogen and helium.
    """
    stated: dict[str, str] = {}
    with path.open() as file:
        for line in file:
            if line.startswith("ITEM: UNITS"):
                stated = {"units": next(file).strip()}
            if line.startswith("ITEM: ATOMS"):
                columns = line.split()[2:]
                break
        else:
            return stated
    if stated.get("units") == "lj":
        raise DataError("a dump in reduced units has no energies in eV", where=path, got="units lj")
    if not {"element", "mass"} & {*columns}:
        raise DataError(
            "a dump of types alone does not say which elements they are",
            where=path,
            got=" ".join(columns),
            expected="a column 'element'",
            fix="dump it (dump_modify ... element Cu Ni), or ase.io.read(..., specorder=['Cu', 'Ni']) and "
            "write_frames",
        )
    return stated


def _drop_invented(atoms: Atoms) -> None:
    """Take out energies of 0.0, which readers put where a file has none, as that of LAMMPS dumps does."""
    results = getattr(atoms.calc, "results", {})
    for name in ("energy", "free_energy"):
        if np.array_equal(results.get(name, ""), 0.0):
            del results[name]


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _index_array(index: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(index)
    return array if array.size else array.astype(int)


def _as_slice(index: str | int | slice, length: int) -> slice:
    if isinstance(index, slice):
        return index
    try:
        parts = [int(part) if part.strip() else None for part in str(index).split(":")]
        if len(parts) > 3:
            raise ValueError
    except ValueError:
        raise DataError(f"index must look like ':', '5', '-1' or '0:100:10', got {index!r}") from None
    if len(parts) > 1:
        return slice(*parts)
    number = parts[0]
    if number is None or not -length <= number < length:
        raise DataError(f"no frame {index!r} among {length}")
    number %= length
    return slice(number, number + 1)


def _numbers(index: str | int | slice, count: int) -> list[int]:
    """Frame numbers for messages; known exactly unless the index counts from the end."""
    try:
        chosen = _as_slice(index, 2**40)
    except DataError:
        return list(range(count))
    if (chosen.start or 0) < 0 or (chosen.step or 1) < 0:
        return list(range(count))
    return [(chosen.start or 0) + i * (chosen.step or 1) for i in range(count)]


def _restore(atoms: Atoms) -> None:
    """Give the members and uncertainties of a prediction, which extxyz holds as JSON, their array back."""
    restore_arrays(atoms)
    for name, value in atoms.info.items():
        if isinstance(value, list) and name.endswith((ENSEMBLE, UNCERTAINTY)):
            atoms.info[name] = np.asarray(value, dtype=np.float64)
