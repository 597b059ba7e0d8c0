"""Tables beside those of an ASE database, and transactions on both; SQLite and PostgreSQL alike."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import ase.db
import numpy as np
from ase import Atoms
from ase.db.core import now
from ase.db.row import AtomsRow

from surefield.errors import ConfigError, DataError, ExecutionError
from surefield.storage.dataset import PackedConfiguration
from surefield.structures.label_sources import results_of

__all__ = ["Session", "public_url", "reading", "writing"]

#: Raised when the meaning of the tables changes; newer ones are refused.
FORMAT: Final = 1
#: How long a writer waits for another one, s.
WAIT_S: Final = 60
_ROWS: Final = 200
_LOCK: Final = 0x5AFEF1E1D
#: A version is a chain of segments, so that adding writes nothing but what is added. `contents` holds a
#: configuration once, however many datasets have it; `system` is its row among those of ASE.
_TABLES: Final = (
    "surefield_format (format INTEGER)",
    "surefield_names (name TEXT PRIMARY KEY, next_version INTEGER)",
    "surefield_versions (name TEXT, version INTEGER, segment TEXT, size INTEGER, hash TEXT, provenance TEXT, "
    "PRIMARY KEY (name, version))",
    "surefield_segments (id TEXT PRIMARY KEY, parent TEXT, start INTEGER)",
    "surefield_members (segment TEXT, place INTEGER, configuration TEXT, content TEXT, "
    "PRIMARY KEY (segment, place))",
    "surefield_contents (content TEXT PRIMARY KEY, system INTEGER, payload BLOB)",
)
_INDICES: Final = (
    "surefield_configuration ON surefield_members (configuration)",
    "surefield_content ON surefield_members (content)",
)
#: Results that ASE has columns for, by shape; n is the number of atoms.
_COLUMNS: Final[Mapping[str, tuple[str | int, ...]]] = {
    "energy": (),
    "free_energy": (),
    "magmom": (),
    "forces": ("n", 3),
    "stress": (6,),
    "dipole": (3,),
    "magmoms": ("n",),
    "charges": ("n",),
}
#: ASE's own tables, those first that refer to the others.
_ASE_TABLES: Final = ("species", "keys", "text_key_values", "number_key_values", "systems")


class Session:
    """Connection inside a transaction.

    Attributes:
        database: ASE's database, which uses the same connection.
        sqlite: whether it is a SQLite file.
    """

    def __init__(self, database: Any, sqlite: bool) -> None:
        self.database = database
        self.sqlite = sqlite

    def execute(self, statement: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with ? for arguments; returns its rows."""
        cursor = self.database.connection.cursor()
        cursor.execute(statement, tuple(arguments))
        has_rows = getattr(cursor, "cur", cursor).description is not None  # ASE wraps PostgreSQL's cursor
        return cursor.fetchall() if has_rows else []

    def matching(self, statement: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        """Rows of a statement that ends in IN (...), for any number of values."""
        rows = []
        for start in range(0, len(values), _ROWS):
            part = values[start : start + _ROWS]
            rows += self.execute(f"{statement} ({', '.join('?' * len(part))})", part)
        return rows

    def insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows into a table."""
        for start in range(0, len(rows), _ROWS):
            part = list(rows[start : start + _ROWS])
            holes = ", ".join("?" * len(part[0]))
            self.database.connection.cursor().executemany(f"INSERT INTO {table} VALUES ({holes})", part)

    def insert_contents(self, entries: Sequence[PackedConfiguration]) -> None:
        """Store configurations that are not there yet, with a row of ASE's for each."""
        for start in range(0, len(entries), _ROWS):
            part = {entry.content: entry for entry in entries[start : start + _ROWS]}
            known = "SELECT content FROM surefield_contents WHERE content IN"
            for (content,) in self.matching(known, list(part)):
                del part[content]
            rows = [(content, self._ase_row(entry), entry.payload) for content, entry in part.items()]
            self.insert("surefield_contents", rows)

    def _ase_row(self, entry: PackedConfiguration) -> int:
        # ASE commits every few thousand changes; here nothing may be seen before all is written.
        self.database.change_count = 0
        return self.database.write(_seen_by_ase(entry.frame), data={"surefield_content": entry.content})

    def delete_systems(self, systems: Sequence[int]) -> None:
        """Delete rows of ASE's."""
        for start in range(0, len(systems), _ROWS):
            part = systems[start : start + _ROWS]
            for table in _ASE_TABLES:
                holes = ", ".join("?" * len(part))
                self.execute(f"DELETE FROM {table} WHERE id IN ({holes})", part)

    def has_tables(self) -> bool:
        """Whether the tables are there.

        Raises:
            DataError: made by a newer version.
        """
        if self.sqlite:
            rows = self.execute("SELECT name FROM sqlite_master WHERE name = 'surefield_format'")
        else:
            rows = self.execute("SELECT c FROM to_regclass('surefield_format') AS c WHERE c IS NOT NULL")
        if not rows:
            return False
        ((version,),) = self.execute("SELECT format FROM surefield_format")
        if version > FORMAT:
            got, expected = f"format {version}", f"at most {FORMAT}"
            raise DataError(
                "the storage was made by a newer version", got=got, expected=expected, fix="update surefield"
            )
        return True

    def begin(self) -> None:
        """Begin to write: one writer at a time, the others wait."""
        if not self.sqlite:
            self.execute(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
            self.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        elif not self.database.connection.in_transaction:
            self.execute("BEGIN IMMEDIATE")

    def make_tables(self) -> None:
        """Make all tables, ASE's too; leaves a transaction begun."""
        self.database.count()  # makes ASE's tables, and ends the transaction if they were missing
        self.begin()
        if self.has_tables():
            return
        for table in _TABLES:
            self.execute(f"CREATE TABLE {table if self.sqlite else table.replace('BLOB', 'BYTEA')}")
        for index in _INDICES:
            self.execute(f"CREATE INDEX {index}")
        self.insert("surefield_format", [(FORMAT,)])

    def commit(self) -> None:
        """Make all of it seen at once."""
        self.database.connection.commit()

    def close(self) -> None:
        """Drop what was not committed."""
        connection = self.database.connection
        self.database.connection = None
        # PostgreSQL's connection is wrapped by ASE, without its rollback; closing does the same.
        with suppress(Exception):
            connection.close()


@contextmanager
def reading(url: str) -> Iterator[Session | None]:
    """Session for reading; None where there is no storage yet."""
    if "://" not in url and not Path(url).is_file():
        yield None
        return
    with _session(url) as session:
        yield session if session.has_tables() else None


@contextmanager
def writing(url: str) -> Iterator[Session]:
    """Session for writing, in one transaction: all of it is stored, or nothing if anything fails."""
    if "://" not in url:
        try:
            Path(url).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _failed(url, error) from error
    with _session(url) as session:
        session.begin()
        if not session.has_tables():
            session.make_tables()
        if not session.sqlite:
            # ASE asks for the last id of the table, which must not be another program's.
            session.execute("LOCK TABLE systems IN SHARE ROW EXCLUSIVE MODE")
        yield session
        session.commit()


@contextmanager
def _session(url: str) -> Iterator[Session]:
    sqlite = "://" not in url
    database, failures = _connection(url, sqlite)
    try:
        database.__enter__()
        session = Session(database, sqlite)
        try:
            if sqlite:
                session.execute(f"PRAGMA busy_timeout = {1000 * WAIT_S}")
            yield session
        finally:
            session.close()
    except failures as error:
        raise _failed(url, error) from error


def _connection(url: str, sqlite: bool) -> tuple[Any, type[Exception]]:
    """Database of ASE's, not yet connected, and what it raises."""
    if sqlite:
        return ase.db.connect(url, type="db", use_lock_file=False), sqlite3.Error
    try:
        import psycopg2

        return ase.db.connect(url, type="postgresql", use_lock_file=False), psycopg2.Error
    except ImportError:
        raise ConfigError("a PostgreSQL storage needs: pip install 'surefield[db]'") from None


def _failed(url: str, error: Exception) -> DataError | ExecutionError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    reason = " ".join(said.split())[:300] or type(error).__name__
    fixes = {
        "locked": "another process is writing: nothing was stored, try again",
        "lock timeout": "another process is writing: nothing was stored, try again",
        "full": "the disk is full: nothing was stored; free some space",
        "no space": "the disk is full: nothing was stored; free some space",
        "disk i/o": "the disk is full or fails: nothing was stored",
        "readonly": "no permission to write there",
        "unable to open": "no permission, or the path is no file",
    }
    if "not a database" in reason or "malformed" in reason:
        return DataError(f"{public_url(url)} is damaged or no database", got=reason)
    fix = next((text for word, text in fixes.items() if word in reason.lower()), "")
    return ExecutionError(f"the storage {public_url(url)} failed", got=reason, fix=fix)


def public_url(url: str) -> str:
    """Address without its password; a path as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(p for p in parts.query.split("&") if not p.startswith("password="))
    return urlunsplit(parts._replace(netloc=user.partition(":")[0] + at + host, query=query))


def _seen_by_ase(atoms: Atoms) -> AtomsRow:
    """What tools of ASE may show and search: the geometry and the results that have a column."""
    shown: dict[str, Any] = {
        "unique_id": secrets.token_hex(16),
        "ctime": now(),
        "user": os.environ.get("USER"),
        "numbers": np.asarray(atoms.numbers, np.int64),
        "positions": np.asarray(atoms.positions, np.float64),
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
    }
    for name, value in results_of(atoms).items():
        shape = tuple(len(atoms) if length == "n" else length for length in _COLUMNS.get(name, ("none",)))
        if np.shape(value) == shape:
            array = np.asarray(value, np.float64)
            shown[name] = array if shape else float(array)
    return AtomsRow(shown)
