"""Files as bad copies leave them."""

from __future__ import annotations

import numpy as np


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Content that is truncated, or has one to three flipped bits, or two lines swapped."""
    kind = rng.integers(3)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            changed[place] ^= 1 << rng.integers(8)
        return bytes(changed)
    lines = content.splitlines(keepends=True)
    i, j = rng.integers(len(lines), size=2)
    lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)
