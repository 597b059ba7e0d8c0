"""The folder of a run: its configuration, versions, log and results, and whether it may be gone on with."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

import yaml

from surefield.errors import ConfigError
from surefield.execution.identity import Table, changes, check_inputs
from surefield.files import drop_torn_line, json_text, read_json, write_atomic

__all__ = ["RunFolder"]

CONFIG: Final = "config.yaml"
VERSIONS: Final = "versions.json"
LOG: Final = "run.log"
ERROR_LOG: Final = "error.log"
SUMMARY: Final = "summary.json"
#: What entered the run, and what came of it.
INPUTS: Final = "inputs.json"
OUTPUTS: Final = "outputs.json"
_PACKAGES: Final = (
    "surefield",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "numpy",
    "scipy",
    "ase",
    "vesin",
    "pydantic",
    "tblite",
    "pyscf",
)
_MISSING: Final = object()


@final
class RunFolder:
    """A folder `root/name`, made by `create`; as a context manager it writes `error.log` on failure."""

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        self.folder = folder
        #: whether the folder was there before, with the same configuration
        self.resumed = resumed
        self._logger = logging.getLogger("surefield")
        self._level = self._logger.level
        self._handler = logging.FileHandler(folder / LOG, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._logger.addHandler(self._handler)
        if self._level == logging.NOTSET:
            self._logger.setLevel(logging.INFO)

    @classmethod
    def create(
        cls,
        root: str | Path,
        name: str,
        config_text: str,
        resume: bool = True,
        *,
        overwrite: bool = False,
        completed: Callable[[str], str] = str,
    ) -> Self:
        """Make the folder of a run, or open it again when it holds the same configuration or no work yet.

        Args:
            root: folder of all runs, made if missing.
            name: of the run; one part of a path.
            config_text: the resolved configuration as YAML.
            resume: whether a folder with the same configuration may be gone on with.
            overwrite: delete a run that is there and start anew.
            completed: gives the configuration of a folder that an older version made the settings that are
                new since, with their defaults.

        Raises:
            ConfigError: the folder holds another configuration (the first key that differs is named), may
                not be resumed, or is no run folder.
            ExecutionError: it cannot be written.
        """
        if name in ("", ".", "..") or Path(name).name != name:
            raise ConfigError(f"a run's name is one part of a path, such as 'ethanol-1', got {name!r}")
        folder = Path(root) / name
        # What a refusal asks for is done in the configuration or in the data: both may be others then.
        refused = _was_refused(folder)
        resumed = not refused and _check_existing(folder, config_text, resume, overwrite, completed)
        try:
            if overwrite and folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {folder}: {error.strerror}") from error
        if not resumed:
            write_atomic(folder / CONFIG, config_text)
        if refused:
            (folder / INPUTS).unlink(missing_ok=True)
        drop_torn_line(folder / LOG)
        (folder / ERROR_LOG).unlink(missing_ok=True)
        write_atomic(folder / VERSIONS, json_text(_versions(), indent=2) + "\n")
        return cls(folder, resumed=resumed)

    def go_on_with(self, config_text: str, completed: Callable[[str], str] = str) -> None:
        """Keep the configuration that the run goes on with; another one than before is work to be done.

        Args:
            config_text: the resolved configuration as YAML.
            completed: gives a saved configuration the settings that are new since, with their defaults.
        """
        if completed(self.path(CONFIG).read_text("utf-8")) != config_text:
            self.path(OUTPUTS).unlink(missing_ok=True)
            write_atomic(self.path(CONFIG), config_text)

    def path(self, name: str) -> Path:
        """Path of a file or folder of this run."""
        return self.folder / name

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all (`files.json_text`)."""
        write_atomic(self.path(name), json_text(data, indent=2) + "\n")

    def finished(self, table: Table, varying: Table | None = None) -> dict[str, Any] | None:
        """Compare what enters the run with what entered it before; the summary of a run that has ended.

        Args:
            table: all that enters besides the configuration, see `execution.identity`.
            varying: what enters, too, but may change: then there is work to be done.

        Returns:
            The summary of the run, if it ended, in this version, and its files are all there: then nothing is
            left to do. None if there is work to be done.

        Raises:
            ConfigError: something else entered the run of this folder.
        """
        known = self.path(INPUTS).exists()
        fix = "give the run another name, start anew with --overwrite, or restore what changed"
        check_inputs(self.path(INPUTS), table, fix)
        if not (known and self.path(OUTPUTS).exists()):
            return None
        outputs = read_json(self.path(OUTPUTS))
        if changes(outputs.get("varying", {}), json.loads(json_text(varying or {}))):
            return None
        there = all(self.path(name).exists() for name in outputs["files"])
        same = outputs["version"] == _versions()["surefield"]
        return read_json(self.path(SUMMARY)) if there and same else None

    def finish(self, summary: Mapping[str, Any], varying: Table | None = None) -> None:
        """Write the summary, and that the run has ended, with what had entered it (`finished`)."""
        self.write_json(SUMMARY, summary)
        # Without folders: checkpoints and labels are for the way there.
        names = sorted(entry.name for entry in self.folder.iterdir() if entry.is_file())
        files = [name for name in names if name not in (LOG, OUTPUTS) and not name.startswith(".")]
        self.write_json(
            OUTPUTS, {"version": _versions()["surefield"], "files": files, "varying": varying or {}}
        )

    def failed(self, exception: BaseException) -> None:
        """Write the traceback to `error.log` and one line of cause to the log."""
        write_atomic(self.path(ERROR_LOG), "".join(traceback.format_exception(exception)))
        self._logger.error("failed: %s: %s", type(exception).__name__, exception)

    def close(self) -> None:
        """Stop logging to this folder."""
        self._logger.removeHandler(self._handler)
        self._logger.setLevel(self._level)
        self._handler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(value, Exception):
                self.failed(value)
            elif value is not None:
                self._logger.warning("stopped by %s", type(value).__name__)
        finally:
            self.close()


