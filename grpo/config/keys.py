"""Full keys of settings, such as `optimizer.lr`: those of a schema, of a config and of nested mappings.

A helper of the other modules of this package, and of reports. It knows no setting.
"""

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin


def get_setting(config: Any, key: str) -> Any:
    """The value of the setting `key`, such as `optimizer.lr`; None if there is no such setting or its group is None."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def list_settings(schema: type[Any]) -> dict[str, type]:
    """The settings of a schema that are lists, with the type of their elements."""
    element_types = {}
    for item in fields(schema):
        for kind in (item.type, *get_args(item.type)):
            if get_origin(kind) is list:
                element_types[item.name] = get_args(kind)[0]
    return element_types


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping with full keys, `group.name`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def schema_keys(schema: type[Any], prefix: str = "") -> dict[str, Any]:
    """The full keys of a schema: each setting with its type, and each group with its dataclass."""
    keys: dict[str, Any] = {}
    for item in fields(schema):
        keys[f"{prefix}{item.name}"] = item.type
        for kind in (item.type, *get_args(item.type)):
            if is_dataclass(kind) and isinstance(kind, type):
                keys |= schema_keys(kind, f"{prefix}{item.name}.")
    return keys
