"""Workflows: folders, jobs on this machine and through executors, and how jobs fail."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from surefield.errors import ConfigError, ExecutionError
from surefield.execution import job_process
from surefield.execution.executor import SerialExecutor
from surefield.execution.executor_workflow import ExecutorWorkflow
from surefield.execution.job_details import JobDetails
from surefield.execution.job_records import JobRecord, numbered_folder
from surefield.execution.local_workflow import LocalWorkflow
from surefield.execution.slurm_workflow import SlurmWorkflow
from surefield.execution.workflow import JobStatus, Workflow
from surefield.execution.workflows import get_workflow

RESULT = "from pathlib import Path; Path('result.json').write_text('{}')"
#: a job that runs until it is stopped or the file `go` appears
WAIT = f"import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\n{RESULT}"


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def finished(workflow: Workflow, calc_id: str) -> JobStatus:
    workflow.block_until_completed(calc_id)
    return workflow.get_job_status(calc_id)


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def process_of(workflow: Workflow, calc_id: str) -> int:
    """Number of the process around a job."""
    return json.loads((workflow.root / "jobs" / calc_id / "process.json").read_text())["pid"]


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def flow(tmp_path: Path) -> LocalWorkflow:
    return LocalWorkflow(tmp_path / "my runs")  # with a space


@pytest.fixture
def folder(flow: LocalWorkflow) -> Path:
    return flow.make_path("Trainer", "tantalum/first try")


def test_folders_count_up(flow: LocalWorkflow) -> None:
    paths = [flow.make_path("Trainer", "a/b") for _ in range(3)]
    assert paths == [flow.root / "Trainer/a/b" / name for name in ("00000", "00001", "00002")]
    assert flow.make_path("Trainer", "c").name == "00000"


def test_folders_are_new_while_others_make_them(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: numbered_folder(tmp_path), range(40)))
    assert sorted(p.name for p in made) == [f"{i:05d}" for i in range(40)]


@pytest.mark.parametrize("name", ["", ".", "/absolute", "../up", "a/../../b", None])
def test_names_that_lead_elsewhere_are_refused(flow: LocalWorkflow, name: str) -> None:
    with pytest.raises(ConfigError, match="unusable name of a folder"):
        flow.make_path("Trainer", name)
    with pytest.raises(ConfigError, match="unusable name of a folder"):
        flow.make_path(name, "a")
    with pytest.raises(ConfigError, match="holds the records of jobs"):
        flow.make_path("jobs", "a")
    assert not flow.root.exists()


def test_a_job_runs_in_its_folder_and_leaves_its_log(flow: LocalWorkflow, folder: Path) -> None:
    code = f"import os, sys; print('in', os.getcwd()); print('aside', file=sys.stderr); {RESULT}"
    details = {"walltime": 5}
    calc_id = flow.submit_job(python(code), folder, details)
    assert finished(flow, calc_id) == JobStatus(folder, "done", 0, "")
    assert sorted((folder / "log.txt").read_text().splitlines()) == ["aside", f"in {folder}"]
    assert flow.get_job_path(calc_id) == folder
    assert details == {"walltime": 5}
    assert Path.cwd() != folder


def test_submitting_does_not_wait_unless_asked_to(flow: LocalWorkflow, folder: Path) -> None:
    calc_id = flow.submit_job(python(WAIT), folder)
    assert flow.get_job_status(calc_id).state == "running"
    (folder / "go").touch()
    assert finished(flow, calc_id).state == "done"
    other = flow.make_path("Trainer", "b")
    calc_id = flow.submit_job(python(RESULT), other, {"synchronous": True})
    assert (other / "result.json").exists()
    assert flow.get_job_status(calc_id).state == "done"


def test_a_job_outlives_its_submission_and_any_process_can_ask(flow: LocalWorkflow, folder: Path) -> None:
    start = (
        "import sys; from surefield.execution.workflows import get_workflow;"
        "print(get_workflow(None, sys.argv[1]).submit_job([sys.executable, '-c', sys.argv[3]], sys.argv[2]))"
    )
    command = [sys.executable, "-c", start, str(flow.root), str(folder), WAIT]
    calc_id = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert flow.get_job_status(calc_id).state == "running"
    (folder / "go").touch()
    assert finished(flow, calc_id).state == "done"


def test_failures_say_the_reason_and_the_end_of_the_log(flow: LocalWorkflow, folder: Path) -> None:
    code = f"{RESULT}; [print('step', i) for i in range(100)]; raise SystemExit(3)"
    status = finished(flow, flow.submit_job(python(code), folder))
    assert (status.state, status.exit_code) == ("failed", 3)
    assert status.message.startswith(f"exit code 3; last lines of {folder / 'log.txt'}:\nstep 80\n")
    assert status.message.endswith("step 99")


@pytest.mark.parametrize("code", ["pass", "open('result.json', 'w').write('{\"loss\": 1')"])
def test_a_job_without_a_whole_result_has_failed(flow: LocalWorkflow, folder: Path, code: str) -> None:
    status = finished(flow, flow.submit_job(python(code), folder))
    assert (status.state, status.exit_code) == ("failed", 0)
    assert "left no complete result.json" in status.message
    assert f"{folder / 'log.txt'} is empty" in status.message


def test_another_result_or_none_may_be_expected(flow: LocalWorkflow, folder: Path) -> None:
    assert finished(flow, flow.submit_job(python("pass"), folder, expects=None)).state == "done"
    assert finished(flow, flow.submit_job(python("pass"), folder, expects="x.npz")).state == "failed"
    code = "open('x.npz', 'w')"
    assert finished(flow, flow.submit_job(python(code), folder, expects="x.npz")).state == "done"
    with pytest.raises(ConfigError, match=r"holds a x\.npz already"):
        flow.submit_job(python(code), folder, expects="x.npz")


@pytest.mark.parametrize("who", ["command", "process around it"])
def test_a_killed_job_has_failed_at_once(flow: LocalWorkflow, folder: Path, who: str) -> None:
    calc_id = flow.submit_job(python(f"print('working', flush=True)\n{WAIT}"), folder)
    around = process_of(flow, calc_id)
    until(
        lambda: children(around) and "working" in flow.get_job_path(calc_id).joinpath("log.txt").read_text()
    )
    command = children(around)[0]
    os.kill(around if who != "command" else command, signal.SIGKILL)
    status = finished(flow, calc_id)
    assert status.state == "failed"
    assert status.message.endswith("working")
    if who == "command":
        assert status.exit_code == 137
        assert "killed by signal 9" in status.message
    else:
        assert "its process was killed" in status.message
        until(lambda: job_process.identity(command) is None)  # nothing goes on behind one's back
    (folder / "result.json").write_text("{}")
    assert flow.get_job_status(calc_id) == status


def test_the_walltime_ends_a_job_and_what_it_started(flow: LocalWorkflow, folder: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    begin = time.monotonic()
    status = finished(flow, flow.submit_job(python(code), folder, {"walltime": 0.5 / 60}))
    assert time.monotonic() - begin < 8
    assert (status.state, status.exit_code) == ("failed", 124)
    assert status.message.startswith("stopped after its walltime of 0.00833333 minutes")


def test_a_program_that_is_not_there(flow: LocalWorkflow, folder: Path) -> None:
    status = finished(flow, flow.submit_job(["no-such-program"], folder))
    assert (status.state, status.exit_code) == ("failed", 127)
    assert "cannot start no-such-program" in status.message


def test_cancelling(flow: LocalWorkflow, folder: Path) -> None:
    calc_id = flow.submit_job(python(WAIT), folder)
    around = process_of(flow, calc_id)
    flow.cancel_job(calc_id)
    assert flow.get_job_status(calc_id) == JobStatus(folder, "cancelled", None, "cancelled by cancel_job")
    until(lambda: job_process.identity(around) is None)
    other = flow.submit_job(python("pass"), folder, {"synchronous": True}, expects=None)
    flow.cancel_job(other)
    assert flow.get_job_status(other).state == "done"


def test_dependencies(flow: LocalWorkflow) -> None:
    first, second, third = (flow.make_path("Trainer", "chain") for _ in range(3))
    one = flow.submit_job(python(WAIT), first)
    threading.Timer(0.3, (first / "go").touch).start()
    code = f"import os; assert os.path.exists({str(first / 'result.json')!r}); {RESULT}"
    two = flow.submit_job(python(code), second, {"dependencies": one})
    assert finished(flow, two).state == "done"
    bad = flow.submit_job(python("raise SystemExit(1)"), third)
    three = flow.submit_job(python(RESULT), third, {"dependencies": [one, bad]})
    status = flow.get_job_status(three)
    assert status.state == "cancelled"
    assert status.message == f"it depends on the job in {third}, which is failed"
    assert not (third / "result.json").exists()
    with pytest.raises(ConfigError, match="there is no job '99999'"):
        flow.submit_job(python(RESULT), third, {"dependencies": ["99999"]})


def test_ids_are_unique_among_threads_and_the_record_only_grows(flow: LocalWorkflow) -> None:
    paths = [flow.make_path("Trainer", "many") for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda p: flow.submit_job(python(RESULT), p), paths))
    assert len(set(ids)) == 6
    flow.block_until_completed(ids)
    for calc_id, path in zip(ids, paths, strict=True):
        assert flow.get_job_path(calc_id) == path
        lines = (flow.root / "jobs" / calc_id / "record.jsonl").read_text().splitlines()
        assert [json.loads(line)["event"] for line in lines] == ["submitted", "queued", "ended"]


def test_a_submission_that_was_killed_is_a_failed_job(flow: LocalWorkflow, folder: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    submitter = job_process.description(ended.pid)
    ended.wait()
    entries = {"workflow": "LOCAL", "path": str(folder), "expects": None, "details": {"walltime": None}}
    record = JobRecord.create(flow.root / "jobs", entries | {"submitter": submitter})
    status = flow.get_job_status(record.calc_id)
    assert status.state == "failed"
    assert "ended before the job was started" in status.message
    (flow.root / "jobs/00099").mkdir()
    with pytest.raises(ConfigError, match="was never submitted"):
        flow.get_job_status("00099")


def test_module_paths_hold_in_the_folder_of_the_job(
    flow: LocalWorkflow, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/found_here.py").write_text(RESULT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "here")
    assert finished(flow, flow.submit_job([sys.executable, "-m", "found_here"], folder)).state == "done"


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"wall_time": 3}, "unknown key 'wall_time' in job_details; did you mean 'walltime'"),
        ({"nodes": 0}, "unusable nodes"),
        ({"tasks": True}, "unusable tasks"),
        ({"walltime": "1:00"}, "unusable walltime in job_details; got '1:00'; expected minutes"),
        ({"synchronous": 1}, "unusable synchronous"),
        ({"dependencies": [3]}, "unusable dependencies"),
        ({"extra_args": ["--mem=4G"]}, "unusable extra_args"),
        ({"nodes": 2}, "nodes of job_details has no effect on this machine; got 2"),
        ({"queue": "debug"}, "queue of job_details has no effect on this machine"),
        ({"extra_args": {"mem": "4G"}}, "extra_args of job_details has no effect on this machine"),
        (3, "unusable job_details"),
    ],
)
def test_details_that_cannot_be_honoured(
    flow: LocalWorkflow, tmp_path: Path, details: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        flow.submit_job(python("pass"), tmp_path, details)
    assert not flow.root.exists()


def test_details_have_defaults() -> None:
    given = {"tasks": 4, "extra_args": {"mem": "4G"}}
    details = JobDetails.read(given, {"tasks": 2, "queue": "debug"})
    assert (details.tasks, details.queue, details.synchronous) == (4, "debug", False)
    assert given == {"tasks": 4, "extra_args": {"mem": "4G"}}
    assert JobDetails.read(None) == JobDetails()


@pytest.mark.parametrize("command", ["echo a", [], [1], [Path("x")]])
def test_commands_that_are_no_lists_of_words(flow: LocalWorkflow, tmp_path: Path, command: list) -> None:
    with pytest.raises(ConfigError, match="unusable command"):
        flow.submit_job(command, tmp_path)
    with pytest.raises(ConfigError, match="folder of the job does not exist"):
        flow.submit_job(["true"], tmp_path / "nowhere")


def test_unknown_jobs(flow: LocalWorkflow, folder: Path) -> None:
    with pytest.raises(ConfigError, match="it has no jobs at all"):
        flow.get_job_status("00000")
    flow.submit_job(python("pass"), folder, {"synchronous": True})
    for name in ("00001", "../jobs/00000", ""):
        with pytest.raises(ConfigError, match="there is no job"):
            flow.get_job_status(name)
    with pytest.raises(ConfigError, match="not of this workflow; got SLURM; expected LOCAL"):
        SlurmWorkflow(flow.root).get_job_status("00000")


class Idle(Executor):
    """Takes calls and never starts them."""

    def __init__(self) -> None:
        self.futures: list[Future] = []

    def submit(self, fn, /, *args, **kwargs) -> Future:
        self.futures.append(Future())
        return self.futures[-1]


def test_executors(tmp_path: Path) -> None:
    with (
        SerialExecutor() as serial,
        ThreadPoolExecutor(2) as threads,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes,
    ):
        for executor in (serial, threads, processes):
            flow = get_workflow(executor, tmp_path / "runs")
            good, bad = flow.make_path("T", "good"), flow.make_path("T", "bad")
            one, two = flow.submit_job(python(RESULT), good), flow.submit_job(python("1/0"), bad)
            again = get_workflow(executor, tmp_path / "runs")  # as a second call of a trainer makes it
            assert finished(again, one).state == "done"
            status = finished(again, two)
            assert (status.state, status.exit_code) == ("failed", 1)
            assert "ZeroDivisionError" in status.message


def test_pending_lost_and_cancelled_futures(tmp_path: Path) -> None:
    idle = Idle()
    flow = ExecutorWorkflow(idle, tmp_path)
    path = flow.make_path("T", "a")
    ids = [flow.submit_job(python(RESULT), path) for _ in range(3)]
    assert flow.get_job_status(ids[0]).state == "pending"
    assert LocalWorkflow(tmp_path).get_job_status(ids[0]).state == "pending"
    futures = idle.futures
    futures[0].set_exception(RuntimeError("worker lost"))
    status = finished(flow, ids[0])
    assert status.state == "failed"
    assert "worker lost" in status.message
    futures[1].cancel()
    assert finished(flow, ids[1]).state == "cancelled"
    flow.cancel_job(ids[2])
    assert futures[2].cancelled()
    assert flow.get_job_status(ids[2]).state == "cancelled"


def test_an_executor_that_is_closed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        pass
    flow = ExecutorWorkflow(threads, tmp_path)
    with pytest.raises(ExecutionError, match="does not take the job; got cannot schedule new futures"):
        flow.submit_job(python("pass"), flow.make_path("T", "a"))
    status = flow.get_job_status("00000")
    assert status.state == "failed"
    assert "not submitted" in status.message


def test_forms_of_workflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert get_workflow().root == tmp_path / "trainer"
    flow = get_workflow(
        {"workflow_type": "LOCAL", "workflow_args": {"root": "x", "defaults": {"walltime": 9}}}
    )
    assert isinstance(flow, LocalWorkflow)
    assert (flow.root, flow.defaults) == (tmp_path / "x", {"walltime": 9})
    assert get_workflow(flow) is flow
    assert isinstance(get_workflow({"workflow_type": "SLURM"}, "y"), SlurmWorkflow)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        ("LOCAL", "unusable workflow; got 'LOCAL'"),
        ({"workflow_type": "SLURMM"}, "did you mean 'SLURM'.*through an executor"),
        ({"workflow_tipe": "LOCAL"}, "unknown key 'workflow_tipe' in workflow; did you mean 'workflow_type'"),
        ({"workflow_args": {"rot": "x"}}, "unknown key 'rot' in workflow_args; did you mean 'root'"),
        ({"workflow_args": {"defaults": {"queue": "x"}}}, "queue of job_details has no effect"),
    ],
)
def test_workflows_that_are_none(workflow: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_workflow(workflow)
