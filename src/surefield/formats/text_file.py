"""Text files of other programs, read whole and checked for what a damaged file shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from surefield.errors import PotentialError

__all__ = ["check_range", "number", "read_text", "whole"]

#: No interaction reaches this far, Å: a range beyond is a damaged number, and would never end.
_FARTHEST: Final = 100.0


def number(word: str) -> float:
    """A finite number written with digits, '.', 'e' and signs.

    Raises:
        ValueError: anything else, such as 'nan' and '1_0', which Python takes for numbers.
    """
    value = float(word)
    if not math.isfinite(value) or "_" in word:
        raise ValueError(f"{word!r} is not a finite number")
    return value


def whole(word: str) -> int:
    """A whole number written with digits and a sign; `ValueError` for anything else."""
    return int(word) if "_" not in word else int(number(word))


def check_range(value: float, where: object) -> None:
    """Raise `PotentialError` unless a range of interaction is one, Å."""
    if not 0 < value < _FARTHEST:
        expected = f"a length between 0 and {_FARTHEST:g} Å"
        raise PotentialError("unusable range of interaction", where=where, got=value, expected=expected)


def read_text(path: str | Path, what: str = "file") -> str:
    """Content of a text file, with '\\n' at the ends of lines; comments may be in old encodings.

    Args:
        path: of the file.
        what: it holds, for messages.

    Raises:
        PotentialError: no such file, not text, or an end that looks cut: no line end after a word that is
            shorter than the one before it.
    """
    path = Path(path)
    if not path.is_file():
        raise PotentialError(f"there is no {what} at {path.resolve()}")
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise PotentialError(f"cannot read {path}: {error}") from None
    if "\0" in text:
        raise PotentialError(f"{path} is not a text file")
    last = text[text.rfind("\n") + 1 :]
    words = text[-400:].split()
    if last and "#" not in last and len(words) > 1 and len(words[-1]) < len(words[-2]):
        raise PotentialError(
            "the file may be cut short: it ends within a line",
            where=path,
            got=f"{words[-1]!r} without a line end",
            fix="compare it with its source; if it is whole, add a line end",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")
