"""Code outside JAX, called from its programs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

ON_ONE_CORE = """
    import os
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import surefield
    import jax, numpy as np
    from surefield.execution.callback import call_outside

    def total(values):
        return np.asarray(values).sum()

    large = np.ones(300_000)
    print(jax.jit(lambda x: call_outside(total, jax.ShapeDtypeStruct((), float), x))(large))
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="needs Linux, which binds processes to cores"
)
def test_large_arrays_come_out_on_one_core():
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_ONE_CORE)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert float(done.stdout) == 300_000
