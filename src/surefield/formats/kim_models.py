"""KIM models and drivers that have a model of this package behind them, by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from surefield.errors import ConfigError, nearest
from surefield.potentials.parametric.edges import BondPotential
from surefield.potentials.parametric.kim_id import parse_id
from surefield.potentials.parametric.lennard_jones import LennardJones
from surefield.potentials.parametric.morse import Morse
from surefield.potentials.parametric.stillinger_weber import StillingerWeber
from surefield.potentials.parametric.tersoff import Tersoff

__all__ = ["DRIVERS", "MODELS", "Driver", "KnownModel", "find_driver", "find_model"]


@dataclass(frozen=True)
class Driver:
    """A form of models.

    Attributes:
        name: of the KIM driver, without version.
        version: of the driver that files are written for.
        cls: our class.
        options: its constructor arguments.
    """

    name: str
    version: str
    cls: type[BondPotential]
    options: Mapping[str, Any] = field(default_factory=dict)

    def model(self, values: Mapping[str, Any], species: Sequence[str]) -> BondPotential:
        """A potential of this form."""
        return self.cls(values, species, **self.options)


@dataclass(frozen=True)
class KnownModel:
    """A model whose parameters are known.

    Attributes:
        name: short id, without number and version.
        number: MO_ and twelve digits.
        version: the newest one known.
        driver: name of its driver.
        species: symbols, in the order of the values.
        values: published parameters.
    """

    name: str
    number: str
    version: str
    driver: str
    species: tuple[str, ...]
    values: Mapping[str, float | Sequence[float]]

    @property
    def kim_id(self) -> str:
        """Full id."""
        return f"{self.name}__{self.number}_{self.version}"

    def make(self) -> BondPotential:
        """The model at its published parameters."""
        return DRIVERS[self.driver].model(self.values, self.species)


#: Drivers by name. KIM's shifted pair drivers know one species only.
DRIVERS: Final = {
    driver.name: driver
    for driver in (
        Driver("SW__MD_335816936951", "004", StillingerWeber),
        Driver("LJ_Shifted__MD_498634107543", "004", LennardJones, {"shift": True}),
        Driver("Morse_Shifted__MD_552566534109", "004", Morse, {"shift": True}),
        Driver("Tersoff_LAMMPS__MD_077075034781", "004", Tersoff),
    )
}
_SW, _LJ, _MORSE, _TERSOFF = DRIVERS

#: Bernardes, Phys. Rev. 112, 1534 (1958): epsilon (eV) and sigma (Å) of rare gases.
_BERNARDES: Final = {"Ar": (0.0104, 3.4), "Kr": (0.014, 3.65), "Ne": (0.0031, 2.74), "Xe": (0.02, 3.98)}
_BERNARDES_IDS: Final = {
    "LowCutoff_Ar": ("MO_720819638419", 9.23),
    "LowCutoff_Kr": ("MO_995724792024", 9.91),
    "LowCutoff_Ne": ("MO_466741694288", 7.44),
    "LowCutoff_Xe": ("MO_648694198005", 10.8),
    "MedCutoff_Ar": ("MO_126566794224", 13.5),
    "MedCutoff_Kr": ("MO_984281096460", 14.5),
    "MedCutoff_Ne": ("MO_160637895352", 10.9),
    "MedCutoff_Xe": ("MO_849320763277", 15.9),
    "HighCutoff_Ar": ("MO_242741380554", 19.9),
    "HighCutoff_Kr": ("MO_923895531627", 21.3),
    "HighCutoff_Ne": ("MO_966254629593", 16.0),
    "HighCutoff_Xe": ("MO_796748253903", 23.3),
}
#: Girifalco, Weizer, Phys. Rev. 114, 687 (1959): epsilon (eV), C (1/Å), Rzero (Å) of metals.
_GIRIFALCO: Final = {
    "Al": (-0.2703, 1.1646, 3.253),
    "Cu": (-0.3429, 1.3588, 2.866),
    "Ni": (-0.4205, 1.4199, 2.78),
}
_GIRIFALCO_IDS: Final = {
    "LowCutoff_Al": ("MO_411898953661", 7.80032),
    "LowCutoff_Cu": ("MO_673777079812", 6.76342),
    "LowCutoff_Ni": ("MO_322509103239", 6.5097),
    "MedCutoff_Al": ("MO_279544746097", 9.77941),
    "MedCutoff_Cu": ("MO_173787283511", 8.45965),
    "MedCutoff_Ni": ("MO_758825945924", 8.13295),
    "HighCutoff_Al": ("MO_140175748626", 11.7567),
    "HighCutoff_Cu": ("MO_151002396060", 10.1544),
    "HighCutoff_Ni": ("MO_381861218831", 9.75476),
}

#: Stillinger, Weber, Phys. Rev. B 31, 5262 (1985).
_SILICON: Final = KnownModel(
    "SW_StillingerWeber_1985_Si",
    "MO_405512056662",
    "006",
    _SW,
    ("Si",),
    {
        "A": 15.2848479197914,
        "B": 0.6022245584,
        "p": 4.0,
        "q": 0.0,
        "sigma": 2.0951,
        "gamma": 2.51412,
        "cutoff": 3.77118,
        "lambda": 45.5322,
        "costheta0": -1 / 3,
    },
)


def _lennard_jones(suffix: str) -> KnownModel:
    (number, cutoff), symbol = _BERNARDES_IDS[suffix], suffix[-2:]
    epsilon, sigma = _BERNARDES[symbol]
    values = {"cutoff": cutoff, "epsilon": epsilon, "sigma": sigma}
    return KnownModel(f"LJ_Shifted_Bernardes_1958{suffix}", number, "004", _LJ, (symbol,), values)


def _morse(suffix: str) -> KnownModel:
    (number, cutoff), symbol = _GIRIFALCO_IDS[suffix], suffix[-2:]
    epsilon, c, r = _GIRIFALCO[symbol]
    values = {"cutoff": cutoff, "epsilon": epsilon, "C": c, "Rzero": r}
    return KnownModel(f"Morse_Shifted_GirifalcoWeizer_1959{suffix}", number, "004", _MORSE, (symbol,), values)


#: Jelinek, Phys. Rev. B 5, 3210 (1972).
_ARGON: Final = KnownModel(
    "Morse_Shifted_Jelinek_1972_Ar",
    "MO_831902330215",
    "004",
    _MORSE,
    ("Ar",),
    {"cutoff": 8.15, "epsilon": -0.0134783698072604, "C": 1.545, "Rzero": 3.786},
)


def _silicon(name: str, number: str, values: Sequence[float]) -> KnownModel:
    """Tersoff's silicon, from parameters in the order of his table with Rc, Dc for the cutoff."""
    names = ("A", "B", "lambda1", "lambda2", "beta", "n", "c", "d", "h", "lambda3", "Rc", "Dc")
    parameters = dict(zip(names, values, strict=True)) | {"m": 3.0, "gamma": 1.0}
    return KnownModel(f"Tersoff_LAMMPS_{name}", number, "003", _TERSOFF, ("Si",), parameters)


