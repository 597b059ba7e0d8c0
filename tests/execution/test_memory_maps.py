from __future__ import annotations

import jax
import jax.numpy as jnp

from surefield.execution.memory_maps import release_compiled, share_of_maps


def test_few_maps_leave_programs_alone():
    assert 0 <= share_of_maps() < 1
    assert not release_compiled(highest=1.0)


def test_too_many_maps_drop_programs():
    traced = []

    @jax.jit
    def program(x):
        traced.append(x)
        return jnp.sin(x) + 1

    program(1.0)
    program(1.0)
    assert len(traced) == 1
    assert release_compiled(highest=-1.0)
    program(1.0)
    assert len(traced) == 2
