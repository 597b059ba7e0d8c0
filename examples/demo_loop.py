"""`make demo-loop`: how many labels does the loop save against labels drawn from plain dynamics?

Malonaldehyde at 500 K, GFN2-xTB as the engine, three seeds. The engine's own dynamics give a test set, and
for each seed a trajectory from which labels are drawn at random. Potentials of the loop and of these labels
are fitted in the same way; errors on the test set are compared at equal labels, and labels at equal errors.
Whatever comes out is printed, and kept in runs/demo_loop/result.json. It goes on where it stopped.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONFIG = HERE / "configs" / "demo_loop.yaml"
ROOT = HERE.parent / "runs" / "demo_loop"
SEEDS = (0, 1, 2)
KELVIN = 500.0
#: Trajectories of the test set, and structures in all.
N_TRAJECTORIES, N_TEST = 4, 100
#: eV/Å that the loop is to reach.
GOAL = 0.05


def dynamics(path: Path, n: int, trajectories: int, seed: int) -> Any:
    """Labelled structures of the engine's dynamics, 25 fs apart; made once."""
    import surefield as sf
    from surefield.exploration.sampling import molecular_dynamics_pool
    from surefield.loop.oracles import tblite

    if not path.exists():
        (start,) = sf.read_frames(HERE / "data" / "malonaldehyde.xyz")
        oracle = tblite()
        options = {"steps_between": 50, "timestep_fs": 0.5, "equilibration_steps": 1000}
        temperatures = [KELVIN] * trajectories
        frames = molecular_dynamics_pool(start, oracle.make_calculator, temperatures, n, seed=seed, **options)
        sf.write_frames(path, oracle.label(frames))
    return sf.read_frames(path)


def scores(uncertainty: Any, test: Any) -> dict[str, float]:
    """Errors on the test set, and of its worst structure, eV/Å."""
    from surefield.loop.audit import worst_structure
    from surefield.uncertainty.evaluation import evaluate_uncertainty

    comparison = evaluate_uncertainty(uncertainty, test, ("energy", "forces"))
    worst = worst_structure(comparison)
    assert worst is not None
    return {**comparison.test(), "worst_rmse": worst[1]}


def plain_curve(seed: int, counts: list[int], test: Any, plan: Any) -> list[dict[str, float]]:
    """Errors of potentials of so many labels that are drawn at random from plain dynamics."""
    import numpy as np

    from surefield.files import json_text, read_json, write_atomic

    path = ROOT / f"plain_{seed}.json"
    known = read_json(path) if path.exists() else {}
    frames = dynamics(ROOT / f"plain_{seed}.xyz", max(counts), 1, 100 + seed)
    order = np.random.default_rng(seed).permutation(len(frames))
    for count in counts:
        if str(count) not in known:
            uncertainty, _ = plan.fit([frames[int(i)] for i in order[:count]], seed)
            known[str(count)] = scores(uncertainty, test)
            write_atomic(path, json_text(known))
            print(
                f"seed {seed}, {count} plain labels: {1e3 * known[str(count)]['forces_mae']:.1f} meV/Å",
                flush=True,
            )
    return [known[str(count)] for count in counts]


def loop_curve(seed: int, test: Any, overrides: list[str]) -> tuple[list[int], list[dict[str, float]]]:
    """Labels and errors of the rounds of a loop."""
    import surefield as sf
    from surefield.cli.jobs import run_verb
    from surefield.loop.journal import Journal

    named = [f"name=seed_{seed}", f"root={ROOT}", f"loop.seeds=[{seed}]", "loop.registry=null", *overrides]
    report = run_verb("loop", CONFIG, named, dry_run=False, overwrite=False)
    assert report is not None
    rounds = Journal(report.parent / "journal.jsonl").find(event="round")
    errors = []
    for event in rounds:
        potential = sf.load(report.parent / "rounds" / f"{event['round']:03d}" / "potential.npz")
        errors.append(scores(potential, test))
    return [event["n_labels"] for event in rounds], errors


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tblite repeats to the last digit on one thread
    import numpy as np

    from surefield.cli.config import read_config
    from surefield.cli.inputs import make_potential
    from surefield.files import json_text, write_atomic
    from surefield.loop.fit_plan import FitPlan
    from surefield.selection.replay_result import labels_to_reach
    from surefield.training.dataset import prepare

    begin, overrides = time.perf_counter(), sys.argv[1:]
    ROOT.mkdir(parents=True, exist_ok=True)
    frames = dynamics(ROOT / "test.xyz", N_TEST, N_TRAJECTORIES, 7)
    config = read_config(CONFIG, overrides)
    potential = make_potential(config, frames)
    options = {"features": config.loop.features}
    plan = FitPlan.of(potential, config.training, config.uncertainty, config.loop.validation, **options)
    test = prepare(frames, potential)
    result: dict[str, Any] = {"seeds": {}}
    for seed in SEEDS:
        labels, of_loop = loop_curve(seed, test, overrides)
        counts = sorted({*labels, round(1.5 * labels[-1]), 2 * labels[-1]})
        of_plain = plain_curve(seed, counts, test, plan)
        error, other = (np.array([one["forces_mae"] for one in curve]) for curve in (of_loop, of_plain))
        goal = max(GOAL, float(error[-1]))
        needed, plain_needed = (
            float(labels_to_reach(np.array(n), e, goal)) for n, e in ((labels, error), (counts, other))
        )
        result["seeds"][seed] = {
            "labels": labels,
            "loop": of_loop,
            "plain_labels": counts,
            "plain": of_plain,
            "goal": goal,
            "needed": needed,
            "plain_needed": plain_needed,
        }
        at = counts.index(labels[-1])
        for name, one in (("loop ", of_loop[-1]), ("plain", of_plain[at])):
            numbers = ", ".join(f"{what} {1e3 * one[key]:.1f}" for what, key in (
                ("force MAE", "forces_mae"), ("RMSE", "forces_rmse"), ("worst structure", "worst_rmse"),
            ))  # fmt: skip
            print(f"seed {seed}, {labels[-1]} labels, {name}: {numbers} meV/Å", flush=True)
        reached = f"{plain_needed:.0f}" if np.isfinite(plain_needed) else f"more than {counts[-1]}"
        print(
            f"seed {seed}: {1e3 * goal:.0f} meV/Å with {needed:.0f} labels; plain dynamics: {reached}",
            flush=True,
        )
    write_atomic(ROOT / "result.json", json_text(result, indent=1) + "\n")
    print(f"done in {(time.perf_counter() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
