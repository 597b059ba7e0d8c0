"""Several properties of one potential: computed one after the other, and written as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.execution.identity import digest
from surefield.files import json_text, read_json, write_atomic
from surefield.potentials.evaluate import check_species
from surefield.potentials.potential import HasPotential, as_potential
from surefield.properties.config import CrystalPropertyConfig
from surefield.properties.property import CrystalProperty, Property, PropertyResult
from surefield.properties.relaxation import Tolerances
from surefield.properties.sigma import has_sigma
from surefield.properties.simulator import check_form, check_simulator
from surefield.properties.targets import PROPERTIES
from surefield.structures.contents import frame_digest
from surefield.structures.geometry import check_geometry
from surefield.structures.read import read_frames
from surefield.uncertainty.uncertainty import Uncertainty

__all__ = ["KeptRows", "Row", "checked_properties", "computed_rows", "csv_text", "property_of"]


@dataclass(frozen=True)
class Row:
    """One value of a table of properties.

    Attributes:
        property: its kind.
        crystal: formula and lattice.
        name: of the value.
        value: None: it could not be computed, see `message`.
        sigma: calibrated standard deviation; None: there is none.
        unit: of both.
        message: what there is to know.
    """

    property: str
    crystal: str
    name: str
    value: float | None
    sigma: float | None
    unit: str
    message: str = ""


@dataclass(frozen=True)
class KeptRows:
    """Rows of properties in a folder, by what they are of: nothing that is there is computed again.

    Attributes:
        folder: one file a property.
        model: hash of the potential with its uncertainty.
    """

    folder: Path
    model: str

    def read(self, config: CrystalPropertyConfig) -> list[Row] | None:
        """Rows of a property; None where there are none that can be read."""
        with suppress(DataError, OSError, KeyError, TypeError):
            return [Row(**row) for row in read_json(self._path(config))["rows"]]
        return None

    def write(self, config: CrystalPropertyConfig, rows: Sequence[Row]) -> None:
        """Keep rows, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(config), json_text({"rows": [asdict(row) for row in rows]}) + "\n")

    def _path(self, config: CrystalPropertyConfig) -> Path:
        settings = config.model_dump(mode="json", exclude={"structure"})
        crystal = None if config.structure is None else frame_digest(read_frames(config.structure)[0])
        return self.folder / f"{digest(self.model, settings, crystal)}.json"


def property_of(config: CrystalPropertyConfig) -> CrystalProperty:
    """The property that a configuration describes.

    Raises:
        ConfigError: a crystal or a setting that cannot be, or a LAMMPS that is not there.
        DataError: a file that cannot be read, or whose crystal cannot be computed, see `check_geometry`.
    """
    common = {"kind", "structure", "max_force", "max_stress", "max_steps"}
    settings = config.model_dump(exclude=common)
    tolerances = Tolerances(config.max_force, config.max_stress, config.max_steps)
    structure = None
    if config.structure is not None:
        check_geometry(first := read_frames(config.structure)[:1])
        structure = first[0]
    check_simulator(config.simulator_path)
    name = "".join(part.capitalize() for part in str(config.model_dump()["kind"]).split("_"))
    return PROPERTIES[name](**settings, structure=structure, tolerances=tolerances)  # type: ignore[call-arg]


def computed_rows(
    model: HasPotential,
    configs: Sequence[CrystalPropertyConfig],
    said: Callable[[str], None] = lambda text: None,
    kept: KeptRows | None = None,
) -> list[Row]:
    """Values of several properties, with sigmas where the model has them.

    A relaxation that did not converge gives a row without a value, and the others go on.

    Args:
        model: a potential, or an uncertainty around one.
        configs: what is computed, in this order.
        said: is told of each property before it is computed.
        kept: where each property is kept as soon as it is done, and those that are there are taken from; one
            that did not converge is not kept. None: nowhere.

    Raises:
        ConfigError: nothing to compute.
        PotentialError: see `checked_properties`.
        ExecutionError: none of the properties could be computed.
    """
    if not configs:
        fix = "such as properties: [{kind: lattice_constant, lattice_param: 5.43, lattice_type: diamond, "
        raise ConfigError("no properties to compute", fix=f"{fix}elements: [Si]}}]")
    rows: list[Row] = []
    for config, prop in zip(configs, checked_properties(model, configs), strict=True):
        kind = str(config.model_dump()["kind"])
        crystal = _crystal(config)
        done = None if kept is None else kept.read(config)
        said(f"{kind} of {crystal}" if done is None else f"{kind} of {crystal}: done before")
        if done is not None:
            rows += done
            continue
        try:
            result = _result(prop, model)
        except ExecutionError as error:
            rows += [Row(kind, crystal, name, None, None, "", str(error)) for name in prop.names]
            continue
        sigmas = [None] * len(result.value) if result.sigma is None else result.sigma.tolist()
        done = [
            Row(kind, crystal, *values, result.message)
            for values in zip(result.names, result.value.tolist(), sigmas, result.units, strict=True)
        ]
        if kept is not None:
            kept.write(config, done)
        rows += done
    if all(row.value is None for row in rows):
        raise ExecutionError(f"no property could be computed: {rows[0].message}")
    return rows


def checked_properties(
    model: HasPotential, configs: Sequence[CrystalPropertyConfig]
) -> list[CrystalProperty]:
    """Properties by their configurations, all of which the model can have.

    Raises:
        ConfigError: see `property_of`.
        PotentialError: elements that the potential does not know; no form of it that LAMMPS has.
    """
    potential = as_potential(model)
    properties = [property_of(config) for config in configs]
    for place, prop in enumerate(properties):
        check_species(potential, prop.crystal.atoms.numbers, f"properties[{place}]")
        check_form(potential, prop.simulator_path)
    return properties


def _result(prop: Property, model: HasPotential) -> PropertyResult:
    if isinstance(model, Uncertainty) and has_sigma(model):
        return prop.predict(model)
    return prop.calculate_property(model)


def _crystal(config: CrystalPropertyConfig) -> str:
    if config.structure is not None:
        return read_frames(config.structure)[0].get_chemical_formula(empirical=True)
    return f"{config.lattice_type} {''.join(config.elements or ())}"


def csv_text(rows: Sequence[Row]) -> str:
    """A table as text: a line of names, then one line per value, 17 significant digits."""

    def cell(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{np.float64(value):.17g}"
        text = str(value)
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if set(text) & set(',"\n') else text

    lines = [list(Row.__dataclass_fields__)] + [list(vars(row).values()) for row in rows]
    return "".join(",".join(map(cell, line)) + "\n" for line in lines)
