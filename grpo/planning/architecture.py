"""The sizes of a policy, read from its config.json, its GGUF file or from those shipped with the package.

Used by the memory and time formulas of a plan. It imports no torch and sends no request to the hub.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.config.schema import ModelConfig
from grpo.core.errors import UserError
from grpo.policy.gguf_file import EMBEDDING, HEAD, read_gguf
from grpo.policy.hub import ASSETS, resolve_gguf, resolve_model_path

# The names of the sizes in the metadata of a GGUF file, after the name of the architecture.
GGUF_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
}
GGUF_MODEL_TYPES = {"gemma3": "gemma3_text"}  # where transformers' model_type differs


@dataclass(frozen=True)
class Architecture:
    """The sizes of a decoder of the Qwen2 kind, by the names in its config.json."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], num_layers: int | None = None) -> "Architecture":
        """From the content of a config.json, with its first `num_layers` layers only if that is given.

        Raises:
            KeyError: a size is missing.
        """
        heads, hidden = settings["num_attention_heads"], settings["hidden_size"]
        return cls(
            settings["model_type"],
            settings["vocab_size"],
            hidden,
            settings["intermediate_size"],
            num_layers or settings["num_hidden_layers"],
            heads,
            settings.get("num_key_value_heads") or heads,
            settings.get("head_dim") or hidden // heads,
            settings.get("tie_word_embeddings", False),
        )

    @property
    def query_size(self) -> int:
        """Query heads x head size."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Key heads x head size."""
        return self.num_key_value_heads * self.head_dim

    @property
    def projections(self) -> list[tuple[int, int]]:
        """(in, out) of the linear modules of a layer."""
        h, i, q, k = self.hidden_size, self.intermediate_size, self.query_size, self.key_size
        return [(h, q), (h, k), (h, k), (q, h), (h, i), (h, i), (i, h)]

    @property
    def linear_parameters(self) -> int:
        """Parameters of the linear modules of all layers; quantization applies to these."""
        return self.num_hidden_layers * sum(a * b for a, b in self.projections)

    @property
    def head_parameters(self) -> int:
        """Parameters of the language-model head; the embedding has as many."""
        return self.vocab_size * self.hidden_size

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers, biases and norms included."""
        bias = (self.query_size + 2 * self.key_size) * (self.model_type == "qwen2")
        norms = self.hidden_size * (4 if self.model_type == "gemma3_text" else 2)
        head_norms = 2 * self.head_dim * (self.model_type in ("qwen3", "gemma3_text"))  # of queries and keys
        return self.linear_parameters + self.num_hidden_layers * (norms + head_norms + bias)

    @property
    def parameters(self) -> int:
        """All parameters; tied embeddings count once."""
        return self.layer_parameters + self.hidden_size + self.head_parameters * (1 if self.tie_word_embeddings else 2)

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters of this rank on every linear module of the layers (Hu et al. 2021)."""
        return self.num_hidden_layers * rank * sum(a + b for a, b in self.projections)


def read_architecture(model: ModelConfig) -> tuple[Architecture, str]:
    """The sizes of the policy and their origin: its config.json if that is on this machine, else the shipped sizes.

    Raises:
        UserError: there is neither, or they are not those of a decoder of the Qwen2 kind.
    """
    if model.gguf is not None:
        return _read_gguf_architecture(model)
    path = resolve_model_path(model.path)
    shipped = json.loads((ASSETS / "architectures.json").read_text())
    file: Any = Path(path) / "config.json"
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(path, "config.json", revision=model.revision)
    if isinstance(file, str | Path):
        settings, origin = json.loads(Path(file).read_text()), f"config.json of {model.path}"
    elif path in shipped:
        settings, origin = shipped[path], f"as shipped, of {path}"
    else:
        raise UserError(
            f"model.path={model.path}: its config.json is not on this machine, and a plan does not ask a hub. Give a "
            f"folder that has it, or a model whose sizes are shipped: {', '.join(shipped)}."
        )
    return _architecture(model, settings, origin), origin


def _read_gguf_architecture(model: ModelConfig) -> tuple[Architecture, str]:
    path = Path(*resolve_gguf(model))
    if not path.is_file():
        raise UserError(
            f"{model.setting}: the file is not on this machine, and a plan does not ask a hub; download it."
        )
    file, origin = read_gguf(path, model.setting), f"metadata of {model.name}"
    sizes = {name: file.size_of(stored) for name, stored in GGUF_SIZES.items()}
    settings = {name: size for name, size in sizes.items() if size is not None} | {
        "model_type": GGUF_MODEL_TYPES.get(file.architecture, file.architecture),
        "vocab_size": file.tensors[EMBEDDING].shape[0],
        "tie_word_embeddings": HEAD not in file.tensors or file.tied_copy() is not None,
    }
    return _architecture(model, settings, origin), origin


def _architecture(model: ModelConfig, settings: Mapping[str, Any], origin: str) -> Architecture:
    try:
        return Architecture.from_settings(settings, model.num_layers)
    except KeyError as error:
        raise UserError(
            f"{model.setting}: there is no {error.args[0]} in the {origin}; a plan supports decoders of the Qwen2 kind."
        ) from error
