"""Check a stack of rewards before training: what it rewards, measured on probes or on the completions of a file.

python -m grpo.audit rewards=verbatim
python -m grpo.audit rewards=verbatim fail_on=warning
python -m grpo.audit completions=file.jsonl
"""

import sys
from collections.abc import Sequence
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
from grpo.core.text import plural
from grpo.rewards.answer_probes import built_in_probes
from grpo.rewards.audit_report import print_completions, print_findings, print_probes
from grpo.rewards.completion_scores import CompletionScores, judge_completions, score_completions
from grpo.rewards.finding import Finding
from grpo.rewards.probe_rules import judge_probes
from grpo.rewards.probe_scores import paid_format, score_probes
from grpo.rewards.reward_state import unchanged_reward_states
from grpo.rewards.stack import RewardStack, rewards_of
from grpo.rewards.user_probes import read_probes
from grpo.runs.format_of_file import format_of_file
from grpo.runs.run_dir import removed_if_unused


def run(config: AuditConfig) -> list[Finding]:
    """Print the scores of the probes, or of the completions of a file, and the findings about the stack.

    Raises:
        UserError: a mistake of the user, or findings of the level `fail_on`.
    """
    stack = rewards_of(config)
    if config.placebo:
        say("placebo=true: training permutes the totals within each group; the audit is of the rewards before that.")
    findings: list[Finding] = []
    for title, stage in stack.stages().items():
        with unchanged_reward_states(stack.weights):  # every stage meets rewards that have seen nothing
            findings += _audit_stage(stage, title, config)
    warnings = sum(finding.level == "warning" for finding in findings)
    if {None: 0, "warning": warnings, "note": len(findings)}[config.fail_on]:
        raise UserError(f"fail_on={config.fail_on}: {_counts(findings)}.")
    return findings


def _audit_stage(stack: RewardStack, title: str, config: AuditConfig) -> list[Finding]:
    """Print the scores and the findings about a stack of constant weights; `title` says when it has them."""
    weights = ", ".join(f"{name} {weight:g}" for name, weight in stack.weights.items() if weight)
    weights += f" ({title})" * bool(title)
    texts: dict[str, str] = {}
    if config.completions is None:
        requested = paid = stack.answer_format
        if config.probes is not None:
            probes = read_probes(Path(config.probes).expanduser())
        else:
            paid = paid_format(stack)
            probes = built_in_probes(config.data.answer, paid)
        texts = {probe.name: probe.completion for probe in probes}
        probe_scores = score_probes(stack, probes)
        findings = judge_probes(probe_scores)
        source = f"{len(probes)} probes"
        print_probes(weights, requested, paid, probe_scores, findings)
    else:
        completion_scores = score_file(stack, Path(config.completions).expanduser())
        findings = list(judge_completions(completion_scores))
        source = f"{len(completion_scores.completions):,} completions"
        print_completions(weights, stack.answer_format, completion_scores)
    print_findings(findings, texts)
    counts, warned = _counts(findings), any(finding.level == "warning" for finding in findings)
    say(Text(f"{counts[0].upper()}{counts[1:]} from {source}.", style="bold yellow" if warned else "bold"))
    return findings


def score_file(stack: RewardStack, path: Path) -> CompletionScores:
    """Score the completions of a file.

    Raises:
        UserError: the file is missing or damaged, or a reward failed.
    """
    from grpo.evaluation.completion_files import read_scoring_batch  # reads Parquet, which the probes do not need

    batch, problems = read_scoring_batch(path, "completions")
    stack.check_columns(batch.examples, str(path))
    return score_completions(stack, batch, problems)


def _counts(findings: Sequence[Finding]) -> str:
    warnings, notes = (sum(finding.level == level for finding in findings) for level in ("warning", "note"))
    return f"{warnings or 'no'} {plural(warnings, 'warning')}, {notes or 'no'} {plural(notes, 'note')}"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="audit")
def app(composed: DictConfig) -> None:
    with hydra_job():
        if is_multirun():
            say(f"\n{' '.join(job_overrides())}")
        config = load_config(composed, AuditConfig)
        config.format = format_of_file(config.completions, config.format, job_overrides())
        run(config)


def main() -> None:
    try:
        with removed_if_unused(Path("outputs/audits"), "multirun.yaml"):
            run_command(app, AuditConfig, "Interrupted.")
    except OSError as error:  # Hydra could not write its own files of a multirun
        if Command.current.started:
            raise
        sys.exit(error_message(f"error: {error.filename or 'outputs/audits'}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
