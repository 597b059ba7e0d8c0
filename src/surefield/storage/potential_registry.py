"""Registry of trained potentials: a folder of ids and versions with metadata, hashes and provenance."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, final

from ase.data import chemical_symbols

from surefield.errors import ConfigError, ExecutionError, PotentialError, nearest
from surefield.files import flush_to_disk, json_text, write_atomic
from surefield.potentials.potential import Potential
from surefield.potentials.saving import load_potential, save_potential
from surefield.storage.dataset import StorageWarning, package_version
from surefield.storage.potential_export import export_version
from surefield.storage.potential_manifest import (
    FORMAT,
    MANIFEST,
    attachments,
    check_files,
    checked_facts,
    file_hash,
    manifest_hash,
    read_manifest,
    refuse_twice,
)

__all__ = ["PotentialRegistry", "RegisteredPotential"]

POTENTIAL: Final = "potential.npz"
FILES: Final = "files"
_UNITS: Final = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3"}
_ID: Final = re.compile(
    r"(?P<base>(?P<prefix>[A-Za-z]\w*?)_(?P<species>[A-Za-z]+)__SF_\d{12})_(?P<version>\d{3})"
)
_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_LAST_VERSION: Final = 999


class Handle(Protocol):
    """What a user may hold around a potential, such as a `FitSnapPotential`."""

    kim_id: str | None
    model_name_prefix: str

    @property
    def model(self) -> Potential:
        """The potential."""
        ...

    def settings(self) -> dict[str, Any]:
        """Arguments that make the same handle."""
        ...

    def export_files(self, folder: Path) -> list[Path]:
        """Write files for other programs."""
        ...


@dataclass(frozen=True)
class RegisteredPotential:
    """One line of `PotentialRegistry.list_potentials`.

    Attributes:
        kim_id: full id, with version.
        kind: class of the potential.
        species: chemical symbols.
        parent: full id of the potential it was made from, or None.
        date: when it was saved, UTC.
        hash: of the manifest, which holds the hashes of all files.
        folder: of its files.
    """

    kim_id: str
    kind: str
    species: tuple[str, ...]
    parent: str | None
    date: str
    hash: str
    folder: Path


@final
class PotentialRegistry:
    """Saved potentials in a folder, `<root>/<base id>/<version>/`; nothing is ever overwritten.

    An id is "<prefix>_<species>__SF_<12 digits>_<3-digit version>". A version is written to a temporary
    folder that is then renamed, so it is there whole or not at all.

    Args:
        root: folder, made at the first save.
    """

    def __init__(self, root: str | Path = "./potentials") -> None:
        self.root = Path(root).absolute()

    def save(
        self,
        potential: Potential,
        *,
        prefix: str,
        parent: str | None = None,
        fork: bool = False,
        manifest: Mapping[str, Any] | None = None,
        files: Sequence[str | Path] | Mapping[str, str | Path] = (),
    ) -> str:
        """Save a potential under an id of its own.

        Args:
            potential: any potential.
            prefix: first part of a new id; a next version keeps the id of its parent.
            parent: full id in this registry that the potential was made from. Without one, the potential gets
                a new id and version 000; with one, the next free version of that id.
            fork: a new id, version 000, although there is a parent.
            manifest: what else to write down: trainer, arguments, datasets, split, metrics, seed.
            files: files or folders to attach as copies, under their own names or those given.

        Returns:
            The full id.

        Raises:
            ConfigError: a prefix no id can begin with, an entry of the manifest that is the registry's own.
            DataError: a file to attach is missing, or two have one name.
            PotentialError: unknown parent, or one of other elements.
            ExecutionError: the folder cannot be written; the registry is as before.
        """
        facts = checked_facts(manifest)
        attached = attachments(files)
        species = [chemical_symbols[z] for z in potential.species]
        origin = None if parent is None else self.manifest(parent)
        if origin is not None and not fork and list(origin["species"]) != species:
            raise PotentialError(
                f"no next version of {parent}",
                got=f"a potential of {' '.join(species)}",
                expected=" ".join(origin["species"]),
                fix="fork it: fork_potential=True",
            )
        if not _PREFIX.fullmatch(prefix):
            expected = "letters, digits and single underscores, a letter first"
            raise ConfigError("not the first part of an id", got=repr(prefix), expected=expected)
        facts |= {
            "format": FORMAT,
            "model": {"type": type(potential).__name__, "config": potential.config()},
            "species": species,
            "units": _UNITS,
            "package_version": package_version(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "parent": None if origin is None else {k: origin[k] for k in ("kim_id", "version", "hash")},
        }
        try:
            if origin is not None and not fork:
                return self._store(self.root / origin["base_id"], potential, facts, attached)
            return self._store(self._new_base(prefix, species), potential, facts, attached)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            what = f"cannot save a potential in {self.root}"
            raise ExecutionError(what, got=reason, fix="nothing was saved") from error

    def save_potential_files(
        self,
        potential: Potential | Handle,
        files: Sequence[str | Path] | Mapping[str, str | Path] = (),
        *,
        fork_potential: bool = False,
        manifest: Mapping[str, Any] | None = None,
    ) -> str:
        """Save a potential as it is, with the files its class has for other programs.

        Args:
            potential: a potential, or a handle; the `kim_id` of a handle that is in this registry is the
                parent. The handle is not changed.
            files: attached besides, as in `save`.
            fork_potential: as `fork` of `save`.
            manifest: as in `save`.

        Returns:
            The full id. Errors as in `save`.
        """
        if isinstance(potential, Potential):
            return self.save(
                potential, prefix="surefield", fork=fork_potential, manifest=manifest, files=files
            )
        known = potential.kim_id is not None and self.holds(potential.kim_id)
        facts = {"potential": {"class": type(potential).__name__, "settings": potential.settings()}}
        with tempfile.TemporaryDirectory() as folder:
            exported = potential.export_files(Path(folder))
            named = {file.relative_to(folder).as_posix(): file for file in exported}
            by_name = files if isinstance(files, Mapping) else {Path(file).name: file for file in files}
            refuse_twice([*named, *by_name])
            return self.save(
                potential.model,
                prefix=potential.model_name_prefix,
                parent=potential.kim_id if known else None,
                fork=fork_potential,
                manifest=facts | dict(manifest or {}),
                files={**named, **by_name},
            )

    def load(self, kim_id: str) -> tuple[Potential, dict[str, Any]]:
        """Read a potential and its manifest, after checking the hashes of all files; runs no stored code.

        Raises:
            PotentialError: unknown id, damaged or changed files.
        """
        manifest, folder = self.manifest(kim_id), self._folder(kim_id)
        check_files(folder, manifest)
        return load_potential(folder / POTENTIAL), manifest

    def manifest(self, kim_id: str) -> dict[str, Any]:
        """What is written down about a potential; the text itself is checked, files are not.

        Raises:
            PotentialError: unknown id, a damaged manifest, or one of a newer version.
        """
        return read_manifest(self._folder(kim_id), kim_id)

    def holds(self, kim_id: str) -> bool:
        """Whether this full id is in the registry."""
        match = _ID.fullmatch(str(kim_id))
        return match is not None and (self.root / match["base"] / match["version"] / MANIFEST).is_file()

    def list_potentials(self) -> list[RegisteredPotential]:
        """All versions of all potentials, by id; damaged ones are left out with a warning."""
        records = []
        for kim_id in self._ids():
            try:
                manifest = self.manifest(kim_id)
            except PotentialError as error:
                warnings.warn(f"left out of the list: {error}", StorageWarning, stacklevel=2)
                continue
            parent = manifest["parent"]
            records.append(
                RegisteredPotential(
                    kim_id=kim_id,
                    kind=manifest["model"]["type"],
                    species=tuple(manifest["species"]),
                    parent=None if parent is None else parent["kim_id"],
                    date=manifest["date"],
                    hash=manifest["hash"],
                    folder=self._folder(kim_id),
                )
            )
        return records

    def parents(self, kim_id: str) -> list[str]:
        """Full ids that a potential was made from, the nearest first; ends at one that was deleted.

        Raises:
            PotentialError: unknown id.
        """
        ids: list[str] = []
        parent = self.manifest(kim_id)["parent"]
        while parent is not None:
            ids.append(parent["kim_id"])
            parent = self.manifest(ids[-1])["parent"] if self.holds(ids[-1]) else None
        return ids

    def export(self, kim_id: str, kind: str, folder: str | Path = ".") -> Path:
        """Write a potential for use elsewhere.

        Args:
            kim_id: full id.
            kind: "kim" (archive `<id>.txz` of a KIM model), "lammps" (folder `<id>` of LAMMPS files) or
                "surefield" (`<id>.npz` for `load_potential`).
            folder: where to.

        Returns:
            What was written.

        Raises:
            ConfigError: unknown kind.
            PotentialError: unknown id, changed files, or none of that kind was saved with the potential.
            ExecutionError: it is there already, or cannot be written.
        """
        _, manifest = self.load(kim_id)
        return export_version(self._folder(kim_id), manifest, kind, Path(folder))

    def delete(self, kim_id: str) -> None:
        """Delete one version; those made from it keep its id as their parent.

        Raises:
            PotentialError: unknown; the full id is needed.
            ExecutionError: no permission.
        """
        folder = self._folder(kim_id)
        doomed = folder.with_name(f".deleted-{secrets.token_hex(6)}")
        try:
            os.rename(folder, doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            raise ExecutionError(f"cannot delete {folder}: {error.strerror}") from error
        with suppress(OSError):
            folder.parent.rmdir()  # after its last version

    def _folder(self, kim_id: str) -> Path:
        """Folder of a version that is there."""
        if not self.holds(kim_id):
            known = self._ids()
            hint = nearest(str(kim_id), known) if known else "the registry is empty"
            raise PotentialError(f"no potential {str(kim_id)!r}", where=self.root, fix=hint)
        match = _ID.fullmatch(kim_id)
        assert match is not None
        return self.root / match["base"] / match["version"]

    def _ids(self) -> list[str]:
        names = [
            f"{path.parent.parent.name}_{path.parent.name}" for path in self.root.glob(f"*/*/{MANIFEST}")
        ]
        return sorted(name for name in names if _ID.fullmatch(name))

    def _new_base(self, prefix: str, species: Sequence[str]) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        while True:
            base = self.root / f"{prefix}_{''.join(species)}__SF_{secrets.randbelow(10**12):012d}"
            try:
                base.mkdir()
            except FileExistsError:
                continue
            return base

    def _store(
        self, base: Path, potential: Potential, facts: Mapping[str, Any], attached: Mapping[str, Path]
    ) -> str:
        base.mkdir(parents=True, exist_ok=True)
        temporary = base / f".saving-{secrets.token_hex(6)}"
        try:
            temporary.mkdir()
            save_potential(temporary / POTENTIAL, potential)
            for name, source in attached.items():
                target = temporary / FILES / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, source.read_bytes())
            written = sorted(path for path in temporary.rglob("*") if path.is_file())
            hashes = {path.relative_to(temporary).as_posix(): file_hash(path) for path in written}
            while True:
                version = _next_version(base)
                ids = {"kim_id": f"{base.name}_{version:03d}", "base_id": base.name, "version": version}
                record = json.loads(json_text({**facts, **ids, "files": hashes}))
                record["hash"] = manifest_hash(record)
                write_atomic(temporary / MANIFEST, json_text(record, indent=2) + "\n")
                try:
                    os.rename(temporary, base / f"{version:03d}")
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    continue  # another process took this version
                # The version is there by now; some network disks cannot synchronise a folder.
                with suppress(OSError):
                    flush_to_disk(base)
                return record["kim_id"]
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):
                base.rmdir()  # of a new id whose first version failed


def _next_version(base: Path) -> int:
    taken = [int(entry.name) for entry in base.iterdir() if re.fullmatch(r"\d{3}", entry.name)]
    version = max(taken, default=-1) + 1
    if version > _LAST_VERSION:
        raise PotentialError(
            f"{base.name} has all its {_LAST_VERSION + 1} versions; fork it: fork_potential=True"
        )
    return version
