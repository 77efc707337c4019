"""The training step on shared prompts against TRL's own, on the same completions: losses, log-probabilities, gradients."""

from typing import Any

import pytest
import torch
import trl.trainer.utils
from transformers.models.qwen2 import modeling_qwen2

from grpo.config.groups import CONF
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from tests.helpers.trainers import micro_batches, step

ALGORITHMS = sorted(file.stem for file in (CONF / "algorithm").glob("*.yaml"))
# Those that differ from GRPO only for completions of an older policy.
OFF_POLICY = ["cispo", "gspo", "luspo", "sapo", "two_sided_clip", "vespo"]

CASES = [
    *([f"algorithm={name}"] for name in ALGORITHMS),
    *([f"algorithm={name}", "algorithm.num_iterations=2", "micro_batch_size=12"] for name in OFF_POLICY),
    ["micro_batch_size=6"],  # a group each
    ["micro_batch_size=4"],  # a group in pieces
    ["algorithm.num_iterations=2", "micro_batch_size=12"],
    ["algorithm.mask_truncated_completions=true"],
    ["model.lora_rank=4"],
    ["model.lora_rank=4", "algorithm=grpo_kl"],
    ["temperature=0.7"],
    ["activation_checkpointing=true"],
    ["prefix_attention=flex", "activation_checkpointing=true", "algorithm=grpo_kl"],
]


UNGATED = ["algorithm.gate=off"]  # with the gate of DAPO, no group of these completions has an advantage


@pytest.mark.parametrize("overrides", CASES, ids="-".join)
def test_the_step_equals_trls(trainer, overrides: list[str]) -> None:
    built = trainer(*overrides, *UNGATED)
    batches = micro_batches(built)
    shuffle(batches)
    theirs, ours = step(built, batches, shared=False), step(built, batches, shared=True)
    assert built.shares_prompts, "fell back"
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    for mine, its in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, its)  # to float32's rounding; the test in float64 is the exact one
    a, b = ours[2].double(), theirs[2].double()
    assert b.norm() > 0
    assert a @ b / (a.norm() * b.norm()) >= 1 - 1e-9
    assert a.norm().item() == pytest.approx(b.norm().item(), rel=1e-5)
    assert ours[3].keys() == theirs[3].keys()
    for name, values in ours[3].items():
        assert values == pytest.approx(theirs[3][name], abs=1e-5), name


def test_the_step_equals_trls_with_its_fused_head(trainer, monkeypatch) -> None:
    monkeypatch.setattr("grpo.training.shared_log_probs.PLAIN_HEAD_LOGITS", 0)
    built = trainer("algorithm=grpo_kl")
    batches = micro_batches(built)
    theirs, ours = step(built, batches, shared=False), step(built, batches, shared=True)
    assert built.shares_prompts, "fell back"
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert (ours[2] - theirs[2]).norm() <= 1e-4 * theirs[2].norm() > 0
    for name, values in ours[3].items():
        assert values == pytest.approx(theirs[3][name], abs=1e-5), name


def shuffle(batches: list[dict[str, Any]]) -> None:
    """Rows of a micro-batch in any order, as TRL itself leaves them; an older policy, where there is one, differs."""
    for inputs in batches:
        if (old := inputs.get("old_per_token_logps")) is not None:
            inputs["old_per_token_logps"] = old + 0.5 * torch.randn_like(old)
        order = torch.randperm(len(inputs["prompt_ids"]))
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.ndim:
                inputs[name] = value[order]


class PlainHead:
    """TRL's fused head computes in float32; this is what it computes, in the dtype of its inputs."""

    @staticmethod
    def apply(hidden, weight, bias, targets, temperature, chunk, softcap, scale, outputs):
        logps = (hidden @ weight.T / temperature).log_softmax(-1)
        entropy = -(logps.exp() * logps).sum(-1) if "entropy" in outputs else None
        return logps.gather(-1, targets[:, None])[:, 0], entropy, None, None, None


@pytest.mark.parametrize("overrides", CASES, ids="-".join)
def test_in_float64_the_step_equals_trls_to_ten_digits(trainer, overrides: list[str], monkeypatch) -> None:
    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self, x, position_ids):
        angles = (position_ids[..., None].double() * self.inv_freq.double()).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", PlainHead)
    monkeypatch.setattr(modeling_qwen2.Qwen2RMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_qwen2.Qwen2RotaryEmbedding, "forward", rotary)
    built = trainer(*overrides, *UNGATED, "rollout.native=false", double=True)
    batches = micro_batches(built)
    shuffle(batches)
    theirs, ours = step(built, batches, shared=False), step(built, batches, shared=True)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-10, abs=1e-12)
    for mine, its in zip(ours[1], theirs[1], strict=True):
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)
    assert (ours[2] - theirs[2]).norm() <= 1e-10 * theirs[2].norm()


def test_groups_stay_together(trainer) -> None:
    built = trainer("micro_batch_size=4")
    prompts = torch.cat([inputs["prompt_ids"] for inputs in micro_batches(built)])
    groups = prompts.view(4, 6, -1)
    assert (groups == groups[:, :1]).all()
    assert len(torch.unique(groups[:, 0], dim=0)) == 4


