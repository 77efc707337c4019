"""Saved settings that run code or read the environment, and a line about each.

Called by `trust` and `signature`. It does not decide whether they may.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo.core.environment_values import ENV_INTERPOLATION
from grpo.core.text import format_setting
from grpo.runs.run_dir import RunDir


def executed_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The saved settings that run code or read the environment, by their full keys.

    `rollout.server` is one of them: TRL's client for a vLLM server reads pickled objects from it.
    """
    executed = {key: value for key, value in _leaves(settings) if isinstance(value, str) and "${" in value}
    if (files := settings.get("reward_files")) not in (None, []):
        executed["reward_files"] = files
    for key in ("trust_remote_code", "trust_pickle"):
        if _nested_value(settings, "model", key) not in (None, False):
            executed |= {f"model.{name}": _nested_value(settings, "model", name) for name in (key, "path", "revision")}
    if (server := _nested_value(settings, "rollout", "server")) is not None:
        executed["rollout.server"] = server
    return executed


def _nested_value(settings: dict[str, Any], group: str, key: str) -> Any:
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


def describe_executed(folder: Path, settings: dict[str, Any], policy: bool) -> Iterator[tuple[str, str]]:
    """(setting, what it executes) for each of `executed_settings`."""
    executed = executed_settings(settings)
    model = RunDir(folder).policy if policy else _nested_value(settings, "model", "path")
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


def runs_policy_code(executed: dict[str, Any]) -> bool:
    return not executed.keys().isdisjoint({"model.trust_remote_code", "model.trust_pickle"})
