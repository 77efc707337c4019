"""Loading and saving of the policy and its tokenizer.

The weights come from the hub, a local folder, a GGUF file or the embedded assets, or are random (`model.init=random`).
Commands and the training session call it. It does not know how the policy is trained or sampled.
"""

import copy
import errno
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from grpo.config.schema import ModelConfig
from grpo.core.device import is_out_of_memory
from grpo.core.errors import UserError, first_line
from grpo.policy.adapters import add_adapters, load_adapter
from grpo.policy.complete_weights import load_complete
from grpo.policy.gguf_policy import gguf_options, load_gguf_policy, open_gguf
from grpo.policy.hub import hub_error, is_on_hub, resolve_model_path, resolve_tokenizer

SAFETENSORS_FILES, PICKLED_FILES = "*.safetensors", "pytorch_model*.bin"


def loading_error(config: ModelConfig, error: Exception, setting: str | None = None) -> UserError:
    """The message for an error of transformers; `setting` names the files that were read, with its value."""
    setting = setting or config.setting
    key, _, place = setting.partition("=")
    if isinstance(error, UserError):
        return error
    if "Unrecognized configuration class" in str(error):
        return UserError(
            f"{setting}: it is not a decoder, because transformers has no AutoModelForCausalLM for it; give a model "
            "that continues text."
        )
    if is_out_of_memory(error):
        return UserError(
            f"{setting}: out of memory while its weights are loaded. model.dtype=bfloat16 needs half as much; "
            "or use a smaller policy."
        )
    if "trust_remote_code" in str(error):
        return UserError(
            f"{setting}: the model needs its own Python code, which runs only with "
            "model.trust_remote_code=true. Read it first."
        )
    if key == "model.gguf" and is_on_hub(config.path) and place != config.gguf:
        return hub_error(f"The file {place}", "model.path", error)
    if is_on_hub(place):
        return hub_error(f"The {key.partition('.')[2].replace('path', 'model')} {place}", key, error)
    why = first_line(error) if str(error) else type(error).__name__
    if key == "model.gguf":
        return UserError(f"{setting}: transformers cannot load it: {why}.")
    return UserError(f"{setting}: cannot be loaded; a file is missing or damaged: {why}.")


