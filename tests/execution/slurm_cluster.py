"""A real Slurm of one node in a temporary folder, for tests; a plugin of pytest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

_CONFIG = """\
ClusterName=local
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
MinJobAge=3600
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_DAEMONS = ("slurmd", "slurmctld", "munged")


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Path]:
    """Folder of a running Slurm without accounting; its commands find it by SLURM_CONF.

    Skips where it cannot run. Session-wide, because starting takes seconds.
    """
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("needs root to start slurmd and munged")
    pytest.importorskip("submitit", reason="needs submitit: pip install 'surefield[slurm]'")
    # short, because the path of a socket may have a hundred letters only
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    before = os.environ.get("SLURM_CONF")
    try:
        _start(folder)
        yield folder
    finally:
        _stop(folder)
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    controller, daemon = _free_ports(2)
    config = folder / "slurm.conf"
    config.write_text(
        _CONFIG.format(folder=folder, controller=controller, daemon=daemon, cpus=os.cpu_count() or 1)
    )
    os.environ["SLURM_CONF"] = str(config)
    places = {"key-file": "key", "socket": "socket"}
    munge = [f"--{option}={folder}/munge.{ending}" for option, ending in places.items()]
    munge += [f"--{part}-file={folder}/munged.{part}" for part in ("pid", "log", "seed")]
    _run(["munged", *munge, "--force"])
    _run(["slurmctld", "-f", str(config)])
    _run(["slurmd", "-f", str(config), "-N", "localhost"])
    for _ in range(200):
        shown = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True)
        if shown.stdout.strip() == "idle":
            return
        time.sleep(0.1)
    logs = [(folder / f"{name}.log").read_text()[-2000:] for name in ("slurmctld", "slurmd")]
    raise RuntimeError("\n".join(["Slurm has not started", shown.stdout, shown.stderr, *logs]))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{command[0]} has not started: {done.stderr}")


def _stop(folder: Path) -> None:
    """End the daemons, by the numbers in their own files and no others."""
    for name in _DAEMONS:
        file = folder / f"{name}.pid"
        if not file.exists():
            continue
        number = int(file.read_text())
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(number, ending)
                for _ in range(100):
                    os.kill(number, 0)
                    if Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                        break
                    time.sleep(0.05)
                else:
                    continue
            break


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
