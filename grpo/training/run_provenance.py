"""The provenance of a run when it starts or is resumed, for `provenance.json` and `results.json`.

The session calls it once. `grpo.runs.provenance` collects what is recorded here.
"""

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
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_provenance import read_provenance


def record_provenance(
    config: Config, out: Path, current: dict[str, Any], command: str, checkpoint: Path | None
) -> dict[str, Any]:
    """The provenance of this run: `current` for a new run, else the saved one with an entry for this resume.

    Prints what has changed since the run started.
    """
    current, settings = to_interpolations(current), redacted(asdict(config))
    if not RunDir(out).provenance_json.is_file():
        if distributed.is_main_process() and current["code"] and not current["code"]["clean"]:
            save_code_diff(RunDir(out).git_diff)
        return {"command": command} | current | {"settings": settings, "tracking": None, "resumed": []}
    saved = read_provenance(RunDir(out).provenance_json)
    differences = provenance_changes(saved, current)
    for difference in differences:
        say(
            f"Changed since the run started, so its numbers may differ from those of an uninterrupted run: {difference}"
        )
    old_settings = flatten(saved["settings"])
    changed = {key: value for key, value in flatten(settings).items() if old_settings.get(key, value) != value}
    saved["resumed"].append(
        {
            "command": command,
            "started": current["started"],
            "step": step_of(checkpoint) if checkpoint else 0,
            "settings": changed,
            "differences": differences,
        }
    )
    return saved
