"""One problem of a dataset: a question and its gold answer.

Used by everything that handles problems. It knows nothing of datasets.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    question: str
    gold: str

    @property
    def key(self) -> str:
        """The question with normalized white space. Two problems with the same key are the same problem."""
        return " ".join(self.question.split())


# The showcase question, asked before and after training. It is a row of GSM8K's training split; every training set
# excludes it.
SHOWCASE = Example(
    "Joy can read 8 pages of a book in 20 minutes. How many hours will it take her to read 120 pages?", "5"
)
