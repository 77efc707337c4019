"""Every number has a range, and values out of range are refused."""

from typing import Any, get_args, get_origin

import pytest

from grpo.config.keys import schema_keys
from grpo.config.rules import COMMON_RULES, RULES, SWEEPER_RULES, WEIGHT_RULE
from grpo.config.schema import (
    AuditConfig,
    CommonConfig,
    Config,
    EvaluateConfig,
    PlanConfig,
    PreflightConfig,
    SearchConfig,
)
from tests.helpers.refusals import refusal_of


def schemas() -> list[tuple[type[Any], dict[str, Any]]]:
    of = [(schema, COMMON_RULES | RULES[schema]) for schema in (Config, EvaluateConfig, PlanConfig, PreflightConfig)]
    return [*of, (AuditConfig, RULES[AuditConfig]), (SearchConfig, SWEEPER_RULES)]


def test_every_number_has_a_range() -> None:
    checked = 0
    for schema, rules in schemas():
        assert issubclass(schema, (CommonConfig, AuditConfig, SearchConfig))
        for key, kind in schema_keys(schema).items():
            if key == "rewards":
                assert not WEIGHT_RULE[0](10**30)
            elif get_origin(kind) is not list and {int, float} & {kind, *get_args(kind)}:
                holds, rule = rules[key]
                assert not holds(10**30) and not holds(-(10**30)) and rule, key
                checked += 1
    assert checked > 80


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["threads=1000000"], "threads=1000000: must be between 1 and 1,024."),
        (["data.train_problems=1000000000000"], "data.train_problems=1000000000000: must be between 1 and 10,000,000."),
        (["data.eval_problems=1000000000000"], "must be between 1 and 10,000,000."),
        (["num_generations=100000000"], "num_generations=100000000: must be between 2 and 65,536"),
        (["max_steps=99999999999999999999"], "must be between 1 and 10,000,000."),
        (["num_train_epochs=1e300"], "num_train_epochs=1e+300: must be between"),
        (["model.lora_rank=1000000000"], "must be between 0 and 8,192."),
        (["model.num_layers=1000000", "model.init=random"], "must be between 1 and 1,000."),
        (["algorithm.epsilon=1e300"], "algorithm.epsilon=1e+300: must be between"),
        (["rollout=generate", "rollout.repetition_penalty=1e-300"], "must be between 0.01 and 100."),
        (["optimizer.lr=1e-300"], "must be between 1e-12 and 100."),
        (["rewards.int=1e300"], "rewards.int=1e+300: must be between -10,000 and 10,000: advantages"),
        (["prompts_per_step=60000", "num_generations=60000"], "= 3,600,000,000 completions sampled at once"),
        (["eval_samples=0"], "eval_samples=0: must be between 2 and 256: one completion of each problem is greedy"),
        (["eval_samples=1"], "null samples no others"),
        ([f"optimizer.lr={'1' * 400}"], "optimizer.lr: a number of hundreds of digits"),
        ([f"seed={'1' * 400}"], "(400 characters): must be between 0 and"),
        ([f"model.path={'a' * 5000}"], "(5,000 characters): a path has at most 2,000 bytes."),
        ([f"model.path={'a' * 300}"], "a file name has at most 255 bytes."),
        ([f"reward_files=[{'a/' * 2500}x.py]"], "a path has at most 2,000 bytes."),
        (["data=jsonl", f"data.path={'a/' * 2500}"], "a path has at most 2,000 bytes."),
        (["model.path='~nosuchuser/x'"], "model.path=~nosuchuser/x: this machine has no user nosuchuser"),
        (["reward_files=['~nosuchuser/x']"], "reward_files=~nosuchuser/x: this machine has no user nosuchuser"),
        (["stop_on=[[no_signal]]"], "stop_on=[['no_signal']]: must be a list of text"),
        (["stop_on=[{a:b}]"], "stop_on=[{'a': 'b'}]: must be a list of text"),
        (["reward_files=[[a.py]]"], "reward_files=[['a.py']]: must be a list of text"),
    ],
)
def test_a_value_out_of_range_is_refused(overrides: list[str], message: str) -> None:
    said = refusal_of(*overrides)
    assert message in said and len(said) < 500
