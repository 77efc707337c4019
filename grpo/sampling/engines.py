"""Engines of other projects for rollouts, vLLM and transformers' continuous batching: checks, and arguments for TRL.

The checks run before a run starts and before the first job of a sweep. Nothing here imports torch, so that an error
appears at once.
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

# TRL 1.16 supports vLLM 0.22 to 0.31. From 0.27 on, and before 0.31, it works with torch 2.13 and transformers 5.23.
# The extra `vllm` in pyproject.toml has the same bounds.
VLLM_MINIMUM, VLLM_BELOW = "0.27", "0.31"
VLLM_INSTALL = f"pip install 'vllm>={VLLM_MINIMUM},<{VLLM_BELOW}'"
# The first version whose ContinuousBatchingConfig has `page_size` and `auto_switch_to_flash`.
TRANSFORMERS_MINIMUM = "5.19"
PAGE_TOKENS = 256  # tokens per page of transformers' cache
SERVER_TIMEOUT = 10.0  # seconds per request to a server
SERVE_COMMAND = (
    'VLLM_SERVER_DEV_MODE=1 vllm serve {model} --weight-transfer-config \'{{"backend": "nccl"}}\' '
    "--logprobs-mode processed_logprobs --max-logprobs -1"
)


def check_engine_package(config: Config) -> None:
    """
    Raises:
        UserError: vLLM is not installed, or its version or that of transformers is not supported.
    """
    name = config.rollout.name
    if name == "continuous_batching" and Version(installed := version("transformers")) < Version(TRANSFORMERS_MINIMUM):
        raise UserError(
            f"rollout={name}: transformers {installed} is installed, and {TRANSFORMERS_MINIMUM} or newer is needed: "
            f"pip install 'transformers>={TRANSFORMERS_MINIMUM}'. rollout=generate works with {installed}."
        )
    if name not in VLLM_ENGINES:
        return
    if find_spec("vllm") is None:
        raise UserError(
            f"rollout={name}: vLLM is not installed: {VLLM_INSTALL}. Without it, use rollout=fast on this GPU."
        )
    if (declared := _vllm_version()) is None:
        return
    vllm = Version(Version(declared).base_version)
    if not Version(VLLM_MINIMUM) <= vllm < Version(VLLM_BELOW):
        raise UserError(
            f"rollout={name}: vLLM {vllm} is installed, and this project supports {VLLM_MINIMUM} or later, before "
            f"{VLLM_BELOW}: {VLLM_INSTALL}."
        )


def engine_packages(config: Config) -> tuple[str, ...]:
    """The packages of the engine; a run records their versions together with those of the packages every run needs."""
    return ("vllm",) if config.rollout.name in VLLM_ENGINES and _vllm_version() else ()


def _vllm_version() -> str | None:
    """The version of vLLM; None if the installation declares none, as some builds from source."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return None


def check_engine_processes(config: Config, world_size: int) -> None:
    """
    Raises:
        UserError: the processes cannot be divided into engines of `rollout.tensor_parallel` processes.
    """
    parallel = config.rollout.tensor_parallel
    if parallel is not None and world_size % parallel:
        divisors = ", ".join(str(count) for count in range(1, world_size + 1) if world_size % count == 0)
        raise UserError(
            f"rollout.tensor_parallel={parallel}: must divide the number of processes, {world_size}: {divisors}."
        )


def check_engine_server(config: Config) -> None:
    """Wait for the vLLM server, with a message, and check its settings; TRL waits silently and fails with a traceback.

    Raises:
        UserError: the server cannot be reached, or was started with the wrong settings.
    """
    rollout = config.rollout
    if rollout.name != "vllm_server":
        return
    assert rollout.server is not None and rollout.server_timeout is not None
    server = rollout.server.rstrip("/")
    start_advice = f"Start it with: {SERVE_COMMAND.format(model=config.model.path)}"
    _wait_for_server(server, rollout.server_timeout, start_advice)
    info, error = _get_json(f"{server}/server_info?config_format=json")
    if error is not None:
        raise UserError(
            f"rollout.server={server}: the server reports no settings, so it takes no weights: {error}. {start_advice}"
        )
    settings: dict[str, Any] = info.get("vllm_config", {})
    if settings.get("weight_transfer_config") is None:
        raise UserError(f"rollout.server={server}: the server was started without weight transfer. {start_advice}")
    model = settings.get("model_config") or {}
    mode = model.get("logprobs_mode")
    if rollout.correction is not None and mode != "processed_logprobs":
        raise UserError(
            f"rollout.correction={rollout.correction}: the server at {server} returns log-probabilities without the "
            f"temperature (logprobs_mode {mode}). {start_advice}"
        )
    limit, needed = model.get("max_model_len"), max_model_length(config)
    if limit is not None and needed is not None and limit < needed:
        raise UserError(
            f"rollout.server={server}: the server takes at most {limit} tokens per text, and max_prompt_length + "
            f"max_completion_length is {needed}. {start_advice} --max-model-len {needed}"
        )


