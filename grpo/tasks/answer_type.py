"""`AnswerType`: how an answer is read from a completion, and compared with the reference answer of its problem.

The base classes of the types in grpo/tasks/answer_types.py. Rewards and evaluations call the type of the run,
data.answer, so they agree on what is right. This module knows nothing of rewards.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from grpo.core.errors import UserError
from grpo.core.packages import require_package
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat
from grpo.tasks.example import Example


@dataclass(frozen=True)
class AnswerType(ABC):
    """How an answer is read from a completion, and compared with the reference answer of its problem.

    Attributes:
        name: the value of data.answer.
        rule: when an answer is right, as a phrase after "the answer".
        anywhere: the text that `extract_anywhere` takes, as a phrase.
        anywhere_label: the same in a few words, for tables.
        package: the package that the comparison needs, and the extra of this project that installs it.
        answer_format: how a completion shows its answer.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    anywhere: ClassVar[str]
    anywhere_label: ClassVar[str]
    package: ClassVar[tuple[str, str] | None] = None
    answer_format: AnswerFormat = DEFAULT_FORMAT

    def in_format(self, answer_format: AnswerFormat) -> Self:
        """This type for completions in another format."""
        return replace(self, answer_format=answer_format)

    @property
    def label(self) -> str:
        """Where the answer in the requested format is, for tables."""
        return f"inside {self.answer_format.place}"

    def check_package(self) -> None:
        """Check that the package that the comparison needs is installed.

        Raises:
            UserError: it is not.
        """
        if self.package is not None:
            require_package(f"data.answer={self.name}", *self.package)

    def extract(self, completion: str) -> str | None:
        """The answer in the requested format; None if there is none."""
        return self.answer_format.extract_answer(completion)

    @abstractmethod
    def extract_anywhere(self, completion: str) -> str | None:
        """The most likely answer of a completion in any format; None if there is none."""

    @abstractmethod
    def matches(self, answer: str, example: Example) -> bool:
        """Whether `answer` is right for the problem `example`."""

    @abstractmethod
    def voting_key(self, answer: str) -> Hashable:
        """A key that is the same for equal answers, to count votes (majority of K completions)."""

    def check_reference(self, example: Example) -> None:
        """Check that the reference answer of `example` can be compared with.

        Raises:
            UserError: it cannot; the message has the value and the rule.
        """
        if not example.gold:
            raise UserError("the reference answer is empty.")


class FormatFirstAnswer(AnswerType):
    """A type whose answer in any format is that in the requested format; only without one, the rest is searched."""

    def extract_anywhere(self, completion: str) -> str | None:
        requested = self.extract(completion)
        return self.find_answer(completion) if requested is None else requested

    @abstractmethod
    def find_answer(self, completion: str) -> str | None:
        """The most likely answer of a completion without one in the requested format; None if there is none."""


def last_line(text: str) -> str | None:
    """The last line of `text` that is not blank, without white space around it; None if there is none."""
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), None)