def from_pretrained_options(config: ModelConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` for the revision of the weights and for trust in code and pickles."""
    return {
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "use_safetensors": None if config.trust_pickle else True,
    }


def build_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy, padding on the left.

    Raises:
        UserError: the tokenizer cannot be loaded, has no chat template or no eos_token, or is damaged.
    """
    setting = config.setting if config.tokenizer is None else f"model.tokenizer={config.tokenizer}"
    try:
        if config.tokenizer is not None:
            options: dict[str, Any] = {"pretrained_model_name_or_path": resolve_tokenizer(config.tokenizer)}
        elif config.gguf is not None:
            options = gguf_options(config)
        else:
            options = {"pretrained_model_name_or_path": resolve_model_path(config.path), "revision": config.revision}
        tokenizer = AutoTokenizer.from_pretrained(
            **options, trust_remote_code=config.trust_remote_code, padding_side="left"
        )
    except Exception as error:  # the tokenizers library raises plain Exception
        raise loading_error(config, error, setting) from error
    if tokenizer.chat_template is None:
        raise UserError(
            f"{setting}: its tokenizer has no chat template, so no prompt can be built; use an "
            "instruction-tuned model, or put a chat_template.jinja into its folder."
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise UserError(
            f"{setting}: its tokenizer has several chat templates, {' and '.join(tokenizer.chat_template)}, and none "
            "is the default; put the one to use into its folder as chat_template.jinja."
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{setting}: its tokenizer has no eos_token, so no completion could end; set it in "
            "tokenizer_config.json to the token that ends an answer."
        )
    if not tokenizer("1 + 2")["input_ids"]:
        raise UserError(f"{setting}: its tokenizer is damaged or incomplete: it gives no token for '1 + 2'.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def build_policy(config: ModelConfig, seed: int) -> PreTrainedModel:
    """The policy with its weights in `config.dtype`; with LoRA, wrapped in adapters.

    Raises:
        UserError: the weights cannot be loaded, or a setting exceeds the size of the policy.
    """
    set_seed(seed)  # of accelerate: the module of transformers' `set_seed` imports PEFT and bitsandbytes, a second
    try:
        policy = _load_weights(config)
    except Exception as error:  # a damaged config.json can raise any exception
        raise loading_error(config, error) from error
    if config.adapter is not None:
        policy = load_adapter(policy, config)
        if not config.merge_adapter:
            return policy
    return add_adapters(policy, config) if config.lora_rank else policy


def _load_weights(config: ModelConfig) -> PreTrainedModel:
    if config.gguf is not None:
        file = open_gguf(config)
        architecture = AutoConfig.from_pretrained(**gguf_options(config))
        _check_architecture(architecture, config)
        return load_gguf_policy(config, file, architecture)
    path, dtype = resolve_model_path(config.path), getattr(torch, config.dtype)
    architecture = AutoConfig.from_pretrained(
        path, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    _check_architecture(architecture, config)
    if config.init == "random":
        if config.num_layers is not None:
            architecture.num_hidden_layers = config.num_layers
            if getattr(architecture, "layer_types", None):
                architecture.layer_types = architecture.layer_types[: config.num_layers]
        return AutoModelForCausalLM.from_config(architecture, dtype=dtype, trust_remote_code=config.trust_remote_code)
    if Path(path).is_dir():
        _require_weights(config, Path(path))
    options = {"pretrained_model_name_or_path": path, "dtype": dtype}
    return load_complete(config, options | from_pretrained_options(config) | _quantization_options(config))


def _check_architecture(architecture: Any, config: ModelConfig) -> None:
    """Check the architecture before its weights are loaded.

    Raises:
        UserError: the model is not a decoder, or a setting exceeds its size.
    """
    if architecture.is_encoder_decoder:
        raise UserError(
            f"{config.setting}: {architecture.model_type} has an encoder and a decoder; give a model that is a decoder "
            "alone (AutoModelForCausalLM)."
        )
    text = architecture.get_text_config()
    pad, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(pad, int) and rows and pad >= rows:
        raise UserError(
            f"{config.setting}: config.json has pad_token_id={pad}, and vocab_size={rows} rows in its "
            "embeddings; set it to null there, since padding is masked."
        )
    layers, width = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
    if layers and config.num_layers is not None and config.num_layers > layers:
        raise UserError(
            f"model.num_layers={config.num_layers}: must be at most {layers}, the number of layers of {config.name}."
        )
    if width and config.lora_rank > width:
        raise UserError(
            f"model.lora_rank={config.lora_rank}: adapters of rank {width}, the width of {config.name} (hidden_size), "
            "can express any change of its weights; give that or less, model.lora_rank=16."
        )


def _quantization_options(config: ModelConfig) -> dict[str, Any]:
    """Arguments for QLoRA's NF4 with double quantization, computing in bfloat16 (Dettmers et al. 2023)."""
    if not config.load_in_4bit:
        return {}
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": nf4}


def _require_weights(config: ModelConfig, folder: Path) -> None:
    if any(folder.glob(SAFETENSORS_FILES)) or (config.trust_pickle and any(folder.glob(PICKLED_FILES))):
        return
    if any(folder.glob(PICKLED_FILES)):
        raise UserError(
            f"model.path={config.path}: its weights are pickled (*.bin), and loading them can run their "
            "author's code. Use a model with *.safetensors, or model.trust_pickle=true if you trust it."
        )
    raise UserError(
        f"model.path={config.path}: the folder has no weights (*.safetensors). To build its architecture with random "
        "weights, add model.init=random."
    )


def save_policy(policy: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a folder that `AutoModelForCausalLM` and `AutoTokenizer` load; adapters are merged into the weights.

    Raises:
        OSError: the folder cannot be written.
    """
    if getattr(policy, "is_loaded_in_4bit", False):
        policy = _dequantized(policy)
    elif hasattr(policy, "merge_and_unload"):
        policy = policy.merge_and_unload()
    try:
        policy.save_pretrained(folder)
    except SafetensorError as error:  # safetensors raises it for every failure to write
        raise OSError(errno.EIO, first_line(error), str(folder)) from error
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _dequantized(policy: Any) -> PreTrainedModel:
    """The policy with 4-bit weights dequantized and its adapters merged.

    Merging into 4-bit weights would round them a second time.
    """
    from bitsandbytes.functional import dequantize_4bit

    quantized = policy.get_base_model()
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    dense: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=quantized.dtype)
    for name, module in dense.named_modules():
        adapted = quantized.get_submodule(name)
        base = adapted.get_base_layer() if hasattr(adapted, "get_base_layer") else adapted
        for attribute, parameter in module.named_parameters(recurse=False):
            value = getattr(base, attribute)
            if state := getattr(value, "quant_state", None):
                value = dequantize_4bit(value.data, state).float() + adapted.get_delta_weight("default").float()
            parameter.copy_(value)
    dense.generation_config = quantized.generation_config
    return dense
