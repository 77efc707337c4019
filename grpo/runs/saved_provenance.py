"""Reading `provenance.json`, and the check of its contents.

Called by `results`, `checkpoints` and the resume of a run. It does not collect a provenance; `provenance` does.
"""

from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.core.files import parse_file, parse_json_object

FIELDS: dict[str, Any] = {
    "command": str,
    "code": dict | None,
    "versions": dict,
    "hardware": dict,
    "data": dict,
    "model": dict,
    "reward_files": dict,
    "settings": dict,
    "tracking": str | None,
    "resumed": list,
}


def read_provenance(path: Path) -> dict[str, Any]:
    """The content of a `provenance.json`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged.
    """
    content = parse_file(path, parse_json_object)
    if fault := provenance_fault({"resumed": None, "settings": None} | content):
        raise UserError(f"{path} is damaged: {fault}.")
    return content


def provenance_fault(content: Any) -> str | None:
    """What is wrong with a provenance, of which fields may be missing; None if nothing is."""
    if not isinstance(content, dict):
        return f"it is {str(content)[:50]!r}"
    for name, kind in FIELDS.items():
        if name in content and not isinstance(content[name], kind):
            return f"{name} is {str(content[name])[:50]!r}"
    for resume in content.get("resumed", []):
        if not isinstance(resume, dict) or not isinstance(resume.get("settings"), dict):
            return f"resumed holds {str(resume)[:50]!r}"
    code = content.get("code") or {"revision": "", "clean": True}
    if not isinstance(code.get("revision"), str) or not isinstance(code.get("clean"), bool):
        return f"code is {str(code)[:50]!r}"
    return None


def is_readable(path: Path) -> bool:
    """Whether `read_provenance` reads it."""
    try:
        read_provenance(path)
    except (OSError, UserError):
        return False
    return True
