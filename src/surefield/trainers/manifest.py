"""Training manifests: one document with data, model, parameters, optimiser and export of a parametric fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from surefield.errors import ConfigError, DataError, nearest
from surefield.quantities import labelled
from surefield.structures.label_sources import without_labels
from surefield.structures.labels import resolve_labels
from surefield.structures.read import Frames, read_frames
from surefield.training.dataset import Sample

__all__ = ["Export", "Manifest", "read_manifest", "weighted_by_file"]

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("workspace", "dataset", "model", "transforms", "training", "export"),
    "workspace": ("name", "seed", "random_seed", "resume"),
    "dataset": ("type", "path", "shuffle", "keys"),
    "dataset.keys": ("energy", "forces", "stress"),
    "model": ("name", "path"),
    "transforms": ("parameter",),
    "training": (
        *("loss", "optimizer", "batch_size", "epochs", "epoch", "training_dataset", "validation_dataset"),
        *("log_per_atom_pred", "verbose"),
    ),
    "training.loss": ("function", "weights"),
    "training.loss.weights": ("energy", "forces", "stress", "config"),
    "training.optimizer": ("name", "learning_rate", "kwargs"),
    "training.training_dataset": ("train_size", "train_indices"),
    "training.validation_dataset": ("val_size", "val_indices"),
    "export": ("model_path", "model_name", "generate_tarball"),
}
_ENTRY: Final = ("config", "energy", "forces", "stress")


@dataclass(frozen=True)
class Export:
    """The KIM model that a fit writes into its run folder.

    Attributes:
        model_path: folder below that of the run.
        model_name: of the model.
        generate_tarball: pack it as `.tar.gz` as well.
    """

    model_path: str = "export"
    model_name: str = "surefield_model"
    generate_tarball: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a manifest says, None or empty where it is silent.

    Attributes:
        arguments: constructor arguments of the trainer, by their names.
        name: of the workspace.
        dataset: type, path, keys of the data; see `frames`.
        shuffle: whether the split is drawn at random; False takes the first configurations for training.
        model_path: parameters to start from.
        factors: of all residual weights, from `training.loss.weights`.
        weights_file: path of a weights file.
        options: of the optimiser.
        train: number of training configurations, or their indices.
        validation: the same for validation.
        log_per_atom_pred: write force errors of every iteration.
        verbose: log every evaluation.
        export: what is exported; None: nothing beyond the run's own files.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    dataset: Mapping[str, Any] = field(default_factory=dict)
    shuffle: bool = True
    model_path: str | None = None
    factors: Mapping[str, float] = field(default_factory=dict)
    weights_file: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    train: int | tuple[int, ...] | None = None
    validation: int | tuple[int, ...] | None = None
    log_per_atom_pred: bool = False
    verbose: bool = False
    export: Export | None = None

    def frames(self) -> list[Atoms]:
        """Structures of the file that the manifest names, with labels under the keys it gives.

        Raises:
            ConfigError: the manifest names none.
        """
        path = self.dataset.get("path")
        if self.dataset.get("type", "path") == "storage" or path is None:
            raise ConfigError(
                "the manifest names no file of structures: dataset needs type 'path' and a path"
            )
        files = sorted(p for p in Path(path).iterdir() if p.is_file()) if Path(path).is_dir() else [path]
        frames = [atoms for file in files for atoms in read_frames(file)]
        keys = {kind: name for kind, name in (self.dataset.get("keys") or {}).items() if name is not None}
        return _with_labels(frames, keys) if keys else frames

    def split(self, n: int, seed: int) -> tuple[list[int], list[int]] | None:
        """Indices of training and validation among n configurations; None: the manifest does not say.

        Raises:
            ConfigError: more than n configurations, or an index twice or out of range.
        """
        if self.train is None and self.validation is None:
            return None
        order = np.random.default_rng(seed).permutation(n).tolist() if self.shuffle else list(range(n))
        named = [i for part in (self.train, self.validation) if isinstance(part, tuple) for i in part]
        if len(set(named)) != len(named) or any(not 0 <= i < n for i in named):
            raise ConfigError("the manifest's split", got=f"{named}", expected=f"different indices below {n}")
        left = [i for i in order if i not in set(named)]
        asked = [part for part in (self.train, self.validation) if isinstance(part, int)]
        if sum(asked) > len(left):
            sizes = f"train_size + val_size = {sum(asked)}"
            what = "the manifest's split is larger than the data"
            raise ConfigError(what, got=sizes, expected=f"at most {len(left)}")
        if isinstance(self.validation, int) and self.train is None:
            # All that is not kept for validation is fitted.
            return sorted(left[self.validation :]), sorted(left[: self.validation])
        train = list(self.train) if isinstance(self.train, tuple) else sorted(left[: self.train])
        if isinstance(self.train, int):
            left = left[self.train :]
        if isinstance(self.validation, tuple):
            return train, list(self.validation)
        return train, sorted(left if self.validation is None else left[: self.validation])


def _with_labels(frames: Sequence[Atoms], keys: Mapping[str, str]) -> list[Atoms]:
    """Copies with the labels of these keys, and no others of the same kinds."""
    named = Frames(tuple(frames), tuple(f"frame {i}" for i in range(len(frames))))
    labels, _ = resolve_labels(named, keys, require=())  # type: ignore[arg-type]
    copies = []
    for atoms, label in zip(frames, labels, strict=True):
        copy = without_labels(atoms, tuple(keys.values()))
        values = {kind: label.get(kind) for kind in labelled()}
        copy.calc = SinglePointCalculator(copy, **{k: v for k, v in values.items() if v is not None})
        copies.append(copy)
    return copies


def read_manifest(source: Mapping[str, Any] | str | Path) -> tuple[Manifest, dict[str, Any]]:
    """Read a manifest; returns it, and its content as a dictionary.

    Raises:
        ConfigError: no such file, not a mapping, an unknown key, a value of the wrong kind, or a key that
            cannot act in a parametric fit.
    """
    if isinstance(source, Mapping):
        content = dict(source)
    else:
        try:
            content = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the manifest {Path(source).resolve()}: {error}") from None
        if not isinstance(content, Mapping):
            raise ConfigError(f"the manifest {source} must hold sections, got {type(content).__name__}")
    document = _Document(content)
    return _manifest(document), dict(content)


class _Document:
    """Sections of a manifest, with errors that name the key."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self._check("", content)

    def _check(self, section: str, content: Any) -> None:
        if not isinstance(content, Mapping):
            raise ConfigError(f"manifest: {section} must hold keys, got {content!r:.60}")
        for key, value in content.items():
            known = _KEYS[section]
            if key not in known:
                where = f" in {section}" if section else ""
                raise ConfigError(f"manifest: unknown key {key!r}{where}, {nearest(key, known)}")
            inner = f"{section}.{key}" if section else str(key)
            if inner in _KEYS and not (inner == "training.loss.weights" and isinstance(value, str)):
                self._check(inner, value or {})

    def get(self, dotted: str, kind: type | tuple[type, ...] | None = None) -> Any:
        """Value of a key; None where it is missing."""
        value: Any = self.content
        for part in dotted.split("."):
            value = (value or {}).get(part)
        wrong = kind is not None and value is not None and not isinstance(value, kind)
        if wrong or (isinstance(value, bool) and kind is not bool and kind is not None):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))  # type: ignore[union-attr]
            raise ConfigError(f"manifest: {dotted} must be {names}, got {value!r:.60}")
        return value

    def one(self, first: str, second: str, kind: type) -> Any:
        """Value of a key with two spellings."""
        values = {key: self.get(key, kind) for key in (first, second)}
        given = {key: value for key, value in values.items() if value is not None}
        if len(set(given.values())) > 1:
            raise ConfigError(f"manifest: {first} and {second} differ, {given}")
        return next(iter(given.values()), None)


