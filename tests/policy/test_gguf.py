"""Policies from GGUF files: read, tied, trained from, saved as ordinary folders; damaged files are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.config.composition import compose
from grpo.core import packages
from grpo.core.errors import UserError
from grpo.plan import compose_plan
from grpo.planning.architecture import read_architecture
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.compatibility import prepare_policy
from grpo.policy.identity import policy_identity
from grpo.policy.loading import build_policy, build_tokenizer, save_policy
from grpo.policy.requirements import check_model_files, check_packages
from tests.helpers.gguf_files import TINY, write_gguf
from tests.helpers.models import model

PROMPTS = ["How many pens are 12 boxes of 11? It costs $1,080."]


def distance(loaded: torch.Tensor, original: torch.Tensor) -> float:
    return float((loaded - original).detach().norm() / original.detach().norm())


@pytest.mark.parametrize(
    ("quantization", "head", "largest_distance", "note"),
    [
        ("F32", None, 0, None),
        ("Q8_0", None, 0.01, None),
        ("Q4_0", None, 0.11, None),
        ("Q4_0", "Q8_0", 0.11, "output.weight (Q8_0), which is more precise than token_embd.weight (Q4_0)"),
        ("Q8_0", "Q8_0", 0.01, "both uses get output.weight (Q8_0)."),
        ("Q8_0", "Q4_0", 0.01, "token_embd.weight (Q8_0), which is more precise than output.weight (Q4_0)"),
    ],
)
def test_a_gguf_file_is_loaded_tied_and_saved_as_an_ordinary_folder(
    tmp_path: Path, quantization: str, head: str | None, largest_distance: float, note: str | None
) -> None:
    config = model(gguf=str(write_gguf(tmp_path / "tiny.gguf", quantization, head)))
    policy, tokenizer = build_policy(config, seed=0), build_tokenizer(config)
    embedded, system_prompt = build_policy(model(), seed=0), compose().system_prompt
    parameters = zip(policy.parameters(), embedded.parameters(), strict=True)
    assert max(distance(loaded, original) for loaded, original in parameters) <= largest_distance
    assert policy.get_input_embeddings().weight is policy.get_output_embeddings().weight
    of_embeddings = distance(policy.get_input_embeddings().weight, embedded.get_input_embeddings().weight)
    assert (of_embeddings < 0.01) == ("Q8_0" in (quantization, head) or quantization == "F32")
    expected = ChatTemplate(build_tokenizer(model()), system_prompt).prompt_ids(PROMPTS)
    assert ChatTemplate(tokenizer, system_prompt).prompt_ids(PROMPTS) == expected
    notes = prepare_policy(policy, tokenizer, PROMPTS, replace(compose(), model=config))
    assert [each for each in notes if "twice" in each] == ([] if note is None else [notes[0]])
    assert note is None or note in notes[0]

    save_policy(policy, tokenizer, tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    saved_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert ChatTemplate(saved_tokenizer, system_prompt).prompt_ids(PROMPTS) == expected
    with torch.inference_mode():
        ids = torch.tensor(expected)
        assert torch.equal(saved(ids).logits, policy(ids).logits)
    assert saved.config.tie_word_embeddings and not hasattr(saved.config, "quantization_config")


def test_a_head_of_its_own_stays_untied_and_dtype_and_tokenizer_can_be_set(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "Q8_0", "Q8_0", tied=False)
    config = model(path=str(tmp_path), gguf="tiny.gguf", dtype="bfloat16", tokenizer=str(tmp_path / "tokenizer"))
    build_tokenizer(model()).save_pretrained(tmp_path / "tokenizer")
    policy = build_policy(config, seed=0)
    assert policy.dtype == torch.bfloat16 and not policy.config.tie_word_embeddings
    head = policy.get_output_embeddings().weight
    assert distance(head.flip(0), policy.get_input_embeddings().weight) < 0.01
    tokenizer = build_tokenizer(config)
    assert tokenizer.name_or_path == config.tokenizer
    assert not any("twice" in note for note in prepare_policy(policy, tokenizer, [], replace(compose(), model=config)))
    identity = policy_identity(config, seed=0)
    assert identity["path"] == str(file) and identity["tokenizer"].keys() == {"path", "sha256"}
    assert identity["sha256"] == policy_identity(model(gguf=str(file)), seed=1)["sha256"]


def test_a_run_starts_from_a_gguf_file_with_its_reference_policy_and_its_plan(tmp_path: Path, train) -> None:
    write_gguf(tmp_path / "tiny.gguf", "Q8_0", "Q4_0")
    out, results = train("model.gguf=tiny.gguf", "algorithm=grpo_kl", "max_steps=1")
    assert results["provenance"]["model"]["path"] == str(tmp_path / "tiny.gguf")
    reference = AutoModelForCausalLM.from_pretrained(out / "reference")
    expected = build_policy(model(gguf=str(tmp_path / "tiny.gguf")), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), expected.parameters(), strict=True))
    assert AutoModelForCausalLM.from_pretrained(out / "policy").config.tie_word_embeddings
    architecture, origin = read_architecture(compose_plan(["model.gguf=tiny.gguf"]).model)
    assert architecture == read_architecture(compose_plan().model)[0] and "metadata of" in origin
    assert architecture.parameters == sum(parameter.numel() for parameter in expected.parameters())


def refused(file: Path | str) -> str:
    with pytest.raises(UserError) as error:
        check_model_files(model(gguf=str(file)))
    message = str(error.value)
    assert message.startswith(f"model.gguf={file}: ") and "\n" not in message
    return message


def test_files_that_cannot_be_read_are_refused_before_torch_is_needed(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", "Q8_0")
    content = file.read_bytes()
    for size in (0, 20, 1_000, len(content) // 2, len(content) - 100):
        (tmp_path / "truncated.gguf").write_bytes(content[:size])
        assert "the file is truncated" in refused(tmp_path / "truncated.gguf")
    (tmp_path / "other.gguf").write_bytes(b"something else" * 10)
    assert "this is not a GGUF file" in refused(tmp_path / "other.gguf")
    (tmp_path / "version.gguf").write_bytes(content[:4] + b"\x09\0\0\0" + content[8:])
    assert "version 9 of GGUF" in refused(tmp_path / "version.gguf")
    split = write_gguf(tmp_path / "split.gguf", split__count=3)
    assert "this is part 1 of 3 of a split GGUF" in refused(split)
    assert "llama-gguf-split --merge" in refused(split)
    writer = GGUFWriter(tmp_path / "untokenized.gguf", "qwen2")
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert "the file has no tokenizer; add model.tokenizer=FOLDER" in refused(tmp_path / "untokenized.gguf")
    check_model_files(model(gguf=str(tmp_path / "untokenized.gguf"), tokenizer=str(TINY)))
    writer = GGUFWriter(tmp_path / "numbers.gguf", "qwen2")
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((2, 2), np.int32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert "blk.0.ffn_up.weight has the quantization I32, which gguf" in refused(tmp_path / "numbers.gguf")
    assert "there is no such file" in refused("nowhere.gguf")


def test_a_file_without_a_tensor_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", without="blk.2.ffn_up.weight")
    with pytest.raises(UserError, match=f"model.gguf={file}: 1 of 50 tensors .*: model.layers.2.mlp.up_proj.weight."):
        build_policy(model(gguf=str(file)), seed=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.init=random"], "has trained weights, and model.init=random has none"),
        (["model.load_in_4bit=true", "model.lora_rank=4"], "its weights are dequantized to model.dtype"),
    ],
)
def test_settings_that_do_not_go_with_a_gguf_file(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(["model.gguf=x.gguf", *overrides])


def test_the_gguf_package_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda package: None)
    config = compose([f"model.gguf={write_gguf(tmp_path / 'tiny.gguf')}"])
    for check in (lambda: check_packages(config), lambda: read_architecture(config.model)):
        with pytest.raises(UserError, match=r"needs the gguf package: pip install gguf, or 'grpo\[gguf\]'"):
            check()


def test_a_path_that_holds_a_gguf_file_says_what_to_type(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    for path, advice in ((file, f"give a GGUF file as model.gguf={file}"), (tmp_path, "add model.gguf=tiny.gguf")):
        with pytest.raises(UserError, match=advice):
            check_model_files(model(path=str(path)))
