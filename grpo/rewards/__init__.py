"""Rewards: the registry, the built-in functions, reward files, audit probes, and advantages."""

from grpo.rewards import reward_files  # noqa: F401  (first, so that the shipped rewards have their names before any other)
from grpo.rewards.registry import reward

__all__ = ["reward"]
