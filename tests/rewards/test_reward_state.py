"""Rewards with a state: which have one, its copy for checkpoints, and evaluations that leave it unchanged."""

from pathlib import Path

import pytest
from hydra import compose

from grpo import audit
from grpo.config.composition import config_search_path, load_config
from grpo.config.schema import AuditConfig
from grpo.core.errors import UserError
from grpo.rewards.reward_state import (
    is_stateful,
    restore_reward_states,
    reward_states,
    state_notes,
    unchanged_reward_states,
)
from grpo.rewards.stack import RewardStack, build_rewards
from tests.helpers.scoring import batch_of

FILE = '''
from grpo.rewards import reward


class Novelty:
    """1.0 for a completion that it has not seen."""

    def __init__(self):
        self.seen = []

    def __call__(self, completion):
        new = completion not in self.seen
        self.seen.append(completion)
        return float(new)


class Saved(Novelty):
    __name__ = "saved"

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class Half(Novelty):
    __name__ = "half"

    def state_dict(self):
        return {}


class Broken(Saved):
    __name__ = "broken"

    def state_dict(self):
        raise KeyError("seen")


@reward
def plain(completion):
    return 0.0


@reward
def with_functions(completion):
    return 0.0


with_functions.state_dict = lambda: {}
with_functions.load_state_dict = lambda state: None

for kind in (Novelty, Saved, Half, Broken):
    reward(kind())
'''


@pytest.fixture
def stack(tmp_path: Path) -> RewardStack:
    (tmp_path / "novelty.py").write_text(FILE)
    names = ("Novelty", "saved", "half", "broken", "plain", "with_functions")
    return build_rewards(dict.fromkeys(names, 1.0), [str(tmp_path / "novelty.py")])


def test_which_rewards_have_a_state(stack) -> None:
    stateful = [name for name in stack.weights if is_stateful(name)]
    assert stateful == ["saved", "broken", "with_functions"]
    (note,) = state_notes(["Novelty", "saved", "plain", "with_functions", "correctness"])
    assert note.startswith("reward 'Novelty' is an object without state_dict and load_state_dict: what it remembers")
    with pytest.raises(UserError, match="reward 'half' has state_dict and no load_state_dict; checkpoints need both"):
        state_notes(["half"])


def test_an_evaluation_leaves_the_state_unchanged(stack) -> None:
    batch = batch_of(["one", "two"])
    assert stack.score_one("saved", batch) == [1.0, 1.0]
    with unchanged_reward_states(["saved", "plain"]):
        assert stack.score_one("saved", batch_of(["one", "three"])) == [0.0, 1.0]
    assert stack.score_one("saved", batch_of(["three"])) == [1.0]


def test_a_state_is_copied_and_restored(stack) -> None:
    stack.score_one("saved", batch_of(["one"]))
    states = reward_states(["saved", "plain"])
    stack.score_one("saved", batch_of(["two"]))
    assert states == {"saved": {"seen": ["one"]}}
    restore_reward_states(states)
    assert stack.score_one("saved", batch_of(["one", "two"])) == [0.0, 1.0]


def test_faults_of_a_state_name_the_reward(stack) -> None:
    with pytest.raises(UserError, match=r"reward 'broken': state_dict raised KeyError: 'seen' .*novelty.py"):
        reward_states(["broken"])
    with pytest.raises(UserError, match=r"reward 'saved': load_state_dict raised KeyError"):
        restore_reward_states({"saved": {}})
    with pytest.raises(UserError, match="reward 'plain' had a state_dict when the checkpoint was written"):
        restore_reward_states({"plain": {}})


def test_a_class_is_not_a_reward(tmp_path: Path) -> None:
    path = tmp_path / "kind.py"
    path.write_text("from grpo.rewards import reward\n\n\n@reward\nclass Long:\n    pass\n")
    with pytest.raises(UserError, match=r"reward 'Long' is a class; register an object of it, Long = reward\(Long\(\)"):
        build_rewards({"correctness": 1.0}, [str(path)])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"count": 3, "text": "a", "nested": [{"x": None, "y": (1, 2.5)}]}, None),
        ({"open": open}, "reward 'saved': its state_dict holds io.open; a checkpoint stores numbers, texts, lists,"),
        ({"function": lambda: 0}, "reward 'saved': its state_dict cannot be saved"),
    ],
)
def test_a_checkpoint_stores_no_code(stack, state, message: str | None) -> None:
    from grpo.training.checkpointing import safe_reward_states

    restore_reward_states({"saved": {"seen": state}})
    if message is None:
        assert safe_reward_states(["saved"]) == {"saved": {"seen": state}}
        return
    with pytest.raises(UserError, match=message):
        safe_reward_states(["saved"])


def test_an_audit_of_a_schedule_starts_each_stage_with_the_same_state(tmp_path: Path, capsys) -> None:
    (tmp_path / "novelty.py").write_text(FILE.replace("(Novelty, Saved, Half, Broken)", "(Saved,)"))
    overrides = [f"reward_files=[{tmp_path / 'novelty.py'}]", "+rewards.saved={start: 1.0, end: 2.0, until: 1.0}"]
    with config_search_path():
        audit.run(load_config(compose("audit", overrides), AuditConfig))
    shown = " ".join(capsys.readouterr().out.split())
    assert "saved 1 (at the start of training)" in shown and "saved 2 (at the end of the schedules)" in shown
    assert reward_states(["saved"]) == {"saved": {"seen": []}}
