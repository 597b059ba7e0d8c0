"""The persistent compilation cache of JAX: a second run of the same job compiles nothing again."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jax
from jax.experimental.compilation_cache import compilation_cache
from jaxlib.version import __version__ as jaxlib_version

__all__ = ["CacheStatistics", "cache_statistics", "enable_compilation_cache", "use_compilation_cache"]

_HIT: Final = "/jax/compilation_cache/cache_hits"
_MISS: Final = "/jax/compilation_cache/cache_misses"
#: Programs that compile faster than this are not worth a file.
MIN_COMPILE_SECONDS: Final = 0.3
#: An entry younger than this may still be being written by another process.
_WRITING_SECONDS: Final = 60.0


@dataclass(frozen=True)
class CacheStatistics:
    """What the cache did in this process.

    Attributes:
        hits: programs read from the cache instead of being compiled.
        misses: programs compiled and stored; those that compile in less than 0.3 s are neither.
    """

    hits: int = 0
    misses: int = 0


@dataclass
class _Counter:
    """Counts the events of JAX; one per process, because JAX keeps one cache per process."""

    listening: bool = False
    counts: dict[str, int] = field(default_factory=lambda: {_HIT: 0, _MISS: 0})

    def listen(self) -> None:
        if not self.listening:
            jax.monitoring.register_event_listener(self._on_event)
            self.listening = True

    def _on_event(self, event: str, **_: Any) -> None:
        if event in self.counts:
            self.counts[event] += 1


_counter = _Counter()


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk, from now on, in this process.

    A cache can run code: it must not be in a folder that others may write to.

    Args:
        folder: where to; by default `jax.config.jax_compilation_cache_dir` if the user has set it, else
            `$SUREFIELD_CACHE/jax`, else `$XDG_CACHE_HOME/surefield/jax`, else `~/.cache/surefield/jax`; in
            these three one folder per processor type and version of jaxlib, because programs for one
            processor may crash another that shares the home folder.

    Returns:
        The folder in use, or None when it cannot be written to: then everything works, without a cache.
    """
    current = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if folder is None:
        chosen = Path(current) if current else _default_folder() / _machine()
    else:
        chosen = Path(folder).expanduser().absolute()
    if not _writable(chosen):
        return None
    _drop_torn_entries(chosen)
    _counter.listen()
    if current != str(chosen):
        jax.config.update("jax_compilation_cache_dir", str(chosen))
        # JAX opens the folder once; without this a changed one would have no effect.
        compilation_cache.reset_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return chosen


@functools.cache
def use_compilation_cache() -> None:
    """Enable the cache once, with its defaults: whatever compiles for minutes calls this before."""
    enable_compilation_cache()


def cache_statistics() -> CacheStatistics:
    """Hits and misses since the first `enable_compilation_cache` of this process."""
    return CacheStatistics(hits=_counter.counts[_HIT], misses=_counter.counts[_MISS])


def _default_folder() -> Path:
    if folder := os.environ.get("SUREFIELD_CACHE"):
        return Path(folder).expanduser().absolute() / "jax"
    if user := os.environ.get("XDG_CACHE_HOME"):
        return Path(user).expanduser().absolute() / "surefield" / "jax"
    try:
        return Path.home() / ".cache" / "surefield" / "jax"
    except RuntimeError:  # no home folder, as in some containers
        return Path(os.devnull) / "jax"


def _machine() -> str:
    """Name for the processor and the compiler: programs are exchangeable only within one."""
    text = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += "".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
    except OSError:
        pass
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{platform.machine() or 'cpu'}-{digest}-jaxlib-{jaxlib_version}"


def _drop_torn_entries(folder: Path) -> None:
    """Delete programs that a killed process has half written: JAX would complain of them in every later run.

    JAX writes in place and never replaces an entry. Only entries since the latest check are read.
    """
    marker = folder / ".checked"
    now = time.time()
    try:
        checked = marker.stat().st_mtime if marker.exists() else 0.0
        for entry in folder.glob("*-cache"):
            changed = entry.stat().st_mtime
            if checked <= changed < now - _WRITING_SECONDS and _torn(entry.read_bytes()):
                entry.unlink(missing_ok=True)
        marker.touch()
        # Entries that are too young to be judged are looked at the next time.
        os.utime(marker, (now, now - _WRITING_SECONDS))
    except OSError:  # another process cleans up as well
        pass


def _torn(data: bytes) -> bool:
    if data[:1] not in (b"", b"\x78"):  # not zlib, the format without optional packages
        return False
    stream = zlib.decompressobj()
    try:
        stream.decompress(data)
    except zlib.error:
        return True
    return not stream.eof


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
