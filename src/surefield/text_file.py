"""Text files of other programs, read whole and checked for what a damaged file shows."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

from surefield.errors import PotentialError

__all__ = ["check_range", "number", "read_text", "whole"]

_NUMBER: Final = re.compile(r"[-+]?[\d.]+[-+\deE.]*")
#: No interaction reaches this far, Å: a range beyond is a damaged number, and would never end.
_FARTHEST: Final = 50.0


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


def read_text(path: str | Path, what: str = "file", *, numbers: bool = True) -> str:
    """Content of a text file, with '\\n' at the ends of lines; comments may be in old encodings.

    Args:
        path: of the file.
        what: it holds, for messages.
        numbers: whether an end within a number matters.

    Raises:
        PotentialError: no such file, not text, or it ends within a line with a number that may be cut: one
            whose length is not that of the numbers before it.
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
    if numbers and _cut(text):
        raise PotentialError(
            "the file may be cut short: it ends within a line",
            where=path,
            got=f"{text.split()[-1]!r} without a line end",
            fix="compare it with its source; if it is whole, add a line end",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _cut(text: str) -> bool:
    """Whether the text ends with a number that may have had more digits; a switch has one."""
    last = text[text.rfind("\n") + 1 :]
    words = text[-400:].split()
    if not last.strip() or last[-1].isspace() or "#" in last or not _NUMBER.fullmatch(words[-1]):
        return False
    if len(words) > 1 and words[-2].endswith("flag"):
        return False
    lengths = {len(word.lstrip("+-")) for word in words[-8:] if _NUMBER.fullmatch(word)}
    return len(lengths) > 1 or len(words) < 8
