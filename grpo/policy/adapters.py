"""LoRA adapters: the check of a saved adapter's folder, and a policy with new or saved adapters.

Loading calls `add_adapters` and `load_adapter`; the checks before a run call `check_adapter`, which imports neither
torch nor PEFT. This module does not know where the weights under the adapters come from.
"""

import json
from pathlib import Path
from typing import Any

from grpo.config.schema import ModelConfig
from grpo.core.errors import UserError, first_line

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_adapter(model: ModelConfig) -> dict[str, Any]:
    """The settings of the adapter `model.adapter`, once its folder is checked.

    Raises:
        UserError: the folder holds no LoRA adapter with safetensors, or its rank is not `model.lora_rank`.
    """
    assert model.adapter is not None
    setting, folder = f"model.adapter={model.adapter}", Path(model.adapter).expanduser()
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind, rank = settings["peft_type"], settings["r"]
    except FileNotFoundError as error:
        raise UserError(
            f"{setting}: the folder has no {ADAPTER_CONFIG}; give the folder of a LoRA adapter that PEFT saved."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{setting}: its {ADAPTER_CONFIG} is damaged or not that of a LoRA adapter; give the folder of a LoRA "
            "adapter that PEFT saved."
        ) from error
    if kind != "LORA":
        raise UserError(f"{setting}: it is an adapter of the kind {kind}; only LORA can be trained or merged.")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"{setting}: the folder has no {ADAPTER_WEIGHTS}; pickled adapters are not loaded, so save it again with "
            "PEFT's save_pretrained, which writes safetensors."
        )
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS, "numpy"):  # reads the header, and compares it with the size
            pass
    except SafetensorError as error:
        raise UserError(
            f"{setting}: its {ADAPTER_WEIGHTS} is damaged or truncated: {first_line(error)}; copy it again."
        ) from error
    if not model.merge_adapter and model.lora_rank not in (0, rank):
        raise UserError(
            f"model.lora_rank={model.lora_rank}: the adapter to be trained further has rank {rank}; leave it out, or "
            "add model.merge_adapter=true to merge it and train new adapters."
        )
    return settings


def add_adapters(policy: Any, config: ModelConfig) -> Any:
    """The policy with new adapters, which change nothing until they are trained."""
    from peft import LoraConfig, TaskType, get_peft_model

    _prepare_4_bit_modules(policy)
    adapters = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type=TaskType.CAUSAL_LM,
    )
    return get_peft_model(policy, adapters)


def load_adapter(policy: Any, config: ModelConfig) -> Any:
    """The policy with the adapter `config.adapter`, to be trained further, or merged into the weights.

    Rank, alpha and target modules are the adapter's own; the dropout is `config.lora_dropout`.

    Raises:
        UserError: the adapter does not fit the policy.
    """
    from peft import LoraConfig, PeftModel

    base = check_adapter(config).get("base_model_name_or_path") or "BASE"
    folder = str(Path(config.adapter or "").expanduser())
    _prepare_4_bit_modules(policy)
    settings = LoraConfig.from_pretrained(folder)
    settings.lora_dropout = config.lora_dropout
    try:
        adapted = PeftModel.from_pretrained(
            policy, folder, is_trainable=not config.merge_adapter, config=settings, use_safetensors=True
        )
    except Exception as error:  # a damaged file, or sizes that differ
        raise UserError(
            f"model.adapter={config.adapter}: it does not fit {config.setting} ({first_line(error)}); give the policy "
            f"on which it was trained, model.path={base}, or model.gguf."
        ) from error
    if not config.merge_adapter:
        return adapted
    return adapted.merge_and_unload().requires_grad_(True)  # PEFT has frozen the weights


def _prepare_4_bit_modules(policy: Any) -> None:
    """On some CPUs bitsandbytes repacks the weights for sampling into a format that training cannot read."""
    for module in policy.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
