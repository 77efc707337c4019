"""A run that starts from a saved LoRA adapter: trained further, or merged first."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.evaluation.description import describe_protocol
from grpo.evaluation.protocol import evaluation_protocol
from grpo.policy.compatibility import prepare_policy
from grpo.policy.identity import policy_identity
from grpo.policy.loading import build_policy, build_tokenizer, save_policy
from grpo.policy.requirements import check_model_files, lora_learning_rate_warning
from grpo.sampling.build import build_sampler
from grpo.sampling.token_sampler import TransformersDecoder
from tests.helpers.models import model

IDS = torch.tensor([[5, 6, 7]])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """The folder of an adapter of rank 4 and alpha 12 that changes the policy, and the logits with it."""
    policy: Any = build_policy(model(lora_rank=4, lora_alpha=12), seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    policy.save_pretrained(folder)
    return folder, logits(policy)


def logits(policy: Any) -> torch.Tensor:
    with torch.inference_mode():
        return policy(IDS).logits


def trained(policy: Any) -> set[str]:
    return {name.rpartition("lora_")[1] for name, parameter in policy.named_parameters() if parameter.requires_grad}


def test_an_adapter_is_trained_further_or_merged_first(adapter, tmp_path: Path) -> None:
    folder, expected = adapter
    policy = build_policy(model(adapter=str(folder)), seed=0)
    assert torch.allclose(logits(policy), expected, atol=1e-4) and trained(policy) == {"lora_"}
    save_policy(policy, build_tokenizer(model()), tmp_path / "saved")
    assert torch.allclose(logits(build_policy(model(path=str(tmp_path / "saved")), 0)), expected, atol=1e-4)

    merged = build_policy(model(adapter=str(folder), merge_adapter=True), seed=0)
    assert torch.allclose(logits(merged), expected, atol=1e-4) and trained(merged) == {""}
    again = build_policy(model(adapter=str(folder), merge_adapter=True, lora_rank=2), seed=0)
    assert torch.allclose(logits(again), expected, atol=1e-4) and trained(again) == {"lora_"}
    identity = policy_identity(model(adapter=str(folder)), seed=0)
    protocol = evaluation_protocol(compose(), "held-out", [], identity)
    assert f"adapter {folder} {identity['adapter']['sha256'][:8]})" in describe_protocol(protocol)["policy"]
    assert identity["adapter"]["merged"] is False and len(identity["adapter"]["sha256"]) == 64


@pytest.fixture
def peft_adapter(tmp_path: Path) -> Callable[..., tuple[Path, torch.Tensor]]:
    """Saves an adapter of rank 2 that PEFT makes with these settings; returns its folder and the policy's logits."""
    from peft import LoraConfig, get_peft_model

    def save(path: str = model().path, **settings: Any) -> tuple[Path, torch.Tensor]:
        torch.manual_seed(0)
        lora = LoraConfig(**{"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings)
        policy = get_peft_model(build_policy(model(path=path), seed=0), lora)
        for parameter in policy.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        policy.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", logits(policy.eval())

    return save


MERGE_IT = "cannot be trained further; add model.merge_adapter=true"


@pytest.mark.parametrize(
    ("settings", "refusal", "merge_refusal"),
    [
        ({"use_rslora": True, "rank_pattern": {"q_proj": 1}, "alpha_pattern": {"q_proj": 4}}, None, None),
        ({"use_dora": True}, None, None),
        ({"modules_to_save": ["lm_head"]}, None, None),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            f"lm_head.lora_A.weight, lm_head.lora_B.weight, and {MERGE_IT}",
            None,
        ),
        ({"target_modules": ["embed_tokens"]}, f"model.embed_tokens.lora_embedding_B, and {MERGE_IT}", None),
        (
            {"target_modules": ["q_proj"], "trainable_token_indices": [3]},
            f"trainable_tokens_delta, and {MERGE_IT}",
            None,
        ),
        ({"target_modules": ["q_proj"], "bias": "all"}, f"self_attn.v_proj.bias, and {MERGE_IT}", None),
        ({"lora_bias": True}, f"{MERGE_IT}", "it cannot be merged: Impossible to merge LoRA with `lora_bias=True`"),
    ],
    ids=["rslora", "dora", "copied_head", "head", "embeddings", "tokens", "biases", "lora_bias"],
)
@pytest.mark.filterwarnings("ignore")
def test_adapters_with_more_than_lora(peft_adapter, tmp_path, settings, refusal, merge_refusal) -> None:
    """Trained further, sampled and saved as PEFT computes them, or refused with the settings that merge them."""
    folder, expected = peft_adapter(**settings)
    if refusal:
        assert refusal in refused(adapter=str(folder))
    else:
        config = compose([f"model.adapter={folder}"])
        policy = build_policy(config.model, seed=0)
        assert torch.allclose(logits(policy), expected, atol=1e-3)
        sampler: Any = build_sampler(policy, tokenizer := build_tokenizer(config.model), config)
        prompts, seeds = [list(range(5, 15)), list(range(20, 30))], [(1,), (2,)]
        sampled = sampler.complete(prompts, 16, temperature=1.0, seeds=seeds)
        sampler.decoder = TransformersDecoder(policy)
        assert sampled == sampler.complete(prompts, 16, temperature=1.0, seeds=seeds)
        save_policy(policy, tokenizer, tmp_path / "saved")
        assert torch.allclose(logits(build_policy(model(path=str(tmp_path / "saved")), 0)), expected, atol=1e-3)
    merging = model(adapter=str(folder), merge_adapter=True)
    if merge_refusal:
        with pytest.raises(UserError, match=merge_refusal):
            build_policy(merging, seed=0)
        return
    merged = build_policy(merging, seed=0)
    assert torch.allclose(logits(merged), expected, atol=1e-3)
    save_policy(merged, build_tokenizer(model()), tmp_path / "merged")
    assert torch.allclose(logits(build_policy(model(path=str(tmp_path / "merged")), 0)), expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_another_policy(peft_adapter, tmp_path: Path) -> None:
    """Of other sizes or depth it is refused; of the same sizes, it is named."""

    def other(**changes: Any) -> str:
        policy = build_policy(model(init="random", num_layers=2), seed=0)
        for name, value in changes.items():
            setattr(policy.config, name, value)
        policy = type(policy)(policy.config)
        save_policy(policy, build_tokenizer(model()), tmp_path / "other")
        return str(tmp_path / "other")

    def misfit(**changes: Any) -> str:
        with pytest.raises(UserError, match="it does not fit") as error:
            build_policy(model(**changes), seed=0)
        return str(error.value)

    short = other()
    folder, _ = peft_adapter()
    assert "the policy has no model.layers.2." in misfit(adapter=str(folder), path=short)
    folder, _ = peft_adapter(short, target_modules=["q_proj"])
    assert "it has nothing for model.layers.2." in misfit(adapter=str(folder))
    folder, _ = peft_adapter(other(intermediate_size=64))
    assert "size mismatch for base_model.model.model.layers.0.mlp" in misfit(adapter=str(folder))

    folder, _ = peft_adapter(short)
    config = compose([f"model.adapter={folder}", f"model.path={short}"])

    def notes() -> str:
        policy, tokenizer = build_policy(config.model, 0), build_tokenizer(config.model)
        return " ".join(prepare_policy(policy, tokenizer, [], config))

    assert "was trained on" not in notes()
    config.model.path = str(Path(short).rename(tmp_path / "renamed"))
    assert f"{folder} was trained on {short}, and the policy is {config.model.path}" in notes()


@pytest.mark.parametrize("merge", [False, True])
def test_a_run_starts_from_an_adapter(adapter, train, capsys, merge: bool) -> None:
    folder, expected = adapter
    overrides = ["model.merge_adapter=true"] if merge else []
    out, results = train(f"model.adapter={folder}", "algorithm=grpo_kl", "max_steps=1", *overrides)
    assert results["steps"] == 1
    said = "".join(capsys.readouterr().out.split())  # a long path is broken across lines
    assert f"embedded:tinywiththeadapter{folder}{',merged' if merge else ''},oncpu" in said
    config = compose([f"model.adapter={folder}", *overrides])
    assert config.model.lora_rank == (0 if merge else 4)
    saved = build_policy(model(path=str(out / "policy")), seed=0)
    assert not torch.allclose(logits(saved), logits(build_policy(model(), 0)), atol=0.5)
    assert torch.allclose(logits(saved), expected, atol=0.5)
    assert (out / "reference").is_dir() == merge


def refused(**changes: Any) -> str:
    with pytest.raises(UserError) as error:
        check_model_files(model(**changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_and_settings_that_do_not_fit(adapter, tmp_path: Path) -> None:
    folder, _ = adapter
    assert "give the folder of a LoRA adapter" in refused(adapter=str(tmp_path))
    assert "there is no such folder; give the folder of a LoRA" in refused(adapter="owner/name")
    assert "the adapter to be trained further has rank 4" in refused(adapter=str(folder), lora_rank=8)
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    run = Path(shutil.copytree(folder, tmp_path / "run/checkpoints/checkpoint-2")).parents[1]
    assert f"model.adapter={run / 'checkpoints/checkpoint-2'}" in refused(adapter=str(run))
    only = refused(path=str(copied))
    assert "the folder holds only an adapter" in only and f"model.adapter={copied}" in only
    settings = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "IA3"}))
    assert "an adapter of the kind IA3" in refused(adapter=str(copied))
    (copied / "adapter_config.json").write_text("{")
    assert "its adapter_config.json is damaged" in refused(adapter=str(copied))
    (copied / "adapter_config.json").write_text(json.dumps(settings))
    weights = copied / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "its adapter_model.safetensors is damaged or truncated: " in refused(adapter=str(copied))
    weights.unlink()
    assert "pickled adapters are not loaded" in refused(adapter=str(copied))
    with pytest.raises(UserError, match="there is no adapter to merge"):
        compose(["model.merge_adapter=true"])


def test_adapters_get_a_learning_rate_of_their_own() -> None:
    recipe = ["experiment=gsm8k", "model=qwen2.5-1.5b-lora"]
    assert compose(["experiment=gsm8k"]).optimizer.lr == 5e-6
    assert compose(recipe).optimizer.lr == 5e-5
    assert lora_learning_rate_warning(compose(recipe)) is None
    warning = lora_learning_rate_warning(compose([*recipe, "optimizer.lr=5e-6"])) or ""
    assert "optimizer.lr=5e-06 with LoRA adapters" in warning and "type optimizer.lr=5e-05" in warning
