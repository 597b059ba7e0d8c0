from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from surefield.execution import stopwatch
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


def test_programs_in_programs_are_counted_once(monkeypatch) -> None:
    """Tracing a function includes the inner ones, which JAX reports first."""
    monkeypatch.setattr(stopwatch, "_compiling", compiling := stopwatch._Compiling())
    for now, seconds in ((10.0, 1.0), (12.0, 1.5), (13.0, 5.0), (20.0, 2.0)):
        monkeypatch.setattr(stopwatch.time, "perf_counter", lambda now=now: now)
        compiling._on_event("/jax/core/compile/jaxpr_trace_duration", seconds)
    assert stopwatch._compiling.seconds == 7.0
