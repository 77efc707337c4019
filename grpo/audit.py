"""What a stack of rewards pays for, before GPU time is spent on it.

python -m grpo.audit rewards=verbatim
python -m grpo.audit rewards=verbatim fail_on=warning
python -m grpo.audit completions=file.jsonl
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.text import Text

from grpo.config.application import Command, hydra_job, is_multirun, job_overrides, run_command
from grpo.config.composition import load_config
from grpo.config.groups import CONF
from grpo.config.schema import AuditConfig
from grpo.core.console import error_message, say
from grpo.core.errors import UserError
from grpo.rewards.audit_report import print_completions, print_findings, print_probes
from grpo.rewards.completion_scores import CompletionScores, score_completions
from grpo.rewards.findings import Finding
from grpo.rewards.probe_findings import judge_probes
from grpo.rewards.probe_scores import score_probes
from grpo.rewards.probes import PROBES
from grpo.rewards.stack import RewardStack, build_rewards
from grpo.runs.run_dir import removed_if_unused


def run(config: AuditConfig) -> list[Finding]:
    """Say what the stack pays for, on the battery or on the completions of a file.

    Raises:
        UserError: anything that the user can mend, and findings on which the command shall fail.
    """
    stack = build_rewards(config.rewards, config.reward_files, config.data.answer_match)
    weights = ", ".join(f"{name} {weight:g}" for name, weight in stack.weights.items() if weight)
    if config.completions is None:
        measured = score_probes(stack)
        found = judge_probes(measured)
        what = f"{len(PROBES)} probes"
        print_probes(weights, measured, found)
    else:
        scored = score_file(stack, Path(config.completions).expanduser())
        found = list(scored.judge())
        what = f"{len(scored.completions):,} completions"
        print_completions(weights, scored)
    print_findings(found)
    warnings = sum(finding.level == "warning" for finding in found)
    counted = f"{_count(warnings, 'warning')}, {_count(len(found) - warnings, 'note')}"
    say(Text(f"{counted[0].upper()}{counted[1:]} from {what}.", style="bold yellow" if warnings else "bold"))
    failing = {None: 0, "warning": warnings, "note": len(found)}[config.fail_on]
    if failing:
        raise UserError(f"fail_on={config.fail_on}: {counted}.")
    return found


def score_file(stack: RewardStack, path: Path) -> CompletionScores:
    """Score the completions of a file.

    Raises:
        UserError: the file is missing or damaged, or a reward failed.
    """
    from grpo.evaluation.completions import read_completions  # reads Parquet, which the probes do not need

    examples, completions = read_completions(path, "completions")
    return score_completions(stack, examples, {place: each.text for place, each in completions.items()})


def _count(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="audit")
def app(composed: DictConfig) -> None:
    with hydra_job():
        if is_multirun():
            say(f"\n{' '.join(job_overrides())}")
        run(load_config(composed, AuditConfig))


def main() -> None:
    try:
        with removed_if_unused(Path("outputs/audits"), "multirun.yaml"):
            run_command(app, AuditConfig, "Interrupted.")
    except OSError as error:  # what Hydra itself writes for a multirun
        if Command.current.started:
            raise
        sys.exit(error_message(f"error: {error.filename or 'outputs/audits'}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
