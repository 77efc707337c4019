"""Trust in run directories: whether their saved settings may run code here, which only this user's own runs may.

A run directory can come from anybody. Commands that read one call `require_trust` before they use a saved setting that
runs code; `save_settings` calls `sign`. The signature is an HMAC with a key in the user's configuration directory.
Nothing here knows which command asks.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from grpo.core.console import say
from grpo.core.environment_values import ENV_INTERPOLATION
from grpo.core.errors import UserError
from grpo.core.files import file_sha256, write_json
from grpo.core.paths import display_path
from grpo.core.text import format_setting, printable
from grpo.runs.run_dir import LATEST, RunDir

KEY_BYTES = 32
MODULES = (".py", ".pyc", ".so")
WRITTEN_IN_PLACE = (".diff", ".jsonl", ".lock", ".log")


def require_trust(
    folder: Path,
    settings: dict[str, Any],
    *,
    advice: str,
    used: Collection[str] | None = None,
    typed: Collection[str] = (),
    trusted: bool = False,
    policy: bool = False,
) -> None:
    """Refuse a run directory whose saved settings would run code, unless this user made it.

    Args:
        settings: as they are saved, interpolations unresolved.
        advice: what to type instead, printed at the end of the message.
        used: the settings and groups that the command reads from the folder; None means all.
        typed: settings given on the command line, which replace the saved ones.
        trusted: the user has typed that the folder is trusted.
        policy: the command also loads `policy/` of the folder.

    Raises:
        UserError: it lists what would be executed. Nothing in the folder is changed.
    """
    executed = []
    for key, line in _described(folder, settings, policy):
        group = key.partition(".")[0]
        if (used is None or group in used) and key not in typed and group not in typed:
            executed.append(line)
    if trusted or not executed:
        return
    if (reason := _reason_for_distrust(folder, settings, policy)) is None:
        return _delete_bytecode(folder, settings)
    lines = "".join(f"\n  {printable(line).replace(chr(10), chr(92) + 'n')}" for line in executed)
    raise UserError(
        f"{display_path(folder)}: {reason}, "
        f"and its settings would execute code or read your environment:{lines}\n{advice}"
    )


def refuse_links(folder: Path, trusted: bool = False) -> None:
    """Refuse a run directory or the folder of a sweep that contains links, through which files elsewhere would change.

    Refused are symbolic links, and hard links of files that are written in place. Links in `wandb/` are made by W&B,
    and the link `latest` by `link_latest`; these are allowed.

    Raises:
        UserError: there is a link, and the user has not typed that the folder is trusted.
    """
    if trusted:
        return
    for place, folders, files in os.walk(folder):
        at_top = Path(place) == folder
        for name in sorted((*folders, *files)):
            path = Path(place, name)
            status = path.lstat()
            symbolic = stat.S_ISLNK(status.st_mode) and not (at_top and name == LATEST)
            hard = stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and name.endswith(WRITTEN_IN_PLACE)
            if symbolic or hard:
                kind = "symbolic" if symbolic else "hard"
                raise UserError(
                    f"{printable(display_path(path))} is a {kind} link: what is written there changes a file or a "
                    "folder elsewhere, and nothing has been written. Put a copy in its place; for "
                    "a link of your own in the folder of a run, add trust_run=true."
                )
        if at_top and "wandb" in folders:
            folders.remove("wandb")


def sign(folder: Path, settings: dict[str, Any]) -> None:
    """Mark a run directory as made by this user, if its settings run code; prints a warning if there is no key."""
    executed = _executed(settings)
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
        _reward_files(settings) | _modules(folder, settings) | (_policy_files(folder) if _runs_policy(executed) else {})
    )
    run = RunDir(folder)
    run.hydra.mkdir(exist_ok=True)
    write_json(run.signature_json, {"files": files, "signature": _hmac(key, executed, files)})


def key_path() -> Path:
    """
    Raises:
        RuntimeError: there is no home directory.
    """
    given = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(given) if os.path.isabs(given) else Path.home() / ".config"
    return folder / "grpo" / "signing.key"


def _executed(settings: dict[str, Any]) -> dict[str, Any]:
    """The saved settings that run code or read the environment, by their full keys.

    `rollout.server` is one of them: TRL's client for a vLLM server reads pickled objects from it.
    """
    found = {key: value for key, value in _leaves(settings) if isinstance(value, str) and "${" in value}
    if (files := settings.get("reward_files")) not in (None, []):
        found["reward_files"] = files
    for key in ("trust_remote_code", "trust_pickle"):
        if _value(settings, "model", key) not in (None, False):
            found |= {f"model.{each}": _value(settings, "model", each) for each in (key, "path", "revision")}
    if (server := _value(settings, "rollout", "server")) is not None:
        found["rollout.server"] = server
    return found


def _value(settings: dict[str, Any], group: str, key: str) -> Any:
    # Level by level: a key with a dot in a crafted file must not pass for the nested key that is used.
    inner = settings.get(group)
    return inner.get(key) if isinstance(inner, dict) else None


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}{key}.")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{prefix}{number}.")
    else:
        yield prefix[:-1], node


def _described(folder: Path, settings: dict[str, Any], policy: bool) -> Iterator[tuple[str, str]]:
    """(setting, what it executes) for each of `_executed`."""
    executed = _executed(settings)
    model = RunDir(folder).policy if policy else _value(settings, "model", "path")
    for key, value in executed.items():
        if key == "reward_files":
            for name in value if isinstance(value, list) else [value]:
                yield key, f"reward_files: {_absolute(name)}"
        elif key == "model.trust_remote_code":
            yield key, f"model.trust_remote_code={format_setting(value)}: the Python code of {model}"
        elif key == "model.trust_pickle":
            yield key, f"model.trust_pickle={format_setting(value)}: the pickled weights of {model}"
        elif key == "rollout.server":
            yield key, f"rollout.server={value}: weights and prompts are sent there, pickled objects come back"
        elif isinstance(value, str) and "${" in value:
            names = ", ".join(ENV_INTERPOLATION.findall(value))
            yield key, f"{key}={value}: " + (f"the environment variable {names}" if names else "another setting")


def _absolute(name: Any) -> str:
    if "${" in str(name):
        return str(name)
    try:
        return str(Path(str(name)).expanduser().absolute())
    except (RuntimeError, OSError):  # no such user; no working directory
        return str(name)


def _reason_for_distrust(folder: Path, settings: dict[str, Any], policy: bool) -> str | None:
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
    executed = _executed(settings)
    if not hmac.compare_digest(signature, _hmac(key, executed, files).encode()):
        return "this run directory was not made by you, or its settings were changed since"
    # A reward file elsewhere that the user has edited is trusted; one inside the folder must be as it was signed.
    now = {name: digest for name, digest in _reward_files(settings).items() if _depends_on_folder(folder, name)}
    now |= _modules(folder, settings)
    if policy and _runs_policy(executed):
        now |= _policy_files(folder)
    changed = [name for name, digest in now.items() if files.get(name) != digest]
    return f"{changed[0]} was changed since you made this run directory" if changed else None


def _depends_on_folder(folder: Path, name: str) -> bool:
    """Whether the name means another file in another working directory, or lies inside the run directory."""
    path = Path(name).expanduser()
    return not path.is_absolute() or path.resolve().is_relative_to(folder.resolve())


def _runs_policy(executed: dict[str, Any]) -> bool:
    return not executed.keys().isdisjoint({"model.trust_remote_code", "model.trust_pickle"})


def _reward_files(settings: dict[str, Any]) -> dict[str, str]:
    """The reward files that exist, with their digests."""
    names = settings.get("reward_files")
    found = {}
    for name in names if isinstance(names, list) else []:
        try:
            path = Path(str(name)).expanduser()
            if path.is_file():
                found[str(name)] = file_sha256(path)
        except (OSError, RuntimeError, ValueError):
            continue  # loading it prints what is wrong with it
    return found


def _modules(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The modules beside the reward files inside the run directory, which these can import, with digests."""
    found, run = {}, RunDir(folder.resolve())
    for place in _places(folder, settings):
        written = {run.checkpoints, run.policy}  # written by the run itself, later
        for path in place.rglob("*"):
            if (
                written.isdisjoint(path.parents)
                and path.suffix in MODULES
                and path.parent.name != "__pycache__"
                and path.is_file()
            ):
                found[f"beside a reward file: {path.relative_to(folder.resolve())}"] = file_sha256(path)
    return found


def _places(folder: Path, settings: dict[str, Any]) -> set[Path]:
    """The folders of the reward files inside the run directory."""
    files = [Path(name).expanduser().resolve() for name in _reward_files(settings)]
    return {file.parent for file in files if file.is_relative_to(folder.resolve())}


def _delete_bytecode(folder: Path, settings: dict[str, Any]) -> None:
    """Delete the bytecode that Python would import instead of the signed modules; it is written again."""
    for place in _places(folder, settings):
        for path in place.rglob("__pycache__/*.pyc"):
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