def _wait_for_server(server: str, timeout: float, start_advice: str) -> None:
    """
    Raises:
        UserError: the server is not ready after `timeout` seconds.
    """
    end, waiting = time.monotonic() + timeout, False
    while (error := _get_json(f"{server}/health")[1]) is not None:
        if time.monotonic() >= end:
            raise UserError(
                f"rollout.server={server}: no vLLM server answers there after {timeout:g} s "
                f"(rollout.server_timeout): {error}. {start_advice}"
            )
        if not waiting:
            say(f"Waiting up to {timeout:g} s for the vLLM server at {server}: {error}.")
            waiting = True
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))


def _get_json(url: str) -> tuple[dict[str, Any], str | None]:
    """The JSON answer of a server, and the error if there is none."""
    try:
        with urlopen(url, timeout=SERVER_TIMEOUT) as answer:
            content = answer.read()
            return (json.loads(content) if content.strip() else {}), None
    except HTTPError as error:
        return {}, f"{error.code} {error.reason}"
    except (OSError, ValueError) as error:  # a URLError has the original error as its reason
        return {}, str(getattr(error, "reason", error))


def max_model_length(config: Config) -> int | None:
    """Tokens of the longest text; None if prompts have no limit."""
    return config.max_prompt_length + config.max_completion_length if config.max_prompt_length else None


def trl_engine_arguments(config: Config) -> dict[str, Any]:
    """Arguments of TRL's `GRPOConfig` for the engine; empty if the run uses a sampler of this project."""
    rollout = config.rollout
    if rollout.name == "continuous_batching":
        return {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": _continuous_batching(config),
        }
    if rollout.name not in VLLM_ENGINES:
        return {}
    correction: dict[str, Any] = {"vllm_importance_sampling_correction": rollout.correction is not None}
    if rollout.correction is not None:
        correction["vllm_importance_sampling_mode"] = rollout.correction
        correction["vllm_importance_sampling_clip_max"] = rollout.correction_max
        correction["vllm_importance_sampling_clip_min"] = rollout.correction_min
    if rollout.name == "vllm_server":
        return {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": rollout.server,
            "vllm_server_timeout": rollout.server_timeout,
            "vllm_group_port": rollout.group_port,
            **correction,
        }
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": rollout.memory,
        "vllm_enable_sleep_mode": rollout.sleep,
        "vllm_tensor_parallel_size": rollout.tensor_parallel,
        "vllm_max_model_length": max_model_length(config),
        **correction,
    }


def _continuous_batching(config: Config) -> dict[str, Any]:
    # By default the engine uses flash attention if it is installed, but flash attention computes in 16 bits only.
    settings: dict[str, Any] = {"auto_switch_to_flash": config.bf16 or config.model.dtype == "bfloat16"}
    if longest := max_model_length(config):
        # By default the cache takes half of the GPU's memory, or of the machine's on a CPU. Here it has pages for all
        # completions of a rollout, divided by 0.8: the engine admits no further completion unless a fifth is free.
        completions = config.num_generations * config.prompts_per_step * config.algorithm.steps_per_generation
        completions = math.ceil(completions / distributed.world_size())
        pages = completions * math.ceil(longest / PAGE_TOKENS)
        settings |= {"page_size": PAGE_TOKENS, "num_blocks": math.ceil(pages / 0.8) + 1, "max_memory_percent": 0.9}
    return settings
