"""The memory that a training run needs, and a lower bound of its time, computed before it starts.

python -m grpo.plan experiment=gsm8k
python -m grpo.plan experiment=gsm8k model=qwen2.5-3b world_size=4 hardware=rtx3090

The formulas and the tables are in `grpo/planning/`. The command imports no torch and sends no request to the hub.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import compose
from omegaconf import DictConfig

from grpo.config.application import Command, hydra_job, is_multirun, job_overrides, run_command
from grpo.config.composition import config_search_path, load_config
from grpo.config.groups import CONF
from grpo.config.hydra_errors import translate_errors
from grpo.config.schema import HardwareConfig, PlanConfig
from grpo.core.console import error_message, say
from grpo.core.errors import UserError
from grpo.core.tables import key_value_table
from grpo.planning.architecture import read_architecture
from grpo.planning.fit import batch_of, nearest_fitting, usable_memory
from grpo.planning.memory import memory_by_phase, peak_memory
from grpo.planning.plan_report import (
    fit_facts,
    memory_table,
    plan_facts,
    proposals_text,
    reward_facts,
    time_facts,
    time_table,
)
from grpo.planning.planned_run import PlannedRun
from grpo.planning.roofline import DeviceRates, step_seconds
from grpo.policy.requirements import check_model_files
from grpo.rewards.reward_seconds import measure_seconds
from grpo.rewards.stack import rewards_of
from grpo.runs.run_dir import removed_if_unused

DEFAULT_HARDWARE = {"cuda": "rtx3090", "cpu": "cpu"}


def compose_plan(overrides: Sequence[str] = ()) -> PlanConfig:
    """The configuration that `python -m grpo.plan <overrides>` composes.

    Raises:
        UserError: an override names no setting, or its value does not fit the schema.
    """
    with config_search_path(), translate_errors(PlanConfig):
        return load_config(compose("plan", list(overrides)), PlanConfig)


def run(config: PlanConfig) -> None:
    """Print the plan of a run.

    Raises:
        UserError: the settings cannot be planned.
    """
    if config.resume is not None:
        raise UserError(
            f"resume={config.resume}: a plan is made from settings; type the settings of the run instead of resume=."
        )
    check_model_files(config.model)
    hardware = hardware_of(config)
    batch = batch_of(config)
    architecture, origin = read_architecture(config.model)
    planned = PlannedRun(config, batch, architecture, config.sharding)
    say(key_value_table(plan_facts(planned, config, hardware, origin)))
    phases, usable = memory_by_phase(planned), usable_memory(hardware, config.rollout)
    say(memory_table(phases))
    say(key_value_table(fit_facts(config, hardware, phases)))
    if peak_memory(phases) > usable:
        say(proposals_text(nearest_fitting(config, architecture, usable)))
    rates = DeviceRates(hardware.flops_bf16, hardware.flops_fp32, hardware.bandwidth, hardware.link)
    seconds = {part: value for part, value in step_seconds(planned, rates).items() if value}
    say(time_table(seconds))
    say(key_value_table(time_facts(config, seconds) | reward_facts(planned, *seconds_of_rewards(config))))


def seconds_of_rewards(config: PlanConfig) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds per completion of each reward, given or measured, and why the others cannot be measured.

    Raises:
        UserError: a mistake in the settings of the rewards.
    """
    if config.reward_seconds is not None:
        return {"reward_seconds": config.reward_seconds}, {}
    rewards = rewards_of(config)
    try:
        return measure_seconds(rewards)
    finally:
        rewards.executor.close()


def hardware_of(config: PlanConfig) -> HardwareConfig:
    """The hardware of the plan; without one, the default for the device.

    Raises:
        UserError: the hardware does not have the device of the run.
    """
    if config.hardware is None:
        default = compose_plan([f"hardware={DEFAULT_HARDWARE[config.device]}"]).hardware
        assert default
        return default
    if config.hardware.device != config.device:
        raise UserError(
            f"device={config.device}: {config.hardware.name} is a different device; add "
            f"device={config.hardware.device}, or use hardware={DEFAULT_HARDWARE[config.device]}."
        )
    return config.hardware


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="plan")
def app(composed: DictConfig) -> None:
    with hydra_job():
        if is_multirun():
            say(f"\n{' '.join(job_overrides())}")
        run(load_config(composed, PlanConfig))


def main() -> None:
    changed = [argument for argument in sys.argv[1:] if argument.startswith("hardware.")]
    if changed and not any(argument.startswith("hardware=") for argument in sys.argv):
        sys.exit(error_message(f"error: {changed[0]}: choose the hardware that it changes, such as hardware=rtx3090."))
    try:
        with removed_if_unused(Path("outputs/plans"), "multirun.yaml"):
            run_command(app, PlanConfig, "Interrupted.")
    except OSError as error:  # from Hydra's own files of a multirun
        if Command.current.started:
            raise
        sys.exit(error_message(f"error: {error.filename or 'outputs/plans'}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
