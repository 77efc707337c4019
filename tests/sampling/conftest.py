"""The fixture that installs the test doubles of vLLM."""

from types import SimpleNamespace

import pytest
from trl.generation import vllm_generation

from tests.helpers.vllm_engine import Client, Engine


@pytest.fixture
def vllm(monkeypatch) -> type[Engine]:
    """Install the test doubles where TRL looks for vLLM."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # TRL sets them; this removes them after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", Engine, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    monkeypatch.setattr(vllm_generation, "VLLMClient", Client)
    monkeypatch.setattr("grpo.training.environment.check_engine_package", lambda config: None)
    for module in ("training.environment", "sweeps.jobs"):
        monkeypatch.setattr(f"grpo.{module}.check_engine_server", lambda config: None)
    monkeypatch.setattr(Engine, "made", [])
    return Engine
