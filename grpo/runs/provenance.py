"""What the numbers of a run depend on: code, packages, machine, data and policy.

Called when a run starts or is resumed, and by `grpo.reproduce`. It does not read `provenance.json`; `saved_provenance`
does.
"""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grpo.config.schema import Config
from grpo.core.device import cpu_name
from grpo.core.files import file_sha256
from grpo.policy.identity import policy_identity
from grpo.sampling.engines import engine_packages
from grpo.tasks.example import Example

PACKAGE = Path(__file__).parents[1]
RECORDED_PACKAGES = (
    "grpo",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "hydra-core",
    "wandb",
    "numpy",
    "scipy",
    "pyarrow",
)
# What git.diff contains: untracked files with these suffixes, no files with these names, and at most this much text.
SOURCE_SUFFIXES = (".py", ".yaml")
SECRET_NAMES = (".env", ".env.*", "*.pem", "*.key", ".netrc", "id_rsa*", "*secret*", "*credential*", "*password*")
MAX_DIFF_CHARACTERS = 2**20


def collect_provenance(config: Config, train: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """The provenance of a run before it starts, without its settings and its command.

    Raises:
        UserError: the policy cannot be found.
    """
    import torch

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": checkout_state(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in (*RECORDED_PACKAGES, *engine_packages(config))},
        "hardware": describe_hardware() | {"threads": torch.get_num_threads()},
        "data": {"train": problems_digest(train), "held_out": problems_digest(held_out)},
        "model": policy_identity(config.model, config.seed),
        "reward_files": {name: file_sha256(Path(name).expanduser()) for name in config.reward_files},
    }


def checkout_state() -> dict[str, Any] | None:
    """The revision of this checkout and a digest of `code_diff()`; None if this is no checkout or there is no git."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")  # fails if it is installed inside another repository
        changed = code_diff()
        clean = not changed and not _git("diff", "HEAD", "--name-only")  # which also lists what `code_diff` leaves out
        digest = None if clean else sha256(changed.encode("utf-8", "replace")).hexdigest()
        return {"revision": _git("rev-parse", "HEAD").strip(), "clean": clean, "diff_sha256": digest}
    except (OSError, subprocess.CalledProcessError):
        return None


def code_diff() -> str:
    """The changes since the revision: of tracked files, and new source files beside the code and its settings.

    Without files that .gitignore excludes, and files whose names suggest secrets.
    """
    top = _git("rev-parse", "--show-toplevel").strip()
    ignored = _git("ls-files", "-z", "--cached", "--ignored", "--exclude-standard", "--full-name", f"{top}/")
    left_out = [f":(top,exclude,icase,glob)**/{pattern}" for pattern in SECRET_NAMES]
    left_out += [f":(top,exclude,literal){name}" for name in ignored.split("\0") if name]
    folders = (f"{top}/grpo", f"{top}/conf")
    new = _git("ls-files", "-z", "--others", "--exclude-standard", "--full-name", *folders).split("\0")
    new = [name for name in new if name.endswith(SOURCE_SUFFIXES) and not _has_secret_name(name)]
    diff = ("diff", "--no-color", "--no-ext-diff", "--no-textconv")
    tracked = _git(*diff, "HEAD", "--", ":/", *left_out)
    return tracked + "".join(_git(*diff, "--no-index", "/dev/null", f"{top}/{name}") for name in new)


def _has_secret_name(path: str) -> bool:
    return any(fnmatch(part.lower(), pattern) for part in path.split("/") for pattern in SECRET_NAMES)


def problems_digest(examples: Sequence[Example]) -> dict[str, Any]:
    """The number of problems, and a digest of their questions, chat messages if they have any, and gold answers."""
    text = json.dumps(
        [[example.question, example.gold, *([example.messages] if example.messages else [])] for example in examples]
    )
    return {"n": len(examples), "sha256": sha256(text.encode()).hexdigest()}


def save_code_diff(path: Path) -> None:
    """Write `code_diff()`, up to `MAX_DIFF_CHARACTERS` characters."""
    changed = code_diff()
    note = (
        f"\n[truncated: {MAX_DIFF_CHARACTERS:,} of {len(changed):,} characters]\n"
        if len(changed) > MAX_DIFF_CHARACTERS
        else ""
    )
    path.write_text(changed[:MAX_DIFF_CHARACTERS] + note, encoding="utf-8")


def _git(*arguments: str) -> str:
    process = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True)
    if process.returncode > ("--no-index" in arguments):  # with --no-index, 1 means that there is a difference
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return process.stdout.decode("utf-8", "replace")


def describe_hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
        "cuda": torch.version.cuda if gpus else None,
    }


def provenance_changes(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The parts of a provenance that differ between two times, one line each."""
    changes = []
    for part in ("code", "versions", "hardware", "data", "model", "reward_files"):
        before, after = ((provenance.get(part) or {}) for provenance in (saved, current))
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                changes.append(f"{part} {name}: was {before.get(name)}, is {after.get(name)}")
    return changes
