"""What the result of each verb is made from: the contents of files, and what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from surefield.cli.config import RunConfig
from surefield.cli.properties import property_contents
from surefield.cli.scores import score_contents
from surefield.errors import ConfigError
from surefield.execution.identity import check_table, digest
from surefield.execution.run_folder import INPUTS
from surefield.exploration.config import PoolFilesConfig
from surefield.files import json_text, read_json
from surefield.loop.config import MolecularDynamicsPoolConfig
from surefield.loop.oracles.config import ReplayOracleConfig, make_oracle
from surefield.potentials.saving import content_hash
from surefield.structures.contents import frame_contents
from surefield.structures.read import read_frames

__all__ = ["made_from", "may_change"]

_SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "doctor": ("train", "test"),
    "train": ("train", "validation", "test"),
    "eval": ("test",),
    "uq": ("test",),
    "uq-compare": ("test",),
    "select": ("pool",),
    "select-replay": ("train",),
    "loop": ("train", "test"),
}
_NAMES: Final = {"train": "training set", "validation": "validation set", "test": "test set", "pool": "pool"}
#: Verbs that begin with what `train` wrote, and the kinds of its files that they read.
_FOLLOWING: Final = {
    **{"eval": ("potential",), "uq": ("llpr", "uncertainty")},
    **{"uq-compare": ("potential",), "select": ("llpr", "uncertainty")},
}


def made_from(verb: str, config: RunConfig) -> dict[str, Any]:
    """Table of all that enters the result of a verb, as far as it is there.

    Raises:
        DataError: a file that cannot be read.
        ConfigError: the data of the configuration are no longer those that its potential was trained on.
    """
    if verb == "score":
        table = score_contents(config)
        follows = any(name.startswith("score.trained") for name in table)
        return table | (_trained(config, ("potential",)) if follows else {})
    if verb == "properties":
        return property_contents(config) | _trained(config, ("potential", "llpr", "uncertainty"))
    if verb == "loop" and isinstance(config.loop.pool, MolecularDynamicsPoolConfig):
        return {}  # the loop compares what its candidates are made from
    table = _sets(config, _loop_sets(config) if verb == "loop" else _SETS[verb])
    if config.training.start_from is not None and verb in ("train", "loop", "select-replay"):
        table["potential it starts from"] = content_hash(Path(config.training.start_from))
    if verb == "uq-compare" and config.compare.ood is not None:
        table["structures out of distribution"] = frame_contents(read_frames(config.compare.ood))
    if config.architecture is not None and verb == "train":
        checkpoint = Path(str(config.architecture.training.model_checkpoint))
        table["potential it starts from"] = content_hash(checkpoint)
    if verb in _FOLLOWING:
        table |= _trained(config, _FOLLOWING[verb])
    fitted = Path(config.root) / f"{config.name}-train" / "train.xyz"
    if verb == "select" and fitted.exists():
        table["fitted structures"] = frame_contents(read_frames(fitted))
    return table


def may_change(config: RunConfig, beside: Path) -> dict[str, Any]:
    """Table of what enters a loop beside `made_from`, and of which the loop itself says what may change.

    Args:
        config: of the run.
        beside: folder of the configuration.
    """
    loop = config.loop
    files = {"labels that are there": loop.labelled}
    files |= {f"start {name}": (name,) for name in loop.starts if Path(name.partition("@")[0]).is_file()}
    explored = [entry.files for entry in loop.exploration if isinstance(entry, PoolFilesConfig)]
    files |= {f"candidates {i}": names for i, names in enumerate(explored)}
    table: dict[str, Any] = {
        name: frame_contents(read_frames(list(paths))) for name, paths in files.items() if paths
    }
    if not isinstance(loop.oracle, ReplayOracleConfig):
        with suppress(ConfigError):  # nothing is labelled then
            oracle = make_oracle(loop.oracle, folder=beside)
            table["oracle"] = digest(json_text({"name": oracle.name, **oracle.settings}))
    return table


def _loop_sets(config: RunConfig) -> tuple[str, ...]:
    """Data of a loop: its pool may be a file of either name, or be found on the way."""
    loop = config.loop
    if loop.compares or isinstance(loop.oracle, ReplayOracleConfig):
        return _SETS["loop"]
    pool = "pool" if config.data.pool else "train"
    return ("test",) if loop.explores else (pool, "test")


def _sets(config: RunConfig, names: tuple[str, ...], *, missing: bool = False) -> dict[str, Any]:
    """Contents of data files; those that are missing are an error, or left out."""
    table = {}
    for name in names:
        source = getattr(config.data, name)
        paths = [source] if isinstance(source, str) else source
        if isinstance(paths, int | float) or not paths:
            continue
        if not missing or all(Path(path).exists() for path in paths):
            table[_NAMES[name]] = frame_contents(read_frames(list(paths)))
    return table


def _trained(config: RunConfig, names: tuple[str, ...]) -> dict[str, Any]:
    """What was trained, and on what: other data since then must not pass unseen."""
    folder = Path(config.root) / f"{config.name}-train"
    table: dict[str, Any] = {}
    if (folder / INPUTS).exists():
        known = read_json(folder / INPUTS)
        table = {name: known[name] for name in ("training set", "validation set") if name in known}
        check_table(
            f"the potential in {folder} was trained on other data",
            table,
            _sets(config, ("train", "validation"), missing=True),
            "train anew first: 'surefield train' with --overwrite, or restore what changed",
        )
    for name in names:
        path = folder / f"{name}.npz"
        if path.exists() and (saved := content_hash(path)) is not None:
            table[f"trained {name}"] = saved
    return table
