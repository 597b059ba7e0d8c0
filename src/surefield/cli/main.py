"""The verbs of the command line; everything heavy is imported when a verb runs."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

import surefield
from surefield.errors import SurefieldError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train interatomic potentials that know when they are sure. Units everywhere: eV, Å, eV/Å, eV/Å³ "
    "(stress positive in tension), K, charges in e; energies of errors per atom.",
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML file; see 'surefield schema'")]
Overrides = Annotated[list[str] | None, typer.Argument(help="entries to replace, such as training.epochs=20")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would run, and stop")]
Replay = Annotated[
    bool, typer.Option("--replay", help="on the labelled data.train: which methods would have saved labels?")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="delete an earlier run of this name")]


#: Verbs that read a configuration and write a run folder.
VERBS = {
    "doctor": "Examine the data: repeats, leakage, units, signs, contacts, contradictions.",
    "train": "Train a potential and fit its uncertainty.",
    "eval": "Errors of the trained potential on the test structures.",
    "uq": "Uncertainties on the test structures, and whether they can be trusted.",
    "uq-compare": "Several uncertainties side by side on the test structures; also 'surefield uq compare'.",
    "select": "Choose which structures of the pool to label next.",
    "select-replay": "What selection methods would have saved; also 'surefield select --replay'.",
    "score": "Score structures: expected force errors, novelty, information about parameters.",
    "properties": "Properties of crystals with sigmas: elastic constants, energies, defects, phonons.",
    "loop": "Active learning: explore, pick, label, fit; the fewest labels, all of them used.",
}


def _run(verb: str, config: Path, overrides: list[str] | None, dry_run: bool, overwrite: bool) -> None:
    try:
        from surefield.cli.config import read_config

        if verb == "uq" and str(config) == "compare" and overrides:
            verb, config, overrides = "uq-compare", Path(overrides[0]), overrides[1:]
        from surefield.cli.needed import check_needed

        # Faults are told before the rest is imported.
        check_needed(verb, read_config(config, overrides or []))
        from surefield.cli.answer import warnings_said
        from surefield.cli.jobs import run_verb

        with warnings_said():
            run_verb(verb, config, overrides or [], dry_run=dry_run, overwrite=overwrite)
    except KeyboardInterrupt:  # typer would end with a bare "Aborted!"
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(130) from None


def _add(verb: str, text: str) -> None:
    def run(
        config: ConfigPath, overrides: Overrides = None, dry_run: DryRun = False, overwrite: Overwrite = False
    ) -> None:
        _run(verb, config, overrides, dry_run, overwrite)

    def select(
        config: ConfigPath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        overwrite: Overwrite = False,
        replay: Replay = False,
    ) -> None:
        _run("select-replay" if replay else verb, config, overrides, dry_run, overwrite)

    app.command(verb, help=text)(select if verb == "select" else run)


for _verb, _text in VERBS.items():
    _add(_verb, _text)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Write report.html of a run folder anew."""
    from surefield.report import write_report

    print(write_report(folder).resolve())


@app.command()
def trace(
    words: Annotated[
        list[str], typer.Argument(help="runs/x-loop/labelled.xyz@7; or run folder and structure")
    ],
) -> None:
    """Why a structure of a loop was labelled: who picked it, by which potential, and what it cost."""
    from surefield.loop.trace import trace as lines

    *run, frame = words
    for line in lines(frame, run[0] if run else None):
        print(line)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    import json

    from surefield.cli.config import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"surefield {surefield.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: one line of cause and exit code 1 on failure; 130 after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except SurefieldError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        print(f"unexpected {type(error).__name__}: please report it with the lines above", file=sys.stderr)
        sys.exit(2)
