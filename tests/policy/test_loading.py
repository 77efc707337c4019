"""Loading and saving of policies; errors are messages of one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.hub import ASSETS
from grpo.policy.loading import build_policy, build_tokenizer, save_policy
from tests.helpers.models import QWEN, model, needs_bitsandbytes, needs_qwen


def test_the_embedded_policy_is_small_and_loads_with_transformers(tmp_path) -> None:
    assert sum(file.stat().st_size for file in (ASSETS / "tiny").iterdir()) < 5e6
    policy, tokenizer = build_policy(model(), seed=0), build_tokenizer(model())
    assert sum(parameter.numel() for parameter in policy.parameters()) <= 2e6
    assert policy.config.model_type == "qwen2"

    save_policy(policy, tokenizer, tmp_path)
    saved, saved_tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    text = "<reasoning>\n8*30=240 pens, $1,080 é 中文 200 201.\n</reasoning>\n<answer>\n-5\n</answer>\n"
    assert saved_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert saved_tokenizer.decode(saved_tokenizer(text)["input_ids"]) == text
    prompts = ChatTemplate.of(tokenizer, compose()).prompt_ids(["How many pens are 12 boxes of 11?"])
    assert ChatTemplate.of(saved_tokenizer, compose()).prompt_ids(["How many pens are 12 boxes of 11?"]) == prompts
    with torch.inference_mode():
        ids = torch.tensor(prompts)
        assert torch.equal(saved(ids).logits, policy(ids).logits)


def test_numbers_are_single_tokens_of_the_embedded_policy() -> None:
    tokenizer = build_tokenizer(model())
    assert [tokenizer.tokenize(str(number)) for number in (7, 10, 56, 150, 200)] == [
        ["7"],
        ["10"],
        ["56"],
        ["150"],
        ["200"],
    ]


@needs_qwen
def test_an_architecture_with_random_weights() -> None:
    config = model(path=QWEN, init="random", num_layers=2)
    policy = build_policy(config, seed=0)
    assert policy.config.num_hidden_layers == 2 and policy.config.hidden_size == 896
    again = build_policy(config, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))


def test_adapters_are_merged_into_the_saved_policy(tmp_path) -> None:
    policy = build_policy(model(lora_rank=4), seed=0)
    trainable = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        expected = policy(ids).logits
        save_policy(policy, build_tokenizer(model()), tmp_path)
        assert torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, expected, atol=1e-4)


@needs_bitsandbytes
def test_a_4_bit_policy_is_saved_dequantized(tmp_path) -> None:
    policy = build_policy(model(lora_rank=4, load_in_4bit=True), seed=0)
    assert {parameter.dtype for name, parameter in policy.named_parameters() if "proj.base_layer.weight" in name} == {
        torch.uint8
    }
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        expected = policy(ids).logits.log_softmax(-1)
        save_policy(policy, build_tokenizer(model()), tmp_path)
        saved = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}
        difference = (saved(ids).logits.log_softmax(-1) - expected).abs().max()
        unlearnt = AutoModelForCausalLM.from_pretrained(ASSETS / "tiny")(ids).logits.log_softmax(-1)
    # bitsandbytes computes in bfloat16.
    assert difference < 0.3 < (unlearnt - expected).abs().max()


@pytest.fixture
def copied(tmp_path) -> Path:
    return Path(shutil.copytree(ASSETS / "tiny", tmp_path / "copied"))


def refused(**changes) -> str:
    with pytest.raises(UserError) as error:
        build_tokenizer(model(**changes))
        build_policy(model(**changes), seed=0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_without_a_policy(copied, tmp_path) -> None:
    assert "there is no such folder" in refused(path=str(tmp_path / "nowhere"))
    assert "there is no such folder" in refused(path="./nowhere")
    assert "no embedded policy 'tinny'. Did you mean 'tiny'?" in refused(path="embedded:tinny")
    assert "has no config.json" in refused(path=str(tmp_path))
    (copied / "chat_template.jinja").unlink()
    assert "has no chat template" in refused(path=str(copied))


def test_a_folder_without_weights(copied) -> None:
    (copied / "model.safetensors").unlink()
    assert "has no weights (*.safetensors)" in refused(path=str(copied))
    assert build_policy(model(path=str(copied), init="random"), seed=0).config.model_type == "qwen2"


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_truncated_weights(copied, size: int) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert "a file is missing or damaged" in refused(path=str(copied))


def test_weights_without_a_tensor(copied) -> None:
    weights = load_file(copied / "model.safetensors")
    for layer in (1, 3):
        del weights[f"model.layers.{layer}.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert refused(path=str(copied)).startswith(
        f"model.path={copied}: 2 of 50 tensors are not in its files, and would be random: "
        "model.layers.1.mlp.up_proj.weight, model.layers.3.mlp.up_proj.weight. The download"
    )


def test_a_head_of_its_own_that_is_not_stored(copied) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert "1 of 51 tensors are not in its files, and would be random: lm_head.weight." in refused(path=str(copied))


def test_a_truncated_tokenizer(copied) -> None:
    tokenizer = copied / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text()[:1000])
    assert "a file is missing or damaged" in refused(path=str(copied))


def test_a_damaged_config(copied) -> None:
    (copied / "config.json").write_text('{"model_type": "qwen2", ')
    assert "a file is missing or damaged" in refused(path=str(copied))
