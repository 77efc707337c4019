"""Setting names of other projects: the message, and the page of docs that is generated from the table."""

from dataclasses import fields
from itertools import chain
from pathlib import Path

import pytest

from grpo.config import hints, other_names
from grpo.config.composition import compose
from grpo.config.keys import get_setting, schema_keys
from grpo.config.schema import Config, SearchConfig
from tests.helpers.refusals import refusal_of

ROOT = Path(__file__).parents[2]


NOTEBOOK = {
    "optimizer.lr": 5e-6,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.99,
    "optimizer.weight_decay": 0.1,
    "optimizer.warmup": 0.1,
    "optimizer.schedule": "cosine",
    "optimizer.max_grad_norm": 0.1,
    "num_generations": 16,
    "max_prompt_length": 256,
    "max_completion_length": 200,
    "num_train_epochs": 1,
    "save_steps": 100,
    "logging_steps": 1,
    "bf16": True,
    "algorithm.beta": 0.04,
    "temperature": 0.9,
}
STEP = "a step has prompts_per_step x num_generations completions"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rate=1e-5", "Here it is optimizer.lr"),
        ("+learning_rate=1e-5", "Here it is optimizer.lr"),
        ("lr=1e-5", "Did you mean 'optimizer.lr'?"),
        ("optimizer.learning_rate=1e-5", "Here it is optimizer.lr"),
        ("actor_rollout_ref.actor.optim.lr=1e-6", "Did you mean 'optimizer.lr'?"),
        ("batch_size=8", f"Here it is prompts_per_step (prompts, not completions: {STEP}"),
        ("data.train_batch_size=8", f"Here it is prompts_per_step (prompts, not completions: {STEP}"),
        ("per_device_train_batch_size=8", "Here it is micro_batch_size (completions per forward pass on a device"),
        ("gradient_accumulation_steps=4", f"It has no counterpart here: it follows from the batch: {STEP}"),
        ("actor_rollout_ref.rollout.n=8", "Here it is num_generations (completions for each prompt)."),
        ("beta=0.04", "Did you mean 'algorithm.beta'?"),
        ("kl_coef=0.04", "Here it is algorithm.beta"),
        ("epochs=3", "Here it is num_train_epochs"),
        ("max_new_tokens=64", "Here it is max_completion_length"),
        ("wandb_project=mine", "Here it is tracking.project"),
        ("trainer.project_name=mine", "Here it is tracking.project"),
        ("entity=team", "Did you mean 'tracking.entity'?"),
        ("model_name_or_path=a/b", "Here it is model.path"),
        ("report_to=wandb", "Here it is tracking (a group: wandb, trackio"),
        ("top_p=0.9", "Did you mean 'rollout.top_p'?"),
        ("output_dir=out", "Here it is hydra.run.dir (hydra.sweep.dir for a sweep)."),
        ("generation_kwargs={top_k:50}", "as in rollout=generate rollout.top_k=50"),
        ("use_bias_correction_kl=true", "Here it is algorithm.kl_bias_correction"),
        ("push_to_hub=true", "It has no counterpart here: nothing is uploaded"),
        ("xmlcount_reward_func=1", "Here it is rewards=verbatim (the five functions as published"),
        ("hydra.launcher.n_jobs=4", "Here it is hydra.sweeper.parallel"),
        ("n_gpus_per_node=8", "set by the launcher, torchrun or accelerate: docs/multi-gpu.md."),
        ("zzz=1", "zzz: there is no such setting. Known: activation_checkpointing"),
    ],
)
def test_a_name_of_another_project_gives_a_hint(typed: str, meant: str) -> None:
    said = refusal_of(typed)
    assert said.startswith(f"{typed.lstrip('+').partition('=')[0]}: there is no such setting.") and meant in said
    assert ("Known:" in said) == (typed == "zzz=1")


def test_every_hint_names_a_setting() -> None:
    known = schema_keys(Config).keys() | {"hydra.run.dir", "hydra/sweeper", "hydra/launcher", "rewards.NAME"}
    known |= {f"hydra.sweeper.{item.name}" for item in fields(SearchConfig)}
    table = list(chain(*other_names.HINTS.values()))
    names = [name for each in table for name in each.names]
    assert len(names) == len(set(names))
    for each in table:
        assert not each.setting or each.setting.partition("=")[0] in known, each
        assert each.setting or each.note, each
    # What is a setting here, at the top level, is never looked up.
    assert not set(names) & ({item.name for item in fields(Config)} - {"trust_run"})


def test_the_page_is_generated_from_the_table() -> None:
    assert (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8") == hints.hints_page()


def test_every_argument_of_trl_has_an_answer() -> None:
    """Each field of TRL's GRPOConfig has the same name here, alone or in a group, or it has a hint."""
    from trl import GRPOConfig  # takes seconds

    here = {key.rpartition(".")[2] for key in schema_keys(Config)}
    names = [item.name for item in fields(GRPOConfig)]
    assert len(names) > 150
    assert [name for name in names if name not in here and not hints.find_hint(name)] == []


def test_the_notebooks_recipe_is_composed() -> None:
    """The values of the notebook's GRPOConfig, in the names of this project."""
    config = compose(["experiment=gsm8k_original"])
    values = {key: get_setting(config, key) for key in NOTEBOOK}
    assert values == NOTEBOOK
    assert {name for name, weight in config.rewards.items() if weight} == {
        f"verbatim_{name}" for name in ("correctness", "int", "strict_format", "soft_format", "xmlcount")
    }
