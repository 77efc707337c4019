"""Models for tests: the embedded policy with changed settings, and Qwen2.5 where GRPO_QWEN_DIR names its folder."""

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from grpo.config.composition import compose
from grpo.config.schema import ModelConfig

QWEN = os.environ.get("GRPO_QWEN_DIR")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
needs_qwen = pytest.mark.skipif(QWEN is None, reason="GRPO_QWEN_DIR does not name a folder with Qwen2.5's tokenizer")


def model(**changes: Any) -> ModelConfig:
    """The settings of the embedded policy with these changes."""
    return replace(compose().model, **changes)
