"""Settings of a FitSNAP-type fit: INI file or dictionary with the sections that FitSNAP has."""

from __future__ import annotations

import configparser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase.data import atomic_numbers

from surefield.descriptors.bispectrum import Bispectrum
from surefield.errors import ConfigError, nearest
from surefield.formats.snap import FLAGS, reference_potential
from surefield.potentials.zbl import ZBL

__all__ = ["FitSnapSettings", "Group", "fitsnap_settings", "read_sections"]

Sections = dict[str, dict[str, str]]

#: They steer FitSNAP's own input and output and are accepted as they are.
_IGNORED: Final = ("OUTFILE", "SCRAPER", "PATH", "EXTRAS", "MEMORY")
_NUMBERS: Final = {"rcutfac": 4.67637, "rfac0": 0.99363, "rmin0": 0.0}
_LISTS: Final = {"wj": 1.0, "radelem": 0.5}
_INNER: Final = ("sinner", "dinner")
#: Switches as LAMMPS has them, with FitSNAP's own default of one.
_FLAGS: Final = FLAGS | {"bzeroflag": False}
#: Settings of FitSNAP's reader of VASP's files, which is not needed here.
_VASP: Final = ("use_TOTEN", "json_pathname", "ignore_incomplete", "ignore_jsons", "unconverged_label")
_GROUP_SETTINGS: Final = (
    *("group_sections", "group_types", "smartweights", "random_sampling", "random_seed", "BOLTZ", "BOLTZT"),
    *(f"vasp_{name}" for name in _VASP),
)
_WEIGHTS: Final = ("eweight", "fweight", "vweight")
#: Columns of groups: those of today, and FitSNAP's default.
_COLUMNS: Final = ("name", "training_size", "testing_size", *_WEIGHTS)
_OLD_COLUMNS: Final = ("name", "size", *_WEIGHTS)
#: Switches that are understood where they are off.
_OFF: Final = {
    "BISPECTRUM": ("bikflag", "dgradflag", "alloyflag", "BOLTZ", "BOLTZT"),
    "CALCULATOR": ("nonlinear", "per_atom_energy", "per_atom_scalar"),
    "SOLVER": ("nsam", "cov_nugget", "merr_mult"),
    "GROUPS": ("BOLTZ", "BOLTZT"),
}
_KEYS: Final = {
    "BISPECTRUM": (
        *("numTypes", "twojmax", "type", *_NUMBERS, *_LISTS, *_INNER, *_FLAGS),
        *_OFF["BISPECTRUM"],
    ),
    "CALCULATOR": ("calculator", "energy", "force", "stress", "dee", "dfe", "dse", *_OFF["CALCULATOR"]),
    # Where the work is done, what is printed, and numbers of solvers other than those here.
    "SOLVER": (
        *("solver", "compute_testerrs", "detailed_errors", "true_multinode", "multinode"),
        *("normalweight", "normratio", "mcmc_num", "mcmc_gamma", "mcmc_sigma", "merr_method", "merr_cfs"),
        *_OFF["SOLVER"],
    ),
    "ESHIFT": (),
    "RIDGE": ("alpha", "local_solver", "method"),
    "LASSO": ("alpha",),
    "REFERENCE": ("units", "atom_style", "pair_style", "pair_coeff"),
    "GROUPS": _GROUP_SETTINGS,
}
_SOLVERS: Final = {"SVD": "svd", "RIDGE": "ridge", "LASSO": "lasso", "ARD": "ard"}
#: Defaults of FitSNAP.
_ALPHAS: Final = {"RIDGE": 1e-6, "LASSO": 1e-8}


class Group(NamedTuple):
    """How many of a group's configurations are fitted and tested, and its weights (vweight per bar).

    Sizes are shares (float) or numbers (int) of configurations; all that are not fitted are tested where
    `testing_size` is None.
    """

    training_size: float | int
    testing_size: float | int | None
    energy: float
    forces: float
    stress: float

    @property
    def whole(self) -> bool:
        """Whether all configurations are fitted."""
        return isinstance(self.training_size, float) and self.training_size == 1

    def counts(self, n: int) -> tuple[int, int]:
        """Numbers of fitted and of tested ones among n; rounded as FitSNAP does, one at least of a share.

        Raises:
            ValueError: more than there are.
        """
        train = _count(self.training_size, n)
        test = n - train if self.testing_size is None else _count(self.testing_size, n)
        if train > n:
            raise ValueError(f"training size {self.training_size} of {n} configurations")
        return train, min(test, n - train)