#: T2: Tersoff, Phys. Rev. B 37, 6991 (1988); T3: Phys. Rev. B 38, 9902 (1988).
_T2: Final = (3264.7, 95.373, 3.2394, 1.3258, 0.33675, 22.956, 4.8381, 2.0417, 0.0, 1.3258, 3.0, 0.2)
_T3: Final = (
    1830.8,
    471.18,
    2.4799,
    1.7322,
    1.0999e-6,
    0.78734,
    1.0039e5,
    16.218,
    -0.59826,
    1.7322,
    2.85,
    0.15,
)


def _silicon_carbide() -> KnownModel:
    """Tersoff, Phys. Rev. B 39, 5566 (1989): means of the elements, the attraction times 0.9776."""
    a, b = (1830.8, 1393.6), (471.18, 346.74)
    lambda1, lambda2 = (2.4799, 3.4879), (1.7322, 2.2119)
    inner, outer = (2.7, 1.8), (3.0, 2.1)
    pairs = [(i, j) for i in range(2) for j in range(2)]
    triplets = [(i, j, k) for i in range(2) for j in range(2) for k in range(2)]
    reach = {(i, k): ((inner[i] * inner[k]) ** 0.5, (outer[i] * outer[k]) ** 0.5) for i, k in pairs}
    values = {
        "A": [(a[i] * a[j]) ** 0.5 for i, j in pairs],
        "B": [(1.0 if i == j else 0.9776) * (b[i] * b[j]) ** 0.5 for i, j in pairs],
        "lambda1": [0.5 * (lambda1[i] + lambda1[j]) for i, j in pairs],
        "lambda2": [0.5 * (lambda2[i] + lambda2[j]) for i, j in pairs],
        "beta": [(1.1e-6, 1.5724e-7)[i] for i, _ in pairs],
        "n": [(0.78734, 0.72751)[i] for i, _ in pairs],
        "lambda3": 0.0,
        "m": 3.0,
        "gamma": 1.0,
        "c": [(1.0039e5, 38049.0)[i] for i, *_ in triplets],
        "d": [(16.217, 4.3484)[i] for i, *_ in triplets],
        "h": [(-0.59825, -0.57058)[i] for i, *_ in triplets],
        "Rc": [0.5 * sum(reach[i, k]) for i, _, k in triplets],
        "Dc": [0.5 * (reach[i, k][1] - reach[i, k][0]) for i, _, k in triplets],
    }
    name, number = "Tersoff_LAMMPS_Tersoff_1989_SiC", "MO_171585019474"
    return KnownModel(name, number, "003", _TERSOFF, ("Si", "C"), values)


#: Models by short id.
MODELS: Final = {
    model.name: model
    for model in (
        _SILICON,
        *map(_lennard_jones, _BERNARDES_IDS),
        *map(_morse, _GIRIFALCO_IDS),
        _ARGON,
        _silicon("Tersoff_1988T2_Si", "MO_245095684871", _T2),
        _silicon("Tersoff_1988T3_Si", "MO_186459956893", _T3),
        _silicon_carbide(),
    )
}


def find_model(kim_id: str) -> KnownModel | None:
    """The known model of an id in any form, of any version; None if there is none.

    Raises:
        ConfigError: name and number of the id belong to different models.
    """
    name, number, _ = parse_id(kim_id)
    for model in MODELS.values():
        if number == model.number or (number is None and name == model.name):
            if name not in (None, model.name):
                raise ConfigError(f"{kim_id}: {number} is the number of {model.name}, not of {name}")
            return model
    return None


def find_driver(name: str) -> Driver | None:
    """The driver of a name with or without version, or of one of our classes; None if there is none."""
    wanted = parse_id(name)
    for driver in DRIVERS.values():
        known = parse_id(driver.name)
        same = (
            wanted.number == known.number
            if wanted.number
            else wanted.name in (known.name, driver.cls.__name__)
        )
        if same:
            return driver
    return None


def suggestion(kim_id: str) -> str:
    """The known id or driver that is nearest to a text."""
    return nearest(kim_id, [*MODELS, *DRIVERS])
