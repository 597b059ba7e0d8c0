"""Compressed files, read and written whole."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from surefield.errors import DataError, explain

__all__ = ["compress", "decompress", "without_compression"]

_DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error, ValueError)


def without_compression(path: Path) -> tuple[Path, str]:
    """Split a path into the name of the content and the compression's extension ("" for none)."""
    if path.suffix in {".xz", ".gz", ".bz2", ".zst"}:
        return path.with_suffix(""), path.suffix
    return path, ""


def decompress(path: Path, compression: str) -> bytes:
    """Read the whole content; a damaged stream is a `DataError`."""
    data = path.read_bytes()
    if not compression:
        return data
    opener: dict[str, Callable[[bytes], bytes]] = {
        ".xz": lzma.decompress,
        ".gz": gzip.decompress,
        ".bz2": bz2.decompress,
        ".zst": _zstd(path, "decompress"),
    }
    try:
        return opener[compression](data)
    except _DAMAGED as error:
        fix = "the download or copy may be incomplete"
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        raise DataError(explain(f"unreadable compressed file {path}", got=cause, fix=fix)) from None


def compress(data: bytes, compression: str) -> bytes:
    """Pack the whole content for the extension (".xz", ".gz", ".bz2", ".zst" or "")."""
    packer: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".xz": lzma.compress,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": _zstd(Path("x.zst"), "compress"),
    }
    return packer[compression](data)


def _zstd(path: Path, name: str) -> Callable[[bytes], bytes]:
    def convert(data: bytes) -> bytes:
        try:
            return getattr(importlib.import_module("compression.zstd"), name)(data)
        except ImportError:
            raise DataError(f"{path.name}: zstd needs Python 3.14; use .xz or .gz") from None

    return convert
