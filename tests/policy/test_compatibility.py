"""Mismatches of policy, tokenizer, chat template and lengths are reported before the first forward pass."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    CodeGenConfig,
    CTRLConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    T5Config,
    ViTConfig,
)

from grpo.config.composition import compose
from grpo.core import device
from grpo.core.errors import UserError
from grpo.policy.compatibility import position_limit, prepare_policy
from grpo.policy.hub import ASSETS
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.policy.requirements import slow_bfloat16_warning
from grpo.sampling.build import build_sampler
from tests.helpers.models import model

SIZE = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the embedded policy that a test may change."""
    return Path(shutil.copytree(ASSETS / "tiny", tmp_path / "policy"))


def change(folder: Path, file: str, **values) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def checked(folder: Path, *overrides: str, question: str = "1 + 2?") -> list[str]:
    config = compose([f"model.path={folder}", *overrides])
    tokenizer = build_tokenizer(config.model)
    return prepare_policy(build_policy(config.model, 0), tokenizer, [question], config)


def save(config, folder: Path) -> None:
    """Save random weights of another architecture in the folder of the tokenizer."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("config", "limit", "fixed"),
    [
        (GPT2Config(**SIZE, n_positions=64), 64, True),
        (CTRLConfig(**SIZE, n_positions=64, dff=16), 64, True),
        (GPTJConfig(**SIZE, n_positions=64, rotary_dim=4), 64, True),  # rotary positions, from a table
        (CodeGenConfig(**SIZE | {"n_head": 4}, n_positions=64, rotary_dim=4), 64, True),
        (
            OPTConfig(
                vocab_size=50,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                ffn_dim=16,
                word_embed_proj_dim=16,
                max_position_embeddings=64,
            ),
            64,
            True,
        ),
        (MptConfig(vocab_size=50, d_model=16, n_layers=1, n_heads=2, max_seq_len=64), 64, True),
        (
            LlamaConfig(
                vocab_size=50,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=64,
            ),
            64,
            False,
        ),
        (BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2), None, False),
        (MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1), None, False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_position_limit(config: AutoConfig, limit: int | None, fixed: bool) -> None:
    policy = AutoModelForCausalLM.from_config(config).eval()
    assert position_limit(policy) == (limit, fixed)
    policy(torch.zeros(1, limit or 80, dtype=torch.long))
    if fixed:
        with pytest.raises((IndexError, RuntimeError)):
            policy(torch.zeros(1, 65, dtype=torch.long))
    else:
        policy(torch.zeros(1, 80, dtype=torch.long))


def test_texts_longer_than_learned_positions(folder, train) -> None:
    save(GPT2Config(**SIZE | {"vocab_size": 834}, n_positions=128, bos_token_id=640, eos_token_id=640), folder)
    assert checked(folder, "max_completion_length=16") == []
    with pytest.raises(UserError) as error:
        train(f"model.path={folder}", "max_completion_length=100")
    prompt = 128 - int(str(error.value).split("max_completion_length=")[-1].removesuffix(" or less."))
    assert str(error.value) == (
        f"max_completion_length=100: the longest prompt has {prompt} tokens, with its completion {prompt + 100}, and "
        f"{folder} has 128 positions (max_position_embeddings). Set max_completion_length={128 - prompt} or less."
    )
    with pytest.raises(UserError, match="Use shorter problems, or a shorter system_prompt"):
        checked(folder, question="1 + 2" * 200)


def test_texts_longer_than_rotary_positions_give_a_warning(folder) -> None:
    assert checked(folder) == []
    (warning,) = checked(folder, "max_completion_length=1000")
    assert warning.startswith("Warning: the longest prompt has ") and "has 1,024 positions" in warning
    with pytest.raises(UserError, match="has 1,024 positions"):  # vLLM does not accept longer texts
        checked(folder, "max_completion_length=1000", "rollout=vllm", "device=cuda")


def resized(folder: Path, rows: int) -> None:
    policy = build_policy(model(), 0)
    policy.resize_token_embeddings(rows)
    policy.save_pretrained(folder)


ADD = "Use the tokenizer that belongs to the policy, or give the policy as many rows and save it: "


def test_tokens_without_a_row_in_the_embeddings(folder) -> None:
    resized(folder, 700)  # the vocabulary has 834 tokens; words have the last ids
    with pytest.raises(UserError) as error:
        checked(folder, question="How many pens are 12 boxes of 200?")
    assert "the prompts contain '" in str(error.value)
    assert str(error.value).endswith(
        f"and the policy's embeddings have 700 rows. {ADD}policy.resize_token_embeddings(834)."
    )
    resized(folder, 641)
    with pytest.raises(UserError, match="config.json has pad_token_id=641, and vocab_size=641 rows"):
        checked(folder)
    change(folder, "config.json", pad_token_id=None)
    with pytest.raises(
        UserError, match=r"pad_token '<\|endoftext\|>' has id 641, and .* have 641 rows. Set pad_token in"
    ):
        checked(folder)
    resized(folder, 640)
    change(folder, "config.json", pad_token_id=None)
    with pytest.raises(UserError, match=r"no completion can end: eos_token '<\|im_end\|>' has id 640, .* 640 rows"):
        checked(folder)


def test_a_token_without_a_row_is_allowed_if_no_prompt_contains_it(folder) -> None:
    tokenizer = build_tokenizer(model())
    tokenizer.add_tokens(["<image_soft_token>"])
    tokenizer.save_pretrained(folder)
    assert checked(folder) == []
    with pytest.raises(UserError, match="the prompts contain '<image_soft_token>', a token with id 834"):
        checked(folder, question="What is <image_soft_token>?")


def test_a_declared_eos_token_that_the_policy_cannot_sample(folder) -> None:
    change(folder, "generation_config.json", eos_token_id=[640, 32007])
    assert checked(folder) == []
    policy, tokenizer = build_policy(model(path=str(folder)), 0), build_tokenizer(model(path=str(folder)))
    assert build_sampler(policy, tokenizer, compose()).end_token_ids == [640]


def test_completions_end_where_the_template_ends_a_turn(folder, train, capsys) -> None:
    # A base model with a ChatML template: its eos_token is another token.
    change(folder, "tokenizer_config.json", eos_token="<|endoftext|>")
    change(folder, "generation_config.json", eos_token_id=641)
    change(folder, "config.json", eos_token_id=641)
    out, results = train(f"model.path={folder}", "max_completion_length=48")
    assert (
        f"The chat template of {folder} ends a turn with '<|im_end|>', which its generation_config.json does not list"
        in " ".join(capsys.readouterr().out.split())
    )
    assert results["after"]["truncated"] < 1
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert min(line["completions/clipped_ratio"] for line in metrics if "reward" in line) < 1  # TRL stops there, too
    assert json.loads((out / "policy" / "generation_config.json").read_text())["eos_token_id"] == [641, 640]
    assert json.loads((out / "evaluations" / "after.json").read_text())["protocol"]["stop"] == [
        "<|im_end|>",
        "<|endoftext|>",
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(), "t5 has an encoder and a decoder; give a model that is a decoder alone"),
        (BartConfig(), "bart has an encoder and a decoder"),
        (ViTConfig(), "it is not a decoder, because transformers has no AutoModelForCausalLM"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_models_that_are_not_decoders(folder, config, message: str) -> None:
    config.save_pretrained(folder)
    with pytest.raises(UserError, match=message):
        build_policy(model(path=str(folder)), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 1_000_000_000}, "model.lora_rank=1000000000: adapters of rank 128, the width of embedded:tiny"),
        ({"lora_rank": 129}, "give that or less, model.lora_rank=16."),
        (
            {"init": "random", "num_layers": 1_000_000},
            "model.num_layers=1000000: must be at most 4, the number of layers of embedded:tiny.",
        ),
    ],
)
def test_settings_that_exceed_the_policy(changes, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_policy(replace(model(), **changes), 0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("config.json", '{"model_type": "qwen2", "hidden_size": "wide"}'),
        ("config.json", '{"model_type": "qwen2", "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "nosuch"}'),
        ("config.json", "{}"),
        ("generation_config.json", "[1]"),
        ("model.safetensors", "not weights"),
    ],
)
def test_damaged_files_of_a_policy(folder, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=f"model.path={folder}: ") as error:
        build_policy(model(path=str(folder)), 0)
    assert "\n" not in str(error.value)


def test_damaged_pickled_weights(folder) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02not a pickle")
    with pytest.raises(UserError, match="a file is missing or damaged"):
        build_policy(model(path=str(folder), trust_pickle=True), 0)


def test_a_tokenizer_without_an_eos_token(folder) -> None:
    change(folder, "tokenizer_config.json", eos_token=None)
    with pytest.raises(UserError, match="its tokenizer has no eos_token, so no completion could end; set it in"):
        build_tokenizer(model(path=str(folder)))


RECURSION = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 1 + 'a' }}", "unsupported operand type"),
        ("{{ messages[5]['content'] }}", "list object has no element 5. Correct the template"),
        ("{{ raise_exception('no messages') }}", "no messages. Correct the template"),
        ("{{ 1 / 0 }}", "division by zero. Correct the template"),
        ("{{ 2.0 ** 10000 }}", ""),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        (RECURSION, "maximum recursion depth exceeded"),
        (
            "{{ nosuch() }}",
            "'nosuch' is undefined. Set the variable that it needs, chat_template_kwargs.nosuch=...; or",
        ),
        (
            "{{ raise_exception('mode is required') if mode is not defined }}",
            "mode is required. Set the variable that it needs, chat_template_kwargs.mode=...; or correct the template",
        ),
    ],
)
def test_a_chat_template_that_raises_an_error(folder, template: str, why: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="the policy's chat template refuses the prompt: ") as error:
        checked(folder)
    assert why in str(error.value) and "\n" not in str(error.value)


def test_several_chat_templates_without_a_default(folder) -> None:
    (folder / "chat_template.jinja").unlink()
    templates = [{"name": name, "template": "{{ messages[0].content }}"} for name in ("rag", "tool_use")]
    change(folder, "tokenizer_config.json", chat_template=templates)
    with pytest.raises(UserError, match="has several chat templates, rag and tool_use, and none is the default; put"):
        build_tokenizer(model(path=str(folder)))


def test_a_chat_template_that_leaves_out_the_question(folder) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{{ part.text }}{% endfor %}\n{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template)  # as that of a policy that takes images
    with pytest.raises(UserError, match=r"leaves out the question: it renders 'How many\?' as 'user: '\. Use a policy"):
        checked(folder, "system_prompt=''")


@pytest.mark.parametrize(
    ("flags", "overrides", "warned"),
    [
        ("flags : fpu avx2 avx512f", ["bf16=true"], True),
        ("flags : fpu avx512_bf16", ["bf16=true"], False),
        ("flags : amx_bf16 amx_tile", ["bf16=true"], False),
        ("Features : fp asimd bf16", ["bf16=true"], False),
        ("flags : fpu avx2", [], False),
        ("flags : fpu avx2", ["experiment=gsm8k"], False),  # on CUDA
        ("flags : fpu avx2", ["experiment=gsm8k", "device=cpu"], True),
    ],
)
def test_bfloat16_on_a_cpu(tmp_path, monkeypatch, flags: str, overrides: list[str], warned: bool) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    warning = slow_bfloat16_warning(compose(overrides))
    assert ("bf16=false" in warning) if warned else warning is None
