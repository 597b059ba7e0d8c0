"""All structures that a loop has chosen, as a map beside their 3D views: chemiscope's viewer in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import util
from pathlib import Path
from typing import Any, Final

from ase import Atoms

from surefield.files import write_atomic
from surefield.report.loop_state import Choice, LoopState

__all__ = ["STRUCTURES", "viewer_is_there", "write_structures_page"]

STRUCTURES: Final = "structures.html"
#: Where the viewer lies in the package chemiscope, which is not imported: its widgets need much besides.
_VIEWER: Final = ("sphinx", "static", "chemiscope.min.js")
_STYLE: Final = """
body { margin: 0; color: #1f2933;
  font-family: system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
header { padding: 14px 22px; border-bottom: 1px solid #d9dee5; }
h1 { margin: 0; font-size: 1.25rem; } header p { margin: 2px 0 0; color: #52606d; }
main { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; height: calc(100vh - 90px); padding: 12px; }
main > div { display: flex; flex-direction: column; min-width: 0; min-height: 0; }
#map, #structure { flex: 1; min-height: 0; position: relative; }
"""


def viewer_is_there() -> bool:
    """Whether chemiscope, of the extra `report`, is installed."""
    return _viewer() is not None


def write_structures_page(state: LoopState) -> Path | None:
    """Write `structures.html` into the folder of a loop, and return its path.

    Every structure that was chosen is a point, by default at its place in order and its sigma when it was
    picked.
    Source: G. Fraux, R. Cersonsky, M. Ceriotti, J. Open Source Softw. 5, 2117 (2020).

    Returns:
        None where chemiscope is not installed, or no structure is there.

    Raises:
        ExecutionError: the page cannot be written.
    """
    viewer = _viewer()
    every = [(purpose, number, choice) for purpose, number, choices in state.choices() for choice in choices]
    drawn = [(p, n, choice) for p, n, choice in every if choice.atoms is not None]
    if viewer is None or not drawn:
        return None
    data = json.dumps(_dataset(state.folder.name, drawn), allow_nan=False).replace("</", "<\\/")
    path = state.folder / STRUCTURES
    write_atomic(path, _page(state.folder.name, len(drawn), viewer.read_text(encoding="utf-8"), data))
    return path


def _viewer() -> Path | None:
    found = util.find_spec("chemiscope")
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place).joinpath(*_VIEWER)
        if path.is_file():
            return path
    return None


def _dataset(name: str, drawn: Sequence[tuple[str, int, Choice]]) -> dict[str, Any]:
    """Structures and their properties as chemiscope reads them; null: not known of this structure."""
    infos = [choice.atoms.info for _, _, choice in drawn if choice.atoms is not None]
    columns: dict[str, list[Any]] = {
        "order": list(range(1, len(drawn) + 1)),
        "round": [number for _, number, _ in drawn],
        "sigma (eV/Å)": [_number(info.get("sigma")) for info in infos],
        "temperature (K)": [_number(info.get("temperature_K")) for info in infos],
        "gain": [_number(choice.gain) for _, _, choice in drawn],
        "chosen as": [purpose for purpose, _, _ in drawn],
        "state": [choice.state for _, _, choice in drawn],
        "formula": [choice.formula or "?" for _, _, choice in drawn],
    }
    known = {title: values for title, values in columns.items() if any(v is not None for v in values)}
    up = next(title for title in ("sigma (eV/Å)", "gain", "round") if title in known)
    return {
        "meta": {"name": name, "description": "structures that a loop has chosen for labels"},
        "structures": [_structure(choice.atoms) for _, _, choice in drawn if choice.atoms is not None],
        "properties": {title: {"target": "structure", "values": values} for title, values in known.items()},
        "settings": {
            "map": {
                "x": {"property": "order"},
                "y": {"property": up},
                "color": {"property": "round"},
                "symbol": "chosen as",
            },
            "structure": [{"bonds": True, "unitCell": True}],
        },
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _structure(atoms: Atoms) -> Mapping[str, Any]:
    x, y, z = atoms.positions.T.round(4).tolist()
    told: dict[str, Any] = {"size": len(atoms), "names": atoms.get_chemical_symbols(), "x": x, "y": y, "z": z}
    if atoms.pbc.any():
        told["cell"] = atoms.cell.array.ravel().round(5).tolist()
    return told


def _page(name: str, n: int, viewer: str, data: str) -> str:
    # The viewer compiles functions and draws by workers.
    policy = (
        "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; style-src 'unsafe-inline'; "
        "img-src data: blob:; worker-src blob:; font-src data:; connect-src data: blob:"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(name)} · structures</title><style>{_STYLE}</style></head>
<body><header><h1>{escape(name)}: {n} structures chosen for labels</h1>
<p><a href="report.html">back to the page of the loop</a></p></header>
<main><div><div id="meta"></div><div id="map"></div></div>
<div><div id="structure"></div><div id="info"></div></div></main>
<script>{viewer}</script>
<script id="data" type="application/json">{data}</script>
<script>
"use strict";
const warnings = new Chemiscope.Warnings();
warnings.addHandler((message) => console.warn(message));
Chemiscope.DefaultVisualizer.load(
  {{map: "map", info: "info", meta: "meta", structure: "structure"}},
  JSON.parse(document.getElementById("data").textContent, (_, value) => value === null ? NaN : value),
  warnings,
).then(() => {{ document.body.dataset.drawn = "yes"; }}, (error) => console.error(error));
</script></body></html>
"""
