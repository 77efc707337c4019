"""The answers to two questions while a policy trains, shown above the progress bar: `watch=true`.

The session calls it between steps. It marks the answers by the reference answer, calls no reward, and writes no file:
nothing that a run computes depends on it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from grpo.config.schema import DEFAULT_CORRECT_BY, Config
from grpo.core import distributed
from grpo.core.console import console
from grpo.core.tables import colour_tags
from grpo.core.text import printable
from grpo.tasks.answer_types import accuracy_labels, describe_correctness
from grpo.tasks.example import Example
from grpo.training.policy_evaluator import PolicyEvaluator, read_transcripts
from grpo.training.step_progress import StepProgress

STEPS_BETWEEN = 20  # steps between two moments, about; more in long runs
MOST_MOMENTS = 30
# The answers that only `watch` generates take at most this share of the expected training time.
SHARE_OF_TIME = 0.02
QUESTION_LINES, ANSWER_LINES = 2, 3
WRONG, RIGHT, ELSEWHERE = "red", "green", "yellow"


def example_steps(last_step: int) -> tuple[int, int]:
    """The steps during training at which every run answers its example questions: a third and two thirds."""
    return round(last_step / 3), round(last_step * 2 / 3)


def moments(last_step: int) -> set[int]:
    """The steps at which `watch` shows an answer: evenly from 0 to the last, and those of `example_steps`."""
    parts = 3 * min(max(1, round(last_step / 3 / STEPS_BETWEEN)), MOST_MOMENTS // 3)
    return {round(last_step * part / parts) for part in range(parts + 1)}


class Watch:
    """Shows the answers to the first example question and, in turn, to the second, beside those before training."""

    def __init__(self, evaluator: PolicyEvaluator, progress: StepProgress, asks: bool) -> None:
        """
        Args:
            asks: whether to generate answers at steps at which the run itself generates none.
        """
        self.evaluator, self.progress, self.asks = evaluator, progress, asks
        self.examples, self.rewards = evaluator.examples[:2], evaluator.rewards
        self.before = {line["question"]: line["completion"] for line in read_transcripts(evaluator.run_dir)[:2]}
        self.shown = 0
        self.seconds = 0.0  # spent on answers that only this class needs

    @classmethod
    def of(cls, config: Config, evaluator: PolicyEvaluator, progress: StepProgress) -> "Watch | None":
        """The watch of this process; None if nothing is to be shown."""
        if not config.watch or console.quiet or not distributed.is_main_process():
            return None
        return cls(evaluator, progress, asks=config.device == "cpu" and not distributed.weights_are_sharded())

    def after_step(self, step: int, last_step: int, train_seconds: float) -> None:
        """Show an answer after `step`, if the run has generated one, or if there is time to generate one.

        Args:
            train_seconds: the training time of the steps so far.
        """
        if not self.evaluator.has_answers(step):
            if not self._has_time(step, last_step, train_seconds):
                return
            started = time.perf_counter()
            self.evaluator.answers(step)
            self.seconds += time.perf_counter() - started
        self._show(step, last_step, self.evaluator.answers(step))

    def _has_time(self, step: int, last_step: int, train_seconds: float) -> bool:
        expected_seconds = train_seconds / max(1, step) * last_step
        has_time = self.seconds + self.evaluator.seconds_of_answers <= SHARE_OF_TIME * expected_seconds
        return self.asks and step in moments(last_step) and has_time

    def _show(self, step: int, last_step: int, answers: Sequence[str]) -> None:
        number = 0 if step == last_step else self.shown % len(self.examples)
        self.shown += 1
        example = self.examples[number]
        lines = {0: self.before[example.question]} if step and example.question in self.before else {}
        lines[step] = answers[number]
        self.progress.show_above(
            WatchedAnswer(
                f"{example.question} (gold: {example.gold})",
                {when: (self._verdict(text, example), text) for when, text in lines.items()},
                self.rewards.answer_format.tags,
            )
        )

    def _verdict(self, answer: str, example: Example) -> Text:
        """Whether an answer is right; empty if a reward decides, because an additional call could change its state."""
        if self.rewards.correct_by != DEFAULT_CORRECT_BY:
            return Text()
        answer_type = self.rewards.answer_type
        strict, flexible = (
            found is not None and answer_type.matches(found, example)
            for found in (answer_type.extract(answer), answer_type.extract_anywhere(answer))
        )
        words = describe_correctness(strict, flexible, accuracy_labels(answer_type, DEFAULT_CORRECT_BY))
        return Text(words, style=RIGHT if strict else ELSEWHERE if flexible else WRONG)


@dataclass(frozen=True)
class WatchedAnswer:
    """A question and its answers after some steps, in three to six lines of the terminal's width.

    Attributes:
        answers: step -> its verdict, and the answer. All but the last are shown in one line.
        tags: the tags of the answer format; they are tinted.
    """

    question: str
    answers: dict[int, tuple[Text, str]]
    tags: Sequence[str]
    # (width, in place) -> lines: a terminal draws them again ten times per second.
    drawn: dict[tuple[int, bool], list[Text]] = field(default_factory=dict)

    def __rich_console__(self, to: Console, options: ConsoleOptions) -> RenderResult:
        key = options.max_width, to.is_interactive
        if key not in self.drawn:
            self.drawn[key] = list(self._draw(*key))
        yield from self.drawn[key]

    def _draw(self, width: int, in_place: bool) -> Iterator[Text]:
        # In place, the step before training has a line of its own; printed lines have it further up.
        answers = list(self.answers.items()) if in_place else list(self.answers.items())[-1:]
        if in_place:
            yield Text()
        yield from _fold(Text(_in_one_line(self.question, width), "bold"), width, QUESTION_LINES)
        for step, (verdict, answer) in answers:
            text = Text.assemble(f"step {step}", ", " if verdict else "", verdict, ": ")
            text += colour_tags(_in_one_line(answer, width), self.tags) if answer.strip() else Text("(empty)")
            yield from _fold(text, width, ANSWER_LINES if step == answers[-1][0] else 1)


def _in_one_line(text: str, width: int) -> str:
    """Text of a model or a data set on one line, its invisible characters escaped; shortened if it is very long."""
    words, ends = " ".join(text.split()), 10 * width  # far more than is shown
    return printable(words if len(words) <= 2 * ends else f"{words[:ends]} {words[-ends:]}")


def _fold(text: Text, width: int, most: int) -> Iterator[Text]:
    """`text` in at most `most` lines; what is left out is in its middle, or at the end of a single line."""
    lines = list(text.wrap(Console(), max(10, width - len("  ") - len(" …")), overflow="fold"))
    for line in lines:
        line.rstrip()
    if len(lines) > most:
        lines = [lines[0] + Text(" …"), *lines[len(lines) - most + 1 :]]
    yield from (line if number == 0 else Text("  ") + line for number, line in enumerate(lines))
