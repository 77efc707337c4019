"""GSM8K on this machine, for tests that read it: GRPO_GSM8K_DIR names its folder."""

import os

import pytest

GSM8K = os.environ.get("GRPO_GSM8K_DIR")
needs_gsm8k = pytest.mark.skipif(GSM8K is None, reason="GRPO_GSM8K_DIR does not name a folder with GSM8K")
