from __future__ import annotations

import subprocess
import sys

import pytest

from surefield.errors import ConfigError
from surefield.execution.memory import available_memory, check_memory


def test_work_that_fits_passes_and_other_work_is_refused():
    left = available_memory()
    assert 2**26 < left < 2**50
    check_memory("a fit", 1.0, "nothing", "nothing")
    with pytest.raises(ConfigError, match=r"a fit needs about .* GiB of memory.*got .*; 7 weights.*fewer"):
        check_memory("a fit", 2.0**60, "7 weights", "take fewer")


def test_the_limit_of_the_process_counts():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30));"
        "from surefield.execution.memory import available_memory; print(available_memory())"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < float(text) < 2**30
