"""Density functional theory of crystals by pw.x of Quantum ESPRESSO, through the calculator of ASE."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import Any, Final, Unpack

from ase import Atoms
from ase.calculators.espresso import Espresso, EspressoProfile

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.program import check_program, last_lines
from surefield.loop.oracles.calculator import Attempts, CalculatorOracle
from surefield.loop.oracles.engine import MakeEngine, file_digests

__all__ = ["espresso"]

_UNCONVERGED: Final = re.compile(r"convergence NOT achieved.*")
_CONVERGED: Final = "convergence has been achieved"


def espresso(
    pseudopotentials: Mapping[str, str],
    input_data: Mapping[str, Any],
    *,
    pseudo_dir: str | Path = ".",
    kpts: Sequence[int] | None = None,
    kspacing: float | None = None,
    koffset: Sequence[int] = (0, 0, 0),
    command: str = "pw.x",
    folder: Path | None = None,
    **attempts: Unpack[Attempts],
) -> CalculatorOracle:
    """Oracle of Quantum ESPRESSO (Giannozzi et al., J. Phys.: Condens. Matter 21 (2009) 395502).

    Args:
        pseudopotentials: element to file in `pseudo_dir`.
        input_data: namelists of pw.x, such as `{"system": {"ecutwfc": 30}}`.
        pseudo_dir: folder of the files.
        kpts: k-points along each reciprocal vector; neither this nor `kspacing`: the gamma point.
        kspacing: 1/Å, largest distance of k-points, in place of `kpts`.
        koffset: 1 for a shift by half a step.
        command: pw.x, with what starts it: "mpirun -np 4 pw.x".
        folder: that `pseudo_dir` is relative to; the current one by default.
        attempts: see `Attempts`; a further attempt may change `input_data`.

    Raises:
        ConfigError: pw.x or a pseudopotential is not there, or settings that contradict each other.
    """
    install = "apt install quantum-espresso, or name it in `command`"
    for word in [shlex.split(command)[:1], [w for w in shlex.split(command) if w.endswith("pw.x")]]:
        check_program(shlex.join(word[:1]), install)
    if kpts is not None and kspacing is not None:
        raise ConfigError("k-points are given by kpts or by kspacing, not by both")
    place = ((folder or Path()) / pseudo_dir).resolve()
    files = {name: place / name for name in pseudopotentials.values()}
    calculation = {
        "input_data": {str(key): value for key, value in input_data.items()},
        "kpts": None if kpts is None else list(kpts),
        "kspacing": kspacing,
        "koffset": list(koffset),
    }
    names = {"pseudopotentials": dict(pseudopotentials)}
    make = MakeEngine(
        crystal_results, {**calculation, **names, "pseudo_dir": str(place), "command": command}, stress=True
    )
    settings = {"kind": "espresso", **calculation, **names, "files": file_digests(files)}
    return CalculatorOracle(make, "Quantum ESPRESSO", settings, **attempts)


def crystal_results(
    atoms: Atoms,
    *,
    pseudopotentials: Mapping[str, str],
    input_data: Mapping[str, Any],
    kpts: Sequence[int] | None,
    kspacing: float | None,
    koffset: Sequence[int],
    pseudo_dir: str,
    command: str,
) -> Mapping[str, Any]:
    """Energy (eV), forces (eV/Å) and stress (eV/Å^3) by a run in a folder of its own.

    Raises:
        ExecutionError: no pseudopotential, pw.x failed, or its self-consistent field has not converged.
    """
    missing = sorted(set(atoms.get_chemical_symbols()) - set(pseudopotentials))
    if missing:
        raise ExecutionError(f"no pseudopotential for {', '.join(missing)}")
    data = {section: dict(entries) for section, entries in input_data.items()}
    data["control"] = {**data.get("control", {}), "calculation": "scf", "tprnfor": True, "tstress": True}
    with TemporaryDirectory(prefix="espresso-") as folder:
        calculator = Espresso(
            profile=EspressoProfile(command=command, pseudo_dir=pseudo_dir),
            directory=folder,
            pseudopotentials=dict(pseudopotentials),
            input_data=data,
            kpts=None if kpts is None else tuple(kpts),
            kspacing=kspacing,
            koffset=tuple(koffset),
        )
        work, output, cause = atoms.copy(), Path(folder) / "espresso.pwo", None
        work.calc = calculator
        try:
            work.get_potential_energy()
        except (CalledProcessError, OSError, RuntimeError, AssertionError, IndexError) as error:
            cause = error
        text = output.read_text(errors="replace") if output.exists() else ""
        if unconverged := _UNCONVERGED.search(text):
            raise ExecutionError(f"the self-consistent field did not converge: {unconverged.group().strip()}")
        if cause is not None:
            raise ExecutionError(f"pw.x failed: {last_lines(text) if text else cause}") from cause
        if _CONVERGED not in text:
            raise ExecutionError(f"pw.x does not say that it converged: {last_lines(text)}")
        return {name: calculator.results[name] for name in ("energy", "forces", "stress")}