def _count(size: float | int, n: int) -> int:
    return size if isinstance(size, int) else max(int(size * n + 0.5), 1 if size else 0)


@dataclass(frozen=True)
class FitSnapSettings:
    """What the settings mean.

    Attributes:
        descriptor: bispectrum.
        quadratic: whether there are columns of products.
        types: element of each atom type, in the order of the settings.
        used: whether energies, forces and stresses are fitted.
        solver: 'svd', 'ridge', 'lasso' or 'ard'.
        alpha: of 'ridge' and 'lasso'.
        reference: pair potential that is taken off the labels; None for none.
        groups: by name; empty if there are none.
        smartweights: divide weights by the number of rows of the group.
        shifts: eV per atom of each element, added to the energies before the fit.
        random_seed: of the split into fitted and tested configurations; None: that of the call.
    """

    descriptor: Bispectrum
    quadratic: bool
    types: tuple[str, ...]
    used: tuple[bool, bool, bool]
    solver: str
    alpha: float
    reference: ZBL | None
    groups: Mapping[str, Group]
    smartweights: bool
    shifts: Mapping[str, float]
    random_seed: int | None


def read_sections(source: str | Path | Mapping[str, Mapping[str, Any]] | None) -> Sections:
    """Sections with their entries as text, from a file or a dictionary; empty for None.

    Raises:
        ConfigError: a file that cannot be read, or an entry that is no text, number or list of them.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return {str(name): _texts(str(name), entries) for name, entries in source.items()}
    parser = configparser.ConfigParser(inline_comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        with Path(source).open(encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigError(f"cannot read the settings file {source}: {error}") from None
    sections = {name: dict(parser[name]) for name in parser.sections()}
    name = sections.get("PATH", {}).get("groupFile", "None")
    if name != "None":
        groups = sections.get("GROUPS", {})
        table = {key: groups[key] for key in groups if key in _GROUP_SETTINGS}
        sections["GROUPS"] = table | _group_file(Path(source).parent / name)
    return sections


def _group_file(path: Path) -> dict[str, str]:
    """Rows of a file of groups, which FitSNAP reads in place of the section."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[PATH] groupFile cannot be read: {error}") from None
    rows = [words for line in lines if (words := line.partition("#")[0].split())]
    return {name: " ".join(words) for name, *words in rows}


def _texts(section: str, entries: Any) -> dict[str, str]:
    if not isinstance(entries, Mapping):
        raise ConfigError(f"section [{section}] of the settings must be a dictionary, got {entries!r}")
    return {str(key): _text(section, key, value) for key, value in entries.items()}


def _text(section: str, key: Any, value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, list | tuple | np.ndarray):
        return " ".join(_text(section, key, v) for v in value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | np.number):
        return repr(value.item() if isinstance(value, np.number) else value)
    raise ConfigError(f"[{section}] {key} must be text, a number or a list, got {value!r}")


