"""Files that survive a kill: written whole or not at all, or appended line by line."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from surefield.errors import DataError, ExecutionError

__all__ = [
    "append_jsonl",
    "append_line",
    "atomic_path",
    "drop_torn_line",
    "flush_to_disk",
    "json_text",
    "read_arrays",
    "read_json",
    "read_jsonl",
    "write_arrays",
    "write_atomic",
]

_FIXES: Final = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file is larger than the file system or ulimit allows",
    errno.EIO: "the disk reports a failure: write elsewhere",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.EACCES: "no permission: write elsewhere or change the rights of the folder",
    errno.EPERM: "no permission: write elsewhere or change the rights of the folder",
    errno.ENOENT: "the folder does not exist: create it",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "there is a folder of this name",
}
_BLOCK: Final = 65536


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name in the same folder; on leaving, the file gets its own name, whole or not at all.

    The temporary file exists, is empty, and has the suffix of `path`. A symbolic link is written through.

    Raises:
        ExecutionError: disk full, no permission, no such folder; the old file, if any, is as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}{target.suffix}")
    try:
        # mode 0o666 leaves the rights to the user's mask, unlike tempfile.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise _unwritable(path, error) from error
            raise
        try:
            flush_to_disk(temporary)
            os.replace(temporary, target)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    # The content is safe by now; Windows and some network disks cannot synchronise a folder.
    with suppress(OSError):
        flush_to_disk(target.parent)


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write or replace a file; text is written as UTF-8.

    Raises:
        ExecutionError: as `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def append_line(path: str | os.PathLike[str], text: str) -> None:
    """Append one line and flush it to the disk; a failed write leaves the file as it was.

    Args:
        path: file, made if missing.
        text: the line, without its end.

    Raises:
        DataError: more than one line.
        ExecutionError: disk full, no permission, no such folder.
    """
    if "\n" in text or "\r" in text:
        raise DataError("not one line", where=path, got=repr(text[:80]))
    data = text.encode() + b"\n"
    try:
        handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
        try:
            length = os.fstat(handle).st_size
            try:
                # One call for the whole line, so that a kill rarely tears it.
                while data:
                    data = data[os.write(handle, data) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, length)
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise _unwritable(path, error) from error


def drop_torn_line(path: str | os.PathLike[str]) -> str:
    """Cut off a last line without its end, as a killed writer leaves it; returns what was cut off.

    Raises:
        ExecutionError: the file cannot be changed.
    """
    path = Path(path)
    if not path.exists():
        return ""
    try:
        with path.open("rb") as file:
            end = _end_of_last_line(file)
            file.seek(end)
            torn = file.read()
        if torn:
            with path.open("rb+") as file:
                file.truncate(end)
                os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error
    return torn.decode(errors="replace")


def json_text(data: Any, *, indent: int | None = None) -> str:
    """JSON that is the same for the same content: sorted keys, floats that read back bit by bit.

    Arrays become lists. JSON has no NaN and no infinity: both are written as null.

    Raises:
        DataError: an object that JSON has no form for.
    """
    return json.dumps(_plain(data), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=indent)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        DataError: missing, or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no file {Path(path).resolve()}") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None


def append_jsonl(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Append one JSON object as a line (`json_text`, `append_line`)."""
    append_line(path, json_text(record))


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read one JSON object a line; a torn last line is left out, a missing file is empty.

    Raises:
        DataError: a line that is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            got = repr(line[:60].decode(errors="replace"))
            fix = "the file was changed or damaged; delete the lines from there on"
            raise DataError(
                "unreadable line", where=f"{path}:{number}", got=got, expected="a JSON object", fix=fix
            )
        records.append(record)
    return records


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], *, compressed: bool = False
) -> None:
    """Write arrays by name into one npz file, whole or not at all.

    Raises:
        DataError: an array of objects.
        ExecutionError: as `atomic_path`.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise DataError(f"array {name!r} cannot be written", got="objects", expected="numbers")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **dict(arrays))  # type: ignore[arg-type]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote; runs no code from the file.

    Raises:
        DataError: missing, damaged, or not a file of arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Whole entries, whose checksums are verified; NumPy stops where the shape says.
            entries = {
                name.removesuffix(".npy"): io.BytesIO(archive.read(name)) for name in archive.namelist()
            }
        return {name: np.lib.format.read_array(entry, allow_pickle=False) for name, entry in entries.items()}
    except Exception as error:  # flipped bits look like encryption, other compressions, huge shapes, ...
        cause = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is no file of arrays, or it is damaged: {cause}") from None


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if data is None or isinstance(data, str | bool | int):
        return data
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if hasattr(data, "tolist"):
        return _plain(data.tolist())
    raise DataError("cannot be written as JSON", got=f"{type(data).__name__} {data!r:.60}")


def _end_of_last_line(file: Any) -> int:
    """Position behind the last line end, looked for from the back."""
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - _BLOCK)
        file.seek(start)
        line_end = file.read(position - start).rfind(b"\n")
        if line_end >= 0:
            return start + line_end + 1
        position = start
    return 0


def flush_to_disk(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk now."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: object, error: OSError) -> ExecutionError:
    reason = error.strerror or str(error) or type(error).__name__
    return ExecutionError(f"cannot write {path}", got=reason.lower(), fix=_FIXES.get(error.errno or 0, ""))
