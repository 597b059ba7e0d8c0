"""Potentials as files: arrays, a configuration and a hash; loading runs no code from the file."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from surefield.errors import DataError, PotentialError
from surefield.execution.identity import digest
from surefield.files import read_arrays, write_atomic
from surefield.potentials.potential import Potential

__all__ = [
    "FORMAT",
    "arrays_hash",
    "content_hash",
    "kind_of",
    "load_arrays",
    "load_potential",
    "pack",
    "save_arrays",
    "save_potential",
    "unpack",
]

#: Raised when the meaning of a file changes; older versions are read, newer ones refused.
FORMAT = 1
_HEADER = "header"
#: Class of each kind, in a module of `potentials` or beside it that is imported when a file holds that kind.
#: Run configurations call networks on atomic descriptors `neural_network` too.
_HOMES: Final = {
    "atomic_network": "atomic_network.AtomicNetwork",
    "charge_network": "electrode.charge_network.ChargeNetwork",
    "chimes": "chimes.Chimes",
    "dropout_network": "dropout_network.DropoutNetwork",
    "eam": "parametric.EAM",
    "image_network": "image_network.ImageNetwork",
    "jax_potential": ".foreign.jax_potential.JaxPotential",
    "lennard_jones": "parametric.LennardJones",
    "linearized": "linearized.Linearized",
    "mean": "mean_potential.MeanPotential",
    "message_network": "message_network.MessageNetwork",
    "moment_network": "moment_network.MomentNetwork",
    "morse": "parametric.Morse",
    "neural_network": "atomic_network.AtomicNetwork",
    "opaque_kim": ".foreign.opaque_kim.OpaqueKIM",
    "quadratic_charge_network": "electrode.quadratic_charge_network.QuadraticChargeNetwork",
    "snap": "snap.snap.Snap",
    "stillinger_weber": "parametric.StillingerWeber",
    "sum": "potential.SumPotential",
    "tersoff": "parametric.Tersoff",
    "torch_potential": ".foreign.torch_potential.TorchPotential",
    "zbl": "zbl.ZBL",
}


def save_arrays(
    path: str | Path,
    kind: str,
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    compressed: bool = True,
) -> None:
    """Write arrays with a header of kind, configuration, version and hash, whole or not at all."""
    header = {
        "format": FORMAT,
        "kind": kind,
        "config": dict(config),
        "hash": _hash(arrays),
    }
    buffer = io.BytesIO()
    content: dict[str, Any] = {_HEADER: np.array(json.dumps(header)), **arrays}
    (np.savez_compressed if compressed else np.savez)(buffer, **content)
    write_atomic(path, buffer.getvalue())


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Kind of a file of `save_arrays`; None if it is no such file.

    Raises:
        PotentialError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise PotentialError(f"there is nothing saved at {path.resolve()}")
    try:
        return str(json.loads(str(read_arrays(path)[_HEADER]))["kind"])
    except (DataError, KeyError, ValueError, TypeError, RecursionError):
        return None


def content_hash(path: str | os.PathLike[str]) -> str | None:
    """Hash of what was saved, the same wherever and whenever it was made; None of another file.

    Raises:
        PotentialError: no such file, or a damaged one.
    """
    kind = kind_of(path)
    if kind is None:
        return None
    header, arrays = load_arrays(Path(path), kind)
    # Statistics hold seconds, which differ each time.
    header = {key: value for key, value in header.items() if key != "statistics"}
    return digest(header, {key: digest(array) for key, array in arrays.items()})


def load_arrays(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `save_arrays` wrote.

    Raises:
        PotentialError: no such file, damaged, of another kind, or written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise PotentialError(f"there is no saved {kind} at {path.resolve()}")
    try:
        arrays = read_arrays(path)
        header = json.loads(str(arrays.pop(_HEADER)))
        if header.get("format", 0) > FORMAT:
            raise PotentialError(
                f"{path} was written by a newer version",
                got=f"format {header['format']}",
                expected=f"at most {FORMAT}",
                fix="update surefield",
            )
        stored, kept, config = header["kind"], header["hash"], header["config"]
    except (DataError, AttributeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise PotentialError(f"{path} is cut short or not a saved {kind}: {error}") from None
    if stored != kind:
        raise PotentialError(f"{path} holds a {stored}, not a {kind}")
    if kept != _hash(arrays):
        raise PotentialError(f"{path} is damaged: its arrays do not match its hash; use another copy")
    return config, arrays


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name}{array.shape}{array.dtype}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def pack(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays of a pytree by the names of their places."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {prefix + jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves}


def unpack(tree: Any, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Any:
    """Copy of a pytree with its arrays replaced by those of the same names and shapes."""

    def replace(place: Any, leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        name = prefix + jax.tree_util.keystr(place)
        array = arrays.get(name)
        if array is None or array.shape != leaf.shape:
            got = "nothing" if array is None else array.shape
            raise PotentialError(f"the file does not fit: {name} must be {leaf.shape}, got {got}")
        return jnp.asarray(array, leaf.dtype)

    return jax.tree_util.tree_map_with_path(replace, tree)


def save_potential(path: str | Path, potential: Potential) -> None:
    """Save a potential as one .npz file."""
    save_arrays(path, "potential", potential.config(), pack(potential))


def load_potential(path: str | Path) -> Potential:
    """Load a potential; see `load_arrays` for the errors."""
    config, arrays = load_arrays(path, "potential")
    return unpack(build(config), arrays)


def build(config: Mapping[str, Any]) -> Potential:
    """Make a potential with untrained weights from what its `config()` gave."""
    kind = config.get("kind")
    if kind not in _HOMES:
        raise PotentialError(f"the file holds a potential of kind {kind!r}, which this version does not know")
    module, name = _HOMES[kind].rsplit(".", 1)
    parts: dict[str, Any] = {key: build(value) for key, value in config.items() if _is_potential(value)}
    for key, value in config.items():
        if isinstance(value, list) and value and all(map(_is_potential, value)):
            parts[key] = [build(part) for part in value]
    potential_class = getattr(importlib.import_module(f".{module}", "surefield.potentials"), name)
    return potential_class.from_config({**config, **parts})


def _is_potential(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("kind") in _HOMES


def arrays_hash(potential: Potential) -> str:
    """Hash of all parameters, in hexadecimal digits."""
    total = hashlib.sha256()
    for name, array in sorted(pack(potential).items()):
        total.update(name.encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:32]
