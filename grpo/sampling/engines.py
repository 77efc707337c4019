"""Rollout engines of other projects: what they need before a run starts, and what TRL is told of them.

Nothing here imports torch: what is missing is said at once.
"""

import json
import math
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from packaging.version import Version

from grpo.config.samplers import VLLM_ENGINES
from grpo.config.schema import Config
from grpo.core import distributed
from grpo.core.console import say
from grpo.core.errors import UserError

# Of those that TRL 1.16 supports, 0.22 to 0.31, the ones that go with torch 2.13 and transformers 5.23. As in
# pyproject.toml.
OLDEST, BEFORE = "0.27", "0.31"
INSTALL = f"pip install 'vllm>={OLDEST},<{BEFORE}'"
PAGE = 256  # tokens in a page of transformers' cache
ANSWER = 10.0  # seconds that one answer of a server may take
SERVE = (
    'VLLM_SERVER_DEV_MODE=1 vllm serve {model} --weight-transfer-config \'{{"backend": "nccl"}}\' '
    "--logprobs-mode processed_logprobs --max-logprobs -1"
)


def check_engine_package(config: Config) -> None:
    """
    Raises:
        UserError: the package of the engine is not installed, or not in a version that TRL knows.
    """
    name = config.rollout.name
    if name not in VLLM_ENGINES:
        return
    if find_spec("vllm") is None:
        raise UserError(
            f"rollout={name}: vLLM is not installed: {INSTALL}. Without it, rollout=fast samples on this GPU."
        )
    if (known := _version()) is None:
        return
    installed = Version(Version(known).base_version)
    if not Version(OLDEST) <= installed < Version(BEFORE):
        raise UserError(
            f"rollout={name}: vLLM {installed} is installed, and this project's TRL, torch and transformers go with "
            f"{OLDEST} to {BEFORE}, the last not included: {INSTALL}."
        )


def packages(config: Config) -> tuple[str, ...]:
    """Those that a run's numbers come from besides what every run needs."""
    return ("vllm",) if config.rollout.name in VLLM_ENGINES and _version() else ()


def _version() -> str | None:
    """Of vLLM; None where it does not say, as when built from source."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return None


def check_engine_processes(config: Config, world_size: int) -> None:
    """
    Raises:
        UserError: this many processes cannot be parted into copies of the engine.
    """
    parallel = config.rollout.tensor_parallel
    if parallel is not None and world_size % parallel:
        fitting = ", ".join(str(each) for each in range(1, world_size + 1) if world_size % each == 0)
        raise UserError(
            f"rollout.tensor_parallel={parallel}: must divide the number of processes, {world_size}: {fitting}."
        )


def check_engine_server(config: Config) -> None:
    """Wait for the server, aloud; TRL would wait in silence, and then end in a traceback.

    Raises:
        UserError: it cannot be reached, or was not started as it must be.
    """
    rollout = config.rollout
    if rollout.name != "vllm_server":
        return
    assert rollout.server is not None and rollout.server_timeout is not None
    server = rollout.server.rstrip("/")
    serve = f"Start it with: {SERVE.format(model=config.model.path)}"
    end, waiting = time.monotonic() + rollout.server_timeout, False
    while (why := _asked(f"{server}/health")[1]) is not None:
        if time.monotonic() >= end:
            raise UserError(
                f"rollout.server={server}: no vLLM server answers there after {rollout.server_timeout:g} s "
                f"(rollout.server_timeout): {why}. {serve}"
            )
        if not waiting:
            say(f"Waiting up to {rollout.server_timeout:g} s for the vLLM server at {server}: {why}.")
            waiting = True
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))
    info, why = _asked(f"{server}/server_info?config_format=json")
    if why is not None:
        raise UserError(
            f"rollout.server={server}: it does not say how it was started, and takes no weights: {why}. {serve}"
        )
    settings: dict[str, Any] = info.get("vllm_config", {})
    if settings.get("weight_transfer_config") is None:
        raise UserError(f"rollout.server={server}: it was started without a way to take weights. {serve}")
    model = settings.get("model_config") or {}
    mode = model.get("logprobs_mode")
    if rollout.correction is not None and mode != "processed_logprobs":
        raise UserError(
            f"rollout.correction={rollout.correction}: the server at {server} gives log-probabilities before the "
            f"temperature (logprobs_mode {mode}). {serve}"
        )
    longest, needed = model.get("max_model_len"), max_model_length(config)
    if longest is not None and needed is not None and longest < needed:
        raise UserError(
            f"rollout.server={server}: it takes {longest} tokens a text, and max_prompt_length + max_completion_length "
            f"are {needed}. {serve} --max-model-len {needed}"
        )


def _asked(url: str) -> tuple[dict[str, Any], str | None]:
    """What a server answers as JSON, and why there is no answer."""
    try:
        with urlopen(url, timeout=ANSWER) as answer:
            content = answer.read()
            return (json.loads(content) if content.strip() else {}), None
    except HTTPError as error:
        return {}, f"{error.code} {error.reason}"
    except (OSError, ValueError) as error:  # the first with its own reason inside where there is one
        return {}, str(getattr(error, "reason", error))


def max_model_length(config: Config) -> int | None:
    """Tokens of the longest text; None where prompts may have any length."""
    return config.max_prompt_length + config.max_completion_length if config.max_prompt_length else None


def arguments(config: Config) -> dict[str, Any]:
    """TRL's arguments for the engine; none where the run samples by itself."""
    rollout = config.rollout
    if rollout.name == "continuous_batching":
        return {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": _continuous_batching(config),
        }
    if rollout.name not in VLLM_ENGINES:
        return {}
    corrected: dict[str, Any] = {"vllm_importance_sampling_correction": rollout.correction is not None}
    if rollout.correction is not None:
        corrected["vllm_importance_sampling_mode"] = rollout.correction
        corrected["vllm_importance_sampling_clip_max"] = rollout.correction_max
        corrected["vllm_importance_sampling_clip_min"] = rollout.correction_min
    if rollout.name == "vllm_server":
        return {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": rollout.server,
            "vllm_server_timeout": rollout.server_timeout,
            "vllm_group_port": rollout.group_port,
            **corrected,
        }
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": rollout.memory,
        "vllm_enable_sleep_mode": rollout.sleep,
        "vllm_tensor_parallel_size": rollout.tensor_parallel,
        "vllm_max_model_length": max_model_length(config),
        **corrected,
    }


def _continuous_batching(config: Config) -> dict[str, Any]:
    # Flash attention, which it takes where that is installed, computes in no other precision.
    settings: dict[str, Any] = {"auto_switch_to_flash": config.bf16 or config.model.dtype == "bfloat16"}
    if longest := max_model_length(config):
        # It would take half of the memory for its cache, on a CPU half of the machine's. This is what the completions
        # need, and the fifth that it keeps free before it begins another one.
        completions = config.num_generations * config.prompts_per_step * config.algorithm.steps_per_generation
        completions = math.ceil(completions / distributed.world_size())
        pages = completions * math.ceil(longest / PAGE)
        settings |= {"page_size": PAGE, "num_blocks": math.ceil(pages / 0.8) + 1, "max_memory_percent": 0.9}
    return settings
