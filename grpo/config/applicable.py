"""Which settings have no effect with the chosen options; `--cfg job` leaves them out.

Each rule follows the code that reads the setting. Called by `hydra_output.py`. It checks nothing: `validation.py`
refuses values that have no effect.
"""

from collections.abc import Callable, Mapping
from typing import Any

from grpo.config.data_settings import DATA_SETTINGS, SHARED_SETTINGS
from grpo.config.keys import flatten
from grpo.config.rules import CLIPPED_LOSSES
from grpo.config.samplers import SAMPLER_SETTINGS

Settings = Mapping[str, Any]  # by their full keys


def _has_adapters(settings: Settings) -> bool:
    return bool(settings.get("model.lora_rank") or settings.get("model.adapter") or settings.get("model.load_in_4bit"))


def _is_on_policy(settings: Settings) -> bool:
    from_engine = str(settings.get("rollout.name")).startswith("vllm")
    return settings.get("algorithm.num_iterations") == settings.get("algorithm.steps_per_generation") == 1 and (
        not from_engine
    )


# (settings, whether they have an effect)
CONDITIONS: list[tuple[tuple[str, ...], Callable[[Settings], bool]]] = [
    (("model.lora_alpha", "model.lora_dropout", "model.load_in_4bit"), _has_adapters),
    (("model.merge_adapter",), lambda settings: settings["model.adapter"] is not None),
    (("model.num_layers",), lambda settings: settings["model.init"] == "random"),
    (
        ("model.revision", "model.trust_pickle", "model.trust_remote_code"),
        lambda settings: not str(settings["model.path"]).startswith("embedded:"),
    ),
    (("data.solve_rate", "data.curriculum"), lambda settings: settings["data.difficulty"] is not None),
    (("format.reasoning", "format.answer"), lambda settings: settings["format.name"] == "tags"),
    (
        tuple(
            f"tracking.{name}"
            for name in ("entity", "project", "run_name", "group", "completions_every", "completions_rows")
        ),
        lambda settings: settings["tracking.name"] != "none",
    ),
    (("optimizer.beta1", "optimizer.beta2"), lambda settings: settings["optimizer.name"].startswith("adamw")),
    (("optimizer.warmup",), lambda settings: settings["optimizer.schedule"] != "constant"),
    (("algorithm.pass_k",), lambda settings: settings["algorithm.estimator"] == "passk"),
    (("algorithm.kl_bias_correction",), lambda settings: settings["algorithm.beta"] != 0),
    (("algorithm.epsilon", "algorithm.delta"), lambda settings: settings["algorithm.loss_type"] in CLIPPED_LOSSES),
    (("algorithm.epsilon_high",), lambda settings: settings["algorithm.loss_type"] not in ("sapo", "vespo")),
    (("algorithm.off_policy_mask_threshold",), lambda settings: not _is_on_policy(settings)),
    (("num_train_epochs",), lambda settings: settings["max_steps"] is None),
    (("prefix_attention",), lambda settings: settings["share_prompts"]),
    (
        ("reward_timeout", "reward_workers", "reward_concurrency", "on_reward_timeout"),
        lambda settings: bool(settings["reward_files"]),
    ),
    (("on_reward_timeout",), lambda settings: settings["reward_timeout"] is not None),
    (("trust_run",), lambda settings: any(settings.get(name) for name in ("resume", "run", "baseline"))),
    (("k",), lambda settings: settings["samples"] > 1 or settings["completions"] is not None),
]


def settings_without_effect(settings: Mapping[str, Any]) -> set[str]:
    """The full keys of the settings that have no effect with the other ones.

    Args:
        settings: nested, as they were composed; values need not be valid.
    """
    flat = flatten(dict(settings))
    keys = {name for names, applies in CONDITIONS for name in names if name in flat and not _holds(applies, flat)}
    for group, own in (("data", _dataset_settings(flat)), ("rollout", _sampler_settings(flat))):
        if own is not None:  # another value than null is refused, and is shown until then
            keys |= {
                key
                for key, value in flat.items()
                if key.startswith(f"{group}.") and value is None and key.removeprefix(f"{group}.") not in own
            }
    return keys


def _holds(applies: Callable[[Settings], bool], settings: Settings) -> bool:
    """Whether a condition holds; true if the command lacks the settings that it reads."""
    try:
        return applies(settings)
    except (KeyError, TypeError, AttributeError):
        return True


def _dataset_settings(settings: Settings) -> set[str] | None:
    """The names of the settings of the chosen dataset; None if the command reads none."""
    if (of_dataset := DATA_SETTINGS.get(settings.get("data.name", ""))) is None:
        return None
    return {*SHARED_SETTINGS, *of_dataset[0], *of_dataset[1]}


def _sampler_settings(settings: Settings) -> set[str] | None:
    """The names of the settings of the chosen sampler; None if the command samples nothing."""
    if (of_sampler := SAMPLER_SETTINGS.get(settings.get("rollout.name", ""))) is None:
        return None
    return {"name", *of_sampler}
