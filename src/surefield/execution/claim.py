"""Claims on work that several processes could do: a lock that the system drops when its holder ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from surefield.errors import ExecutionError

__all__ = ["claim"]

#: File systems that have no locks; there two processes at once are not told apart.
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Claim what a name stands for, for as long as the block lasts, also if this process is killed in it.

    Args:
        path: file of the lock, in a folder that is there; it is removed with the claim.

    Yields:
        False if another process or thread has it.

    Raises:
        ExecutionError: the file cannot be made.
    """
    handle = _locked(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _locked(path: Path) -> int | None:
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise ExecutionError(f"cannot claim {path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise ExecutionError(f"cannot claim {path}: {error.strerror}") from error
        # The holder before may have removed the file between the two calls: the lock is then on no name.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)