def _manifest(document: _Document) -> Manifest:
    get = document.get
    for key, reason in (
        ("training.optimizer.learning_rate", "the optimisers of a parametric fit choose their own steps"),
        ("training.batch_size", "a parametric fit takes all configurations at once"),
    ):
        if get(key) is not None:
            raise ConfigError(f"manifest: {key} cannot act here: {reason}; leave it out")
    if get("workspace.resume", bool):
        raise ConfigError("manifest: workspace.resume cannot act here: start from a saved potential instead")
    kind = get("dataset.type", str)
    if kind not in (None, "storage", "ase", "path"):
        raise ConfigError(f"manifest: dataset.type {kind!r}, {nearest(kind, ('storage', 'ase', 'path'))}")
    options = dict(get("training.optimizer.kwargs", Mapping) or {})
    iterations = document.one("training.epochs", "training.epoch", int)
    if iterations is not None:
        if options.get("maxiter", iterations) != iterations:
            given = f"{options['maxiter']} and {iterations}"
            raise ConfigError(f"manifest: maxiter and epochs differ, {given}")
        options["maxiter"] = iterations
    weights = get("training.loss.weights", (Mapping, str))
    given = weights if isinstance(weights, Mapping) else {}
    factors = {key: _weight(f"training.loss.weights.{key}", value) for key, value in given.items()}
    shuffle, model_path = get("dataset.shuffle", bool), get("model.path", str)
    arguments = {
        "model_name": get("model.name", str),
        "params_to_update": get("transforms.parameter", (Sequence, Mapping)),
        "loss_method": _loss_function(get("training.loss.function", str)),
        "optimization_method": get("training.optimizer.name", str),
        "seed": document.one("workspace.seed", "workspace.random_seed", int),
    }
    return Manifest(
        arguments={name: value for name, value in arguments.items() if value is not None},
        name=get("workspace.name", str),
        dataset=dict(get("dataset") or {}),
        shuffle=True if shuffle is None else shuffle,
        model_path=model_path,
        factors=factors,
        weights_file=str(Path(weights).absolute()) if isinstance(weights, str) else None,
        options=options,
        train=_part(document, "training.training_dataset", "train_size", "train_indices"),
        validation=_part(document, "training.validation_dataset", "val_size", "val_indices"),
        log_per_atom_pred=bool(get("training.log_per_atom_pred", bool)),
        verbose=bool(get("training.verbose", bool)),
        export=_export(document),
    )


