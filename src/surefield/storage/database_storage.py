"""Datasets in an ASE database: a SQLite file in a folder, or PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

from ase import Atoms

from surefield.errors import ConfigError, DataError
from surefield.files import json_text
from surefield.storage.configuration import CONFIGURATION_ID, read_configuration
from surefield.storage.database_tables import Session, public_url, reading, writing
from surefield.storage.dataset import (
    Dataset,
    PackedConfiguration,
    assign_ids,
    check_metadata,
    check_name,
    content_hash,
    entries_of,
    provenance,
    warn_of_foreign,
)
from surefield.storage.storage import Storage
from surefield.structures.read import Source

__all__ = ["LocalStorage"]

_DEFAULT_NAME: Final = "datasets"
#: What SQLite puts into the folder.
_OWN_FILES: Final = (".db", ".db-journal", ".db-wal", ".db-shm")
#: Segments of a version, itself and those before it.
_CHAIN: Final = (
    "WITH RECURSIVE chain (id, parent, start) AS ("
    "SELECT id, parent, start FROM surefield_segments WHERE id = ? UNION ALL "
    "SELECT s.id, s.parent, s.start FROM surefield_segments s JOIN chain ON s.id = chain.parent) "
)
_MEMBERS: Final = (
    _CHAIN + "SELECT m.configuration, m.content FROM chain JOIN surefield_members m "
    "ON m.segment = chain.id ORDER BY chain.start + m.place"
)
_CONFIGURATIONS: Final = (
    _CHAIN + "SELECT m.configuration, m.content, c.payload FROM chain JOIN surefield_members m "
    "ON m.segment = chain.id JOIN surefield_contents c ON c.content = m.content "
    "ORDER BY chain.start + m.place"
)
_ALIVE: Final = (
    "WITH RECURSIVE alive (id) AS (SELECT segment FROM surefield_versions UNION "
    "SELECT s.parent FROM surefield_segments s JOIN alive ON s.id = alive.id WHERE s.parent IS NOT NULL) "
)


@final
class LocalStorage(Storage):
    """Datasets in an ASE database, which ASE's own tools can read too.

    Each change is one transaction: after a kill, a full disk or a second writer it is there whole or not at
    all. Two writers wait for each other. Equal configurations are stored once. Structures and standard
    results also stand in ASE's columns, for its tools to show; `get_data` reads an exact copy beside them,
    since these columns lose shapes and, in PostgreSQL, NaN and the sign of zero.

    Args:
        database_path: folder of the storage, made at the first write; a single .db file; or an address
            such as "postgresql://user@host/database" (`pip install 'surefield[db]'`).
        database_name: of the file in the folder, without ".db"; "datasets" if not given.

    Raises:
        ConfigError: no name of a file, or a name for what is no folder.
    """

    def __init__(
        self, database_path: str | Path = "./local_storage_database", database_name: str | None = None
    ) -> None:
        text = str(database_path)
        is_address = "://" in text
        if is_address and not text.startswith(("postgresql://", "postgres://")):
            known = "a folder, a .db file or postgresql://user@host/database"
            raise ConfigError("no such kind of storage", got=repr(public_url(text)), expected=known)
        path = Path(database_path)
        if is_address or (path.suffix == ".db" and not path.is_dir()):
            if database_name is not None:
                raise ConfigError("database_name belongs to a folder; the address given has its own name")
            self._address = text if is_address else str(path.absolute())
            return
        name = _DEFAULT_NAME if database_name is None else check_name(database_name)
        if path.is_file():
            raise ConfigError(f"{path} is a file", expected="a folder or a .db file")
        self._address = str(path.absolute() / f"{name}.db")
        if path.is_dir():
            names = [entry.name for entry in path.iterdir() if entry.name[0] != "."]
            warn_of_foreign(path, [n for n in names if not n.endswith(_OWN_FILES)])

    @property
    def url(self) -> str:
        """Path of the database file, or the address without its password."""
        return public_url(self._address)

    def new_dataset(self, name: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None) -> str:
        """See `Storage.new_dataset`."""
        check_name(name)
        metadata = check_metadata(dataset_metadata)
        entries, source = entries_of(data)
        ids = assign_ids(entries, {})
        with writing(self._address) as session:
            self._check_new(name)
            members = list(zip(ids, [e.content for e in entries], strict=True))
            segment = _insert_segment(session, None, 0, entries, ids)
            facts = provenance(source, None, metadata)
            return _insert_version(session, name, segment, len(members), content_hash(members), facts)

    def add_data(self, handle: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None) -> str:
        """See `Storage.add_data`."""
        entries, source = entries_of(data)
        metadata = check_metadata(dataset_metadata)
        with writing(self._address) as session:
            base = self.describe(handle)
            parent = _segment_of(session, base)
            ids = assign_ids(entries, {})
            present = _present(session, parent, ids)
            ids = assign_ids(entries, present) if present else ids
            segment = _insert_segment(session, parent, base.size, entries, ids)
            members = zip(ids, [e.content for e in entries], strict=True)
            facts = provenance(source, base.handle, {**base.metadata, **metadata})
            total, size = content_hash(members, base.hash), base.size + len(entries)
            return _insert_version(session, base.name, segment, size, total, facts)

    def update_data(
        self, handle: str, data: Source, dataset_metadata: Mapping[str, Any] | None = None
    ) -> str:
        """See `Storage.update_data`."""
        entries, source = entries_of(data)
        metadata = check_metadata(dataset_metadata)
        ids = assign_ids(entries, {})
        with writing(self._address) as session:
            base = self.describe(handle)
            members = dict(session.execute(_MEMBERS, [_segment_of(session, base)]))
            unknown = [name for name in ids if name not in members]
            if unknown:
                raise DataError(
                    f"{base.handle} has no configuration {unknown[0]!r}",
                    got=f"{len(unknown)} of {len(ids)} configurations that it does not have",
                    fix="add new ones with add_data; keep info['configuration_id'] of the others",
                )
            members |= zip(ids, [e.content for e in entries], strict=True)
            session.insert_contents(entries)
            segment = _insert_members(session, None, 0, list(members.items()))
            facts = provenance(source, base.handle, {**base.metadata, **metadata})
            total = content_hash(members.items())
            return _insert_version(session, base.name, segment, base.size, total, facts)

    def delete_dataset(self, handle: str) -> None:
        """See `Storage.delete_dataset`."""
        dataset = self._version(handle)
        if dataset is None:
            versions = ", ".join(d.handle for d in self._of_name(handle))
            raise DataError(f"to delete a dataset give one handle of {versions}; got the name {handle!r}")
        with writing(self._address) as session:
            version = (dataset.name, dataset.version)
            session.execute("DELETE FROM surefield_versions WHERE name = ? AND version = ?", version)
            rest = session.execute("SELECT version FROM surefield_versions WHERE name = ?", [dataset.name])
            if not rest:
                session.execute("DELETE FROM surefield_names WHERE name = ?", [dataset.name])
            _delete_unused(session)

    def _datasets(self, name: str | None) -> list[Dataset]:
        where, arguments = ("", ()) if name is None else ("WHERE name = ? ", (name,))
        columns = "name, version, size, hash, provenance"
        statement = f"SELECT {columns} FROM surefield_versions {where}ORDER BY name, version"
        with reading(self._address) as session:
            rows = [] if session is None else session.execute(statement, arguments)
        return [_dataset(*row) for row in rows]

    def _read(self, dataset: Dataset) -> list[Atoms]:
        with reading(self._address) as session:
            segment = None if session is None else _segment_of(session, dataset)
            rows = [] if session is None else session.execute(_CONFIGURATIONS, [segment])
        if len(rows) != dataset.size:
            raise DataError(
                f"{dataset.handle} in {self.url} has {len(rows)} of its {dataset.size} configurations: "
                "another program deleted rows, or the dataset was deleted while it was read"
            )
        frames = []
        for configuration, content, payload in rows:
            data = bytes(payload)
            if hashlib.sha256(data).hexdigest() != content:
                raise DataError(
                    f"configuration {configuration!r} of {dataset.handle} in {self.url} is damaged"
                )
            atoms = read_configuration(data)
            atoms.info[CONFIGURATION_ID] = configuration
            frames.append(atoms)
        return frames


def _dataset(name: str, version: int, size: int, content: str, text: str) -> Dataset:
    facts = json.loads(text)
    source = tuple(facts.pop("source"))
    return Dataset(name=name, version=version, size=size, hash=content, source=source, **facts)


def _segment_of(session: Session, dataset: Dataset) -> str:
    rows = session.execute(
        "SELECT segment FROM surefield_versions WHERE name = ? AND version = ?",
        (dataset.name, dataset.version),
    )
    if not rows:
        raise DataError(f"{dataset.handle} was deleted in the meantime")
    return rows[0][0]


def _present(session: Session, segment: str, ids: list[str]) -> dict[str, str]:
    """Id to content of a version; empty if none of the ids is there, which is quicker to find out."""
    statement = "SELECT DISTINCT segment FROM surefield_members WHERE configuration IN"
    somewhere = {row[0] for row in session.matching(statement, ids)}
    if not somewhere:
        return {}
    chain = {row[0] for row in session.execute(_CHAIN + "SELECT id FROM chain", [segment])}
    return dict(session.execute(_MEMBERS, [segment])) if somewhere & chain else {}


def _insert_segment(
    session: Session, parent: str | None, start: int, entries: list[PackedConfiguration], ids: list[str]
) -> str:
    session.insert_contents(entries)
    return _insert_members(session, parent, start, list(zip(ids, [e.content for e in entries], strict=True)))


def _insert_members(session: Session, parent: str | None, start: int, members: list[tuple[str, str]]) -> str:
    segment = secrets.token_hex(8)
    session.insert("surefield_segments", [(segment, parent, start)])
    rows = [(segment, place, name, content) for place, (name, content) in enumerate(members)]
    session.insert("surefield_members", rows)
    return segment


def _insert_version(
    session: Session, name: str, segment: str, size: int, content: str, facts: Mapping[str, Any]
) -> str:
    """Give the segment the next version of a name, which no version had before; returns the handle."""
    known = "SELECT next_version FROM surefield_names WHERE name = ?"
    rows = session.execute(known, [name])
    version = rows[0][0] if rows else 0
    while session.execute(known, [f"{name}_{version}"]):
        version += 1  # the name of another dataset must not get a second meaning
    if rows:
        session.execute("UPDATE surefield_names SET next_version = ? WHERE name = ?", (version + 1, name))
    else:
        session.insert("surefield_names", [(name, version + 1)])
    session.insert("surefield_versions", [(name, version, segment, size, content, json_text(facts))])
    return f"{name}_{version}"


def _delete_unused(session: Session) -> None:
    """Delete segments that no version reaches, and configurations that no segment has."""
    dead = "NOT IN (SELECT id FROM alive)"
    session.execute(f"{_ALIVE}DELETE FROM surefield_members WHERE segment {dead}")
    session.execute(f"{_ALIVE}DELETE FROM surefield_segments WHERE id {dead}")
    unused = "NOT EXISTS (SELECT 1 FROM surefield_members m WHERE m.content = surefield_contents.content)"
    systems = [row[0] for row in session.execute(f"SELECT system FROM surefield_contents WHERE {unused}")]
    session.execute(f"DELETE FROM surefield_contents WHERE {unused}")
    session.delete_systems(systems)
