from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from surefield.errors import ConfigError
from surefield.execution.memory import _control_groups, available_memory, check_memory


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


VERSIONS = {
    "": ("memory.max", "memory.current", "active_file", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file"),
}


def group(folder: Path, controller: str, limit: int | str, used: int, cached: int = 0) -> None:
    limit_file, used_file, active, inactive = VERSIONS[controller]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / used_file).write_text(f"{used}\n")
    text = f"anon {used - cached}\nfile {cached}\n{active} {cached // 4}\n{inactive} {cached - cached // 4}\n"
    (folder / "memory.stat").write_text(text)


@pytest.mark.parametrize("controller", VERSIONS)
def test_pages_of_files_in_a_control_group_are_memory_that_is_left(tmp_path: Path, controller: str):
    own = tmp_path / "own"
    own.write_text(f"9:cpu,cpuacct:/a\n4:{controller}:/outer/inner\n2:pids:/b\n")
    assert _control_groups(tmp_path, own) == float("inf")  # no such folders
    top = tmp_path / controller
    group(top / "outer" / "inner", controller, 8 * 2**30, 7 * 2**30, cached=6 * 2**30)
    assert _control_groups(tmp_path, own) == 7 * 2**30
    group(top / "outer", controller, 5 * 2**30, 3 * 2**30)  # the group around it leaves less
    assert _control_groups(tmp_path, own) == 2 * 2**30
    group(top / "outer", controller, "max", 3 * 2**30)
    group(top, controller, 4 * 2**30, 3 * 2**30)  # of a container, whose path is that of the machine
    assert _control_groups(tmp_path, own) == 2**30
    group(top, controller, "?", 0)
    group(top / "outer" / "inner", controller, "max", 0)
    assert _control_groups(tmp_path, own) == float("inf")
    assert _control_groups(tmp_path, tmp_path / "none") == float("inf")
