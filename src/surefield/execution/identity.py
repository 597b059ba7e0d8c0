"""What a result was made from: a table of names and hashes that is kept beside it; what differs, in words.

A rerun compares the table with that of what it is given now. Another table is refused before the work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from surefield.errors import ConfigError, DataError, SurefieldError
from surefield.files import json_text, read_json, write_atomic

__all__ = ["Table", "changes", "check_inputs", "check_table", "computed", "contents", "digest"]

#: Names to settings (compared entry by entry), to what `contents` gives, or to single values.
Table = Mapping[str, Any]
#: Name of the part by which things are called: places in a list do not make them others.
IDS: Final = "ids"
_MISSING: Final = object()
_COMPUTED: Final = "computed"
#: Computed numbers are the same within this share of the largest of their array, by its precision.
_ROUNDING: Final = {"float64": 1e-9, "float32": 1e-5}
_HASH: Final = re.compile(r"[0-9a-f]{32,64}")


def digest(*values: Any) -> str:
    """Hash of arrays, texts and numbers, and of lists and dictionaries of them: 32 hexadecimal digits.

    Equal numbers have equal hashes, whatever their type: a file that is written anew may change it.
    """
    total = hashlib.sha256()
    for value in values:
        data = _bytes(value)
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:32]


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return b"text " + value.encode()
    if value is not None and not isinstance(value, Mapping):
        with suppress(ValueError):  # lists of different lengths
            array = np.asarray(value)
            if array.dtype.kind in "biuf":
                return f"{array.shape} ".encode() + np.ascontiguousarray(array, "<f8").tobytes()
    try:
        return json_text(value).encode()
    except DataError:  # an object of another program: its text may hold an address
        return (type(value).__name__ if " at 0x" in repr(value) else repr(value)).encode()


def contents(things: Iterable[Iterable[tuple[str, Any]]]) -> dict[str, Any]:
    """Hashes of a list of things, such as structures, each given by the names and values of its parts.

    There is one hash for each name, so that a change is known by it, and one that knows no order and no ids.
    """
    parts: dict[str, Any] = {}
    whole = []
    for number, thing in enumerate(things):
        hashes = [(name, digest(value)) for name, value in thing]
        for name, value in hashes:
            parts.setdefault(name, hashlib.sha256()).update(f"{number} {value} ".encode())
        whole.append(digest([entry for entry in hashes if entry[0] != IDS]))
    hashed = {name: part.hexdigest()[:32] for name, part in parts.items()}
    return {"count": len(whole), "in any order": digest(sorted(whole)), "parts": hashed}


def computed(arrays: Iterable[np.ndarray]) -> dict[str, Any]:
    """Arrays that follow from other entries: another machine has their last digits otherwise.

    They are kept as numbers, and compared to rounding; so they should be few.
    """
    return {_COMPUTED: [[a.dtype.name, list(a.shape), a.ravel().tolist()] for a in arrays]}


def changes(known: Table, now: Table) -> list[str]:
    """What differs between two tables, in words; what the first does not state is not compared.

    Files of older versions state less.
    """
    texts = []
    for name, value in now.items():
        before = known.get(name, value)
        if before == value:
            continue
        if not (isinstance(before, Mapping) and isinstance(value, Mapping)):
            texts.append(f"another {name}")
        elif "parts" in value and "parts" in before:
            texts.append(_changed_contents(name, before, value))
        elif _COMPUTED in value and _COMPUTED in before:
            texts += _changed_setting(name, before, value)
        else:
            prefix = "" if name == "settings" else f"settings {name}."
            for key in value:
                texts += _changed_setting(f"{prefix}{key}", before.get(key, value[key]), value[key])
    return texts


def _changed_contents(name: str, before: Table, now: Table) -> str:
    if before["count"] != now["count"]:
        return f"{name}: {before['count']} structures, now {now['count']}"
    old, new = before["parts"], now["parts"]
    changed = [part for part in {**old, **new} if old.get(part) != new.get(part)]
    if before["in any order"] == now["in any order"] and changed != [IDS]:
        return f"order of the {name}"
    return f"{', '.join(changed)} of the {name}"


def _changed_setting(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        if _COMPUTED in before and _COMPUTED in now:
            return [] if _agree(before[_COMPUTED], now[_COMPUTED]) else [f"another {name}"]
        keys = dict.fromkeys([*before, *now])
        texts = (
            _changed_setting(f"{name}.{key}", before.get(key, _MISSING), now.get(key, _MISSING))
            for key in keys
        )
        return [text for part in texts for text in part]
    if before == now:
        return []
    if _HASH.fullmatch(str(before)) or _HASH.fullmatch(str(now)):
        return [f"another {name}"]
    shown = ("not there" if value is _MISSING else f"{value!r:.60}" for value in (before, now))
    return ["{} was {}, now {}".format(name, *shown)]


def _agree(before: Sequence[Any], now: Sequence[Any]) -> bool:
    if [entry[:2] for entry in before] != [entry[:2] for entry in now]:
        return False
    for (dtype, _, then), (_, _, values) in zip(before, now, strict=True):
        known, given = np.asarray(then, float), np.asarray(values, float)
        largest = np.abs(known[np.isfinite(known)]).max(initial=0.0)
        rounding = _ROUNDING.get(dtype, 0.0) * largest
        if not np.allclose(given, known, rtol=0, atol=rounding, equal_nan=True):
            return False
    return True


def check_table(
    what: str,
    known: Table,
    now: Table,
    fix: str,
    error: type[SurefieldError] = ConfigError,
    older: Table | None = None,
) -> None:
    """Refuse to go on with what was made from something else.

    Args:
        what: what is wrong, if anything differs.
        known: table of what is there.
        now: table of what is given.
        fix: how to start anew.
        error: class of the error.
        older: what files of older versions state; compared where nothing of `now` differs.

    Raises:
        SurefieldError: the tables differ; the message names in what.
    """
    changed = changes(known, now) or changes(known, older or {})
    if changed:
        raise error(what, got="; ".join(changed), fix=fix)


def check_inputs(path: Path, now: Table, fix: str) -> None:
    """`check_table` against the table in a file, which is written where there is none.

    Raises:
        ConfigError: the file holds another table.
    """
    now = json.loads(json_text(now))
    if not path.exists():
        write_atomic(path, json_text(now, indent=1) + "\n")
        return
    check_table(f"{path.parent} holds what was made from other inputs", read_json(path), now, fix)
