"""What a step will cost: tokens and seconds of sampling as measured here, and the plan for the hardware that is named.

Called by grpo/training/policy_forecast.py. The plan is that of `grpo.plan`. It knows no score.
"""

from dataclasses import dataclass, replace
from math import ceil

from grpo.config.schema import PreflightConfig
from grpo.core.errors import UserError
from grpo.core.text import format_bytes
from grpo.planning.architecture import read_architecture
from grpo.planning.fit import batch_of, usable_memory
from grpo.planning.memory import memory_by_phase, peak_memory
from grpo.planning.plan_report import seconds_as_text
from grpo.planning.planned_run import PlannedRun
from grpo.planning.roofline import DeviceRates, step_seconds


@dataclass(frozen=True)
class Costs:
    """Of an optimizer step.

    Attributes:
        prompt_tokens, completion_tokens: in a step, with the lengths that were measured.
        sampling_seconds: here, at the speed of the preflight.
        peak_memory: bytes of this process so far: `resident`, and `device` on a GPU.
        plan: title -> text, for the hardware that is named.
    """

    prompt_tokens: float
    completion_tokens: float
    sampling_seconds: float
    peak_memory: dict[str, int]
    plan: dict[str, str]

    def facts(self) -> dict[str, str]:
        """For tables: title -> text."""
        memory = ", ".join(f"{format_bytes(size)} {where}" for where, size in self.peak_memory.items())
        return {
            "tokens per step": f"{self.completion_tokens:,.0f} of completions, {self.prompt_tokens:,.0f} of prompts",
            "sampling here": f"{seconds_as_text(self.sampling_seconds)} per step; peak memory {memory}",
            **self.plan,
        }


def plan_costs(config: PreflightConfig, prompt_tokens: float, completion_tokens: float) -> dict[str, str]:
    """Memory at the limits of the run, and the least time at the lengths measured; empty without `hardware`."""
    hardware = config.hardware
    if hardware is None:
        return {}
    # The policy may be asked on another device than it is trained on.
    config = replace(config, device=hardware.device)
    try:
        architecture, _ = read_architecture(config.model)
        limits = PlannedRun(config, batch_of(config), architecture, config.sharding)
        lengths = replace(config, max_prompt_length=ceil(prompt_tokens), max_completion_length=ceil(completion_tokens))
        measured = PlannedRun(lengths, batch_of(config), architecture, config.sharding)
    except UserError as error:
        return {f"on {hardware.name}": f"no plan: {error}"}
    needed, usable = peak_memory(memory_by_phase(limits)), usable_memory(hardware, config.rollout)
    rates = DeviceRates(hardware.flops_bf16, hardware.flops_fp32, hardware.bandwidth, hardware.link)
    least = sum(step_seconds(measured, rates).values())
    verdict = "it fits" if needed <= usable else "it does not fit; python -m grpo.plan has the nearest settings that do"
    return {
        f"on {hardware.name}": f"{format_bytes(needed)} needed of {format_bytes(usable)}, {verdict}; a step takes at "
        f"least {seconds_as_text(least)} at these lengths, a lower bound"
    }
