"""Training with transformers' continuous batching: its samples, and the policy afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo.core.errors import UserError
from grpo.policy.prefix_sharing import ATTENTION_NAME
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.training.trainer import Trainer
from tests.conftest import SMALL
from tests.helpers.runs import metrics
from tests.helpers.trainers import micro_batches


@pytest.mark.parametrize(
    "overrides", [[], ["model.lora_rank=4"], ["share_prompts=false"]], ids=["full", "lora", "plain"]
)
def test_bfloat16_sampling_does_not_change_the_policy(
    trainer,
    monkeypatch,
    overrides: list[str],
) -> None:
    built = trainer("rollout=continuous_batching", "bf16=true", "max_steps=2", "optimizer.lr=1e-3", *overrides)
    policy = built.model
    inner = policy.get_base_model() if overrides[:1] == ["model.lora_rank=4"] else policy
    sampled, generate_batch = [], type(inner).generate_batch
    kept: dict[str, Tensor] = {}

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert {each.dtype for each in policy.parameters()} == {torch.bfloat16}
        assert {each.dtype for each in policy.buffers()} == {torch.float32}
        for name, each in policy.named_parameters():
            torch.testing.assert_close(each, kept[name].to(torch.bfloat16), atol=0, rtol=0)
        sampled.append(generate_batch(self, *args, **kwargs))
        return sampled[-1]

    def before(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept.update({name: each.detach().clone() for name, each in policy.named_parameters()})
        answer = single_turn(self, *args, **kwargs)
        for name, each in policy.named_parameters():
            assert each.dtype == torch.float32
            torch.testing.assert_close(each.detach(), kept[name], atol=0, rtol=0)
        assert self.args.bf16 and inner.config._attn_implementation == (
            ATTENTION_NAME if built.sampler is None and fast else "sdpa"
        )
        return answer

    fast = inner.config._attn_implementation == ATTENTION_NAME
    single_turn = Trainer._generate_single_turn
    monkeypatch.setattr(type(inner), "generate_batch", spy)
    monkeypatch.setattr(Trainer, "_generate_single_turn", before)
    start = {name: each.detach().clone() for name, each in policy.named_parameters()}
    built.train()
    assert len(sampled) == 2
    learnt = [name for name, each in policy.named_parameters() if each.requires_grad]
    assert any((policy.get_parameter(name) != start[name]).any() for name in learnt)
    states = [value for state in built.optimizer.state.values() for value in state.values() if value.ndim]
    assert states and {value.dtype for value in states} == {torch.float32}


def test_near_temperature_zero_samples_are_greedy_completions(trainer) -> None:
    built = trainer("rollout=continuous_batching", "temperature=1e-3")  # greedy except at ties
    (inputs,) = micro_batches(built)
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)]
    sampled = [
        ids[mask.bool()].tolist() for ids, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
    ]
    greedy = GenerateSampler(built.model, built.processing_class, bf16=False).complete(prompts, 20)
    assert sum(mine == its for mine, its in zip(sampled, greedy, strict=True)) >= len(prompts) - 6  # one group at a tie
    assert len(set(map(tuple, greedy))) > 1


def test_a_failed_generation_ends_the_run(trainer, monkeypatch) -> None:
    built = trainer("rollout=continuous_batching")
    forward, calls = built.model.forward, 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("a fault of the engine")
        return forward(*args, **kwargs)

    monkeypatch.setattr(built.model, "forward", failing)
    with pytest.raises(UserError, match="step 1: rollout=continuous_batching gave up on [1-9][0-9]* of 24 completions"):
        micro_batches(built)
    assert built.model.config._attn_implementation == ATTENTION_NAME


def test_a_run_with_continuous_batching(start, tmp_path: Path) -> None:
    run = start(*SMALL, "rollout=continuous_batching", "bf16=true", "tracking=none", "threads=1", "hydra.run.dir=run")
    assert run.ended() == 0 and run.complained() == ""  # the engine's own log lines do not appear
    said = "rollout continuous_batching: repeated or resumed, the run has other numbers in the last digits"
    assert said in " ".join(run.said().split())
    out = tmp_path / "run"
    assert len(metrics(out)) == 2
    protocol = json.loads((out / "evaluations" / "after.json").read_text())["protocol"]
    assert protocol["computing"]["rollout"] == "fast"
