"""A submitted training: `python -m surefield.trainers.job FOLDER` does what the folder says."""

from __future__ import annotations

import sys
from pathlib import Path

from surefield.execution.cache import enable_compilation_cache
from surefield.trainers.job_folder import read_inputs
from surefield.trainers.run import execute


def main(folder: str) -> None:
    """Run the training of a folder; any error ends the process with its traceback."""
    enable_compilation_cache()
    path = Path(folder)
    execute(*read_inputs(path), path)


if __name__ == "__main__":
    main(sys.argv[1])
