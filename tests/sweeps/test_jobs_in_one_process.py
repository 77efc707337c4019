"""Jobs of a sweep in one process: what a finished job leaves behind."""

import json
from pathlib import Path

from tests.helpers.sweeps import FEW

# Counts what is alive when a job trains. Its module is loaded again for each job.
ALIVE = """
import gc
import json
import sys
import threading
from pathlib import Path

from grpo.rewards import reward

counted = []


def count():
    import torch
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from grpo.rewards.stack import RewardStack
    from grpo.training.session import Session
    from grpo.training.trainer import Trainer

    frozen = gc.get_freeze_count() > 0  # `gc.get_objects` leaves them out
    gc.unfreeze()
    gc.collect()
    kinds = [Trainer, Session, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, RewardStack, Figure]
    alive = gc.get_objects()
    counts = {kind.__name__: sum(isinstance(each, kind) for each in alive) for kind in kinds}
    counts["parameters"] = sum(each.numel() for each in alive if type(each) is torch.nn.Parameter)
    counts["threads"] = threading.active_count()
    counts["frozen"] = frozen
    return counts


@reward
def alive(completions):
    module = sys.modules.get("grpo.training.trainer")
    if module and not counted and any(isinstance(each, module.Trainer) for each in gc.get_objects()):
        counted.append(1)
        with Path("alive.jsonl").open("a") as file:
            file.write(json.dumps(count()) + "\\n")
    return [0.0] * len(completions)
"""


def test_a_finished_job_leaves_nothing_alive(start, tmp_path: Path) -> None:
    (tmp_path / "alive.py").write_text(ALIVE)
    sweep = ["-m", "num_generations=4", "seed=0,1,2,3", *FEW, "reward_files=[alive.py]", "+rewards.alive=0"]
    run = start(*sweep, "tracking=tensorboard", "eval_samples=2", "hydra.sweep.dir=sweep")
    assert run.ended() == 0, run.complained()
    first, *others = [json.loads(line) for line in (tmp_path / "alive.jsonl").read_text().splitlines()]
    assert first.pop("frozen") and not any(other.pop("frozen") for other in others)
    assert first["Trainer"] == first["Session"] == 1 and first["Figure"] == 0
    assert 0.8e6 < first["parameters"] < 1e6  # those of one policy
    assert others == [first] * 3
