"""A submitted training: `python -m surefield.trainers.job FOLDER` does what the folder says."""

from __future__ import annotations

import sys
from pathlib import Path

from surefield.execution.cache import enable_compilation_cache
from surefield.trainers.job_folder import run_job


def main(folder: str) -> None:
    """Run the training of a folder; any error ends the process with its traceback."""
    enable_compilation_cache()
    run_job(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
