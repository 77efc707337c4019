"""Settings at random: each trains two steps, or stops with one of our messages.

More examples, different ones each time: GRPO_FUZZ_EXAMPLES=500 python -m pytest tests/training/test_fuzz.py -m slow
"""

import os
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo.config.composition import compose
from grpo.config.groups import option_names
from grpo.config.rules import ALARM_NAMES, ESTIMATOR_NAMES
from grpo.config.schema import Config
from grpo.core.errors import UserError
from grpo.training.session import train_run
from tests.conftest import SMALL

EXAMPLES = int(os.environ.get("GRPO_FUZZ_EXAMPLES", "60"))

# Of settings whose values are not told by their type, or would make a run long.
VALUES: dict[str, Any] = {
    "max_steps": [2],
    "num_generations": [1, 2, 3, 5],
    "prompts_per_step": [0, 1, 2, 3, 21],
    "micro_batch_size": [-1, 1, 3, 7, 64],
    "max_completion_length": [0, 1, 2, 9, 24],
    "max_prompt_length": [1, 60, 256, None],
    "num_train_epochs": [0.01, 1.0, 3.0],
    "threads": [1, 2, 0],
    "device": ["cpu", "cuda", "tpu"],
    "temperature": [1e-4, 0.7, 1.0, 50.0, 0.0],
    "reward_files": ["[]", "[missing.py]"],
    "stop_on": ["[]", *(f"[{name}]" for name in ALARM_NAMES), "[nothing]"],
    "on_nonfinite": ["stop", "skip", "go"],
    "logging_steps": [1, 2, 3],
    "eval_steps": [None, 1, 2],
    "save_steps": [None, 1, 2],
    "save_total_limit": [None, 1, 2],
    "eval_batch_size": [1, 3, 128],
    "system_prompt": ["''", "'<answer>'", "'{{ x }} [bold] \U0001f600'"],
    "resume": [None],
    "model.path": ["embedded:tiny", "embedded:none", "nowhere", "owner/name", "."],
    "model.revision": [None, "main"],
    "model.init": ["pretrained", "random", "zeros"],
    "model.num_layers": [None, 1, 2],
    "model.dtype": ["float32", "bfloat16", "int8"],
    "model.lora_rank": [0, 1, 4],
    "model.lora_alpha": [1, 32],
    "model.lora_dropout": [0.0, 0.5, 1.0],
    "data.path": [None, "nowhere"],
    "data.name": ["arithmetic", "gsm8k", "other"],
    "data.train_problems": [1, 8, 20, 200],
    "data.eval_problems": [4],
    "data.validation_problems": [2, None],
    "data.min_steps": [1, 2, 4],
    "data.max_steps": [1, 3, 4, 5],
    "data.max_number": [99, 100, 150, 1000],
    "optimizer.name": ["adamw_torch", "adafactor", "sgd", "lion"],
    "optimizer.lr": [1e-12, 1e-4, 1.0, 100.0],
    "optimizer.schedule": ["cosine", "linear", "constant", "constant_with_warmup", "steps"],
    "optimizer.warmup": [0.0, 0.5, 1.0, 2.5, 3.0],
    "algorithm.loss_type": ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo", "ppo"],
    "algorithm.estimator": [*ESTIMATOR_NAMES, "gae"],
    "algorithm.scale_rewards": [None, None, "group", "batch", "none", "all"],
    "algorithm.pass_k": [1, 2, 3, 4],
    "algorithm.gate": ["off", "correctness", "none_right", "on"],
    "algorithm.importance_sampling_level": ["token", "sequence", "word"],
    "algorithm.num_iterations": [1, 2, 3],
    "algorithm.steps_per_generation": [1, 2, 5],
    "algorithm.beta": [0.0, 0.04, 1e6],
    "rollout.name": ["fast", "generate"],
    "tracking.name": ["none"],
    "tracking.project": ["grpo", "''"],
    "tracking.completions_every": [1, 2],
    "tracking.completions_rows": [0, 3, 400],
    "alarm_window": [2, 20],
}
GROUPS = {group: option_names(group) for group in ("algorithm", "optimizer", "rollout", "rewards")}


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    optional = st.none() if "None" in str(kind) else st.nothing()
    if "bool" in str(kind):
        return optional | st.booleans()
    if "int" in str(kind):
        return optional | st.integers(-1, 3)
    if "float" in str(kind):
        return optional | st.sampled_from([-1.0, 0.0, 1e-6, 0.2, 0.9, 1.0, 3.0, float("inf"), float("nan")])
    return optional | st.sampled_from(["x", "''"])


def strategies(schema: Any, prefix: str = "") -> dict[str, st.SearchStrategy[Any]]:
    """For every setting of the schema, the values to try."""
    found: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields(schema):
        key = f"{prefix}{field.name}"
        if is_dataclass(field.type):
            found |= strategies(field.type, f"{key}.")
        elif key == "rewards":
            found |= {f"rewards.{name}": st.sampled_from([-1.0, 0.0, 1e4]) for name in ("correctness", "xmlcount")}
        else:
            found[key] = st.sampled_from(VALUES[key]) if key in VALUES else of_type(field.type)
    return found


SETTINGS = strategies(Config)


@st.composite
def overrides(draw: Any) -> list[str]:
    groups = draw(st.lists(st.sampled_from(sorted(GROUPS)), unique=True, max_size=2))
    keys = draw(st.lists(st.sampled_from(sorted(SETTINGS)), unique=True, max_size=5))
    chosen = [f"{group}={draw(st.sampled_from(GROUPS[group]))}" for group in groups]
    return chosen + [f"{key}={written(draw(SETTINGS[key]))}" for key in keys]


def written(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.slow
def test_any_settings_train_or_end_in_a_message(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = {"trained": 0, "refused": 0}

    @settings(
        max_examples=EXAMPLES,
        derandomize=EXAMPLES == 60,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(overrides())
    def attempt(chosen: list[str]) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            out = Path(folder) / "run"
            out.mkdir()
            try:
                results = train_run(compose([*SMALL, "tracking=none", "threads=1", *chosen]), out)
            except UserError as error:
                assert str(error).strip() and "\n" not in str(error).strip(), error
                assert not (out / "results.json").exists()
                outcomes["refused"] += 1
            else:
                assert results["steps"] <= 2
                outcomes["trained"] += 1

    attempt()
    assert min(outcomes.values()) > EXAMPLES // 6, outcomes