def fitsnap_settings(sections: Sections, species: Sequence[str]) -> FitSnapSettings:
    """Meaning of the settings; what they leave out has FitSNAP's defaults.

    Args:
        sections: of `read_sections`.
        species: elements of the potential, in the order of atom types where the settings name none.

    Raises:
        ConfigError: unknown sections or entries, values that make no sense, or what is not supported.
    """
    known = _checked(sections)
    bispectrum, types = known["BISPECTRUM"], list(species)
    if "type" in bispectrum.entries:
        types = bispectrum.entries["type"].split()
        if sorted(types) != sorted(species):
            raise ConfigError(
                "[BISPECTRUM] type has other elements", got=types, expected=f"species {list(species)}"
            )
    if bispectrum.number("numTypes", len(types), int) != len(types):
        raise ConfigError(f"[BISPECTRUM] numTypes is {bispectrum.entries['numTypes']}, types are {types}")
    calculator = known["CALCULATOR"]
    if (name := calculator.entries.get("calculator", "LAMMPSSNAP")) != "LAMMPSSNAP":
        raise ConfigError(f"[CALCULATOR] calculator {name!r} is not supported; use LAMMPSSNAP")
    solver, ridge = known["SOLVER"].entries.get("solver", "SVD"), known["RIDGE"]
    if solver not in _SOLVERS:
        fix = nearest(solver, _SOLVERS)
        raise ConfigError(f"[SOLVER] solver {solver!r} is not supported; {fix}")
    if ridge.entries.get("local_solver", "0") not in ("0", "1"):
        raise ConfigError("[RIDGE] local_solver must be 0 or 1; both give the same minimum")
    used = [calculator.flag(kind, default=True) for kind in ("energy", "force", "stress")]
    return FitSnapSettings(
        descriptor=_descriptor(bispectrum, types),
        quadratic=bispectrum.flag("quadraticflag", default=False),
        types=tuple(types),
        used=(used[0], used[1], used[2]),
        solver=_SOLVERS[solver],
        alpha=known[solver].number("alpha", _ALPHAS[solver], float) if solver in _ALPHAS else 0.0,
        reference=_reference(known["REFERENCE"], types),
        groups=_groups(known["GROUPS"]),
        smartweights=known["GROUPS"].flag("smartweights", default=False),
        shifts=_shifts(known["ESHIFT"], types),
        random_seed=known["GROUPS"].number("random_seed", 0, float) or None,
    )


def _shifts(section: _Section, types: Sequence[str]) -> dict[str, float]:
    for name in section.entries:
        if name not in types:
            raise ConfigError(f"[ESHIFT] {name} is no type of [BISPECTRUM]; {nearest(name, types)}")
    return {name: float(section.number(name, 0.0, float)) for name in section.entries}


class _Section(NamedTuple):
    """Entries of one section, with their conversion."""

    name: str
    entries: Mapping[str, str]

    def number(self, key: str, default: Any, kind: type) -> Any:
        numbers = self.numbers(key, [default], kind)
        if len(numbers) != 1:
            raise ConfigError(f"[{self.name}] {key} must be one number, got {self.entries[key]!r}")
        return numbers[0]

    def numbers(self, key: str, default: list[Any], kind: type) -> list[Any]:
        if key not in self.entries:
            return default
        try:
            numbers = [kind(word) for word in self.entries[key].split()]
        except ValueError:
            numbers = []
        if not numbers or not np.isfinite(numbers).all():
            what = "whole numbers" if kind is int else "numbers"
            raise ConfigError(f"[{self.name}] {key} must be {what}, got {self.entries[key]!r}")
        return numbers

    def flag(self, key: str, *, default: bool) -> bool:
        text = self.entries.get(key, str(int(default))).lower()
        known = {"0": False, "1": True, "false": False, "true": True}
        if text not in known:
            raise ConfigError(f"[{self.name}] {key} must be 0 or 1, got {self.entries[key]!r}")
        return known[text]


def _checked(sections: Sections) -> dict[str, _Section]:
    """All known sections, those that are missing empty; unknown sections and entries are refused."""
    for name, entries in sections.items():
        if name in _IGNORED:
            continue
        if name not in _KEYS:
            raise ConfigError(
                f"section [{name}] of the settings is not supported; {nearest(name, (*_KEYS, *_IGNORED))}"
            )
        known = _KEYS[name]
        for key in entries:
            numbered = name == "REFERENCE" and key.rstrip("0123456789") == "pair_coeff"
            group = name == "GROUPS" and len(entries[key].split()) > 1
            if key not in known and not numbered and not group and name != "ESHIFT":
                raise ConfigError(f"unknown entry {key!r} in section [{name}]; {nearest(key, known)}")
    checked = {name: _Section(name, sections.get(name, {})) for name in _KEYS}
    for name, keys in _OFF.items():
        for key in keys:
            text = checked[name].entries.get(key, "0")
            if text.lower() != "false" and float(checked[name].number(key, 0.0, float)) != 0:
                what = "weights by Boltzmann factors are" if key.startswith("BOLTZ") else "it is"
                raise ConfigError(f"[{name}] {key}: {what} not supported, only 0", got=text)
    return checked


