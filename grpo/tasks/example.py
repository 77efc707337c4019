"""One problem of a dataset: a question and its reference answer, and the other columns of its row.

Used by everything that handles problems. It knows nothing of datasets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo.policy.chat_template import Message


@dataclass(frozen=True)
class Example:
    """A problem. Two problems are equal if question and reference answer are.

    Attributes:
        question: the question as text.
        gold: the reference answer.
        messages: the prompt as chat messages, for a row that has it in this form.
        columns: the row as the dataset has it, for the rewards that take a column by name.
    """

    question: str
    gold: str
    messages: tuple[Message, ...] | None = field(default=None, compare=False)
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def prompt(self) -> str | tuple[Message, ...]:
        """What the policy is asked: the messages if there are any, else the question."""
        return self.question if self.messages is None else self.messages

    @property
    def has_system_prompt(self) -> bool:
        """Whether the messages have their own system prompt, to which that of the run is not added."""
        return self.messages is not None and self.messages[0]["role"] == "system"

    @property
    def key(self) -> str:
        """The question with normalized white space. Two problems with the same key are the same problem."""
        return " ".join(self.question.split())


# The showcase question, asked before and after training on arithmetic problems and GSM8K. It is a row of GSM8K's
# training split, and excluded from training.
SHOWCASE = Example(
    "Joy can read 8 pages of a book in 20 minutes. How many hours will it take her to read 120 pages?", "5"
)
