"""Settings of runs of earlier versions: what they did not save, or named otherwise, has the value that it had then."""

from dataclasses import asdict
from typing import Any

import pytest

from grpo.config.composition import compose, config_from_saved
from grpo.config.schema import Config

# Settings that a run did not save -> settings that it saved instead.
OLDER: dict[str, tuple[list[str], dict[str, Any]]] = {
    "answer types": (["data.answer"], {"data.gold": "number", "data.answer_match": "number"}),
    "correct_by": (["correct_by", "reward_args", "reward_timeout", "on_reward_timeout", "reward_workers"], {}),
    "formats and templates": (["format", "chat_template_kwargs"], {}),
    "kernels": (["rollout.kernels", "prefix_attention"], {}),
    "estimators": (["algorithm.estimator", "algorithm.gate", "algorithm.pass_k"], {}),
    "losses": (["algorithm.delta", "algorithm.entropy_coef", "algorithm.top_entropy_quantile"], {}),
    "models": (["model.gguf", "model.tokenizer", "model.adapter", "model.merge_adapter"], {}),
}


@pytest.mark.parametrize(("missing", "instead"), OLDER.values(), ids=OLDER)
def test_settings_of_an_older_run(missing: list[str], instead: dict[str, Any]) -> None:
    config = compose()
    saved = asdict(config)
    for key in missing:
        group, _, name = key.rpartition(".")
        del (saved[group] if group else saved)[name]
    for key, value in instead.items():
        group, _, name = key.rpartition(".")
        saved[group][name] = value
    assert config_from_saved(saved, Config) == config
