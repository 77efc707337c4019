"""`ScoringProcess`: a process that loads a stack of rewards and scores groups of completions on request.

The calculator starts one (grpo/reports/calculator_page.py). A reward that loops, exits or takes all memory ends only
this process, and the next request starts another. It scores with grpo/rewards/stack.py, as training does. It knows no
page and no server.
"""

import pickle
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from grpo.config.schema import AnyConfig
from grpo.core.errors import UserError
from grpo.rewards.failures import audit_scores
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_state import unchanged_reward_states
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import RewardStack, rewards_of
from grpo.rewards.worker import open_connection
from grpo.rewards.worker_pool import Worker
from grpo.tasks.example import Example

SECONDS = 10.0  # limit of a request, unless reward_timeout is set
# Parameters that contain the text of the question.
QUESTION_PARAMETERS = {"question", "questions", "example", "examples", "prompts"}


@dataclass(frozen=True)
class Group:
    """A request: the completions of one problem."""

    completions: list[str]
    gold: str
    question: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredGroup:
    """The reply to a `Group` of K completions.

    Attributes:
        scores: reward -> (K,) scores; nan where it abstains or fails.
        errors: reward -> the number of a completion -> why the reward fails on it.
    """

    scores: dict[str, list[float]]
    errors: dict[str, dict[int, str]]


@dataclass(frozen=True)
class StackDescription:
    """What the stack is, without its functions.

    Attributes:
        weights: reward -> weight; if the weight has a schedule, its value at the end.
        required: the columns of the dataset that its rewards need.
        optional: the columns for which a reward has a default.
        takes_question: whether a reward receives the question.
        takes_rest: whether a reward has **kwargs and may read any column.
    """

    weights: dict[str, float]
    correct_by: str
    required: list[str]
    optional: list[str]
    takes_question: bool
    takes_rest: bool


class ScoringProcess:
    """A process with the rewards; it starts at the first request, and again at the next one after it was killed.

    Args:
        config: the settings of the rewards. `reward_timeout` is the limit for each completion of a request.
    """

    def __init__(self, config: AnyConfig) -> None:
        self.reward_timeout = config.reward_timeout
        # One process scores; its own time limit replaces that of each reward.
        self.config = replace(config, reward_timeout=None, reward_workers=0)
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def describe(self) -> StackDescription:
        """The stack that the process has loaded.

        Raises:
            UserError: the rewards cannot be loaded.
        """
        description = self._ask(None, SECONDS)
        assert isinstance(description, StackDescription)
        return description

    def score(self, group: Group) -> ScoredGroup:
        """The scores of a group; the reply has the errors of rewards that raise.

        Raises:
            UserError: the time limit is reached, or the process has died.
        """
        limit = self.reward_timeout
        scored = self._ask(group, SECONDS if limit is None else limit * len(group.completions))
        assert isinstance(scored, ScoredGroup)
        return scored

    def close(self) -> None:
        """Kill the process, and the processes that its rewards have started."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def _ask(self, request: Group | None, seconds: float) -> Any:
        with self._lock:
            worker = self._worker = self._worker or Worker(self.config, __name__)
            if error := worker.start_error():
                self.close()
                raise UserError(error)
            with suppress(OSError):  # if it has died, `_receive` reports it
                worker.connection.send(request)
            try:
                return self._receive(worker, seconds)
            except UserError:
                self.close()
                raise

    def _receive(self, worker: Worker, seconds: float) -> Any:
        """The reply. The name of each reward arrives before it, when that reward starts."""
        end, name = time.monotonic() + seconds, ""
        try:
            while worker.connection.poll(max(0.0, end - time.monotonic())):
                reply = worker.connection.recv()
                if not isinstance(reply, str):
                    return reply
                name = reply
        except (EOFError, OSError):
            raise UserError(f"reward '{name}': its process {worker.describe_end()}.") from None
        raise UserError(
            f"reward '{name}': no scores after {seconds:g} seconds, so its process was ended. If it needs longer, "
            "start the calculator with reward_timeout=SECONDS, the limit for each completion."
        )


def main(descriptor: int) -> None:
    """The code of the process: answer the requests that arrive at the socket `descriptor`."""
    connection, received = open_connection(descriptor)
    try:
        stack = rewards_of(pickle.loads(received.get()))
    except UserError as error:
        connection.send(str(error))
        return
    connection.send(None)
    while True:
        group = pickle.loads(received.get())
        connection.send(describe(stack) if group is None else score_group(stack, group, connection.send))


def describe(stack: RewardStack) -> StackDescription:
    rewards, arguments = [REWARDS[name] for name in stack.weights], stack.settings.arguments
    optional = [
        column
        for reward in rewards
        for column in reward.options
        if column in reward.defaults and column not in arguments.get(reward.name, ())
    ]
    takes_rest = any(reward.takes_rest for reward in rewards)
    return StackDescription(
        stack.weights,
        stack.correct_by,
        required=list(dict.fromkeys(column for _, column in stack.taken_columns)),
        optional=list(dict.fromkeys(optional)),
        takes_question=takes_rest or any(QUESTION_PARAMETERS & set(reward.inputs) for reward in rewards),
        takes_rest=takes_rest,
    )


def score_group(stack: RewardStack, group: Group, started: Callable[[str], None]) -> ScoredGroup:
    """The scores of a group by each reward of the stack; `started` is called with the name of each before it scores."""
    example = Example(group.question, group.gold, columns=group.columns)
    batch = ScoringBatch(group.completions, [example] * len(group.completions))
    everywhere = range(len(group.completions))
    scores: dict[str, list[float]] = {}
    errors: dict[str, dict[int, str]] = {}
    missing = {name: column for name, column in stack.taken_columns if column not in group.columns}
    for name in stack.weights:
        started(name)
        found: Mapping[int, object] = {}
        if name in missing:
            found = dict.fromkeys(everywhere, f"the reward takes '{missing[name]}', which has no value here")
        else:
            try:
                with unchanged_reward_states([name]):
                    audited = audit_scores(stack, name, batch)
                scores[name], found = audited.scores, audited.errors
            except UserError as error:  # on the batch, but on no completion alone
                found = dict.fromkeys(everywhere, error)
        if found:
            errors[name] = {row: _without_completion(name, str(error)) for row, error in found.items()}
        scores.setdefault(name, [float("nan")] * len(group.completions))
    return ScoredGroup(scores, errors)


def _without_completion(name: str, message: str) -> str:
    """The message of a reward without its name and without the completion, which the page shows beside it."""
    what, _, _ = message.removeprefix(f"reward '{name}'").partition(" The completion: ")
    what, _, _ = what.partition(" The first of ")
    return what.strip(" :.")
