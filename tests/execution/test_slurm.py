"""Slurm workflows: what is made of the scheduler's answers, and jobs on a real Slurm without accounting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surefield.errors import ConfigError, ExecutionError
from surefield.execution.job_process import description
from surefield.execution.job_records import JobRecord
from surefield.execution.slurm_workflow import SlurmWorkflow
from surefield.execution.workflow import JobStatus

RESULT = "from pathlib import Path; Path('result.json').write_text('{}')"
WAIT = f"""import os, time
print('working', flush=True)
while not os.path.exists('go'): time.sleep(0.05)
{RESULT}"""


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def finished(flow: SlurmWorkflow, calc_id: str) -> JobStatus:
    flow.block_until_completed(calc_id)
    return flow.get_job_status(calc_id)


def until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


class Answers:
    """Programs that answer in place of Slurm's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def say(self, program: str, text: str, code: int = 0) -> None:
        stream = 2 if code else 1
        (self.folder / program).write_text(f"#!/bin/sh\ncat <<'END' >&{stream}\n{text}\nEND\nexit {code}\n")
        (self.folder / program).chmod(0o755)

    def state(self, name: str, reason: str = "None") -> None:
        self.say("squeue", f"16 RUNNING\n17 {name}")
        self.say("scontrol", f"JobId=17 JobName=a b JobState={name} Reason={reason} ExitCode=0:0")


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("surefield.execution.slurm_workflow._FRESH", -1.0)
    return Answers(folder)


@pytest.fixture
def flow(tmp_path: Path) -> SlurmWorkflow:
    return SlurmWorkflow(tmp_path / "my runs")


@pytest.fixture
def job(flow: SlurmWorkflow) -> JobRecord:
    """A job that Slurm has taken as number 17."""
    entries = {"workflow": "SLURM", "path": str(flow.make_path("T", "a")), "expects": "result.json"}
    entries |= {"details": {"walltime": None}, "submitter": description(os.getpid())}
    record = JobRecord.create(flow.root / "jobs", entries)
    record.add("queued", scheduler_id="17")
    return record


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("PENDING", "pending"),
        ("REQUEUE_HOLD", "pending"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
        ("CANCELLED", "cancelled"),
        ("TIMEOUT", "failed"),
        ("OUT_OF_MEMORY", "failed"),
    ],
)
def test_states(flow: SlurmWorkflow, job: JobRecord, answers: Answers, name: str, state: str) -> None:
    answers.state(name, "TimeLimit")
    status = flow.get_job_status(job.calc_id)
    assert status.state == state
    if status.ended:
        assert status.message.startswith(f"Slurm job 17 is {name} (TimeLimit)")


def test_an_unknown_state_is_pending_and_said_once(
    flow: SlurmWorkflow, job: JobRecord, answers: Answers
) -> None:
    answers.state("SOMETHING_NEW")
    with pytest.warns(UserWarning, match="unknown state 'SOMETHING_NEW' of Slurm job 17, taken as pending"):
        assert flow.get_job_status(job.calc_id).state == "pending"
    assert flow.get_job_status(job.calc_id).state == "pending"


def test_a_job_that_slurm_calls_finished_and_that_left_nothing_has_failed(
    flow: SlurmWorkflow, job: JobRecord, answers: Answers
) -> None:
    answers.state("COMPLETED")
    (job.folder / "17_0_log.err").write_text("line of the batch script\n")
    status = flow.get_job_status(job.calc_id)
    assert status.state == "failed"
    assert "left no complete result.json" in status.message
    assert status.message.endswith("line of the batch script")


def test_a_result_counts_if_slurm_calls_the_job_finished(
    flow: SlurmWorkflow, job: JobRecord, answers: Answers
) -> None:
    (job.path / "result.json").write_text("{}")
    answers.state("RUNNING")
    assert flow.get_job_status(job.calc_id).state == "running"
    answers.state("COMPLETED")
    assert flow.get_job_status(job.calc_id).state == "done"


def test_a_forgotten_job_is_known_by_what_it_left(
    flow: SlurmWorkflow, job: JobRecord, answers: Answers
) -> None:
    answers.say("squeue", "16 RUNNING")
    answers.say("scontrol", "slurm_load_jobs error: Invalid job id specified", 1)
    other = JobRecord.create(flow.root / "jobs", job.submitted)
    other.add("queued", scheduler_id="15")
    (other.folder / "exit_code").write_text("0\n")
    (job.path / "result.json").write_text("{}")
    assert flow.get_job_status(other.calc_id) == JobStatus(job.path, "done", 0)
    status = flow.get_job_status(job.calc_id)
    assert status.state == "failed"
    assert "Slurm does not know job 17 any more" in status.message