def _descriptor(section: _Section, types: Sequence[str]) -> Bispectrum:
    n = len(types)
    largest = section.numbers("twojmax", [6], int)
    if len(largest) not in (1, n):
        raise ConfigError(f"[BISPECTRUM] twojmax needs 1 or {n} numbers, got {largest}")
    if len(set(largest)) > 1:
        raise ConfigError(f"[BISPECTRUM] twojmax that differs between types is not supported, got {largest}")
    lists = {name: section.numbers(name, [default] * n, float) for name, default in _LISTS.items()}
    if section.flag("switchinnerflag", default=False):
        lists |= {name: section.numbers(name, [], float) for name in _INNER}
    for name, values in lists.items():
        if len(values) != n:
            raise ConfigError(f"[BISPECTRUM] {name} needs a number per type ({n}), got {values}")
    ascending = sorted(range(n), key=lambda i: atomic_numbers[types[i]])
    flags = {
        name: section.flag(name, default=default)
        for name, default in _FLAGS.items()
        if name not in ("quadraticflag", "switchinnerflag")
    }
    settings: dict[str, Any] = {
        **{name: section.number(name, default, float) for name, default in _NUMBERS.items()},
        **{name: tuple(values[i] for i in ascending) for name, values in lists.items()},
        **flags,
    }
    species = tuple(atomic_numbers[types[i]] for i in ascending)
    return Bispectrum(species=species, twojmax=largest[0], **settings)


def _reference(section: _Section, types: Sequence[str]) -> ZBL | None:
    for key, only in (("units", "metal"), ("atom_style", "atomic")):
        if section.entries.get(key, only) != only:
            raise ConfigError(f"[REFERENCE] {key} must be {only}, got {section.entries[key]!r}")
    pairs = [text for key, text in section.entries.items() if key.startswith("pair_coeff")]
    return reference_potential(section.entries.get("pair_style", "zero 10.0"), pairs, types)


def _groups(section: _Section) -> dict[str, Group]:
    rows = {name: text.split() for name, text in section.entries.items() if name not in _GROUP_SETTINGS}
    default = (
        _OLD_COLUMNS if all(len(words) == len(_OLD_COLUMNS) - 1 for words in rows.values()) else _COLUMNS
    )
    columns = section.entries.get("group_sections", " ".join(default)).split()
    unknown = [name for name in columns if name not in (*_COLUMNS, "size")]
    if unknown or columns[0] != "name" or {"size", "training_size"} <= set(columns):
        expected = f"{', '.join(_COLUMNS)}, or size in place of both sizes"
        raise ConfigError("[GROUPS] group_sections is not supported", got=columns, expected=expected)
    types = section.entries.get("group_types", "str" + " float" * (len(columns) - 1)).split()
    if len(types) != len(columns) or set(types[1:]) - {"int", "float"}:
        raise ConfigError("[GROUPS] group_types must be str, then int or float for each column", got=types)
    groups = {}
    for name, words in rows.items():
        try:
            values = {c: _typed(w, t) for c, w, t in zip(columns[1:], words, types[1:], strict=True)}
        except ValueError:
            expected = ", ".join(f"{c} ({t})" for c, t in zip(columns[1:], types[1:], strict=True))
            raise ConfigError(
                f"unusable group {name!r} in [GROUPS]", got=" ".join(words), expected=expected
            ) from None
        training = _size(values.get("training_size", values.get("size", 1.0)))
        testing = _size(values["testing_size"]) if "testing_size" in values else None
        weights = [float(values.get(key, 1.0)) for key in _WEIGHTS]
        if training is None or (testing is None and "testing_size" in values) or min(weights) < 0:
            raise ConfigError(
                f"group {name!r} in [GROUPS] is out of range",
                got=" ".join(words),
                expected="sizes of 0 to 1, or whole numbers; weights of 0 or more",
            )
        groups[name] = Group(training, testing, *weights)
    return groups


def _typed(word: str, kind: str) -> float | int:
    value = int(word) if kind == "int" else float(word)
    if not np.isfinite(value):
        raise ValueError(word)
    return value


def _size(value: float | int) -> float | int | None:
    """A share of 0 to 1, or a number of configurations; None for what is neither."""
    if isinstance(value, float) and value > 1 and value.is_integer():
        value = int(value)
    return value if value >= 0 and (isinstance(value, int) or value <= 1) else None
