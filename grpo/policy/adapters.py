"""LoRA adapters: the check of a saved adapter's folder, and a policy with new or saved adapters.

Loading calls `add_adapters` and `load_adapter`; the checks before a run call `check_adapter`, which imports neither
torch nor PEFT. This module does not know where the weights under the adapters come from.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grpo.config.schema import ModelConfig
from grpo.core.errors import UserError, first_line, listed
from grpo.policy.hub import resolve_gguf, resolve_model_path

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The tensors that the sampler, TRL's log-probabilities and the reference policy read: LoRA's matrices and DoRA's
# magnitudes of linear layers. TRL computes log-probabilities without an adapter of the head.
TRAINED_FURTHER = re.compile(r"\.lora_(A\.weight|B\.weight|magnitude_vector(\.weight)?)$")
HEAD = re.compile(r"\.(lm_head|embed_out|output_layer)\.")


def check_adapter(model: ModelConfig) -> dict[str, Any]:
    """The settings of the adapter `model.adapter`, once its folder is checked.

    Raises:
        UserError: the folder holds no LoRA adapter with safetensors, its rank is not `model.lora_rank`, or it can only
            be merged.
    """
    assert model.adapter is not None
    setting, folder = f"model.adapter={model.adapter}", Path(model.adapter).expanduser()
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind, rank = settings["peft_type"], settings["r"]
    except FileNotFoundError as error:
        raise UserError(f"{setting}: {_no_adapter(folder)}") from error
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
        with safe_open(folder / ADAPTER_WEIGHTS, "numpy") as file:  # reads the header, and compares it with the size
            names = list(file.keys())
    except SafetensorError as error:
        raise UserError(
            f"{setting}: its {ADAPTER_WEIGHTS} is damaged or truncated: {first_line(error)}; copy it again."
        ) from error
    if not model.merge_adapter and model.lora_rank not in (0, rank):
        raise UserError(
            f"model.lora_rank={model.lora_rank}: the adapter to be trained further has rank {rank}; leave it out, or "
            "add model.merge_adapter=true to merge it and train new adapters."
        )
    if not model.merge_adapter and (others := _only_merged(names, settings.get("modules_to_save") or ())):
        raise UserError(
            f"{setting}: it has more than the LoRA matrices of linear layers, {listed(others)}, and cannot be trained "
            "further; add model.merge_adapter=true, and model.lora_rank=16 to train new adapters."
        )
    return settings


def _no_adapter(folder: Path) -> str:
    """Why a folder without the settings of an adapter is none, and what to type if a folder in it is one."""
    if not folder.is_dir():
        return "there is no such folder; give the folder of a LoRA adapter on this machine, as PEFT saved it."
    found = [*folder.glob(f"*/{ADAPTER_CONFIG}"), *folder.glob(f"checkpoints/*/{ADAPTER_CONFIG}")]
    if found:  # a run directory, or what PEFT saved as several adapters
        newest = max(found, key=lambda file: file.stat().st_mtime).parent
        return f"the folder has no {ADAPTER_CONFIG}; a folder in it is an adapter, model.adapter={newest}"
    return f"the folder has no {ADAPTER_CONFIG}; give the folder of a LoRA adapter that PEFT saved."


def _only_merged(names: Iterable[str], copied_modules: Iterable[str]) -> list[str]:
    """The tensors that cannot be trained, without their layers; the tensors of `copied_modules` can."""
    copied = re.compile("|".join(rf"\.{re.escape(name)}\." for name in copied_modules) or "$^")
    others = [name for name in names if not copied.search(name)]
    untrained = [name for name in others if not TRAINED_FURTHER.search(name) or HEAD.search(name)]
    return sorted({re.sub(r"^base_model\.model\.(.*\.\d+\.)?", "", name) for name in untrained})


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

    def misfit(reason: str) -> UserError:
        return UserError(
            f"model.adapter={config.adapter}: it does not fit {config.setting} ({reason}); give the policy on which it "
            f"was trained, model.path={base}, or model.gguf."
        )

    _prepare_4_bit_modules(policy)
    settings = LoraConfig.from_pretrained(folder)
    settings.lora_dropout = config.lora_dropout
    try:
        adapted = PeftModel.from_pretrained(
            policy, folder, is_trainable=not config.merge_adapter, config=settings, use_safetensors=True
        )
        # The same once more: only this call returns which tensors have no place.
        places = adapted.load_adapter(folder, "default", is_trainable=not config.merge_adapter, use_safetensors=True)
    except Exception as error:  # a damaged file, or sizes that differ
        raise misfit(_reason(error)) from error
    for names, problem in ((places.unexpected_keys, "the policy has no"), (places.missing_keys, "it has nothing for")):
        if names:
            modules = dict.fromkeys(re.sub(r"^base_model\.model\.|\.lora_.*", "", name) for name in names)
            raise misfit(f"{problem} {listed(list(modules))}")
    return _merged(adapted, config) if config.merge_adapter else adapted


def _reason(error: Exception) -> str:
    """The first line of an error; of a list of tensors that do not fit, the first of these."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.startswith("size mismatch")), first_line(error)).rstrip(".")


def _merged(adapted: Any, config: ModelConfig) -> Any:
    """The policy with its adapter merged into the weights, all of them trained.

    Embeddings and head become two matrices if the adapter changes one of them, or each differently.

    Raises:
        UserError: the adapter cannot be merged.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    ends: list[Any] = [adapted.get_input_embeddings(), adapted.get_output_embeddings()]
    are_adapted = [isinstance(end, BaseTunerLayer) for end in ends]
    bases = zip(ends, are_adapted, strict=True)
    embedding, head = (end.get_base_layer() if is_adapted else end for end, is_adapted in bases)
    if any(are_adapted) and embedding.weight is head.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        adapted.get_base_model().config.tie_word_embeddings = False
    base = adapted.name_or_path
    try:
        policy = adapted.merge_and_unload()
    except RuntimeError as error:
        raise UserError(f"model.adapter={config.adapter}: it cannot be merged: {first_line(error)}.") from error
    policy.name_or_path = f"{base} with {config.adapter} merged"  # what adapters on it are trained on
    return policy.requires_grad_(True)  # PEFT froze the weights


def adapter_base_note(config: ModelConfig) -> str | None:
    """A note if the adapter was trained on a policy of another name than that of the settings; None if not.

    A folder and a hub id can hold the same weights, so it is the last part of their names that is compared.
    """
    if config.adapter is None or not (base := check_adapter(config).get("base_model_name_or_path")):
        return None
    paths = (config.path, resolve_model_path(config.path)) if config.gguf is None else resolve_gguf(config)
    if Path(base).name in [Path(path).name for path in paths]:
        return None
    return (
        f"model.adapter={config.adapter} was trained on {base}, and the policy is {config.name}: if these are other "
        "weights, the adapter does not fit them; then give its own as model.path."
    )


def _prepare_4_bit_modules(policy: Any) -> None:
    """On some CPUs bitsandbytes repacks the weights for sampling into a format that training cannot read."""
    for module in policy.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
