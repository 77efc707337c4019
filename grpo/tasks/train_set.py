"""The problems that TRL trains on: those whose prompts are within the length limit, and TRL's dataset of them.

Called before the trainer is built. It knows nothing of datasets and splits.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from grpo.config.batch import optimizer_steps
from grpo.config.schema import Config
from grpo.core.errors import UserError
from grpo.policy.chat_template import ChatTemplate
from grpo.tasks.curriculum import Curriculum
from grpo.tasks.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def select_train_examples(
    examples: Iterable[Example], tokenizer: "PreTrainedTokenizerBase", config: Config
) -> tuple[list[Example], list[str]]:
    """The training problems with prompts of at most `max_prompt_length` tokens, and notes for the user.

    Raises:
        UserError: fewer prompts remain than one rollout needs.
    """
    examples, notes = list(examples), []
    if config.max_prompt_length is not None:
        ids = ChatTemplate.of(tokenizer, config).prompt_ids([example.prompt for example in examples])
        lengths = [len(prompt) for prompt in ids]
        short_enough = [
            example for example, length in zip(examples, lengths, strict=True) if length <= config.max_prompt_length
        ]
        if not short_enough:
            raise UserError(
                f"max_prompt_length={config.max_prompt_length}: every training prompt is longer; the shortest has "
                f"{min(lengths)} tokens, the longest {max(lengths)}. Set a higher max_prompt_length."
            )
        if len(short_enough) < len(examples):
            notes.append(
                f"{len(examples) - len(short_enough):,} of {len(examples):,} training prompts have more than "
                f"{config.max_prompt_length} tokens (max_prompt_length) and are dropped; {len(short_enough):,} remain."
            )
        examples = short_enough
    check_count(examples, config)
    return examples, notes


def check_count(examples: Sequence[Example], config: Config) -> None:
    """Check that one rollout, with its further prompts, has enough training problems.

    Raises:
        UserError: there are fewer.
    """
    steps = config.algorithm.steps_per_generation
    if len(examples) < config.prompts_per_step * steps:
        rollout = f" x algorithm.steps_per_generation={steps} = {config.prompts_per_step * steps}" if steps > 1 else ""
        raise UserError(
            f"prompts_per_step={config.prompts_per_step}{rollout}: there are only {len(examples)} training prompts; "
            f"{'a rollout' if steps > 1 else 'an optimizer step'} takes at most that many. Set a lower "
            "prompts_per_step, or give more problems."
        )
    if config.algorithm.resample and len(examples) == config.prompts_per_step * steps:
        raise UserError(
            f"algorithm.resample={config.algorithm.resample}: a rollout takes all {len(examples)} training prompts, so "
            "none can replace another. Set a lower prompts_per_step, give more problems, or leave it out."
        )
    _check_windows(examples, config)


def _check_windows(examples: Sequence[Example], config: Config) -> None:
    """Check that the window of each rollout has as many problems as the rollout needs.

    Raises:
        UserError: a window has fewer.
    """
    curriculum = Curriculum.of(examples, config.data)
    if curriculum is None:
        return
    algorithm = config.algorithm
    needed = config.prompts_per_step * algorithm.steps_per_generation + (algorithm.resample > 0)
    last_step = optimizer_steps(config, len(examples))
    for step in range(0, last_step, algorithm.steps_per_generation * algorithm.num_iterations):
        count = len(examples) - len(curriculum.outside(step, last_step))
        if count < needed:
            low, high = curriculum.window(step, last_step)
            raise UserError(
                f"data.curriculum: {count} training problems have a solve rate from {low:.3g} to {high:.3g}, the "
                f"window of step {step + 1}, and a rollout needs {needed}. Set wider windows, or a lower "
                "prompts_per_step."
            )


def trl_rows(examples: Sequence[Example], chat: ChatTemplate) -> list[dict[str, Any]]:
    """The rows of TRL's dataset: the chat messages, and the index of the problem, by which rewards find its columns."""
    return [{"prompt": chat.messages(example.prompt), "row": row} for row, example in enumerate(examples)]
