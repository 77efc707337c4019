"""How the rewards of a run are executed: in this process, on an event loop, or in worker processes.

`RewardExecutor` is made by grpo/rewards/stack.py, once per run, and ends with it: no process and no thread is left. It
knows nothing of weights.
"""

import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from grpo.config.schema import AnyConfig
from grpo.core.console import say
from grpo.core.errors import UserError
from grpo.rewards.async_scoring import await_values
from grpo.rewards.binding import RewardSettings, UnknownValue, find_unknown
from grpo.rewards.calls import OVERDUE, CallFailed, TimeLimit, describe_completion
from grpo.rewards.event_loop import RewardEventLoop
from grpo.rewards.registry import REWARDS
from grpo.rewards.reward_files import REWARD_SOURCES
from grpo.rewards.reward_log import RewardLog
from grpo.rewards.reward_state import is_stateful
from grpo.rewards.scoring import batch_seed, score_reward
from grpo.rewards.scoring_batch import ScoringBatch, log_nothing
from grpo.rewards.signature import Reward
from grpo.rewards.worker import Request
from grpo.rewards.worker_pool import WorkerFailed, WorkerPool


@dataclass(frozen=True)
class ExecutionSettings:
    """The settings reward_workers, reward_timeout, on_reward_timeout and reward_concurrency."""

    workers: int = 0
    timeout: float | None = None
    on_overdue: str = "score"
    concurrency: int = 16

    @classmethod
    def from_config(cls, config: AnyConfig) -> "ExecutionSettings":
        return cls(config.reward_workers, config.reward_timeout, config.on_reward_timeout, config.reward_concurrency)

    @property
    def worker_count(self) -> int:
        """The number of worker processes: with a time limit at least one, because only a process can be killed."""
        return self.workers or int(self.timeout is not None)


DEFAULT_EXECUTION = ExecutionSettings()


class RewardExecutor:
    """Scores completions with one reward at a time, and owns the event loop and the worker processes.

    Both start when a reward needs them first. They end with `close`, with this object, or with the process.
    """

    def __init__(self, execution: ExecutionSettings = DEFAULT_EXECUTION, files: Sequence[str] = ()) -> None:
        self.execution, self.limit = execution, TimeLimit(execution.timeout, execution.on_overdue)
        self._loop = RewardEventLoop(execution.concurrency, execution.timeout)
        self._pool = WorkerPool(execution.worker_count, files, execution.timeout)
        self._reported_unknown: set[str] = set()  # rewards
        self.close = weakref.finalize(self, _close, self._loop, self._pool)

    def check(self, names: Iterable[str]) -> None:
        """Check that the rewards `names` can be executed by these settings.

        Raises:
            UserError: a reward with a state would run in workers, which do not share it.
        """
        for name in names:
            if self._runs_in_worker(name) and is_stateful(name):
                setting = f"reward_workers={self.execution.workers}"
                if not self.execution.workers:
                    setting = f"reward_timeout={self.execution.timeout:g}"
                raise UserError(
                    f"{setting}: runs the reward '{name}' in worker processes, and it has a state (state_dict), which "
                    "they do not share; leave the setting out, or make the reward async."
                )

    def score(self, name: str, batch: ScoringBatch, settings: RewardSettings) -> list[float]:
        """The scores of one reward; see `score_reward`. The first abstention for an unknown value prints a message.

        Raises:
            UserError: as `score_reward`, or the reward is overdue and the run stops, or its worker died.
        """
        if unknown := find_unknown(REWARDS[name], batch):
            self._report_unknown(name, unknown)
        try:
            if self._runs_in_worker(name):
                return self._score_in_workers(REWARDS[name], batch, settings)
            return score_reward(name, batch, settings, partial(await_values, self._loop, self.limit))
        except UnknownValue as error:
            self._report_unknown(name, str(error))
            return [math.nan] * len(batch.completions)

    def _report_unknown(self, name: str, value: str) -> None:
        if name not in self._reported_unknown:
            self._reported_unknown.add(name)
            say(f"reward '{name}' takes {value}, which is not known for all completions here: there it abstains.")

    def _runs_in_worker(self, name: str) -> bool:
        return self._pool.max_workers > 0 and name in REWARD_SOURCES and not REWARDS[name].is_async

    def _score_in_workers(self, reward: Reward, batch: ScoringBatch, settings: RewardSettings) -> list[float]:
        completions, seed = batch.completions, batch_seed(batch)
        sendable = replace(
            batch, trainer_state=_plain_state(batch.trainer_state), log_metric=log_nothing, log_extra=log_nothing
        )
        single = reward.form == "single"

        def request(start: int, stop: int) -> Request:
            part = sendable.rows(start, stop) if single else sendable
            return Request(reward.name, part, settings, seed + start)

        try:
            replies = self._pool.run(len(completions) if single else 1, request, self.limit.stops(reward.on_timeout))
        except CallFailed as failed:
            index = failed.index if single else None
            if failed.error is None:
                raise self.limit.error(reward.name, reward.on_timeout, completions, index) from None
            if isinstance(failed.error, WorkerFailed):
                sentence = describe_completion(completions, index)
                raise UserError(f"reward '{reward.name}': {failed.error}. {sentence}") from None
            raise failed.error from None
        scores: list[Any] = []
        log = RewardLog(reward.name, batch, settings.logged_columns)
        for reply in replies:
            if reply is OVERDUE:
                scores += [OVERDUE] * (1 if single else len(completions))
                continue
            scores += reply.scores
            for function, arguments in reply.logged:
                getattr(log, function)(*arguments)
        self.limit.replace_overdue(reward.name, reward.on_timeout, scores, completions)
        return [math.nan if score is None else score for score in scores]


def _plain_state(state: Any) -> SimpleNamespace:
    """The trainer's state without its classes, which a worker does not import, and without its history."""
    return SimpleNamespace(**vars(state) | {"log_history": [], "stateful_callbacks": {}})


def _close(loop: RewardEventLoop, pool: WorkerPool) -> None:
    loop.close()
    pool.close()
