"""Compressed files, read and written whole."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from surefield.errors import DataError

__all__ = ["compress", "decompress", "readable_part", "without_compression"]

_COMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
}
_DECOMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
}
_DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error, ValueError)
_BLOCK = 4096


def without_compression(path: Path) -> tuple[Path, str]:
    """Split a path into the name of the content and the compression's extension ("" for none)."""
    if path.suffix in _DECOMPRESS:
        return path.with_suffix(""), path.suffix
    return path, ""


def decompress(path: Path, compression: str) -> bytes:
    """Read the whole content; a damaged stream is a `DataError`."""
    data = path.read_bytes()
    if not compression:
        return data
    try:
        return _DECOMPRESS[compression](data)
    except _DAMAGED as error:
        fix = "the download or copy may be incomplete"
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        raise DataError(f"unreadable compressed file {path}", got=cause, fix=fix) from None


def readable_part(path: Path, compression: str) -> bytes:
    """Content of a damaged file up to the fault, to say where it breaks off."""
    streams = {
        ".xz": lzma.LZMADecompressor,
        ".gz": lambda: zlib.decompressobj(31),
        ".bz2": bz2.BZ2Decompressor,
    }
    stream, data, content = streams[compression](), path.read_bytes(), b""
    try:
        for start in range(0, len(data), _BLOCK):
            content += stream.decompress(data[start : start + _BLOCK])
    except _DAMAGED:
        pass
    return content


def compress(data: bytes, compression: str) -> bytes:
    """Pack the whole content for the extension (".xz", ".gz", ".bz2" or "")."""
    return _COMPRESS[compression](data) if compression else data
