"""The log of per-atom force errors of a training: what loss trajectory analysis (LTAU) reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Literal, Protocol, final

import numpy as np
from ase import Atoms
from jaxtyping import Float, Float64, Int
from numpy.typing import ArrayLike

from surefield.errors import ConfigError, DataError, PotentialError
from surefield.files import atomic_path, json_text, write_atomic
from surefield.potentials.evaluate import predict
from surefield.potentials.potential import Potential
from surefield.sensitivity.rows import atom_features
from surefield.training.dataset import Sample

__all__ = ["ForceErrorLog", "finish_log", "force_error_norms", "open_log", "with_forces"]

ERRORS: Final = "errors.npy"
HISTOGRAM: Final = "histogram.npy"
EDGES: Final = "edges.npy"
INDEX: Final = "index.json"
DESCRIPTORS: Final = "descriptors.npy"
#: Bytes of the header of errors.npy; the same for every number of rows, so that it is replaced in place.
_HEADER: Final = 128


class _Identified(Protocol):
    """What the log needs of a structure; `Sample` has it."""

    @property
    def id(self) -> str: ...

    @property
    def atoms(self) -> Atoms: ...


def open_log(
    folder: str | Path, samples: Sequence[Sample], options: Mapping[str, Any] = MappingProxyType({})
) -> ForceErrorLog | None:
    """Log of the samples that have forces; None if there are none.

    Args:
        folder: of the log.
        samples: of a training.
        options: of `ForceErrorLog`.
    """
    logged = with_forces(samples)
    return ForceErrorLog(folder, logged, **options) if logged else None


def with_forces(samples: Sequence[Sample]) -> list[Sample]:
    """Samples that have forces, which a log is about."""
    return [sample for sample in samples if "forces" in sample.labels]


def force_error_norms(potential: Potential, samples: Sequence[Sample]) -> Float[np.ndarray, " n_atoms"]:
    """|F_predicted - F_reference| of the atoms of all samples that have forces, eV/Å."""
    logged = with_forces(samples)
    frames, structures = [s.atoms for s in logged], [s.structure for s in logged]
    predictions = predict(potential, frames, stress=False, neighborhoods=structures)
    errors = [p.forces - s.labels.forces for p, s in zip(predictions, logged, strict=True)]
    return np.linalg.norm(np.concatenate(errors), axis=1)


def finish_log(log: ForceErrorLog, potential: Potential, samples: Sequence[Sample]) -> None:
    """Write the last-layer features of the atoms, where the trained potential has any.

    A training without epochs has the errors of its end as the only ones.
    """
    if not log.n_epochs:
        log.append(0, force_error_norms(potential, samples))
    try:
        layer = potential.last_layer()
    except PotentialError:
        return
    structures = [layer.neighborhood(sample.atoms) for sample in with_forces(samples)]
    log.finish(np.concatenate([atom_features(layer, structure) for structure in structures]))


@final
class ForceErrorLog:
    """Writes `errors.npy` (T, N), `index.json` (N rows: configuration id, atom), `descriptors.npy` (N, D).

    Columns are the atoms of the configurations in their order, then the atom's index; shuffles and batches do
    not change it. Epoch e has the row e/every. Made again on the same folder the log goes on: epochs that
    are appended once more replace what they left there, and those after them; a gap is an error. A kill
    never leaves half an epoch.

    Args:
        folder: of the log, made if missing.
        configurations: whose atoms are logged, each with `id` and `atoms`.
        every: only epochs divisible by this are kept.
        dtype: of the file, "float64" or "float32".
        histogram_edges: (n_bins + 1,) edges in eV/Å; `histogram.npy` (N, n_bins) counts and `edges.npy` are
            written instead of `errors.npy`. The outer bins take what lies outside, so that each atom's
            counts add up to the epochs. Epochs that are counted already are not counted again, unless the
            first is: then the count begins anew.

    Raises:
        ConfigError: an argument out of range.
        DataError: the folder holds the log of other atoms, or of another type.
    """

    def __init__(
        self,
        folder: str | Path,
        configurations: Sequence[_Identified],
        every: int = 1,
        dtype: Literal["float64", "float32"] = "float64",
        histogram_edges: ArrayLike | None = None,
    ) -> None:
        if every < 1:
            raise ConfigError("every must be at least 1", got=every)
        if dtype not in ("float64", "float32"):
            raise ConfigError("unknown dtype of the log", got=dtype, expected="float64 or float32")
        self.folder = Path(folder)
        self.every = int(every)
        self.dtype = np.dtype(dtype)
        self.index = [(c.id, atom) for c in configurations for atom in range(len(c.atoms))]
        self._edges = None if histogram_edges is None else _checked_edges(histogram_edges)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_index()
        self._counts: Int[np.ndarray, "n_atoms n_bins"] | None = None
        if self._edges is None:
            self.n_epochs = self._written_rows()
        else:
            self._counts = self._written_counts(self._edges)
            self.n_epochs = int(self._counts[0].sum()) if len(self._counts) else 0

    def append(self, epoch: int, errors: Float[ArrayLike, " n_atoms"]) -> None:
        """Write the errors of an epoch.

        Args:
            epoch: counted from 0.
            errors: |F_predicted - F_reference| of each atom, eV/Å, in the order of `index`.

        Raises:
            DataError: wrong length, negative or not finite, or the epoch before was not logged.
        """
        values = np.asarray(errors, np.float64)
        if values.shape != (len(self.index),):
            raise DataError("force errors do not fit the log", got=values.shape, expected=(len(self.index),))
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            name, atom = self.index[int(np.argmax(bad))]
            where = f"epoch {epoch}, configuration {name}, atom {atom}"
            raise DataError("a force error must be finite and not negative", where=where, got=values[bad][0])
        row, rest = divmod(int(epoch), self.every)
        if rest:
            return
        if row > self.n_epochs:
            raise DataError(
                "epochs are missing in the force-error log",
                where=self.folder,
                got=f"epoch {epoch}",
                expected=f"epoch {self.n_epochs * self.every}",
                fix="resume from a checkpoint that is no newer than the log",
            )
        if self._counts is not None:
            self._count(row, values)
        else:
            self._write_row(row, values)

    def finish(self, descriptors: Float[ArrayLike, "n_atoms n_descriptors"]) -> None:
        """Write the descriptors of the trained model, one row per atom of the log.

        Raises:
            DataError: wrong shape or a value that is not finite.
        """
        values = np.asarray(descriptors)
        if values.ndim != 2 or len(values) != len(self.index) or not np.isfinite(values).all():
            raise DataError(
                "descriptors do not fit the log",
                got=values.shape,
                expected=f"({len(self.index)}, D), all finite",
            )
        _save(self.folder / DESCRIPTORS, values.astype(self.dtype))

    def _check_index(self) -> None:
        path = self.folder / INDEX
        own = json_text(self.index)
        if not path.exists():
            write_atomic(path, own + "\n")
        elif json.loads(path.read_text("utf-8")) != json.loads(own):
            raise DataError(
                "the folder holds the force-error log of other atoms",
                where=self.folder,
                fix="write to another folder",
            )

    def _written_rows(self) -> int:
        path = self.folder / ERRORS
        if not path.exists():
            write_atomic(path, self._header(0))
            return 0
        rows = np.load(path, mmap_mode="r", allow_pickle=False) if path.stat().st_size > _HEADER else None
        if rows is None:
            return 0
        if rows.dtype != self.dtype or rows.shape[1:] != (len(self.index),):
            expected = f"{self.dtype} (T, {len(self.index)})"
            raise DataError("another log", where=path, got=f"{rows.dtype} {rows.shape}", expected=expected)
        return len(rows)

    def _write_row(self, row: int, values: Float64[np.ndarray, " n_atoms"]) -> None:
        """Rows first, the header that counts them last."""
        with (self.folder / ERRORS).open("r+b") as file:
            if row < self.n_epochs:
                self._write_header(file, row)
            file.seek(_HEADER + row * len(values) * self.dtype.itemsize)
            file.write(values.astype(self.dtype).tobytes())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
            self._write_header(file, row + 1)
        self.n_epochs = row + 1

    def _write_header(self, file: BinaryIO, rows: int) -> None:
        file.seek(0)
        file.write(self._header(rows))
        file.flush()
        os.fsync(file.fileno())

    def _header(self, rows: int) -> bytes:
        """Header of the NPY format, version 1.0, at its fixed length."""
        content = {"descr": self.dtype.newbyteorder("<").str, "fortran_order": False}
        text = repr(content | {"shape": (rows, len(self.index))}).encode()
        start = b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little")
        return start + text.ljust(_HEADER - 11) + b"\n"

    def _written_counts(self, edges: np.ndarray) -> Int[np.ndarray, "n_atoms n_bins"]:
        shape = (len(self.index), len(edges) - 1)
        path = self.folder / HISTOGRAM
        if not path.exists():
            _save(self.folder / EDGES, edges)
            return np.zeros(shape, np.int32)
        if not np.array_equal(np.load(self.folder / EDGES, allow_pickle=False), edges):
            raise DataError("the histogram was begun with other edges", where=self.folder)
        return np.load(path, allow_pickle=False)

    def _count(self, row: int, values: Float64[np.ndarray, " n_atoms"]) -> None:
        if self._edges is None or self._counts is None or 0 < row < self.n_epochs:
            return
        if row == 0:
            self._counts[:] = 0
        place = np.searchsorted(self._edges, values, side="right") - 1
        self._counts[np.arange(len(values)), np.clip(place, 0, self._counts.shape[1] - 1)] += 1
        _save(self.folder / HISTOGRAM, self._counts)
        self.n_epochs = row + 1


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, array)


def _checked_edges(edges: ArrayLike) -> Float64[np.ndarray, " n_edges"]:
    values = np.asarray(edges, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise ConfigError("histogram_edges must be at least two finite numbers in rising order, in eV/Å")
    return values
