from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from surefield.errors import ExecutionError
from surefield.execution.claim import claim


def test_one_has_it(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with claim(path) as first, claim(path) as second:
        assert (first, second) == (True, False)
    assert not path.exists()
    with claim(path) as again:
        assert again
    with pytest.raises(ExecutionError, match="No such file"), claim(tmp_path / "nowhere" / "claim"):
        pass


def test_it_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom surefield.execution.claim import claim\n"
        "with claim(Path(sys.argv[1])) as claimed:\n    print(claimed, flush=True)\n    time.sleep(100)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "True\n"
        with claim(path) as claimed:
            assert not claimed
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with claim(path) as claimed:
        assert claimed
