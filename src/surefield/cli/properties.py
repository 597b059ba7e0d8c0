"""The verb `properties`: of which crystals, with which potential, and the table that comes of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from surefield.cli.answer import say
from surefield.cli.config import RunConfig
from surefield.cli.needed import property_settings, trained_model
from surefield.execution.run_folder import RunFolder
from surefield.files import write_atomic
from surefield.potentials.saving import content_hash, load_potential
from surefield.properties.table import KeptRows, checked_properties, computed_rows, csv_text
from surefield.structures.contents import frame_contents
from surefield.structures.read import read_frames
from surefield.uncertainty.build import load_uncertainty

__all__ = ["property_contents", "rehearse_properties", "run_properties"]

_VERB: Final = "properties"


def run_properties(config: RunConfig, folder: RunFolder, beside: Path) -> dict[str, Any]:
    """Compute all properties of the configuration, write the table, and say how many there are."""
    del beside
    settings = property_settings(config)
    kept = KeptRows(folder.path("properties"), str(content_hash(trained_model(config, _VERB))))
    rows = computed_rows(_model(config), settings, say, kept)
    folder.write_json("properties.json", {"rows": [asdict(row) for row in rows]})
    write_atomic(folder.path("properties.csv"), csv_text(rows))
    known = [row for row in rows if row.value is not None]
    sure = sum(row.sigma is not None for row in known)
    values = f"{len(known)} value{'s' * (len(known) != 1)} of properties"
    words = f"{values}, {sure} of them with a sigma; see properties.csv"
    failed = list(dict.fromkeys(f"{row.property} of {row.crystal}" for row in rows if row.value is None))
    return {"verdict": f"{words}; not computed: {', '.join(failed)}" if failed else words}


def rehearse_properties(config: RunConfig) -> None:
    """Read what the verb reads, and say what it would compute."""
    listed = property_settings(config)
    for settings, prop in zip(listed, checked_properties(_model(config), listed), strict=True):
        names = prop.names
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        say(f"{settings.model_dump()['kind']}: {shown}")


def property_contents(config: RunConfig) -> dict[str, Any]:
    """Table of the structures that enter; what was trained enters besides."""
    files = {f"crystal {i}": entry.structure for i, entry in enumerate(config.properties) if entry.structure}
    return {name: frame_contents(read_frames(path)[:1]) for name, path in files.items()}


def _model(config: RunConfig) -> Any:
    """The uncertainty that was fitted, or the bare potential where there is none."""
    path = trained_model(config, _VERB)
    return load_potential(path) if config.data.validation == 0 else load_uncertainty(path)
