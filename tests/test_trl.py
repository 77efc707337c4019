"""What we rely on inside TRL 1.16 without it being promised; a failure here says what moved.

grpo/trainer.py reads `GRPOTrainer._logs` (trl 1.16.0, trl/trainer/grpo_trainer.py, lines 1063 and 2833) for the
completions of the last batch, and has `log_extra` (line 1593) carry question and gold there.
"""

from grpo.batching import derive_batch
from grpo.config import compose
from grpo.data import build_train_set, load_splits
from grpo.model import build_policy, build_tokenizer
from grpo.rewards import RewardStack
from grpo.rollout import build_rollout
from grpo.tracking import NoTracker
from grpo.trainer import Recorder, build_trainer
from tests.conftest import SMALL


def test_the_logs_that_the_recorder_reads(tmp_path) -> None:
    config = compose(SMALL)
    tokenizer = build_tokenizer(config.model)
    train_rows, _ = build_train_set(load_splits(config.data).train, tokenizer, config)
    rewards = RewardStack(config.rewards)
    recorder = Recorder(config, rewards, NoTracker(), tmp_path, lambda steps: lambda count, beside: None)
    batch = derive_batch(4, 2, 4)
    policy = build_policy(config.model, 0)
    rollout, _ = build_rollout(policy, tokenizer, config)
    trainer = build_trainer(config, batch, policy, tokenizer, train_rows, rewards, rollout, recorder, tmp_path)
    trainer.train()
    logs = trainer._logs
    assert {"prompt", "completion", "rewards", "advantages", "extra"} <= logs.keys()
    assert set(logs["extra"]) == {"question", "gold"} and set(logs["rewards"]) == set(config.rewards)
    assert {len(column) for column in (logs["completion"], logs["advantages"], logs["extra"]["gold"])} == {8}
    # Groups stand together, in the order of generation.
    questions = list(logs["extra"]["question"])
    assert questions[:4] == [questions[0]] * 4 and questions[4:] == [questions[4]] * 4 != questions[:4]
