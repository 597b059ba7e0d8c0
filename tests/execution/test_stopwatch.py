from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from surefield.execution.stopwatch import Stopwatch


def test_compiling_is_left_out_and_blocks_add_up() -> None:
    watch = Stopwatch()
    begin = time.perf_counter()
    with watch:
        program = jax.jit(lambda x: jnp.linalg.svd(jnp.sin(x) @ jnp.cos(x.T))[1])
        program(jnp.ones((7, 7))).block_until_ready()
    assert watch.seconds < 0.7 * (time.perf_counter() - begin)
    before = watch.seconds
    with watch:
        time.sleep(0.05)
    assert watch.seconds - before >= 0.05
