"""Held-out figures of a policy, with 95% intervals and the protocol they were measured by.

python -m grpo.evaluate run=outputs/DATE/TIME
python -m grpo.evaluate run=A baseline=B show=5
python -m grpo.evaluate completions=file.jsonl
"""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from grpo.config.application import Command, hydra_job, is_multirun, job_overrides, run_command
from grpo.config.composition import to_dataclass, with_absolute_paths
from grpo.config.groups import CONF
from grpo.config.schema import EvaluateConfig
from grpo.core.console import error_message, say
from grpo.core.errors import UserError
from grpo.core.paths import display_path
from grpo.core.tables import at_k_table, key_value_table, metrics_table
from grpo.evaluation.description import describe_protocol
from grpo.evaluation.difference import match_problems
from grpo.evaluation.display import is_requested, print_comparison, print_examples
from grpo.evaluation.execution import prepare_evaluation
from grpo.evaluation.subjects import EVALUATIONS_FOLDER, POLICY_SETTINGS, baseline_subject, main_subject, override_keys
from grpo.runs.run_dir import removed_if_unused


def run(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Evaluate what the settings name; print and save the figures.

    Raises:
        UserError: a mistake that the user can fix.
    """
    config = with_absolute_paths(to_dataclass(composed, EvaluateConfig))
    subjects = [main_subject(config, composed, overrides)]
    if config.baseline is not None:
        subjects.insert(0, baseline_subject(config.baseline, subjects[0], config, composed, overrides))
        match_problems(subjects[1].examples, subjects[0].examples)
    for key in override_keys(overrides) if all(subject.from_file for subject in subjects) else ():
        if key.partition(".")[0] in POLICY_SETTINGS and key != "data.answer":
            raise UserError(f"{key}: completions=FILE uses no policy, so this has no effect; leave it out.")
    # Both are checked before the first takes hours.
    evaluations = [prepare_evaluation(subject) for subject in subjects]
    stored = {subject.title: evaluate() for subject, evaluate in zip(subjects, evaluations, strict=True)}
    *_, main = stored.values()
    say(key_value_table(describe_protocol(main.protocol)))
    if len(stored) == 2:
        print_comparison(stored, config.k)
    else:
        figures = {name: value for name, value in main.evaluation.figures.items() if is_requested(name, config.k)}
        say(metrics_table(figures, main.evaluation.intervals, main.evaluation.labels))
        if not main.evaluation.has_single_samples:
            say(at_k_table(figures, main.evaluation.intervals, main.evaluation.labels))
    print_examples(config.show, {title: result.evaluation for title, result in stored.items()})
    say(f"Every completion with its scores: {display_path(main.path.with_suffix('.parquet').absolute())}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def app(composed: DictConfig) -> None:
    with hydra_job():
        overrides = job_overrides()
        if is_multirun():
            say(f"\n{' '.join(overrides)}")
        try:
            run(composed, overrides)
        except OSError as error:
            if error.strerror is None:
                raise
            raise UserError(f"{error.filename or 'a file'}: {error.strerror}.") from error


def main() -> None:
    try:
        with removed_if_unused(EVALUATIONS_FOLDER, "multirun.yaml"):
            run_command(app, EvaluateConfig, "Interrupted: the same command resumes it.")
    except OSError as error:  # Hydra could not write multirun.yaml
        if Command.current.started:
            raise
        sys.exit(error_message(f"error: {error.filename or EVALUATIONS_FOLDER}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
