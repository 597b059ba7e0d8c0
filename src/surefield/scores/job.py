"""A batch of a score as a job: `python -m surefield.scores.job FOLDER` does what the folder says."""

from __future__ import annotations

import sys
from pathlib import Path

from surefield.execution.cache import enable_compilation_cache
from surefield.execution.task_folder import Task, run_task
from surefield.scores.classes import score_class
from surefield.scoring.jobs import CALL, call_of

__all__ = ["main"]


def main(folder: str) -> None:
    """Compute the scores of a folder; any error ends the process with its traceback."""
    enable_compilation_cache()
    run_task(Path(folder), {CALL: _score})


def _score(task: Task, folder: Path) -> None:
    """Repeat the call of `Score.run` on one batch; the result is written last."""
    settings, arguments, data = call_of(task, folder)
    score = score_class(task.arguments["class"])(**settings)
    score.compute_and_save(data, arguments, folder, task.arguments["described"])


if __name__ == "__main__":
    main(sys.argv[1])
