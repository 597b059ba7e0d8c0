"""The verb `properties`: of which crystals, with which potential, and the table that comes of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from surefield.cli.answer import say
from surefield.cli.config import RunConfig
from surefield.cli.inputs import trained, uncertainty_file
from surefield.errors import ConfigError
from surefield.execution.run_folder import RunFolder
from surefield.files import write_atomic
from surefield.potentials.saving import load_potential
from surefield.properties.config import CrystalPropertyConfig
from surefield.properties.table import computed_rows, csv_text, property_of
from surefield.structures.contents import frame_contents
from surefield.structures.read import read_frames
from surefield.uncertainty.build import load_uncertainty

__all__ = ["property_contents", "rehearse_properties", "run_properties"]

_VERB: Final = "properties"


def run_properties(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    """Compute all properties of the configuration, write the table, and say how many there are."""
    del beside
    rows = computed_rows(_model(config), _settings(config), say)
    folder.write_json("properties.json", {"rows": [asdict(row) for row in rows]})
    write_atomic(folder.path("properties.csv"), csv_text(rows))
    known = [row for row in rows if row.value is not None]
    sure = sum(row.sigma is not None for row in known)
    words = f"{len(known)} values of properties, {sure} of them with a sigma; see properties.csv"
    failed = list(dict.fromkeys(f"{row.property} of {row.crystal}" for row in rows if row.value is None))
    return {"verdict": f"{words}; not computed: {', '.join(failed)}" if failed else words}


def rehearse_properties(config: RunConfig) -> None:
    """Read what the verb reads, and say what it would compute."""
    for settings in _settings(config):
        names = property_of(settings).names
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        say(f"{settings.model_dump()['kind']}: {shown}")
    _model(config)


def property_contents(config: RunConfig) -> dict[str, Any]:
    """Table of the structures that enter; what was trained enters besides."""
    files = {f"crystal {i}": entry.structure for i, entry in enumerate(config.properties) if entry.structure}
    return {name: frame_contents(read_frames(path)[:1]) for name, path in files.items()}


def _settings(config: RunConfig) -> tuple[CrystalPropertyConfig, ...]:
    if not config.properties:
        fix = "add a section such as properties: [{kind: lattice_constant, ...}]; see 'surefield schema'"
        raise ConfigError("'properties' needs the section properties", fix=fix)
    return config.properties


def _model(config: RunConfig) -> Any:
    """The uncertainty that was fitted, or the bare potential where there is none."""
    if config.data.validation == 0:
        return load_potential(trained(config, "potential.npz", _VERB))
    return load_uncertainty(trained(config, uncertainty_file(config), _VERB))
