"""The workflow that a setting or an executor stands for: the one place that knows them all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

from surefield.errors import ConfigError, check_known, nearest
from surefield.execution.executor_workflow import ExecutorWorkflow
from surefield.execution.local_workflow import LocalWorkflow
from surefield.execution.slurm_workflow import SlurmWorkflow
from surefield.execution.workflow import Workflow

__all__ = ["get_workflow"]


def get_workflow(
    workflow: Workflow | Mapping[str, Any] | Executor | None = None,
    root: str | os.PathLike[str] = "./trainer",
) -> Workflow:
    """Workflow from any form users may give it.

    Args:
        workflow: None for jobs on this machine; a workflow; an executor of `concurrent.futures`; or
            `{"workflow_type": "LOCAL" | "SLURM", "workflow_args": {"root": ..., "defaults": {...}}}`.
        root: folder of everything, where the workflow does not say.

    Raises:
        ConfigError: anything else.
    """
    if workflow is None:
        return LocalWorkflow(root)
    if isinstance(workflow, Workflow):
        return workflow
    if isinstance(workflow, Executor):
        return ExecutorWorkflow(workflow, root)
    if not isinstance(workflow, Mapping):
        expected = "None, a Workflow, an executor, or a dict with workflow_type and workflow_args"
        raise ConfigError("unusable workflow", got=f"{workflow!r:.80}", expected=expected)
    check_known(workflow, ("workflow_type", "workflow_args"), "unknown key {} in workflow")
    kinds = {kind.kind: kind for kind in (LocalWorkflow, SlurmWorkflow)}
    name = workflow.get("workflow_type", "LOCAL")
    if name not in kinds:
        fix = "LSF, PBS and others work through an executor, such as those of dask or parsl"
        raise ConfigError(f"unknown workflow_type {name!r}; {nearest(str(name), kinds)}; {fix}")
    arguments = workflow.get("workflow_args") or {}
    check_known(arguments, ("root", "defaults"), "unknown key {} in workflow_args")
    return kinds[name](**{"root": root, **arguments})
