"""Random maps of long rows to short ones that keep inner products on average."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int

from surefield.errors import ConfigError

__all__ = [
    "GAUSSIAN_BYTES",
    "SKETCHES",
    "SKETCH_BLOCK",
    "SketchKind",
    "checked_width",
    "count_sketch",
    "gaussian_block",
    "gaussian_sketch",
]

SketchKind = Literal["gaussian", "countsketch", "auto", "none"]
SKETCHES: Final[tuple[SketchKind, ...]] = ("gaussian", "countsketch", "auto", "none")

#: Entries of a row whose random numbers have one counter of Philox, so that any block can be made on its own.
SKETCH_BLOCK: Final = 65_536
#: Matrices of more bytes in float32 are replaced by a count sketch where the choice is free.
GAUSSIAN_BYTES: Final = 512 * 2**20


def checked_width(width: int) -> int:
    """The width of a sketch, else `ConfigError`."""
    if not 1 <= width <= 65_536:
        raise ConfigError(f"the width of a sketch must lie in 1..65536, got {width}")
    return int(width)


def count_sketch(
    length: int, width: int, seed: int
) -> tuple[Int[np.ndarray, " length"], Int[np.ndarray, " length"]]:
    """Place in 0..width-1 and sign ±1 of every entry: entries are added up by place, with their sign.

    Charikar, Chen, Farach-Colton, Theor. Comput. Sci. 312, 3 (2004).
    """
    places, signs = [], []
    for rng, size in _blocks(length, seed):
        places.append(rng.integers(0, width, SKETCH_BLOCK, dtype=np.int32)[:size])
        signs.append((2 * rng.integers(0, 2, SKETCH_BLOCK, dtype=np.int8) - 1)[:size])
    return np.concatenate(places), np.concatenate(signs)


def gaussian_sketch(
    rows: Float[np.ndarray, "n_rows length"], width: int, seed: int
) -> Float[np.ndarray, "n_rows width"]:
    """Rows times a matrix of independent N(0, 1/width), made block by block."""
    result = np.zeros((len(rows), width))
    start = 0
    for rng, size in _blocks(rows.shape[1], seed):
        result += rows[:, start : start + size] @ rng.standard_normal((size, width))
        start += size
    return result / np.sqrt(width)


def gaussian_block(block: int, rows: int, width: int, seed: int) -> Float[np.ndarray, "rows width"]:
    """Independent N(0, 1/width) numbers of one block of the matrix of `gaussian_sketch`."""
    return _generator(block, seed).standard_normal((rows, width)) / np.sqrt(width)


def _generator(block: int, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, block]))


def _blocks(length: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    for block in range(-(-length // SKETCH_BLOCK)):
        yield _generator(block, seed), min(SKETCH_BLOCK, length - block * SKETCH_BLOCK)
