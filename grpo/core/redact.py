"""Masking of secrets: settings as they are stored, logged or sent to a tracker.

A setting whose name reads like a secret (`WANDB_API_KEY`) and the user part of a URL become `***`; a text from an
environment variable becomes its interpolation. Everything that writes settings calls it. It does not know which
settings exist.
"""

import re
from collections.abc import Sequence
from typing import Any

from grpo.core.environment_values import to_interpolations

MASK = "***"
# Words before `key` or `token` in the name of a secret, as in `WANDB_API_KEY`.
KEY_PREFIXES = (
    "access|account|api|auth|aws|bearer|client|gh|hf|hub|master|private|refresh|secret|session|shared|signing|ssh"
)
SECRET = (
    rf"(?<![a-z])(?:(?:{KEY_PREFIXES})*(?:keys?|tokens?)|secrets?|[a-z]*(?:password|passwd|passphrase)s?|pwd|bearer"
    r"|(?<=_)pat|credentials?)(?![a-z])"
)
SECRET_NAME = re.compile(SECRET, re.IGNORECASE)
# Names of columns and of special tokens, which `SECRET_NAME` matches, too.
HARMLESS_NAME = re.compile(
    r"(?:answer|image|input|label|messages|prompt|question|response|sort|text)_keys?$"
    r"|(?:bos|cls|end|eos|image|mask|pad|sep|special|stop|unk)_tokens?$",
    re.IGNORECASE,
)
# hydra.job.env_set sets environment variables, and any of its values may be a secret.
ENVIRONMENT_SETTING = re.compile(r"(?:^|\.)env_set(?:\.|$)")
# With a number as its value, `max_tokens=50`, such a name is not a secret.
TOKEN_COUNT_NAME = re.compile(r"(?<![a-z])tokens?$", re.IGNORECASE)
PLAIN_NUMBER = re.compile(r"[+-]?\d{1,9}(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE)
PLACEHOLDERS = {"key=value", "key=VALUE", "KEY=VALUE", "key=NAME"}  # in messages that tell the user what to type
# In a value such as {HF_TOKEN: x}.
SECRET_ENTRY = re.compile(rf"([\w.-]*{SECRET}[\w.-]*['\"]?\s*:\s*)[^,}}]+", re.IGNORECASE)
URL_USER = re.compile(r"(?<=://)[^/\s@'\"]+@")
# An override in a message, without the punctuation that follows it.
OVERRIDE_IN_MESSAGE = re.compile(r"[^\s'\"=]+=(?:'[^']*'|\"[^\"]*\"|\$?\{[^}]*\}|\S+?)(?=[:.,;)]*(?:\s|$))")


def redacted(settings: Any) -> Any:
    """Nested settings for a file or a tracker: secrets are masked, environment values are interpolations."""
    return _masked(to_interpolations(settings))


def _masked(node: Any, name: str = "") -> Any:
    if isinstance(node, dict):
        if name == "env_set":
            return {key: MASK if _is_set(value) else value for key, value in node.items()}
        # Reward weights are numbers, even if a reward's name reads like a secret.
        return {key: value if key == "rewards" else _masked(value, str(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [mask_override(item) if isinstance(item, str) else _masked(item, name) for item in node]
    if _is_secret(name, node):
        return MASK
    return URL_USER.sub(f"{MASK}@", node) if isinstance(node, str) and _is_url(node) else node


def _is_secret(name: str, value: Any) -> bool:
    if HARMLESS_NAME.search(name) or (TOKEN_COUNT_NAME.search(name) and PLAIN_NUMBER.fullmatch(str(value))):
        return False
    return bool(SECRET_NAME.search(name)) and _is_set(value)


def _is_set(value: Any) -> bool:
    """Whether a value can be a secret: it is not empty, a boolean or an interpolation."""
    return value not in (None, "", "null") and not isinstance(value, bool) and not re.fullmatch(r"\$\{.*\}", str(value))


def _is_url(text: str) -> bool:
    return re.match(r"['\"]?[\w+.-]+://", text) is not None


def mask_override(text: str) -> str:
    """A command line override, `key=value`, with a secret value masked."""
    key, equals, value = text.partition("=")
    if not equals:
        return text
    setting = key.lstrip("+~-")
    if text.lstrip("+~-(`") in PLACEHOLDERS or setting.startswith("rewards."):
        return text
    if ENVIRONMENT_SETTING.search(setting):
        value = MASK if _is_set(value) and value != "{}" else value
    elif _is_secret(setting.rpartition(".")[2], value):
        value = MASK
    elif value.startswith("{") and key != "rewards":
        value = SECRET_ENTRY.sub(rf"\1{MASK}", value)
    elif _is_url(value):
        value = URL_USER.sub(f"{MASK}@", value)
    return f"{key}={value}"


def mask_overrides(overrides: Sequence[str]) -> list[str]:
    """Command line overrides with secret values masked."""
    return [mask_override(override) for override in overrides]


def mask_message(message: str) -> str:
    """A message in which secret values of quoted overrides are masked."""
    return OVERRIDE_IN_MESSAGE.sub(lambda match: mask_override(match[0]), message)
