"""Loads the rewards of a run into the registry: the shipped rewards, then those of the files in `reward_files`.

Called by `build_rewards` (grpo/rewards/stack.py). grpo/rewards/scoring.py reads here which file a reward is from. It
knows nothing of weights and scores.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from grpo.core.errors import UserError
from grpo.core.signals import StoppedBySignal
from grpo.rewards import built_in, length_penalty, verbatim  # noqa: F401  (importing them registers their rewards)
from grpo.rewards.process_state import restored_process_state
from grpo.rewards.registry import REWARDS
from grpo.rewards.user_file import UserFile, describe_error

SHIPPED_REWARDS = dict(REWARDS)
# The file that defines each reward; shipped rewards have none.
REWARD_SOURCES: dict[str, UserFile] = {}


def load_reward_files(files: Sequence[str]) -> None:
    """Reset the registry to the shipped rewards and add those of `files`, which are executed once per run.

    Raises:
        UserError: a file does not exist, raises, or defines no reward.
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
        file, known_rewards = UserFile(path), set(REWARDS)
        try:
            with restored_process_state(seed=0):
                file.load()
        except (KeyboardInterrupt, StoppedBySignal):
            raise
        except UserError as error:
            raise UserError(f"reward_files: {path}: {error}") from error
        except BaseException as error:
            raise UserError(f"reward_files: {path} failed with {describe_error(error, path.parent)}") from error
        if not REWARDS.keys() - known_rewards:
            functions = [name for name, function in file.functions().items() if function.__module__ == file.name]
            raise UserError(
                f"reward_files: {path} defines no reward; write @reward, which is imported by 'from grpo.rewards "
                f"import reward', on the line above {' or '.join(functions) or 'a function'}."
            )
        REWARD_SOURCES.update(dict.fromkeys(REWARDS.keys() - known_rewards, file))


def unused_file_notes(used: Collection[str]) -> list[str]:
    """For each loaded file none of whose rewards is in `used`: what to type so that one is."""
    rewards_of_file: dict[Path, list[str]] = {}
    for name, file in REWARD_SOURCES.items():
        rewards_of_file.setdefault(file.path, []).append(name)
    return [
        f"reward_files: no reward of {path.name} is used. Add +rewards.{sorted(names)[0]}=1, or another weight."
        for path, names in rewards_of_file.items()
        if not set(names) & set(used)
    ]
