"""The signature of a run directory: an HMAC of the settings and files that run code, with a key of this user.

The key is in the user's configuration directory. Called when settings are saved, and by `trust`. It does not know which
settings a command uses.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from grpo.core.console import say
from grpo.core.errors import UserError
from grpo.core.files import file_sha256, write_json
from grpo.core.paths import display_path
from grpo.runs.executed_settings import executed_settings, runs_policy_code
from grpo.runs.run_dir import RunDir

KEY_BYTES = 32
MODULES = (".py", ".pyc", ".so")


def sign(folder: Path, settings: dict[str, Any]) -> None:
    """Mark a run directory as made by this user, if its settings run code; prints a warning if there is no key."""
    executed = executed_settings(settings)
    if not executed:
        return
    try:
        key = _key(create=True)
    except (OSError, RuntimeError) as error:
        say(
            f"Warning: {display_path(folder)} is not signed, because there is no key ({error}). The run continues; to "
            "resume it, add trust_run=true."
        )
        return
    files = (
        _reward_files(settings)
        | _modules(folder, settings)
        | (_policy_files(folder) if runs_policy_code(executed) else {})
    )
    run = RunDir(folder)
    run.hydra.mkdir(exist_ok=True)
    write_json(run.signature_json, {"files": files, "signature": _hmac(key, executed, files)})


def key_path() -> Path:
    """
    Raises:
        RuntimeError: there is no home directory.
    """
    config_home = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(config_home) if os.path.isabs(config_home) else Path.home() / ".config"
    return folder / "grpo" / "signing.key"


def reason_for_distrust(folder: Path, settings: dict[str, Any], policy: bool) -> str | None:
    """Why the folder does not count as made by this user; None if it does."""
    path = RunDir(folder).signature_json
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        files, signature = saved["files"] | {}, saved["signature"].encode()
    except FileNotFoundError:
        return "this run directory was not made by you (it has no signature)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"this run directory may not be yours ({path} is damaged)"
    try:
        key = _key(create=False)
    except (OSError, RuntimeError) as error:
        return f"whether you made this run directory cannot be checked (there is no key: {error})"
    executed = executed_settings(settings)
    if not hmac.compare_digest(signature, _hmac(key, executed, files).encode()):
        return "this run directory was not made by you, or its settings were changed since"
    # A reward file elsewhere that the user has edited is trusted; one inside the folder must be as it was signed.
    digests = {name: digest for name, digest in _reward_files(settings).items() if _depends_on_folder(folder, name)}
    digests |= _modules(folder, settings)
    if policy and runs_policy_code(executed):
        digests |= _policy_files(folder)
    changed = [name for name, digest in digests.items() if files.get(name) != digest]
    return f"{changed[0]} was changed since you made this run directory" if changed else None


def _depends_on_folder(folder: Path, name: str) -> bool:
    """Whether the name means another file in another working directory, or lies inside the run directory."""
    path = Path(name).expanduser()
    return not path.is_absolute() or path.resolve().is_relative_to(folder.resolve())


def _reward_files(settings: dict[str, Any]) -> dict[str, str]:
    """The reward files that exist, with their digests."""
    names = settings.get("reward_files")
    digests = {}
    for name in names if isinstance(names, list) else []:
        try:
            path = Path(str(name)).expanduser()
            if path.is_file():
                digests[str(name)] = file_sha256(path)
        except (OSError, RuntimeError, ValueError):
            continue  # loading it prints what is wrong with it
    return digests


def _modules(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The modules beside the reward files inside the run directory, which these can import, with digests."""
    digests, run = {}, RunDir(folder.resolve())
    for parent in _reward_folders(folder, settings):
        later_folders = {run.checkpoints, run.policy}  # the run itself writes them, later
        for path in parent.rglob("*"):
            if (
                later_folders.isdisjoint(path.parents)
                and path.suffix in MODULES
                and path.parent.name != "__pycache__"
                and path.is_file()
            ):
                digests[f"beside a reward file: {path.relative_to(folder.resolve())}"] = file_sha256(path)
    return digests


def _reward_folders(folder: Path, settings: dict[str, Any]) -> set[Path]:
    """The folders of the reward files inside the run directory."""
    files = [Path(name).expanduser().resolve() for name in _reward_files(settings)]
    return {file.parent for file in files if file.is_relative_to(folder.resolve())}


def delete_bytecode(folder: Path, settings: dict[str, Any]) -> None:
    """Delete the bytecode that Python would import instead of the signed modules; it is written again."""
    for parent in _reward_folders(folder, settings):
        for path in parent.rglob("__pycache__/*.pyc"):
            try:
                path.unlink()
            except OSError as error:
                raise UserError(f"{path} may not be yours and cannot be deleted: {error.strerror}.") from error


def _policy_files(folder: Path) -> dict[str, str]:
    """The files of the saved policy that can contain or name code, with digests: all except safetensors weights."""
    files = sorted(
        path for path in RunDir(folder).policy.rglob("*") if path.is_file() and path.suffix != ".safetensors"
    )
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


def _hmac(key: bytes, executed: dict[str, Any], files: dict[str, Any]) -> str:
    content = repr((sorted(executed.items()), sorted(files.items())))
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()


def _key(create: bool) -> bytes:
    """
    Raises:
        OSError: there is no key and it cannot be created, or others can read it.
        RuntimeError: there is no home directory.
    """
    path = key_path()
    if create and not path.exists():
        _make_key(path)
    status = path.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(f"{path} is readable by others; type chmod 600 {path}, or delete it")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is damaged; delete it")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)  # unlike a rename, this replaces no key that another process has created
    finally:
        partial.unlink(missing_ok=True)
