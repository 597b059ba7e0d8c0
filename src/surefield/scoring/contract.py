"""What all scores share: checks, results that are remembered with their metadata, and runs as jobs."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar, final

import numpy as np

from surefield.errors import ConfigError
from surefield.execution.identity import digest
from surefield.execution.workflow import Workflow
from surefield.execution.workflows import get_workflow
from surefield.scoring import storing
from surefield.scoring.descriptions import described, picked
from surefield.scoring.jobs import ScoreCall, clean, finished_folders, given_structures, submit
from surefield.scoring.quantity import ScoreQuantity, checked_quantity
from surefield.scoring.results import JSON_FILE, check_finite_rows
from surefield.storage import Storage
from surefield.storage.dataset import package_version

__all__ = ["DescribesItself", "Record", "Score"]

R = TypeVar("R")
WorkflowLike = Workflow | Mapping[str, Any] | Executor | None
#: Folder of the runs where the workflow does not say.
_ROOT: Final = "./scores"
#: Results whose metadata an object remembers.
_REMEMBERED: Final = 200_000


@dataclass(frozen=True)
class Record:
    """What is known of one result.

    Attributes:
        metadata: everything that determined it.
        extras: further arrays of the atoms, by name.
    """

    metadata: Mapping[str, Any]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)


class DescribesItself(abc.ABC):
    """A score whose metadata say more, or other, than what it can be made from again."""

    @abc.abstractmethod
    def settings_in_words(self) -> dict[str, Any]:
        """What metadata says of the constructor arguments."""


class Score(abc.ABC):
    """A number or matrix about atoms, a configuration, a data set or a potential.

    A subclass is one of the four bases of `scoring.score`. It has the class attributes, `settings`,
    `compute` and `compute_batch` with arguments of its own choice, calls `check_quantity` first and gives
    every result through `recorded`; all else is here. `compute_batch(configs, **arguments)` has to give the
    same for any division of `configs` into batches, unless `one_job`.

    Attributes:
        key: under which results are stored.
        quantity: what it computes.
        array_arguments: names of arguments, of the constructor or a call, that are arrays, files of arrays,
            or lists of these; there a text is a path.
        per_configuration: names of arguments of `compute_batch` with one entry per configuration, see
            `picked`.
        one_job: whether all configurations are needed for each result.
        result_file: that `save_results` writes.
        may_be_nan: whether a NaN says something.
        argument_forms: of arguments that are objects, what makes them such a form as `as_data` gives.
    """

    key: ClassVar[str]
    quantity: ClassVar[ScoreQuantity]
    array_arguments: ClassVar[tuple[str, ...]] = ()
    per_configuration: ClassVar[tuple[str, ...]] = ()
    one_job: ClassVar[bool] = False
    may_be_nan: ClassVar[bool] = False
    argument_forms: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    result_file: ClassVar[str]

    @abc.abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Constructor arguments from which the same class makes an equal score, without work done again.

        Arrays may be among them. What has been prepared from logs or the like is given as prepared.
        """

    @abc.abstractmethod
    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Score of one thing: a structure, a data set, a property."""

    @abc.abstractmethod
    def compute_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Scores of a list, in its order."""

    def described_settings(self) -> dict[str, Any]:
        """What metadata says of the constructor arguments."""
        if isinstance(self, DescribesItself):
            return self.settings_in_words()
        return described(self.settings(), self.array_arguments)

    def as_data(self, name: str, value: Any) -> Any:
        """An argument in a form that a job folder can hold: an object as the dictionary that stands for it.

        Numbers, texts, arrays, structures, potentials, and lists and dictionaries of them are such forms.
        """
        change = self.argument_forms.get(name)
        return value if change is None or value is None else change(value)

    @abc.abstractmethod
    def save_results(
        self, compute_results: Any, save_dir: str | Path = ".", list_of_configs: Any = None
    ) -> Path:
        """Write results with their metadata; returns the path of the file."""

    @abc.abstractmethod
    def compute_and_save(
        self, data: Any, arguments: Mapping[str, Any], folder: Path, overrides: Mapping[str, Any]
    ) -> None:
        """What a job does: compute, and write the results.

        Args:
            data: what is scored.
            arguments: of the call.
            folder: of the results.
            overrides: entries of the metadata, as the caller of `run` knows them.
        """

    @abc.abstractmethod
    def read_results(self, folder: Path) -> list[Any]:
        """What a job wrote."""

    @final
    def run(
        self,
        path_type: str,
        configs: Any,
        compute_args: Mapping[str, Any],
        workflow: WorkflowLike = None,
        job_details: Mapping[str, Any] | None = None,
        batch_size: int = 1,
        verbose: bool = False,
    ) -> list[str]:
        """Compute as jobs of a workflow, `batch_size` configurations each.

        If the same run (class, settings, arguments, configurations, batch size, path) was interrupted before,
        by a job that failed or was killed, or by the end of this process, it is gone on with: what is done or
        under way is kept, the rest is submitted again. Otherwise a new folder is made. On this machine no
        more jobs than processors run at once, and the call waits until the last is submitted.

        Args:
            path_type: name of the run; its folder is `<root>/<class>/<path_type>/<number>`.
            configs: structures; for a score of a potential, what `compute_batch` takes as its list, or None.
            compute_args: arguments of `compute_batch` (of a data set: `compute`), without the structures.
                Those that hold one entry per configuration are divided with them.
            workflow: None: this machine, in `./scores`; or any form that `get_workflow` takes.
            job_details: of each job, see `Workflow.submit_job`.
            batch_size: structures of a job. Scores of a data set or a potential are one job.
            verbose: print a line for each job.

        Returns:
            Ids of the jobs, in the order of the configurations.

        Raises:
            ConfigError: an unusable argument, or one that is no data.
            DataError: no structures, or another number of entries than of structures.
        """
        data, arguments, batch_size = self._checked_run(configs, compute_args, batch_size)
        # A job sees prepared settings and copies of arrays, under other paths.
        arrays = {
            k: v for k, v in arguments.items() if k in self.array_arguments and k not in self._divided()
        }
        about = self.described_settings() | described(arrays, self.array_arguments)
        call = ScoreCall(
            type(self).__name__,
            self.settings(),
            arguments,
            self.array_arguments,
            self.per_configuration,
            about,
            self.result_file,
        )
        flow = get_workflow(workflow, _ROOT)
        say = print if verbose else lambda text: None
        folder, calc_ids = submit(call, data, batch_size, path_type, flow, job_details, say)
        vars(self).setdefault("_runs", []).append(folder)
        return calc_ids

    @final
    def data_from_calc_ids(
        self, calc_ids: Sequence[str] | str, workflow: WorkflowLike = None, cleanup: bool = True
    ) -> list[Any]:
        """Wait for jobs and read their results; any process can, which knows ids and workflow.

        Args:
            calc_ids: of `run`, in any order.
            workflow: that of `run`.
            cleanup: remove inputs of the jobs; results and logs stay.

        Returns:
            Copies of the structures with their results, in the order in which they were given to `run`. For
            a data set or a potential, what `score_results.json` holds, one dictionary per job.

        Raises:
            ExecutionError: a job failed; with the end of its traceback. Its inputs stay.
        """
        folders = finished_folders(calc_ids, get_workflow(workflow, _ROOT), type(self).__name__)
        results = [result for folder in folders for result in self.read_results(folder)]
        if cleanup:
            for run in dict.fromkeys(folder.parent for folder in folders):
                clean(run, [folder for folder in folders if folder.parent == run])
        return results

    @final
    def save_labeled_configs(
        self,
        calc_ids: Sequence[str] | str,
        storage: Storage,
        dataset_name: str | None = None,
        dataset_handle: str | None = None,
        workflow: WorkflowLike = None,
        cleanup: bool = True,
    ) -> str:
        """Put results of jobs into a storage.

        Args:
            calc_ids: of `run`.
            storage: of the data set.
            dataset_name: of a new data set.
            dataset_handle: of one that is there: configurations that it has are replaced by those with
                results, others are added. Results of a data set or a potential go to its metadata; that of a
                potential needs a handle.
            workflow, cleanup: see `data_from_calc_ids`.

        Returns:
            Handle of the new version.

        Raises:
            ConfigError: not exactly one of name and handle.
        """
        storing.check_target(dataset_name, dataset_handle)
        whole = self.result_file == JSON_FILE
        frames: list[Any] | None = None
        if whole and dataset_handle is None:
            flow = get_workflow(workflow, _ROOT)
            frames = given_structures(finished_folders(calc_ids, flow, type(self).__name__))
        results = self.data_from_calc_ids(calc_ids, workflow, cleanup)
        if whole and dataset_handle is not None:
            return storing.add_to_metadata(storage, dataset_handle, results, self.key)
        if dataset_handle is not None:
            return storing.add_structures(storage, dataset_handle, results)
        metadata = storing.with_results({}, results, self.key) if whole else None
        return storage.new_dataset(str(dataset_name), results if frames is None else frames, metadata)

    @final
    def cleanup(self, run_path: str | Path | None = None) -> None:
        """Remove inputs of jobs; results, logs and records stay.

        Args:
            run_path: folder of a run, or of one of its jobs; None: of all runs that this object has begun.
        """
        for folder in vars(self).pop("_runs", []) if run_path is None else [Path(run_path)]:
            if folder.is_dir() or run_path is not None:
                clean(folder)

    def _divided(self) -> list[str]:
        """Arguments that differ between configurations."""
        return list(dict.fromkeys(name.partition(".")[0] for name in self.per_configuration))

    @abc.abstractmethod
    def _checked_run(
        self, configs: Any, compute_args: Mapping[str, Any], batch_size: int
    ) -> tuple[Any, dict[str, Any], int]:
        """What is scored, the arguments as data and the size of a batch."""

    def _checked_arguments(self, method: str, compute_args: Any, *, bare: bool = False) -> dict[str, Any]:
        """Arguments of a call as data, refused before any job if the call does not take them."""
        where = f"{type(self).__name__}.run"
        if not isinstance(compute_args, Mapping):
            expected = f"a dictionary of arguments of {method}"
            raise ConfigError(
                f"unusable compute_args in {where}", got=type(compute_args).__name__, expected=expected
            )
        signature = inspect.signature(getattr(self, method))
        try:
            bound = signature.bind(*(() if bare else (None,)), **compute_args)
        except TypeError as error:
            known = ", ".join(list(signature.parameters)[0 if bare else 1 :])
            raise ConfigError(
                f"compute_args do not fit {method} in {where}: {error}", expected=known
            ) from None
        if "score_quantity" in bound.arguments:
            self.check_quantity(bound.arguments["score_quantity"])
        return {name: self.as_data(name, value) for name, value in compute_args.items()}

    @final
    def check_quantity(self, score_quantity: Any) -> None:
        """Refuse a `score_quantity` that is not the one this class computes (ConfigError)."""
        checked_quantity(score_quantity, self.quantity, type(self).__name__)

    @final
    def recorded(
        self,
        results: R,
        arguments: Mapping[str, Any],
        *,
        notes: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        extras: Sequence[Mapping[str, np.ndarray]] | None = None,
    ) -> R:
        """Check results for NaN and inf, remember what determined them, and return them as they are.

        `save_results` finds the metadata again by the content of the results.

        Args:
            results: a list, one per configuration; or one number or array.
            arguments: of the call that determine the results, by name, with their defaults; not the
                structures.
            notes: further entries of the metadata, such as what the columns of a matrix are; or for each of
                a list of results its own.
            extras: for each of a list of results, further arrays of the atoms to store with it.

        Raises:
            DataError: a result that is not finite, with its configuration and atom.
        """
        several = isinstance(results, list)
        listed: list[Any] = results if several else [results]  # type: ignore[assignment]
        for i, result in enumerate(listed):
            values = np.asarray(result, np.float64)
            values = np.where(np.isnan(values), 0.0, values) if self.may_be_nan else values
            check_finite_rows(values, f"the {self.key}", i if several else None)
        shared = {k: v for k, v in arguments.items() if k not in self._divided() or not several}
        common = self._head() | described(shared, self.array_arguments)
        each = [notes or {}] * len(listed) if notes is None or isinstance(notes, Mapping) else notes
        for i, result in enumerate(listed):
            metadata = common | dict(each[i])
            if several and self.per_configuration:
                metadata |= self._of_configuration(arguments, i, len(listed))
            self._remember(result, Record(metadata, (extras or {i: {}})[i]))
        return results

    def _head(self) -> dict[str, Any]:
        entries = {"score": type(self).__name__, "score_quantity": self.quantity.name}
        return entries | {"package_version": package_version()} | self.described_settings()

    def _of_configuration(self, arguments: Mapping[str, Any], i: int, n: int) -> dict[str, Any]:
        """Entries of the metadata that are those of one configuration."""
        given = {name: arguments[name] for name in self._divided() if name in arguments}
        return described(picked(given, self.per_configuration, [i], n), self.array_arguments)

    @property
    def _records(self) -> dict[str, Record]:
        return vars(self).setdefault("_known_results", {})

    def _remember(self, result: Any, record: Record) -> None:
        records = self._records
        name = digest(np.asarray(result))
        records.pop(name, None)
        records[name] = record
        while len(records) > _REMEMBERED:
            del records[next(iter(records))]

    @final
    def record_of(self, result: Any) -> Record:
        """What is known of a result; of one from elsewhere only what this object is."""
        return self._records.get(digest(np.asarray(result))) or Record(self._head())
