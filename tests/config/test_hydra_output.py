"""What `--help` and `--cfg job` print: the groups of the command, and the settings that have an effect."""

import re

import pytest
import yaml
from hydra import compose as hydra_compose

from grpo.config.composition import compose, config_search_path, load_config
from grpo.config.keys import flatten
from grpo.config.schema import Config

# chosen options -> settings without an effect, and settings with one
CASES = {
    "": (
        "model.lora_alpha model.num_layers model.revision data.path data.task data.train_file data.solve_rate "
        "rollout.top_p rollout.server algorithm.pass_k algorithm.kl_bias_correction num_train_epochs "
        "reward_workers on_reward_timeout trust_run",
        "model.lora_rank data.min_steps rollout.kernels tracking.project optimizer.beta1 algorithm.epsilon "
        "max_steps prefix_attention resume",
    ),
    "rollout=generate tracking=none share_prompts=false": (
        "rollout.kernels rollout.native tracking.project tracking.completions_rows tracking.entity prefix_attention",
        "rollout.top_p rollout.min_p tracking.name",
    ),
    "data=files data.path=problems max_steps=null": (
        "data.min_steps data.max_number data.min_numbers data.curriculum",
        "data.path data.subset data.filter data.difficulty num_train_epochs",
    ),
    "model.lora_rank=8 algorithm=grpo_kl optimizer=adafactor optimizer.schedule=constant": (
        "model.merge_adapter optimizer.beta1 optimizer.beta2 optimizer.warmup",
        "model.lora_alpha model.lora_dropout model.load_in_4bit algorithm.kl_bias_correction",
    ),
    "algorithm=passk format=boxed model=qwen2.5-0.5b model.init=random": (
        "format.reasoning format.answer",
        "algorithm.pass_k model.num_layers model.revision model.trust_remote_code",
    ),
    "algorithm=vespo reward_files=[mine.py] reward_timeout=2": (
        "algorithm.epsilon algorithm.epsilon_high algorithm.delta",
        "reward_workers on_reward_timeout reward_concurrency",
    ),
    "data.difficulty=rates.jsonl algorithm.num_iterations=2": (
        "data.path",
        "data.solve_rate data.curriculum algorithm.off_policy_mask_threshold",
    ),
    "rollout.kernels=triton rollout=generate": ("rollout.native", "rollout.kernels"),  # refused, so it is shown
}


@pytest.mark.parametrize("options", CASES)
def test_settings_without_an_effect_are_left_out(options: str, light) -> None:
    done = light("grpo.train", "--cfg", "job", *options.split())
    assert done.returncode == 0, done.stderr
    shown = flatten(yaml.safe_load(done.stdout))
    without, within = (set(keys.split()) for keys in CASES[options])
    assert not without & shown.keys() and within <= shown.keys()


@pytest.mark.parametrize("options", [options for options in CASES if "triton" not in options])
def test_the_printed_settings_compose_to_the_same_run(options: str, light, tmp_path) -> None:
    printed = light("grpo.train", "--cfg", "job", *options.split()).stdout
    comment = " ".join(line.lstrip("# ") for line in printed.splitlines() if line.startswith("#"))
    chosen = comment.removeprefix("The settings that have an effect with ").split()
    assert len(chosen) == 8
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "printed.yaml").write_text(f"# @package _global_\n{printed}")
    with config_search_path():
        again = hydra_compose("config", [*chosen, "experiment=printed", f"hydra.searchpath=[file://{tmp_path}]"])
        assert load_config(again, Config) == compose(options.split())


def test_other_commands_and_packages_leave_them_out_too(light) -> None:
    assert "lora_alpha" not in light("grpo.train", "--cfg", "job", "--package", "model").stdout
    shown = yaml.safe_load(light("grpo.evaluate", "--cfg", "job").stdout)
    assert "trust_run" not in shown and "k" not in shown and "name" in shown
    assert "k" in yaml.safe_load(light("grpo.evaluate", "--cfg", "job", "samples=4").stdout)
    assert "format" in yaml.safe_load(light("grpo.audit", "--cfg", "job").stdout)


OF_A_POLICY = {"data", "format", "model", "rewards", "rollout"}
OF_TRAINING = OF_A_POLICY | {"algorithm", "experiment", "optimizer", "tracking"}


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("train", OF_TRAINING),
        ("evaluate", OF_A_POLICY),
        ("audit", {"format", "rewards"}),
        ("plan", OF_TRAINING | {"hardware"}),
        ("preflight", OF_TRAINING | {"hardware"}),
        ("calculator", set()),
        ("sample", set()),
        ("report", set()),
        ("reproduce", set()),
    ],
)
def test_help_has_80_columns_and_the_groups_of_the_command(command: str, groups: set[str], light) -> None:
    lines = light(f"grpo.{command}", "--help").stdout.splitlines()
    assert lines and max(map(len, lines)) <= 80
    listed = [line for line in lines if re.match(r"  [a-z]+: \S", line)]
    assert {line.split(":")[0].strip() for line in listed} == groups
    if groups:
        assert {line.strip() for line in lines} >= {"format: boxed, tags"}
