"""Ask the policy of a run, before and after its training, side by side.

python -m grpo.sample outputs/2026-11-22/10-00-00 "Tom has 3 boxes of 4 pens. How many pens?"
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from grpo.config.schema import ModelConfig
from grpo.core.console import console, error_message, print_message
from grpo.core.errors import UserError, shorten
from grpo.core.paths import run_argument
from grpo.core.process import check_process, guard_streams
from grpo.core.progress import spinner
from grpo.core.run_log import quiet_libraries
from grpo.core.tables import answers_table
from grpo.policy.hub import EMBEDDED_PREFIX, is_loaded_from_hub, prepare_hub
from grpo.runs.results import read_results
from grpo.runs.run_dir import resolve_link
from grpo.runs.settings import read_finished_run_config, read_settings, trained_model
from grpo.runs.trust import require_trust
from grpo.tasks.answer_format import answer_format_of
from grpo.tasks.arithmetic import unfamiliar_words
from grpo.tasks.example import SHOWCASE

# The settings that are read from the run; rewards and data are not needed.
USED_SETTINGS = {
    "model",
    "format",
    "system_prompt",
    "chat_template_kwargs",
    "max_completion_length",
    "seed",
    "eval_batch_size",
}


def print_answers(folder: Path, questions: list[str], max_tokens: int | None, trusted: bool = False) -> None:
    """Print the greedy answers of the policy before and after training.

    Raises:
        UserError: the run is not finished, or its settings would run code and it is not trusted.
    """
    folder = resolve_link(folder)
    require_trust(
        folder,
        read_settings(folder),
        advice="If you trust whoever made it, add --trust-run.",
        settings_used=USED_SETTINGS,
        trusted=trusted,
        policy=True,
    )
    config = read_finished_run_config(folder)
    questions = questions or [first_example(folder)]
    if is_loaded_from_hub(config.model):
        prepare_hub()
    with spinner("importing PyTorch and Transformers"):
        quiet_libraries()
        from grpo.evaluation.generation import generate_greedily
        from grpo.policy.compatibility import prepare_policy
        from grpo.policy.loading import build_policy, build_tokenizer
        from grpo.sampling.build import build_sampler

    # A question needs no GPU.
    config.device, config.bf16 = "cpu", False
    if max_tokens is not None:
        config.max_completion_length = max_tokens
    answers, tags = [], answer_format_of(config.format).tags
    for when, model in (("before", config.model), ("after", trained_model(config.model, folder))):
        with spinner(f"loading the policy as it was {when} training"):
            policy, tokenizer = build_policy(model, config.seed), build_tokenizer(model)
            notes = prepare_policy(policy, tokenizer, questions, replace(config, model=model))
            sampler = build_sampler(policy, tokenizer, config)
        for note in notes if when == "before" else ():  # the trained policy has the same template
            print_message(note, console)
        with spinner(f"asking the policy as it was {when} training"):
            answers.append(generate_greedily(sampler, tokenizer, questions, config))
    if about_policy := embedded_policy_note(config.model, questions):
        print_message(about_policy, console)
    for question, first, last in zip(questions, *answers, strict=True):
        print_message(answers_table(question, {"before": first, "after": last}, tags), console)


def embedded_policy_note(model: ModelConfig, questions: list[str]) -> str | None:
    """What the embedded policy knows, if a question is about something else; None for other policies."""
    if not model.path.startswith(EMBEDDED_PREFIX) or not (unfamiliar := unfamiliar_words(questions)):
        return None
    words = ", ".join(shorten(word, 30) for word in unfamiliar[:6]) + ", ..." * (len(unfamiliar) > 6)
    return f"The embedded policy knows only word problems of data=arithmetic, numbers up to 150. New to it: {words}"


def first_example(folder: Path) -> str:
    """The first example question of a run."""
    match read_results(folder):
        case {"examples": [{"question": str(question)}, *_]}:
            return question
    return SHOWCASE.question


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
        check_process()
        print_answers(arguments.run, arguments.questions, arguments.max_tokens, arguments.trust_run)
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))


if __name__ == "__main__":
    main()
