"""What the first run compiles, with an empty cache: `python benchmarks/compilation.py`.

`sf.train` with all defaults (but for the number of epochs, on which no shape depends) on the silicon of
mlearn with all its sizes of structures, then `LLPR.fit` and predictions. Counted are the programs, and the
seconds of tracing, lowering and compilation that JAX reports. The second run has all in memory, so that its
processor time taken from that of the first run is what compiling costs, also on a busy machine; the third run
reads the cache that the first one filled.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax

SHARED = Path(__file__).resolve().parents[2] / "shared"
#: Seconds that the first training may take for compilation in all.
TARGET = 25.0
#: Stages as JAX names them; the persistent cache is asked within the last one.
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
#: A program that takes less is not listed by name.
LISTED = 0.5


class Compilations:
    """Seconds of every stage of every program, while it listens."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[str, float]]] = collections.defaultdict(list)
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, seconds: float, **details: object) -> None:
        if event in STAGES:
            self.seconds[STAGES[event]].append((str(details.get("fun_name", "")), seconds))

    def measure(self, title: str, work: Callable[[], object]) -> tuple[object, float]:
        """Do something, print what it compiled; its outcome and the seconds of processor time."""
        self.seconds.clear()
        begin, cpu = time.perf_counter(), time.process_time()
        outcome = work()
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        total = {stage: sum(s for _, s in self.seconds[stage]) for stage in STAGES.values()}
        print(
            f"{title:<28}{len(self.seconds['compile']):>9}"
            + "".join(f"{total[stage]:>9.1f}" for stage in STAGES.values())
            + f"{wall:>9.1f}{cpu:>9.1f}"
        )
        by_name: dict[str, list[float]] = collections.defaultdict(list)
        for name, seconds in self.seconds["compile"]:
            by_name[name].append(seconds)
        for name, values in sorted(by_name.items(), key=lambda item: -sum(item[1])):
            if sum(values) >= LISTED:
                print(f"    {name:<24}{len(values):>9}{'':>18}{sum(values):>9.1f}")
        return outcome, cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="Si", help="set of mlearn")
    arguments = parser.parse_args()

    import surefield as sf
    from surefield.execution.cache import enable_compilation_cache

    warnings.simplefilter("ignore")
    train_file, test_file = (
        SHARED / f"data/mlearn/{arguments.data}_{part}.xyz.xz" for part in ("train", "test")
    )
    frames = sf.read_frames(train_file)
    unseen = sf.read_frames(test_file)
    compilations = Compilations()
    with tempfile.TemporaryDirectory() as folder:
        enable_compilation_cache(folder)
        processor: list[float] = []
        for state in ("empty cache", "in memory", "full cache"):
            if state == "full cache":
                jax.clear_caches()
            heads = (f"{state}, seconds of", "programs", *STAGES.values(), "wall", "CPU")
            print("{:<28}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}".format(*heads))
            network = sf.MomentNetwork(species=[arguments.data])
            fit, seconds = compilations.measure("train", lambda n=network: sf.train(n, frames, epochs=1))
            processor.append(seconds)
            potential, _ = compilations.measure(
                "LLPR.fit", lambda f=fit: sf.LLPR.fit(f.potential, f.train_frames, f.validation_frames)
            )
            compilations.measure("predict unseen structures", lambda p=potential: p.predict(unseen))
    compiling = processor[0] - processor[1]
    print(f"tracing and compiling of the first training: {compiling:.1f} s of processor time")
    if compiling > TARGET:
        raise SystemExit(f"the target is {TARGET:g} s")


if __name__ == "__main__":
    main()
