"""The results of a run, as `results.json` stores them, and how a job of a sweep ended.

Called by commands that read finished runs and by sweeps. It does not know how results are computed.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.core.files import parse_file, parse_json_object
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_provenance import provenance_fault


@dataclass(frozen=True)
class Results:
    """The results of a run, as Python code reads them.

    Attributes:
        folder: the run directory.
        before: the figures on the held-out problems before training, name -> value, as `accuracy`.
        after: those of the trained policy.
        difference: for each figure, the paired difference with its interval.
        steps: optimizer steps.
        stopped_by: the alarm that ended training early; None if all steps were trained.
        content: all of `results.json`.
    """

    folder: Path
    before: dict[str, Any]
    after: dict[str, Any]
    difference: dict[str, dict[str, Any]]
    steps: int
    stopped_by: str | None
    content: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, folder: Path, content: dict[str, Any]) -> "Results":
        """The results that `train_run` returns and `results.json` holds."""
        return cls(
            folder,
            content["before"],
            content["after"],
            content["difference"],
            content["steps"],
            content.get("stopped_by"),
            content,
        )


STOPPED_BY_PRUNING = "pruning"  # the value of `stopped_by` in results.json of a trial that a search ended early
# The required keys of `results.json`.
RESULT_TYPES: dict[str, type] = {
    "before": dict,
    "after": dict,
    "difference": dict,
    "steps": int,
    "examples": list,
    "problems": dict,
    "batch": dict,
    "device": str,
    "threads": int,
    "seed": int,
    "versions": dict,
    "seconds": dict,
}


def read_results(folder: Path) -> dict[str, Any] | None:
    """The content of `results.json`; None if the run has not finished.

    Raises:
        UserError: it is damaged.
    """
    path = RunDir(folder).results_json
    if not path.is_file():
        return None
    results = parse_file(path, parse_json_object)
    if missing := sorted(RESULT_TYPES.keys() - results.keys()):
        raise UserError(
            f"{path} is damaged, or was written by another version of this project: it has no {', '.join(missing)}."
        )
    for key, kind in RESULT_TYPES.items():
        if not isinstance(results[key], kind) or isinstance(results[key], bool):
            raise UserError(f"{path} is damaged: {key} is {str(results[key])[:50]!r}.")
    if not isinstance(results["after"].get("n"), int):
        raise UserError(f"{path} is damaged: after.n is {str(results['after'].get('n'))[:50]!r}.")
    if "provenance" in results and (fault := provenance_fault(results["provenance"])):
        raise UserError(f"{path} is damaged: in provenance, {fault}.")
    return results


def read_job_outcome(folder: Path) -> dict[str, Any] | str | None:
    """The results of a job of a sweep, or the reason why it has none; None if it has not ended."""
    with suppress(UserError):  # the job is run again and replaces damaged results
        if results := read_results(folder):
            return results
    try:
        return RunDir(folder).error_txt.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def clear_job_error(folder: Path) -> None:
    """Delete the reason why a job of a sweep failed, before it is run again."""
    RunDir(folder).error_txt.unlink(missing_ok=True)