def _loss_function(name: str | None) -> str | None:
    if name is None:
        return None
    if name.upper() not in ("MSE", "MAE"):
        raise ConfigError(f"manifest: training.loss.function {name!r}, {nearest(name, ('MSE', 'MAE'))}")
    return name.lower()


def _part(document: _Document, section: str, size: str, indices: str) -> int | tuple[int, ...] | None:
    n, chosen = document.get(f"{section}.{size}", int), document.get(f"{section}.{indices}", Sequence)
    if n is not None and chosen is not None:
        raise ConfigError(f"manifest: {section} has both {size} and {indices}; give one of them")
    if chosen is not None:
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in chosen):
            raise ConfigError(f"manifest: {section}.{indices} must be whole numbers")
        return tuple(chosen)
    least = 1 if size == "train_size" else 0
    if n is not None and n < least:
        raise ConfigError(f"manifest: {section}.{size} must be at least {least}, got {n}")
    return n


def _export(document: _Document) -> Export | None:
    if document.get("export") is None:
        return None
    given = {key: document.get(f"export.{key}") for key in _KEYS["export"]}
    export = replace(Export(), **{key: value for key, value in given.items() if value is not None})
    path = Path(export.model_path)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(
            f"manifest: export.model_path is a folder below the run's, got {export.model_path!r}"
        )
    return export


def weighted_by_file(path: str | Path, configurations: Sequence[Sample]) -> tuple[list[Sample], bool]:
    """Copies of configurations with the weights of a file; and whether it weighs single atoms.

    The file is a YAML list, one entry per configuration in the order of the data, `{config, energy, forces,
    stress}`: `config` multiplies all residuals of its configuration (1 if missing), the others those of
    their kind, on top of the weights of the call; a missing one is 1, 0 or null switches the kind off.
    `forces` is a number, or a list of one number per atom.

    Raises:
        ConfigError: no such file, not a list, or an unknown key.
        DataError: a wrong number of entries or atoms, or a weight that is negative or not finite.
    """
    entries = _read_weights(path)
    if len(entries) != len(configurations):
        raise DataError("wrong number of entries", where=path, got=len(entries), expected=len(configurations))
    samples, per_atom = [], False
    for place, (c, entry) in enumerate(zip(configurations, entries, strict=True)):
        where = f"{path}, entry {place} ({c.id})"
        whole = _weight(f"{where}: config", entry.get("config", 1.0))
        energy, stress = (_weight(f"{where}: {k}", entry.get(k, 1.0)) for k in ("energy", "stress"))
        forces, atoms = entry.get("forces", 1.0), c.atom_weights
        if isinstance(forces, list):
            per_atom = True
            if len(forces) != c.n_atoms:
                what = "wrong number of force weights"
                raise DataError(what, where=where, got=len(forces), expected=c.n_atoms)
            atoms = np.array([_weight(f"{where}: forces", w) for w in forces])
            forces = 1.0
        forces = _weight(f"{where}: forces", forces)
        scaled = c.scaled(energy=whole * energy, forces=whole * forces, stress=whole * stress)
        samples.append(replace(scaled, atom_weights=atoms))
    return samples, per_atom


def _read_weights(path: str | Path) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the weights file {Path(path).resolve()}: {error}") from None
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ConfigError(f"{path} must be a list with one entry {{{', '.join(_ENTRY)}}} per configuration")
    for place, entry in enumerate(content):
        for key in entry:
            if key not in _ENTRY:
                raise ConfigError(f"{path}, entry {place}: unknown key {key!r}, {nearest(key, _ENTRY)}")
    return content


def _weight(where: str, value: Any) -> float:
    """A weight; None switches off."""
    if value is None:
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise DataError(f"unusable weight, {where}", got=repr(value), expected="a finite number >= 0")
