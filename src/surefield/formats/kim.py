"""Parameter files of KIM's drivers, and model folders that install there: read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from surefield.errors import PotentialError
from surefield.files import write_atomic
from surefield.formats.kim_models import DRIVERS, Driver
from surefield.formats.triplet_file import TERSOFF, read_entries, tersoff_text, tersoff_values
from surefield.potentials.parametric.edges import BondPotential
from surefield.potentials.parametric.lennard_jones import LennardJones
from surefield.potentials.parametric.morse import Morse
from surefield.potentials.parametric.stillinger_weber import StillingerWeber
from surefield.potentials.parametric.tersoff import Tersoff
from surefield.text_file import number, read_text, whole

__all__ = ["CMAKE", "driver_of", "params_text", "read_params", "write_kim_model"]

#: Order of the numbers in the files of the drivers.
_SW: Final = ("A", "B", "p", "q", "sigma", "lambda", "gamma", "costheta0", "cutoff")
_SINGLE: Final[Mapping[type, tuple[str, ...]]] = {
    LennardJones: ("cutoff", "epsilon", "sigma"),
    Morse: ("cutoff", "epsilon", "C", "Rzero"),
}
#: File with which the KIM tools install a folder of parameter files.
CMAKE: Final = """cmake_minimum_required(VERSION 3.10)

list(APPEND CMAKE_PREFIX_PATH $ENV{{KIM_API_CMAKE_PREFIX_DIR}})
find_package(KIM-API-ITEMS 2.0 REQUIRED CONFIG)

kim_api_items_setup_before_project(ITEM_TYPE "portableModel")
project({name})
kim_api_items_setup_after_project(ITEM_TYPE "portableModel")

add_kim_api_model_library(
  NAME            ${{PROJECT_NAME}}
  DRIVER_NAME     "{driver}"
  PARAMETER_FILES {files}
  )
"""


def driver_of(potential: object) -> Driver | None:
    """The KIM driver that can compute a potential; None if there is none."""
    for driver in DRIVERS.values():
        if type(potential) is not driver.cls:
            continue
        assert isinstance(potential, BondPotential)
        single = driver.cls in _SINGLE
        if potential.options() == driver.options and (len(potential.symbols) == 1 or not single):
            return driver
    return None


def read_params(path: str | Path, driver: Driver) -> BondPotential:
    """Potential of a parameter file; species in the order of the file.

    Raises:
        PotentialError: no such file, or not one of this driver.
    """
    path = Path(path)
    lines = [line.split("#")[0].split() for line in read_text(path, "parameter file").splitlines()]
    rows = [line for line in lines if line]
    try:
        if driver.cls is StillingerWeber:
            symbols, values = _read_pairs(rows)
        elif driver.cls is Tersoff:
            settings = path.with_suffix(".settings")
            order = read_text(settings).split() if settings.is_file() else None
            entries, symbols = read_entries(path, TERSOFF, order)
            values = tersoff_values(entries, symbols)
        else:
            names = _SINGLE[driver.cls]
            words = [word for row in rows for word in row]
            symbols = words[:1]
            values = {n: np.array([number(w)]) for n, w in zip(names, words[1:], strict=True)}
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise PotentialError(f"{path} is not a parameter file of {driver.name}: {error}") from None
    return driver.model(values, symbols)


def params_text(potential: BondPotential) -> dict[str, str]:
    """Files of the driver, suffix to text; numbers read back exactly.

    Raises:
        PotentialError: no driver computes this potential.
    """
    driver = driver_of(potential)
    if driver is None:
        raise PotentialError(
            f"no KIM driver computes this {type(potential).__name__} of {len(potential.symbols)} species "
            f"with {potential.options() or 'no options'}"
        )
    values = {name: np.asarray(value).tolist() for name, value in potential.values.items()}
    symbols, n = potential.symbols, len(potential.symbols)
    if isinstance(potential, StillingerWeber):
        pairs = [(i, j) for i in range(n) for j in range(i, n)]
        lines = [str(n), ""]
        for place, (i, j) in enumerate(pairs):
            lines.append(f"{symbols[i]} {symbols[j]} {' '.join(repr(values[k][place]) for k in _SW)}")
        return {".params": "\n".join([*lines, "", f"# species1 species2 {' '.join(_SW)}; eV, Angstrom", ""])}
    if isinstance(potential, Tersoff):
        return {".settings": " ".join(symbols) + "\n", ".params": tersoff_text(potential)}
    rows = [symbols[0], *(repr(values[name][0]) for name in _SINGLE[type(potential)])]
    return {".params": "\n".join(rows) + "\n"}


def write_kim_model(folder: str | Path, name: str, potential: BondPotential) -> list[Path]:
    """Write `folder/name` with a KIM portable model of that name; returns its files.

    It installs with `kim-api-collections-management install user FOLDER`, or `install CWD FOLDER`.

    Raises:
        PotentialError: no driver computes this potential, or the name has other characters than letters,
            digits and underscores.
    """
    if not name.isidentifier():
        raise PotentialError(f"a KIM model's name has letters, digits and underscores, got {name!r}")
    texts, driver = params_text(potential), driver_of(potential)
    assert driver is not None
    target = Path(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    files = {f"{name}{suffix}": text for suffix, text in texts.items()}
    listed = " ".join(f'"{file}"' for file in files)
    cmake = CMAKE.format(name=name, driver=f"{driver.name}_{driver.version}", files=listed)
    for file, text in {**files, "CMakeLists.txt": cmake}.items():
        write_atomic(target / file, text)
    return [target / file for file in (*files, "CMakeLists.txt")]


def _read_pairs(rows: Sequence[Sequence[str]]) -> tuple[list[str], dict[str, np.ndarray]]:
    n = whole(rows[0][0])
    count = n * (n + 1) // 2
    if len(rows) != count + 1:
        raise ValueError(f"{n} species have {count} pairs, found {len(rows) - 1}")
    by_pair = {tuple(row[:2]): [number(word) for word in row[2:]] for row in rows[1:]}
    symbols = list(dict.fromkeys(symbol for pair in by_pair for symbol in pair))
    ordered = []
    for place, first in enumerate(symbols):
        for second in symbols[place:]:
            ordered.append(by_pair.get((first, second)) or by_pair[second, first])
    return symbols, {
        name: np.array(column) for name, column in zip(_SW, zip(*ordered, strict=True), strict=True)
    }
