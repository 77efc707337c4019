"""Ask the policy of a training run before it is trained: is there a signal, which reward gives it, what will it cost?

python -m grpo.preflight
python -m grpo.preflight experiment=gsm8k hardware=h100
python -m grpo.preflight problems=200 minutes=10 fail_on=warning

The numbers and the rules of the verdict are in `grpo/forecast/`. Nothing is trained.
"""

import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from grpo.config.application import Command, hydra_job, is_multirun, job_overrides, run_command
from grpo.config.batch import derive_batch
from grpo.config.composition import load_config
from grpo.config.groups import CONF
from grpo.config.overrides import shell_argument
from grpo.config.schema import PreflightConfig
from grpo.core.console import error_message, say
from grpo.core.environment_values import to_interpolations
from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.core.progress import importing, spinner
from grpo.core.redact import mask_overrides
from grpo.core.signals import SignalHandler, StoppedBySignal
from grpo.core.text import plural
from grpo.forecast.advice import Advice
from grpo.forecast.display import print_forecast, print_verdict
from grpo.forecast.storage import PreflightDir, save_completions, save_difficulty, save_forecast
from grpo.forecast.verdict import judge
from grpo.policy.requirements import check_device
from grpo.rewards.stack import rewards_of
from grpo.runs.run_dir import refuse_used, removed_if_unused
from grpo.training.policy_forecast import ask_policy
from grpo.training.run_output import banner


def run(config: PreflightConfig, out: Path, command: str) -> list[Advice]:
    """Ask the policy, print the forecast and the verdict, and save them in the folder `out`.

    Raises:
        UserError: a mistake of the user, or advice of the level `fail_on`.
        StoppedBySignal: a signal came; what had been sampled by then is reported.
    """
    refuse_used(out, "hydra.run.dir=FOLDER")
    rewards = rewards_of(config)
    batch = derive_batch(config.num_generations, config.prompts_per_step, config.micro_batch_size)
    check_device(config, batch)
    say(banner(to_interpolations(config), rewards, batch, out))
    folder = PreflightDir(out)
    try:
        with SignalHandler():
            difficulty = shell_argument("data.difficulty", display_path(folder.difficulty_jsonl))
            forecast, sampled, facts = ask_policy(config, rewards, difficulty)
    finally:
        rewards.executor.close()
    advice = judge(forecast)
    with spinner("saving the completions"):
        save_completions(folder, forecast)
        save_difficulty(folder, forecast, facts)
    print_forecast(forecast)
    print_verdict(forecast, advice)
    save_forecast(folder, forecast, advice, {"command": command, "provenance": facts})
    with importing("Matplotlib"):
        from grpo.reports.preflight_report import write_preflight_report  # it imports Matplotlib
    with spinner("drawing the report"):
        write_preflight_report(folder.preflight_html, forecast, advice, command, facts)
    say(f"Report: {display_path(folder.preflight_html)}; every completion and the solve rates are beside it")
    asked = f"{sampled.problems:,} of {sampled.requested:,} problems were asked"
    if sampled.stopped is not None:
        raise StoppedBySignal(sampled.stopped.number, f"Stopped by {sampled.stopped.name}: {asked}.")
    if not sampled.is_complete:
        say(f"minutes={config.minutes:g}: {asked}.")
    warnings = sum(each.level == "warning" for each in advice)
    if {None: 0, "warning": warnings, "note": len(advice)}[config.fail_on]:
        notes = len(advice) - warnings
        counts = f"{warnings} {plural(warnings, 'warning')}, {notes} {plural(notes, 'note')}"
        raise UserError(f"fail_on={config.fail_on}: {counts}.")
    return advice


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="preflight")
def app(composed: DictConfig) -> None:
    out = Path(HydraConfig.get().runtime.output_dir)
    with hydra_job(), removed_if_unused(out):
        overrides = job_overrides()
        if is_multirun():
            say(f"\n{' '.join(overrides)}")
        command = shlex.join(["python", "-m", "grpo.preflight", *mask_overrides(overrides)])
        run(load_config(composed, PreflightConfig), out, command)


def main() -> None:
    try:
        run_command(app, PreflightConfig, "Interrupted: nothing was asked yet.")
    except OSError as error:
        if Command.current.started and error.filename is None:
            raise
        sys.exit(error_message(f"error: {error.filename or 'outputs/preflight'}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