def _was_refused(folder: Path) -> bool:
    """Whether a run failed in this folder before it wrote anything of its own."""
    if not (folder / CONFIG).is_file() or not (folder / ERROR_LOG).is_file():
        return False
    return {entry.name for entry in folder.iterdir()} <= {CONFIG, VERSIONS, LOG, ERROR_LOG, INPUTS}


def _check_existing(
    folder: Path, config_text: str, resume: bool, overwrite: bool, completed: Callable[[str], str]
) -> bool:
    """Whether there is a run to go on with; refuse what must not be touched."""
    config = folder / CONFIG
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give the run another name")
    if not config.is_file():
        # hidden files are what a run that was killed at its very start leaves
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise ConfigError(
                f"{folder} holds files but no {CONFIG}, so it is no run folder; give the run another name"
            )
        return False
    if overwrite:
        return False
    try:
        known = yaml.safe_load(completed(config.read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        fix = "start anew with --overwrite, or give the run another name"
        raise ConfigError(f"{config} is damaged: it is not valid YAML", got=words, fix=fix) from None
    difference = _first_difference(known, yaml.safe_load(config_text))
    if difference is not None:
        key, old, new = difference
        raise ConfigError(
            f"{folder} holds a run with another configuration",
            got=f"{key}: {new}",
            expected=f"{old}, as in {config}",
            fix="give the run another name, or start anew with --overwrite",
        )
    if not resume:
        raise ConfigError(
            f"{folder} holds this run already; give it another name or start anew with --overwrite"
        )
    return True


def _first_difference(old: Any, new: Any, key: str = "") -> tuple[str, str, str] | None:
    """First key (dotted) at which two configurations differ, with both values; None if they agree."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            inner = f"{key}.{name}" if key else str(name)
            difference = _first_difference(old.get(name, _MISSING), new.get(name, _MISSING), inner)
            if difference is not None:
                return difference
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = (
            _first_difference(a, b, f"{key}[{i}]") for i, (a, b) in enumerate(zip(old, new, strict=True))
        )
        return next((difference for difference in pairs if difference is not None), None)
    if type(old) is type(new) and old == new:
        return None
    return key or "configuration", _shown(old), _shown(new)


def _shown(value: Any) -> str:
    return "not there" if value is _MISSING else f"{value!r:.80}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            if package == "surefield":  # run from a checkout that is not installed
                versions[package] = "unknown"
    return versions
