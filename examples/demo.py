"""`make demo`: a potential of malonaldehyde from ten labels on, with GFN2-xTB as the labelling engine.

The molecule hands a hydrogen from one oxygen to the other. Ten displaced structures are labelled and a
potential is trained; walkers move with it at 500 and 700 K, and end where its uncertainty says that it knows
too little; ten of their structures are picked and labelled, and so on. In the end the potential runs 5 ps at
500 K beside the engine, and so does one of equally many labels that are drawn from plain dynamics. It ends in
a report to open in a browser; open it earlier and watch. Run it again, or interrupt it and run it again: it
goes on where it stopped. More rounds: `python examples/demo.py loop.n_rounds=+2`.
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
