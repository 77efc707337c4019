"""Texts of settings that come from environment variables: a run uses the value, its files store `${oc.env:NAME}`.

The config package marks such texts when it composes the settings; code that writes settings converts them back. It does
not know which settings exist.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers.oc import env

ENV_INTERPOLATION = re.compile(r"oc\.env:\s*['\"]?(\w+)")
VARIABLES_READ: set[str] = set()  # the names of the environment variables that OmegaConf has read


def _read_variable(name: str, *default: Any) -> str | None:
    VARIABLES_READ.add(str(name))
    return env(name, *default)


# The name of a variable can itself be an interpolation, so only the resolver knows which variable is read.
OmegaConf.register_new_resolver("oc.env", _read_variable, replace=True)


class FromEnvironment(str):
    """A text that contains the value of an environment variable.

    Attributes:
        source: the text before interpolation, which files store.
    """

    source: str

    def __new__(cls, value: str, source: str) -> "FromEnvironment":
        text = super().__new__(cls, value)
        text.source = source
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return FromEnvironment, (str(self), self.source)


def mark_environment_values(settings: Any, raw: Any) -> Any:
    """A copy of `settings` in which every text from an environment variable is a `FromEnvironment`.

    `raw` is the same settings before interpolation. Numbers and booleans are not marked, because a resumed run needs
    the same values.
    """
    names = VARIABLES_READ if any("${" in text for text in _iterate_texts(raw)) else set()
    return _marked(settings, raw, _replacer(names)) if names else settings


def _marked(node: Any, raw: Any, to_sources: Callable[[str], str]) -> Any:
    if is_dataclass(node) and not isinstance(node, type):
        return replace(
            node, **{name: _marked(value, _child(raw, name), to_sources) for name, value in _fields_of(node).items()}
        )
    if isinstance(node, dict):
        return {key: _marked(value, _child(raw, key), to_sources) for key, value in node.items()}
    if isinstance(node, list):
        return [_marked(value, _child(raw, number), to_sources) for number, value in enumerate(node)]
    if isinstance(node, str) and isinstance(raw, str) and "${" in raw:
        source = to_sources(node)
        return FromEnvironment(node, source) if source != node else node
    return node


def _child(raw: Any, key: Any) -> Any:
    if isinstance(raw, dict):
        return raw.get(key)
    return raw[key] if isinstance(raw, list) else raw  # one interpolation may give a complete group or list


def _replacer(names: Collection[str]) -> Callable[[str], str]:
    """A function that replaces, in a text, the values of these environment variables by `${oc.env:NAME}`."""
    sources = {os.environ[name]: f"${{oc.env:{name}}}" for name in sorted(names) if os.environ.get(name)}
    # Longest first, because one value may contain another.
    values = re.compile("|".join(map(re.escape, sorted(sources, key=len, reverse=True))) or "(?!)")
    return lambda text: values.sub(lambda match: sources[match[0]], text)


def hide_environment_values(message: str) -> str:
    """An error message of OmegaConf in which quoted values of environment variables are interpolations."""
    replaced = _replacer(VARIABLES_READ)
    return re.sub(r"(?<=[Vv]alue ')[^\n]*'|(?<=variable ')[^\n]*'", lambda match: replaced(match[0]), message)


def unset_variables(raw: Any) -> list[str]:
    """The environment variables without a default that the settings before interpolation name and that are not set."""
    names = {
        name for text in _iterate_texts(raw) for name in re.findall(r"\$\{oc\.env:\s*['\"]?(\w+)['\"]?\s*\}", text)
    }
    return sorted(names - os.environ.keys())


def _fields_of(node: Any) -> dict[str, Any]:
    """The fields of a dataclass, without conversion of nested dataclasses."""
    return {item.name: getattr(node, item.name) for item in fields(node)}


def _iterate_texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _iterate_texts(value)
    elif isinstance(node, str):
        yield node


def to_interpolations(node: Any) -> Any:
    """A copy of nested settings with each `FromEnvironment` replaced by its source."""
    if isinstance(node, FromEnvironment):
        return node.source
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **to_interpolations(_fields_of(node)))
    if isinstance(node, dict):
        return {to_interpolations(key): to_interpolations(value) for key, value in node.items()}
    return [to_interpolations(value) for value in node] if isinstance(node, list | tuple) else node


def absolute_with_source(path: str, absolute: str) -> str:
    """`absolute`, the absolute form of `path`, marked with the absolute form of its source if `path` has one."""
    if not isinstance(path, FromEnvironment):
        return absolute
    return FromEnvironment(
        absolute, path.source if path.startswith(("/", "~")) else os.path.join(os.getcwd(), path.source)
    )
