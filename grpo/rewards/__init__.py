"""Rewards: the registry, the built-in functions, reward files, audit probes, and advantages."""

from grpo.rewards.registry import reward

__all__ = ["reward"]
