"""Ask the policy of a run, before and after its training, side by side.

python -m grpo.sample outputs/2026-11-22/10-00-00 "Tom has 3 boxes of 4 pens. How many pens?"
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from grpo.config import Config, load, readable
from grpo.console import answers, console, quiet_libraries
from grpo.data import JOY
from grpo.errors import UserError, first_line
from grpo.hub import on_hub, prepare_hub


def load_run(folder: Path) -> Config:
    """The settings of a finished run.

    Raises:
        UserError: the folder does not hold one.
    """
    saved = folder / ".hydra" / "config.yaml"
    if not saved.is_file() or not (folder / "results.json").is_file():
        what = "is not the folder of a run" if not saved.is_file() else "holds a run that was not finished"
        raise UserError(f"{folder} {what}; give the folder that a run named at its end, outputs/DATE/TIME.")
    try:
        with readable():
            return load(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(saved)))
    except yaml.YAMLError as error:
        raise UserError(f"{saved} is damaged: {first_line(error)}.") from error


def ask(folder: Path, questions: list[str], max_tokens: int | None) -> None:
    config = load_run(folder)
    if on_hub(config.model.path):
        prepare_hub()
    quiet_libraries()
    from grpo.evaluate import answer_greedily
    from grpo.model import build_policy, build_tokenizer
    from grpo.rollout import build_rollout

    # A question needs no GPU, and LoRA's adapters are part of the trained policy by now.
    config.device, config.bf16 = "cpu", False
    if max_tokens is not None:
        config.max_completion_length = max_tokens
    before = replace(config.model, lora_rank=0)
    after = replace(before, path=str(folder / "policy"), revision=None, init="pretrained", num_layers=None)
    answered = []
    for model in (before, after):
        policy, tokenizer = build_policy(model, config.seed), build_tokenizer(model)
        rollout = build_rollout(policy, tokenizer, config)
        answered.append([answer.text for answer in answer_greedily(rollout, tokenizer, questions, config)])
    for question, first, last in zip(questions, *answered, strict=True):
        console.print(answers(question, first, last))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m grpo.sample", description="Ask the policy of a run, before and after its training."
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("questions", nargs="*", metavar="question", default=[JOY.question], help="default: Joy's")
    parser.add_argument("--max-tokens", type=int, help="length of an answer at the most; default: the run's own")
    arguments = parser.parse_args()
    if arguments.max_tokens is not None and arguments.max_tokens < 1:
        parser.error(f"--max-tokens {arguments.max_tokens}: must be at least 1")
    try:
        ask(arguments.run, arguments.questions, arguments.max_tokens)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
