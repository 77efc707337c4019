"""Training with vLLM through TRL: weights arrive, samples are corrected by importance ratios, runs resume.

`tests/helpers/vllm_engine.py` takes the place of vLLM, which needs a GPU.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.runs.resume import find_checkpoint, truncate_to_checkpoint
from grpo.runs.settings import save_settings
from grpo.training.session import train_run
from tests.conftest import SMALL
from tests.helpers.runs import metrics
from tests.helpers.trainers import micro_batches, step
from tests.helpers.vllm_engine import BOUNDS, RATIO, SERVER, VLLM, Client, Engine, log_probabilities


def train_on(out: Path, *overrides: str) -> list[dict[str, Any]]:
    """The metrics of a run with a test double of vLLM."""
    typed = [*SMALL, "tracking=none", *overrides]
    config = compose(typed)
    config.device = "cpu"
    out.mkdir()
    save_settings(out, config, typed)
    train_run(config, out)
    return metrics(out)


LEARNING = ["max_steps=4", "optimizer.lr=3e-3", "optimizer.warmup=0"]


@pytest.mark.parametrize("rollout", [VLLM, SERVER, [*VLLM, "rollout.sleep=true"]], ids=["vllm", "server", "sleep"])
def test_a_run_with_vllm(vllm, tmp_path: Path, rollout: list[str]) -> None:
    rows = train_on(tmp_path / "run", *rollout, *LEARNING)
    (engine,) = vllm.made
    # Each rollout samples from the current weights: trainer and engine agree on the probabilities of its samples.
    for row in rows:
        for which in ("min", "mean", "max"):
            assert row[f"{RATIO}/{which}"] == pytest.approx(1, abs=1e-3)
        assert row["sampling/sampling_logp_difference/max"] < 1e-3
    assert engine.calls.count("generated") == 4
    names = {name for name, _ in engine.policy.named_parameters()}
    assert [engine.calls.count(name) for name in sorted(names)] == [engine.calls.count("synced")] * len(names)
    assert engine.calls.count("synced") >= 4
    # Evaluation uses the project's own sampler.
    protocol = json.loads((tmp_path / "run" / "evaluations" / "after.json").read_text())["protocol"]
    assert protocol["computing"]["rollout"] == "fast"
    assert rows[-1]["grad_norm"] > 0
    assert "LOCAL_RANK" not in os.environ  # otherwise the next job of a sweep would count as part of a distributed run
    if isinstance(engine, Client):
        assert engine.where == ("http://localhost:8000", 51216, 60.0) and engine.calls[-1] == "left"
        assert engine.n == 4 and len(engine.asked) == 2  # a prompt is sent once
    else:
        assert engine.settings["max_model_len"] == 256 + 16 and engine.settings["gpu_memory_utilization"] == 0.3
        assert engine.settings["max_num_seqs"] == 8
        asked = engine.asked
        assert (asked.temperature, asked.top_p, asked.top_k, asked.min_p, asked.max_tokens) == (1.0, 1.0, 0, 0.0, 16)
        assert engine.calls.count("asleep") == (5 if "rollout.sleep=true" in rollout else 0)


@pytest.mark.parametrize("rollout", [VLLM, ["rollout=continuous_batching"]], ids=["vllm", "continuous batching"])
def test_a_run_with_an_engine_resumes(vllm, tmp_path: Path, rollout: list[str]) -> None:
    out = tmp_path / "run"
    half = train_on(out, *rollout, *LEARNING, "max_steps=2")
    config = compose([*SMALL, "tracking=none", *rollout, *LEARNING])
    config.device = "cpu"
    found = find_checkpoint(out, config)
    assert found.step == 2
    train_run(config, out, checkpoint=found.checkpoint, prepare_directory=partial(truncate_to_checkpoint, found))
    rows = metrics(out)
    assert rows[:2] == half and [row["step"] for row in rows] == [1, 2, 3, 4]
    if rollout == VLLM:  # the engine has the saved weights
        assert all(row[f"{RATIO}/mean"] == pytest.approx(1, abs=1e-3) for row in rows)


def test_metrics_show_that_vllm_did_not_receive_the_weights(vllm, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "ignores_weights", True)
    rows = train_on(tmp_path / "run", *VLLM, *LEARNING)
    assert rows[0][f"{RATIO}/mean"] == pytest.approx(1, abs=1e-3)
    assert rows[-1]["sampling/sampling_logp_difference/max"] > 0.05


def test_samples_depend_on_the_seed_of_the_run(vllm, trainer) -> None:
    """Although vLLM seeds this process when it starts."""

    def completions(seed: int) -> list[list[int]]:
        built = trainer(*VLLM, f"seed={seed}")
        return built._generate_single_turn([[1, 2, 3, 4]] * 8, None, {}, 8)[0]

    assert completions(1) == completions(1) != completions(2)


MODES = {
    "token_truncate": lambda ratio: ratio.clamp(0.9, 1.1),
    "token_mask": lambda ratio: ratio.where((ratio >= 0.9) & (ratio <= 1.1), 0),
    "sequence_truncate": lambda ratio: ratio.prod(-1, keepdim=True).clamp(0.9, 1.1),
    "sequence_mask": lambda ratio: (whole := ratio.prod(-1, keepdim=True)).where((whole >= 0.9) & (whole <= 1.1), 0),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_importance_ratio_equals_its_formula(vllm, trainer, monkeypatch, mode: str, temperature: float) -> None:
    # Some log-probabilities differ by more than the bounds.
    monkeypatch.setattr(
        Engine, "distort", staticmethod(lambda logps: logps + 0.12 * torch.cos(torch.arange(len(logps))))
    )
    settings = [f"rollout.correction={mode}", *BOUNDS, f"temperature={temperature}", "micro_batch_size=12"]
    built = trainer(*VLLM, *settings)
    batches = micro_batches(built)
    assert built.shares_prompts and len(batches) == 2
    (engine,) = vllm.made
    cut = False
    for inputs in batches:
        mask = inputs["completion_mask"]
        ratios = torch.ones(mask.shape)
        for row, ids in enumerate(inputs["completion_ids"]):
            prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
            completion = ids[mask[row].bool()].tolist()
            assert (prompt, completion) in engine.sampled
            mine = log_probabilities(
                AutoModelForCausalLM.from_pretrained(engine.model), prompt, completion, temperature
            )
            its = Engine.distort(mine)
            ratios[row, : len(completion)] = (mine - its).exp()
        expected = MODES[mode](ratios)
        got = inputs["importance_sampling_ratio"]
        real = mask.bool() if got.shape == mask.shape else torch.ones_like(got).bool()
        torch.testing.assert_close(got[real], expected[real], atol=1e-4, rtol=1e-4)
        cut |= bool(
            (expected[real] != (ratios if got.shape == mask.shape else ratios.prod(-1, keepdim=True))[real]).any()
        )
    assert cut
    logged = built._metrics["train"][f"{RATIO}/mean"]
    assert len(logged) == 1 and 0 < logged[0] < 1.1


def test_without_correction_there_is_no_ratio(vllm, trainer) -> None:
    built = trainer(*VLLM, "rollout.correction=null")
    (inputs,) = micro_batches(built)
    assert "importance_sampling_ratio" not in inputs and f"{RATIO}/mean" not in built._metrics["train"]
    # vLLM reads only the end tokens of the policy's folder by itself.
    assert vllm.made[0].asked.stop_token_ids == [640]


@pytest.mark.parametrize("overrides", [[], ["micro_batch_size=4"], ["algorithm=grpo_kl"], ["model.lora_rank=4"]])
def test_the_corrected_step_equals_the_step_of_trl(vllm, trainer, monkeypatch, overrides: list[str]) -> None:
    monkeypatch.setattr(
        Engine, "distort", staticmethod(lambda logps: logps + 0.3 * torch.sin(torch.arange(len(logps))))
    )
    built = trainer(*VLLM, *overrides)
    batches = micro_batches(built)
    assert any((inputs["importance_sampling_ratio"] != 1).any() for inputs in batches)
    theirs, ours = step(built, batches, shared=False), step(built, batches, shared=True)
    assert built.shares_prompts
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    a, b = ours[2].double(), theirs[2].double()
    assert b.norm() > 0 and a @ b / (a.norm() * b.norm()) >= 1 - 1e-9
    plain = [{**inputs, "importance_sampling_ratio": torch.ones(1, 1)} for inputs in batches]
    assert (
        step(built, plain, shared=True)[2].double() - a
    ).norm() > 1e-3 * a.norm()  # the correction changes the gradient


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_merged_for_vllm_and_frozen_weights_do_not_change(vllm, trainer, dtype: str) -> None:
    built = trainer(*VLLM, "model.lora_rank=4", f"model.dtype={dtype}")
    frozen = {name: each.clone() for name, each in built.model.named_parameters() if not each.requires_grad}
    for _ in range(3):
        built.vllm_generation.sync_weights()
    (engine,) = vllm.made
    layer = "model.layers.0.mlp.up_proj.weight"
    base = frozen[f"base_model.model.{layer.removesuffix('.weight')}.base_layer.weight"]
    assert (engine.policy.get_parameter(layer) - base).abs().max() > 1e-4  # the adapters have arrived
    for name, each in built.model.named_parameters():
        if name in frozen:
            torch.testing.assert_close(each, frozen[name], atol=1e-7 if dtype == "float32" else 0, rtol=0)


def test_vllm_loads_random_weights(vllm, trainer) -> None:
    built = trainer(*VLLM, "model.init=random", "model.num_layers=1")
    micro_batches(built)
    assert built._metrics["train"][f"{RATIO}/mean"] == [pytest.approx(1, abs=1e-3)]
    assert len(vllm.made[0].policy.model.layers) == 1


def test_a_server_failure_during_training_ends_in_one_line(vllm, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Client, "fails_at", 3)
    with pytest.raises(UserError) as error:
        train_on(tmp_path / "run", *SERVER, *LEARNING)
    assert str(error.value).startswith(
        "step 3: the vLLM server at http://localhost:8000 failed: HTTPConnectionPool(host='localhost', port=8000): Max "
        "retries exceeded. Checkpoints stay; once it runs again, resume="
    )
