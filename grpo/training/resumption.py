"""The provenance of a run that starts or is resumed, as `provenance.json` and `results.json` hold it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.config.keys import flatten
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say
from grpo.core.environment_values import to_interpolations
from grpo.core.redact import redacted
from grpo.runs.checkpoints import step_of
from grpo.runs.provenance import provenance_changes, save_code_diff
from grpo.runs.provenance_file import read_provenance
from grpo.runs.run_dir import RunDir


def record_provenance(
    config: Config, out: Path, now: dict[str, Any], command: str, checkpoint: Path | None
) -> dict[str, Any]:
    """Where this run comes from, as `results.json` is to hold it; says what is not as it was when the run began."""
    now, settings = to_interpolations(now), redacted(asdict(config))
    if not RunDir(out).provenance_json.is_file():
        if distributed.is_main_process() and now["code"] and not now["code"]["clean"]:
            save_code_diff(RunDir(out).git_diff)
        return {"command": command} | now | {"settings": settings, "tracking": None, "resumed": []}
    began = read_provenance(RunDir(out).provenance_json)
    differences = provenance_changes(began, now)
    for difference in differences:
        say(f"Not as when the run began, so its numbers may differ from an unbroken run's: {difference}")
    step = step_of(checkpoint) if checkpoint else 0
    before = flatten(began["settings"])
    changed = {key: value for key, value in flatten(settings).items() if before.get(key, value) != value}
    began["resumed"].append(
        {"command": command, "started": now["started"], "step": step, "settings": changed, "differences": differences}
    )
    return began
