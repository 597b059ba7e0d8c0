"""The four errors of the package and the one way their messages are put together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

__all__ = [
    "ConfigError",
    "DataError",
    "ExecutionError",
    "PotentialError",
    "SurefieldError",
    "check_known",
    "explain",
    "nearest",
    "worded",
]


class SurefieldError(Exception):
    """Parent of the four errors below, for callers who want to catch them all.

    Args:
        what: what is wrong.
        where, got, expected, fix: see `explain`.
    """

    def __init__(
        self,
        what: str = "",
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        fix: str = "",
    ) -> None:
        # Only the text is an argument of the exception, so that it survives the way between processes.
        super().__init__(explain(what, where=where, got=got, expected=expected, fix=fix))


class ConfigError(SurefieldError):
    """An argument or a configuration entry is unknown, missing or out of range."""


class DataError(SurefieldError):
    """Structures, labels or arrays are unusable: missing, malformed, not finite or contradictory."""


class PotentialError(SurefieldError):
    """A potential cannot do what is asked: unknown element, wrong version, damaged file."""


class ExecutionError(SurefieldError):
    """A computation outside the package failed: an oracle, a job, a full disk."""


def explain(
    what: str, *, where: object = None, got: object = None, expected: object = None, fix: str = ""
) -> str:
    """Put an error message together: what is wrong, where, what was found, what is needed, how to mend it."""
    parts = [what]
    if where is not None:
        parts[0] += f" in {where}"
    if got is not None:
        parts.append(f"got {got}")
    if expected is not None:
        parts.append(f"expected {expected}")
    if fix:
        parts.append(fix)
    return "; ".join(parts)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest of the known names, or a list of them when none is near.

    Capitals do not count, but where they alone make two names.
    """
    names = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if not close:
        lower = {known.lower(): known for known in names}
        close = [lower[k] for k in difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)]
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"


def check_known(names: Iterable[object], known: Collection[str], message: str) -> None:
    """Raise `ConfigError` for the first name that is not among the known; {} in the message stands for it."""
    for name in names:
        if name not in known:
            raise ConfigError(f"{message.format(repr(name))}; {nearest(str(name), known)}")


@contextmanager
def worded(wording: Mapping[str, str]) -> Iterator[None]:
    """Errors in the words of the door that the user stands at: what they offer can be done there.

    Args:
        wording: regular expression to what stands in its place, such as the name of the door's argument.
    """
    try:
        yield
    except SurefieldError as error:
        text = str(error)
        for pattern, words in wording.items():
            text = re.sub(pattern, words, text)
        if text == str(error):
            raise
        raise type(error)(text).with_traceback(error.__traceback__) from error.__cause__
