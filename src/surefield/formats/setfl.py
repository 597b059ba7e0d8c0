"""Embedded-atom potentials as setfl files (`pair_style eam/alloy` of LAMMPS): read and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from jaxtyping import Int

from surefield.errors import PotentialError
from surefield.files import write_atomic
from surefield.potentials.parametric.eam import EAM
from surefield.potentials.parametric.edges import pair_index

__all__ = ["read_setfl", "write_setfl"]


def read_setfl(path: str | Path) -> EAM:
    """Potential of a setfl file.

    Raises:
        PotentialError: no such file, or not of that format.
    """
    path = Path(path)
    if not path.is_file():
        raise PotentialError(f"there is no setfl file at {path.resolve()}")
    lines = path.read_text("utf-8", errors="replace").splitlines()
    try:
        count, *symbols = lines[3].split()
        n_rho, drho, n_r, dr, cutoff = (float(word) for word in lines[4].split()[:5])
        words = iter(" ".join(lines[5:]).split())
        n, n_rho, n_r = int(count), int(n_rho), int(n_r)
        take = lambda size: np.array([float(next(words)) for _ in range(size)])  # noqa: E731
        embedding, density = [], []
        for _ in symbols:
            for _ in range(4):  # atomic number, mass, lattice constant, lattice
                next(words)
            embedding.append(take(n_rho))
            density.append(take(n_r))
        tables = [take(n_r) for _ in range(n * (n + 1) // 2)]
    except (ValueError, IndexError, StopIteration, RuntimeError) as error:
        raise PotentialError(f"{path} is cut short or not a setfl file: {error}") from None
    if n != len(symbols):
        raise PotentialError(f"{path}: {n} elements announced in line 4, {len(symbols)} named")
    pairs = np.empty((len(tables), n_r))
    pairs[_lower_to_upper(n)] = tables
    values = {"embedding": embedding, "density": density, "pair": pairs}
    return EAM(values, symbols, dr=dr, drho=drho, reach=cutoff)


def write_setfl(path: str | Path, potential: EAM, comment: str = "surefield") -> None:
    """Write a setfl file; reading it gives the same numbers."""
    embedding, density, pair = (
        np.asarray(potential.values[name]) for name in ("embedding", "density", "pair")
    )
    spacings = f"{embedding.shape[1]} {potential.drho!r} {density.shape[1]} {potential.dr!r}"
    first = comment.replace("\n", " ")
    lines = [first, "embedding energies, densities, r times pair energies; eV, Å", ""]
    lines += [f"{len(potential.symbols)} {' '.join(potential.symbols)}", f"{spacings} {potential.reach!r}"]
    for row, symbol in enumerate(potential.symbols):
        number = chemical_symbols.index(symbol)
        lines.append(f"{number} {atomic_masses[number]!s} 0.0 none")
        lines += [repr(value) for value in (*embedding[row].tolist(), *density[row].tolist())]
    for place in _lower_to_upper(len(potential.symbols)).tolist():
        lines += [repr(value) for value in pair[place].tolist()]
    write_atomic(path, "\n".join(lines) + "\n")


def _lower_to_upper(n: int) -> Int[np.ndarray, " n_pairs"]:
    """Place in the order 11, 12, .., 22, .. of the tables in a file: 11, 21, 22, 31, .."""
    return np.asarray(pair_index(n))[np.tril_indices(n)]
