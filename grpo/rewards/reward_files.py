"""Fills the table of rewards for a run: the shipped rewards, then those of the files in `reward_files`.

Called by `build_rewards` (grpo/rewards/stack.py); the scoring reads from here which reward comes from which file. It
knows nothing of weights and scores.
"""

from collections.abc import Sequence
from pathlib import Path

from grpo.core.errors import UserError
from grpo.core.signals import StoppedBySignal
from grpo.rewards import built_in, verbatim  # noqa: F401  (importing them registers their rewards)
from grpo.rewards.process_state import restored_process_state
from grpo.rewards.registry import REWARDS
from grpo.rewards.user_file import UserFile, describe_error

SHIPPED_REWARDS = dict(REWARDS)
# reward -> the file that defines it, except built-in ones
REWARD_SOURCES: dict[str, UserFile] = {}


def load_reward_files(files: Sequence[str]) -> None:
    """Fill the table with the shipped rewards and those of `files`, which are run again for each run.

    Raises:
        UserError: there is no such file, it fails, or it defines no reward.
    """
    REWARDS.clear()
    REWARDS.update(SHIPPED_REWARDS)
    REWARD_SOURCES.clear()
    for name in files:
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"reward_files: no file {path}; give the path of a Python file with @reward functions.")
        if path.suffix != ".py":
            raise UserError(f"reward_files: {path} is not a Python file (its name must end in .py).")
        file, known = UserFile(path), set(REWARDS)
        try:
            with restored_process_state(seed=0):
                file.load()
        except (KeyboardInterrupt, StoppedBySignal):
            raise
        except UserError as error:
            raise UserError(f"reward_files: {path}: {error}") from error
        except BaseException as error:
            raise UserError(f"reward_files: {path} failed with {describe_error(error)}") from error
        if not REWARDS.keys() - known:
            own = [name for name, function in file.functions().items() if function.__module__ == file.name]
            raise UserError(
                f"reward_files: {path} defines no reward; write @reward, which is imported by 'from grpo.rewards "
                f"import reward', on the line above {' or '.join(own) or 'a function'}."
            )
        REWARD_SOURCES.update(dict.fromkeys(REWARDS.keys() - known, file))
