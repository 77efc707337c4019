"""What is stored, logged or sent in place of a secret.

A text that was given as `${oc.env:NAME}` is stored as that, never as its value. The values of settings that are named
like secrets, and the user part of URLs, are masked.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers.oc import env

MASK = "***"
# In the name of a setting or of an environment variable, as in `WANDB_API_KEY`.
KEY_PREFIXES = (
    "access|account|api|auth|aws|bearer|client|gh|hf|hub|master|private|refresh|secret|session|shared|signing|ssh"
)
SECRET = (
    rf"(?<![a-z])(?:(?:{KEY_PREFIXES})*(?:keys?|tokens?)|secrets?|[a-z]*(?:password|passwd|passphrase)s?|pwd|bearer"
    r"|(?<=_)pat|credentials?)(?![a-z])"
)
SECRET_NAME = re.compile(SECRET, re.IGNORECASE)
# Names of columns and of special tokens, not of secrets.
HARMLESS_NAME = re.compile(
    r"(?:answer|image|input|label|messages|prompt|question|response|sort|text)_keys?$"
    r"|(?:bos|cls|end|eos|image|mask|pad|sep|special|stop|unk)_tokens?$",
    re.IGNORECASE,
)
ENVIRONMENT_SETTING = re.compile(r"(?:^|\.)env_set(?:\.|$)")  # hydra.job.env_set: all of its values can be secrets
TOKEN_COUNT_NAME = re.compile(r"(?<![a-z])tokens?$", re.IGNORECASE)  # with a number, as in `max_tokens=50`
PLAIN_NUMBER = re.compile(r"[+-]?\d{1,9}(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE)
PLACEHOLDERS = {"key=value", "key=VALUE", "KEY=VALUE", "key=NAME"}  # in messages about what to type
SECRET_ENTRY = re.compile(rf"([\w.-]*{SECRET}[\w.-]*['\"]?\s*:\s*)[^,}}]+", re.IGNORECASE)  # {{HF_TOKEN: x}}
URL_USER = re.compile(r"(?<=://)[^/\s@'\"]+@")
# An override within a message, without the punctuation that follows it.
OVERRIDE_IN_MESSAGE = re.compile(r"[^\s'\"=]+=(?:'[^']*'|\"[^\"]*\"|\$?\{[^}]*\}|\S+?)(?=[:.,;)]*(?:\s|$))")
VARIABLE = re.compile(r"oc\.env:\s*['\"]?(\w+)")
VARIABLES_READ: set[str] = set()  # the environment variables that settings were interpolated from


def _read_variable(name: str, *default: Any) -> str | None:
    VARIABLES_READ.add(str(name))
    return env(name, *default)


# The name can itself be an interpolation, so only its use tells which variable is read.
OmegaConf.register_new_resolver("oc.env", _read_variable, replace=True)


class FromEnvironment(str):
    """A text that was interpolated from the environment; `source` is stored in its place."""

    source: str

    def __new__(cls, value: str, source: str) -> "FromEnvironment":
        text = super().__new__(cls, value)
        text.source = source
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return FromEnvironment, (str(self), self.source)


def mark_environment_values(settings: Any, raw: Any) -> Any:
    """Settings with each text that `raw`, the same unresolved, takes from the environment as a `FromEnvironment`.

    Numbers and switches stay as they are: a resumed run needs the same ones.
    """
    names = VARIABLES_READ if any("${" in text for text in _texts(raw)) else set()
    replaced = _replacing(names)

    def marked(node: Any, raw: Any) -> Any:
        if is_dataclass(node) and not isinstance(node, type):
            return replace(
                node, **{item.name: marked(getattr(node, item.name), of(raw, item.name)) for item in fields(node)}
            )
        if isinstance(node, dict):
            return {key: marked(value, of(raw, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [marked(value, of(raw, number)) for number, value in enumerate(node)]
        if isinstance(node, str) and isinstance(raw, str) and "${" in raw:
            source = replaced(node)
            return FromEnvironment(node, source) if source != node else node
        return node

    def of(raw: Any, key: Any) -> Any:
        if isinstance(raw, dict):
            return raw.get(key)
        return raw[key] if isinstance(raw, list) else raw  # a whole group or list may be one interpolation

    return marked(settings, raw) if names else settings


def _replacing(names: Collection[str]) -> Callable[[str], str]:
    """A function that replaces the values of these environment variables in a text by their interpolations."""
    sources = {os.environ[name]: f"${{oc.env:{name}}}" for name in sorted(names) if os.environ.get(name)}
    # The longest first, because one value may contain another.
    values = re.compile("|".join(map(re.escape, sorted(sources, key=len, reverse=True))) or "(?!)")
    return lambda text: values.sub(lambda found: sources[found[0]], text)


def hide_environment_values(message: str) -> str:
    """A message of OmegaConf about a value, with what it quotes from the environment as interpolations."""
    replaced = _replacing(VARIABLES_READ)
    return re.sub(r"(?<=[Vv]alue ')[^\n]*'|(?<=variable ')[^\n]*'", lambda found: replaced(found[0]), message)


def unset_variables(raw: Any) -> list[str]:
    """The environment variables that unresolved settings need and that are not set."""
    names = {name for text in _texts(raw) for name in re.findall(r"\$\{oc\.env:\s*['\"]?(\w+)['\"]?\s*\}", text)}
    return sorted(names - os.environ.keys())


def _shallow(node: Any) -> dict[str, Any]:
    return {item.name: getattr(node, item.name) for item in fields(node)}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def to_interpolations(node: Any) -> Any:
    """A copy of nested settings with each `FromEnvironment` replaced by its source."""
    if isinstance(node, FromEnvironment):
        return node.source
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **to_interpolations(_shallow(node)))
    if isinstance(node, dict):
        return {to_interpolations(key): to_interpolations(value) for key, value in node.items()}
    return [to_interpolations(value) for value in node] if isinstance(node, list | tuple) else node


def absolute_with_source(path: str, absolute: str) -> str:
    """The absolute form of `path`, with the source of `path` if that came from the environment."""
    if not isinstance(path, FromEnvironment):
        return absolute
    return FromEnvironment(
        absolute, path.source if path.startswith(("/", "~")) else os.path.join(os.getcwd(), path.source)
    )


def redacted(settings: Any) -> Any:
    """Nested settings as they are stored or sent: with sources, and without secrets."""
    return _masked(to_interpolations(settings))


def _masked(node: Any, name: str = "") -> Any:
    if isinstance(node, dict):
        # The weights of rewards are numbers, whatever their names.
        if name == "env_set":
            return {key: MASK if _hides(value) else value for key, value in node.items()}
        return {key: value if key == "rewards" else _masked(value, str(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [mask_override(each) if isinstance(each, str) else _masked(each, name) for each in node]
    if _is_secret(name, node):
        return MASK
    return URL_USER.sub(f"{MASK}@", node) if isinstance(node, str) and _is_url(node) else node


def _is_secret(name: str, value: Any) -> bool:
    if HARMLESS_NAME.search(name) or (TOKEN_COUNT_NAME.search(name) and PLAIN_NUMBER.fullmatch(str(value))):
        return False
    return bool(SECRET_NAME.search(name)) and _hides(value)


def _hides(value: Any) -> bool:
    return value not in (None, "", "null") and not isinstance(value, bool) and not re.fullmatch(r"\$\{.*\}", str(value))


def _is_url(text: str) -> bool:
    return re.match(r"['\"]?[\w+.-]+://", text) is not None


def mask_override(text: str) -> str:
    """An override, `key=value`, as it is stored or printed."""
    key, equals, value = text.partition("=")
    if not equals:
        return text
    setting = key.lstrip("+~-")
    if text.lstrip("+~-(`") in PLACEHOLDERS or setting.startswith("rewards."):
        return text
    if ENVIRONMENT_SETTING.search(setting):
        value = MASK if _hides(value) and value != "{}" else value
    elif _is_secret(setting.rpartition(".")[2], value):
        value = MASK
    elif value.startswith("{") and key != "rewards":
        value = SECRET_ENTRY.sub(rf"\1{MASK}", value)
    elif _is_url(value):
        value = URL_USER.sub(f"{MASK}@", value)
    return f"{key}={value}"


def mask_overrides(typed: Sequence[str]) -> list[str]:
    return [mask_override(each) for each in typed]


def mask_message(message: str) -> str:
    """A message, which may quote overrides."""
    return OVERRIDE_IN_MESSAGE.sub(lambda found: mask_override(found[0]), message)
