"""What a preflight finds out about the set-up, beside the completions: lengths beyond the limit, template, problems.

Called by grpo/training/policy_forecast.py. The rules on the set-up read it. It knows no score.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

from grpo.config.schema import PreflightConfig
from grpo.core.progress import spinner
from grpo.evaluation.completion import CompletionBatch
from grpo.policy.chat_template import ChatTemplate
from grpo.tasks.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo.sampling.sampler import Sampler

CONTINUED = 32  # truncated completions that are decoded further
LONGER = 2  # times the limit
TOLERATED = 0.02  # the share of truncated completions that a proposed limit leaves


@dataclass(frozen=True)
class Continuations:
    """Truncated completions that were decoded further.

    Attributes:
        lengths: the tokens of each; None if it has no end token within `most` tokens.
        most: the tokens of the longest, at most twice the limit.
    """

    lengths: Sequence[int | None]
    most: int

    def longer_than(self, tokens: int) -> float:
        """The share that has more tokens; `tokens` is at most `most`."""
        return sum(length is None or length > tokens for length in self.lengths) / len(self.lengths)

    def proposed_limit(self, truncated: float) -> int | None:
        """The limit, a multiple of 8, that leaves `TOLERATED` of all completions truncated; None: `most` does not.

        Args:
            truncated: the share of completions that are truncated at the limit of the run.
        """
        kept = ceil((1 - TOLERATED / truncated) * len(self.lengths)) if truncated > TOLERATED else 0
        ended = sorted(length for length in self.lengths if length is not None)
        return None if kept > len(ended) else 8 * ceil(ended[max(kept, 1) - 1] / 8) if ended else None


@dataclass(frozen=True)
class SetupFacts:
    """The set-up of a run.

    Attributes:
        train: the training problems before those with long prompts are dropped.
        dropped: how many are dropped.
        duplicates: training problems that are held-out problems but for case and punctuation.
        template: as `describe_template`.
        continuations: None if no completion was truncated, or there was no time.
    """

    train: int = 0
    dropped: int = 0
    duplicates: int = 0
    template: dict[str, Any] = field(default_factory=dict)
    continuations: Continuations | None = None


def continue_truncated(
    sampler: "Sampler",
    tokenizer: "PreTrainedTokenizerBase",
    examples: Sequence[Example],
    completions: CompletionBatch,
    config: PreflightConfig,
    positions: int | None,
) -> Continuations | None:
    """Decode a part of the truncated completions to twice the limit; None if there are none, or no positions left.

    Args:
        positions: the number that the policy supports; None: any.
    """
    limit = config.max_completion_length
    truncated = [sample_id for sample_id, completion in sorted(completions.items()) if completion.truncated]
    chosen = sorted(random.Random(config.seed).sample(truncated, min(CONTINUED, len(truncated))))
    prompts = ChatTemplate.of(tokenizer, config).prompt_ids([examples[problem].prompt for problem, _ in chosen])
    texts = [[*prompt, *(completions[each].ids or ())] for prompt, each in zip(prompts, chosen, strict=True)]
    more = (LONGER - 1) * limit
    if positions is not None:
        more = min(more, positions - max(map(len, texts), default=0))
    if not chosen or more < 1:
        return None
    with spinner("decoding truncated completions further"):
        seeds = [(config.seed, *each, 1) for each in chosen]
        parts = sampler.complete(texts, more, config.temperature, seeds)
    ended = [bool(part) and part[-1] in sampler.end_token_ids for part in parts]
    lengths = [limit + len(part) if has_end else None for part, has_end in zip(parts, ended, strict=True)]
    return Continuations(lengths, limit + more)


def count_duplicates(train: Sequence[Example], held_out: Sequence[Example]) -> int:
    """The training problems with the words and numbers of a held-out problem; equal problems are left out already."""
    known = {_words(example) for example in held_out}
    return sum(_words(example) in known for example in train)


def _words(example: Example) -> str:
    return " ".join(re.findall(r"\w+", example.question.casefold()))