def test_a_scheduler_that_does_not_answer_changes_nothing(
    flow: SlurmWorkflow, job: JobRecord, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    answers.say("squeue", silence, 1)
    status = flow.get_job_status(job.calc_id)
    assert status.state == "pending"
    assert status.message == f"Slurm does not answer: {silence}"
    answers.state("RUNNING")
    assert flow.get_job_status(job.calc_id).state == "running"
    answers.state("FAILED")
    answers.say("scontrol", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    assert flow.get_job_status(job.calc_id).state == "running"
    monkeypatch.setattr("surefield.execution.slurm_workflow._PATIENCE", 0.2)
    (answers.folder / "squeue").write_text("#!/bin/sh\nexec sleep 5\n")
    assert "squeue has not answered for 0.2 s" in flow.get_job_status(job.calc_id).message
    (job.folder / "exit_code").write_text("2\n")
    assert flow.get_job_status(job.calc_id).exit_code == 2


def test_no_slurm_at_all(
    flow: SlurmWorkflow, job: JobRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExecutionError, match="no command 'squeue'; run this where"):
        flow.get_job_status(job.calc_id)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ExecutionError, match=r"need submitit; pip install 'surefield\[slurm\]'"):
        flow.submit_job(["true"], job.path)


def test_options_that_the_workflow_needs_for_itself(flow: SlurmWorkflow, tmp_path: Path) -> None:
    for name in ("array", "kill_on_invalid_dep"):
        with pytest.raises(ConfigError, match=f"extra_args may not set '{name}'"):
            flow.submit_job(["true"], tmp_path, {"extra_args": {name: "1"}})


def _shown(scheduler_id: str) -> dict[str, str]:
    command = ["scontrol", "--oneliner", "show", "job", scheduler_id]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(entry.split("=", 1) for entry in text.split() if "=" in entry)


def _number(flow: SlurmWorkflow, calc_id: str) -> str:
    event = JobRecord.read(flow.root / "jobs", calc_id).event("queued")
    assert event is not None
    return event["scheduler_id"]


@pytest.mark.slow
@pytest.mark.usefixtures("slurm_cluster")
class TestRealSlurm:
    def test_a_job_and_its_options(self, flow: SlurmWorkflow, monkeypatch: pytest.MonkeyPatch) -> None:
        path = flow.make_path("Trainer", "first try")
        code = (
            f"import os; print(os.environ['FROM_SETUP'], os.environ['SLURM_NTASKS'], os.getcwd()); {RESULT}"
        )
        extra = {"setup": ["export FROM_SETUP=made"], "teardown": "false", "mem": "100M", "exclusive": False}
        details = {"nodes": 1, "tasks": 1, "walltime": 2.5, "queue": "debug", "extra_args": extra}
        calc_id = flow.submit_job(python(code), path, details | {"synchronous": True})
        assert flow.get_job_status(calc_id) == JobStatus(path, "done", 0)
        assert (path / "log.txt").read_text() == f"made 1 {path}\n"
        shown = _shown(_number(flow, calc_id))
        assert (shown["TimeLimit"], shown["Partition"], shown["NumTasks"]) == ("00:03:00", "debug", "1")
        assert shown["JobName"] == f"surefield-{calc_id}"
        asked = "import sys; from surefield.execution.workflows import get_workflow; "
        asked += (
            "w = get_workflow({'workflow_type': 'SLURM'}, sys.argv[1]); print(w.get_job_status(sys.argv[2]))"
        )
        told = subprocess.run([sys.executable, "-c", asked, str(flow.root), calc_id], capture_output=True)
        assert b"state='done', exit_code=0" in told.stdout

    def test_a_failure_keeps_its_exit_code_and_cancels_what_depends_on_it(self, flow: SlurmWorkflow) -> None:
        bad, good = flow.make_path("Trainer", "bad"), flow.make_path("Trainer", "good")
        code = f"{WAIT}; raise SystemExit(3)"
        one = flow.submit_job(python(code), bad, {"extra_args": {"teardown": ["true"]}})
        two = flow.submit_job(python(RESULT), good, {"dependencies": one})
        until(lambda: flow.get_job_status(one).state == "running")
        assert flow.get_job_status(two).state == "pending"
        (bad / "go").touch()
        status = finished(flow, one)
        assert (status.state, status.exit_code) == ("failed", 3)
        assert status.message.endswith("working")
        assert finished(flow, two).state == "cancelled"
        assert not (good / "result.json").exists()
        late = flow.submit_job(python(RESULT), flow.make_path("Trainer", "late"), {"dependencies": [one]})
        assert flow.get_job_status(late).state == "cancelled"

    @pytest.mark.parametrize("who", ["command", "around it"])
    def test_a_killed_job_has_failed_at_once(self, flow: SlurmWorkflow, who: str) -> None:
        path = flow.make_path("Trainer", "killed")
        calc_id = flow.submit_job(python(WAIT), path)
        until(lambda: (path / "log.txt").exists() and (path / "log.txt").read_text() == "working\n")
        pid = json.loads((flow.root / "jobs" / calc_id / "process.json").read_text())["pid"]
        if who == "command":
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        status = finished(flow, calc_id)
        assert time.monotonic() - begin < 20
        assert status.state == "failed"
        assert status.exit_code == (137 if who == "command" else None)
        assert ("signal 9" if who == "command" else "is FAILED (NonZeroExitCode)") in status.message

    def test_cancelling_and_silence(self, flow: SlurmWorkflow, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = [flow.make_path("Trainer", "cancelled") for _ in range(2)]
        one, two = (flow.submit_job(python(WAIT), path) for path in paths)
        until(lambda: flow.get_job_status(one).state == "running")
        with monkeypatch.context() as silence:
            silence.setenv("SLURM_CONF", "/nowhere/slurm.conf")
            silence.setattr("surefield.execution.slurm_workflow._PATIENCE", 1.0)
            time.sleep(1.2)  # longer than a list of jobs is kept
            status = flow.get_job_status(one)
            assert (status.state, status.message[:21]) == ("running", "Slurm does not answer")
        subprocess.run(["scancel", _number(flow, one)], check=True)
        flow.cancel_job(two)
        assert "CANCELLED" in finished(flow, one).message
        assert [flow.get_job_status(i).state for i in (one, two)] == ["cancelled"] * 2
        until(lambda: _shown(_number(flow, two))["JobState"] == "CANCELLED")

    def test_what_slurm_refuses(self, flow: SlurmWorkflow) -> None:
        path = flow.make_path("Trainer", "refused")
        with pytest.raises(ExecutionError, match=r"Slurm does not take the job; got .*partition") as raised:
            flow.submit_job(python(RESULT), path, {"queue": "nowhere"})
        assert "sinfo" in str(raised.value)