def test_a_batch_without_signal_has_a_gradient_of_zero(trainer) -> None:
    built = trainer()
    (inputs,) = micro_batches(built)
    inputs["advantages"].zero_()
    losses, _, gradient, metrics = step(built, [inputs], shared=True)
    assert losses == [0.0] and not gradient.any()
    assert metrics["entropy"] == pytest.approx(step(built, [inputs], shared=False)[3]["entropy"], rel=1e-5)


def test_a_batch_cut_off_and_masked_whole(trainer) -> None:
    built = trainer("max_completion_length=3", "algorithm.mask_truncated_completions=true")
    (inputs,) = micro_batches(built)
    assert not inputs["completion_mask"].any()
    losses, _, gradient, _ = step(built, [inputs], shared=True)
    assert losses == [0.0] and not gradient.any()


def test_a_policy_that_cannot_share_prompts_trains_as_in_trl(trainer, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("grpo.training.shared_log_probs.say", said.append)
    monkeypatch.setattr("grpo.sampling.build.say", said.append)
    built = trainer("max_steps=2", attention="eager")
    assert not isinstance(built.sampler, PrefixSharingSampler)
    built.train()
    assert said == [
        "rollout=fast does not work with this policy: its attention is fixed to eager. "
        "Sampling with rollout=generate instead.",
        "share_prompts=true does not work with this policy: its attention is fixed to eager. "
        "The training step is TRL's own.",
    ]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, "prefix_attention=flex computes all pairs of tokens on a CPU, which is slow: PyTorch's flex_attention "),
        ("no compiler", "prefix_attention=flex does not work here: no compiler. Training with prefix_attention=sdpa "),
    ],
)
def test_flex_attention_prints_one_message(trainer, monkeypatch, fault: str | None, message: str) -> None:
    said: list[str] = []
    monkeypatch.setattr("grpo.training.shared_log_probs.say", said.append)
    if fault:
        monkeypatch.setattr("grpo.training.shared_log_probs.flex_attention_fault", lambda policy: fault)
    built = trainer("prefix_attention=flex")
    batches = micro_batches(built)
    losses = [step(built, batches, shared=shared)[0] for shared in (True, False)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    (line,) = said
    assert line.startswith(message)


def test_a_run_with_flex_attention_is_the_default_run(trainer) -> None:
    norms, completions, weights = [], [], []
    for name in ("sdpa", "flex"):
        built = trainer("max_steps=3", f"prefix_attention={name}")
        torch.manual_seed(0)
        built.train()
        assert built.shares_prompts
        norms.append([line["grad_norm"] for line in built.state.log_history if "grad_norm" in line])
        completions.append(list(built._logs["completion"]))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in built.model.parameters()]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4) and len(norms[0]) == 3
    assert completions[1] == completions[0]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-5)


def test_dropout_is_not_shared(trainer) -> None:
    built = trainer("model.lora_rank=4", "model.lora_dropout=0.1")
    assert not built.shares_prompts and isinstance(built.sampler, PrefixSharingSampler)


def test_a_checkpoint_holds_the_samplers_state(trainer) -> None:
    whole = trainer("max_steps=3", "save_steps=2")
    whole.train()
    resumed = trainer("max_steps=3")
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-2")
    assert list(resumed._logs["completion"]) == list(whole._logs["completion"])[-24:]
    assert len({str(completion) for completion in resumed._logs["completion"]}) > 4


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "trl"])
@pytest.mark.parametrize(
    ("corrected", "of_kl"),
    [
        # DeepSeekMath (arXiv:2402.03300), equation 4: the gradient of r - log r - 1, where r = pi_ref / pi.
        (False, lambda log_r: 1 - log_r.exp()),
        # DeepSeek-V3.2 (arXiv:2512.02556): that of the same times a ratio of 1.
        (True, lambda log_r: -log_r),
    ],
    ids=["deepseekmath", "deepseek-v3.2"],
)
def test_the_gradient_of_the_kl_term_is_the_published_one(trainer, corrected: bool, of_kl, shared: bool) -> None:
    beta = 0.5
    built = trainer("algorithm=grpo_kl", f"algorithm.beta={beta}", f"algorithm.kl_bias_correction={corrected}")
    (inputs,) = micro_batches(built)
    gradient = step(built, [inputs], shared)[2]

    ids = torch.cat((inputs["prompt_ids"], inputs["completion_ids"]), 1)
    attention = torch.cat((inputs["prompt_mask"], inputs["completion_mask"]), 1)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    mask, width = inputs["completion_mask"], inputs["completion_ids"].shape[1]

    def logps(model: Any) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=attention, position_ids=positions).logits[:, -width - 1 : -1]
        return logits.log_softmax(-1).gather(-1, inputs["completion_ids"][..., None])[..., 0]

    built.model.zero_grad()
    own, reference = logps(built.model), logps(built.ref_model).detach()
    # d loss / d log-probability of each token; on-policy every ratio is 1.
    weights = beta * of_kl(reference - own.detach()) - inputs["advantages"][:, None]
    ((weights * own * mask).sum(1) / mask.sum(1)).mean().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in built.model.parameters()])
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()
