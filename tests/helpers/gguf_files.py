"""The embedded policy as a GGUF file, in the way llama.cpp converts a Qwen2 policy.

Called by the tests of loading and planning.
"""

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from safetensors.numpy import load_file

from grpo.policy.hub import ASSETS

TINY = ASSETS / "tiny"
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def gguf_name(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`."""
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in fixed:
        return fixed[name]
    layer, module, kind = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name).groups()  # type: ignore[union-attr]
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def write_gguf(
    file: Path,
    quantization: str = "F32",
    head: str | None = None,
    tied: bool = True,
    without: str = "",
    **metadata: int,
) -> Path:
    """Write the embedded policy with its matrices in `quantization`.

    Args:
        head: the quantization of the head; None: the file has none.
        tied: whether the head is a copy of the embeddings; otherwise its rows are in reverse order.
        without: the name of a tensor to leave out.
        metadata: further 32-bit numbers, with `__` for each `.` in the name.
    """
    config, tokenizer = (json.loads((TINY / name).read_text()) for name in ("config.json", "tokenizer.json"))
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    for name, value in metadata.items():
        writer.add_uint32(name.replace("__", "."), value)
    _add_tokenizer(writer, tokenizer, config["vocab_size"])
    weights = load_file(TINY / "model.safetensors")
    for name, values in weights.items():
        if gguf_name(name) != without:
            _add_tensor(writer, gguf_name(name), values, quantization)
    if head is not None:
        rows = weights["model.embed_tokens.weight"]
        _add_tensor(writer, "output.weight", rows if tied else rows[::-1], head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], rows: int) -> None:
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    tokens |= {number: token["content"] for number, token in added.items()}
    types = {number: CONTROL if token["special"] else USER_DEFINED for number, token in added.items()}
    ids = {token: number for number, token in tokens.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokens[number] for number in range(rows)])
    writer.add_token_types([types.get(number, NORMAL) for number in range(rows)])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    settings = json.loads((TINY / "tokenizer_config.json").read_text())
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_pad_token_id(ids[settings["pad_token"]])
    writer.add_chat_template((TINY / "chat_template.jinja").read_text())


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, quantization: str) -> None:
    kind = GGMLQuantizationType[quantization if values.ndim == 2 else "F32"]
    writer.add_tensor(name, gguf.quantize(values.astype(np.float32), kind), raw_dtype=kind)
