"""Ask the policy of a run, before and after its training, side by side.

python -m grpo.sample outputs/2026-11-22/10-00-00 "Tom has 3 boxes of 4 pens. How many pens?"
"""

import argparse
import sys
from pathlib import Path

from grpo.core.console import console, error_message, print_message
from grpo.core.errors import UserError
from grpo.core.paths import run_argument
from grpo.core.process import guard_streams, prepare_process
from grpo.core.tables import answers_table
from grpo.loaded_run import load_run
from grpo.runs.settings import read_finished_run_config
from grpo.tasks.answer_format import answer_format_of
from grpo.tasks.embedded_policy import embedded_policy_note


def print_answers(folder: Path, questions: list[str], max_tokens: int | None, trusted: bool = False) -> None:
    """Print the greedy answers of the policy before and after training.

    Raises:
        UserError: the run is not finished, or its settings would run code and it is not trusted.
    """
    run = load_run(folder, trusted)
    answers = run.answers(questions, max_tokens)
    config = read_finished_run_config(run.folder)
    tags = answer_format_of(config.format).tags
    if about_policy := embedded_policy_note(config.model.path, list(answers["question"])):
        print_message(about_policy, console)
    for question, before, after in zip(*(answers[name] for name in ("question", "before", "after")), strict=True):
        print_message(answers_table(question, {"before": before, "after": after}, tags), console)


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(
        prog="python -m grpo.sample", description="Ask the policy of a run, before and after its training."
    )
    parser.add_argument("run", type=run_argument, help="the folder of a finished run")
    parser.add_argument("questions", nargs="*", metavar="question", help="default: the run's first example question")
    parser.add_argument("--max-tokens", type=int, help="the most tokens of an answer; default: as in the run")
    parser.add_argument("--trust-run", action="store_true", help="run the code of a folder that somebody else made")
    arguments = parser.parse_args()
    if arguments.max_tokens is not None and arguments.max_tokens < 1:
        parser.error(f"--max-tokens {arguments.max_tokens}: must be at least 1")
    try:
        prepare_process()
        print_answers(arguments.run, arguments.questions, arguments.max_tokens, arguments.trust_run)
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))


if __name__ == "__main__":
    main()
