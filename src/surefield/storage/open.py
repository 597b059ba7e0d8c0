"""Open a storage by its address: the one place that knows all kinds of storages."""

from __future__ import annotations

from pathlib import Path

from surefield.errors import ConfigError
from surefield.storage.database_storage import LocalStorage
from surefield.storage.folder_storage import SUFFIXES, FolderStorage, extxyz_files
from surefield.storage.storage import Storage

__all__ = ["open_storage"]


def open_storage(url: str | Path) -> Storage:
    """Open a storage by its place.

    Args:
        url: a folder of extxyz files (read only), the folder of a `LocalStorage`, an ASE database
            (.db), or "postgresql://user@host/database".

    Raises:
        ConfigError: a file that is no database.
    """
    text = str(url)
    if "://" in text:
        return LocalStorage(text)
    path = Path(text)
    if path.is_dir() and extxyz_files(path) and not any(path.glob("*.db")):
        return FolderStorage(path)
    if path.is_file() and path.suffix != ".db":
        raise ConfigError(
            f"{path} is no storage",
            expected="a folder, a .db file or a postgresql:// address",
            fix=f"give the folder {path.parent}" if path.suffix in SUFFIXES else "",
        )
    return LocalStorage(path)
