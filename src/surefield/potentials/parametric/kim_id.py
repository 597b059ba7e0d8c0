"""Ids of models of OpenKIM, in their full and their short forms."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["KimId", "parse_id"]

_ID: Final = re.compile(r"(?:(?P<name>\w+)__)?(?P<kind>MO|MD|SM)_(?P<number>\d{12})(?:_(?P<version>\d{3}))?")


class KimId(NamedTuple):
    """Parts of an id such as NAME__MO_123456789012_003; None where a short id leaves one out.

    Attributes:
        name: what stands before the two underscores.
        number: twelve digits behind MO_ (model), MD_ (driver) or SM_ (simulator model).
        version: three digits.
    """

    name: str | None
    number: str | None
    version: str | None


def parse_id(text: str) -> KimId:
    """Parts of a full or short id; a text without number is a name."""
    match = _ID.fullmatch(text)
    if match is None:
        return KimId(text, None, None)
    return KimId(match["name"], f"{match['kind']}_{match['number']}", match["version"])
