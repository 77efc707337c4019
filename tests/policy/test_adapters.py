"""A run that starts from a saved LoRA adapter: trained further, or merged first."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.policy.loading import build_policy, build_tokenizer, policy_identity, save_policy
from grpo.policy.requirements import check_model_files, lora_learning_rate_warning
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
    assert identity["adapter"]["merged"] is False and len(identity["adapter"]["sha256"]) == 64


@pytest.mark.parametrize("merge", [False, True])
def test_a_run_starts_from_an_adapter(adapter, train, merge: bool) -> None:
    folder, expected = adapter
    overrides = ["model.merge_adapter=true"] if merge else []
    out, results = train(f"model.adapter={folder}", "algorithm=grpo_kl", "max_steps=1", *overrides)
    assert results["steps"] == 1
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
    assert "the adapter to be trained further has rank 4" in refused(adapter=str(folder), lora_rank=8)
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
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
