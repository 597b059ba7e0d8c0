"""`make demo`: active learning of ethanol with GFN2-xTB as the labelling engine, beside random selection.

Molecular dynamics at 300 to 700 K makes a pool of structures; ten of them are labelled, a potential is
trained, its uncertainties choose ten more, and so on. It ends in a report to open in a browser. Run it
again, or interrupt it and run it again: it goes on where it stopped, with the compiled code of before.
"""

import os
import sys
import time
from pathlib import Path

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"


def main() -> None:
    # tblite's threaded sums differ in the last digits from run to run; one thread repeats exactly.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from surefield.cli.jobs import run_verb

    start = time.perf_counter()
    run_verb("loop", CONFIG, sys.argv[1:], dry_run=False, overwrite=False)
    print(f"done in {(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
