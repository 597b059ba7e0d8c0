"""LTAU on many training atoms: `python benchmarks/ltau_score.py` (ATOMS FEATURES EPOCHS QUERIES).

The log is a memory-mapped file of float32; descriptors and errors are made up. Prints processor seconds of
counting, of the distances that tell outliers, and of exact queries. Fails if the memory that is held besides
the descriptors exceeds that of the counts (int32) and 1 GB. Pages of the file do not count: the system takes
them back when anyone needs them.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

import surefield as sf

BINS = 100
#: Bytes beside descriptors and counts.
ALLOWED = 1e9


def write_log(path: Path, n_epochs: int, n_atoms: int) -> None:
    """A log, epoch by epoch."""
    log = np.lib.format.open_memmap(path, "w+", np.float32, (n_epochs, n_atoms))
    rng = np.random.default_rng(0)
    for epoch in range(n_epochs):
        log[epoch] = np.exp(rng.standard_normal(n_atoms, np.float32) - 2)
    log.flush()


def held() -> float:
    """Memory of this process now that is no page of a file, bytes."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return float(int(resident) - int(shared)) * resource.getpagesize()


class Peak(threading.Thread):
    """Looks at the memory of this process all the time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self._over = held(), threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, held())

    def stop(self) -> float:
        """The most that was held, bytes."""
        self._over.set()
        return max(self.bytes, held())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"atoms": 200_000, "features": 50, "epochs": 200, "queries": 1000}.items():
        parser.add_argument(name, type=int, nargs="?", default=default)
    n = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(1)
    descriptors, queries = (rng.standard_normal((size, n.features)) for size in (n.atoms, n.queries))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "errors.npy"
        write_log(path, n.epochs, n.atoms)
        before, most = held(), Peak()
        most.start()
        begin = time.process_time()
        score = sf.LTAUForcesUQScore(descriptors, path, from_error_logs=True, nbins=BINS)
        counting = time.process_time() - begin
    begin = time.process_time()
    score.predict(queries[:1], 10)
    outliers = time.process_time() - begin
    begin = time.process_time()
    score.predict(queries, 10)
    exact = time.process_time() - begin
    besides = most.stop() - before
    allowed = 4.0 * n.atoms * BINS + ALLOWED
    print(f"{n.atoms} training atoms, {n.features} features, {n.epochs} epochs:")
    print(f"  counted in {counting:.1f} s ({1e9 * counting / n.atoms / n.epochs:.0f} ns an error)")
    print(f"  distances among training atoms, once: {outliers:.1f} s")
    each = 1e3 * exact / n.queries
    print(f"  {n.queries} atoms by the exact index, k = 10: {exact:.2f} s ({each:.2f} ms each)")
    print(f"  memory besides the descriptors: {besides / 1e9:.2f} GB, allowed {allowed / 1e9:.2f} GB")
    return int(besides > allowed)


if __name__ == "__main__":
    sys.exit(main())
