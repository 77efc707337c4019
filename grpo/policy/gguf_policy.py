"""A policy from a GGUF file, dequantized by transformers, so that its weights are ordinary ones.

Loading calls it, and the checks of a policy for the note on tied embeddings. Such a policy is saved as an ordinary
folder with safetensors. This module does not know how the policy is trained or sampled.
"""

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from grpo.config.schema import ModelConfig
from grpo.policy.complete_weights import load_complete
from grpo.policy.gguf_file import EMBEDDING, HEAD, GgufFile, read_gguf
from grpo.policy.hub import resolve_gguf


def open_gguf(config: ModelConfig) -> GgufFile:
    """The header of the file, which is downloaded if it is on the hub.

    Raises:
        OSError: the hub does not have the file, or does not answer.
        UserError: there is no such file, or it cannot be read.
    """
    folder, name = resolve_gguf(config)
    file = cached_file(folder, name, revision=config.revision)
    return read_gguf(Path(str(file)), config.setting)


def gguf_options(config: ModelConfig) -> dict[str, Any]:
    """Arguments of every `from_pretrained` that reads the file."""
    folder, name = resolve_gguf(config)
    return {"pretrained_model_name_or_path": folder, "gguf_file": name, "revision": config.revision}


def load_gguf_policy(config: ModelConfig, file: GgufFile, architecture: Any) -> PreTrainedModel:
    """The policy with its weights in `config.dtype`; embeddings that the file stores twice are tied again.

    `architecture` is the configuration that transformers derives from the metadata of the file.

    Raises:
        UserError: tensors of the policy are not in the file.
    """
    options = gguf_options(config) | {"config": architecture, "dtype": getattr(torch, config.dtype)}
    if hasattr(transformers, "GgufConfig"):  # versions without it always dequantize
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with redirect_stderr(io.StringIO()):  # transformers shows a progress bar here that no setting disables
        policy = load_complete(config, options)
    if quantizer := getattr(policy, "hf_quantizer", None):
        # With it, transformers neither trains nor saves the policy, though its weights are ordinary.
        quantizer.remove_quantization_config(policy)
    if copy := file.tied_copy():
        embedding, head = policy.get_input_embeddings(), policy.get_output_embeddings()
        if copy == HEAD:
            embedding.weight.data = head.weight.data
        policy.config.tie_word_embeddings = True
        policy.tie_weights()
    return policy


def tied_copy_note(config: ModelConfig) -> str | None:
    """Which copy of the embeddings is used if the file stores them twice; None if it does not."""
    file = open_gguf(config)
    if not (used := file.tied_copy()):
        return None
    other = EMBEDDING if used == HEAD else HEAD
    chosen, replaced = file.tensors[used].quantization, file.tensors[other].quantization
    reason = "" if chosen == replaced else f", which is more precise than {other} ({replaced})"
    return f"{config.setting}: the file stores the tied embeddings twice; both uses get {used} ({chosen}){reason}."
