"""Rewards: the registry, the built-in functions, reward files, scoring, advantages, and the probes of `grpo.audit`."""

from grpo.rewards import reward_files  # noqa: F401  (registers the built-in rewards before any file can use their names)
from grpo.rewards.registry import reward

__all__ = ["reward"]
