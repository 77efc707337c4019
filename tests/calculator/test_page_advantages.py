"""The page computes advantages and shares as TRL and `grpo/rewards/advantages.py` do."""

import inspect
import textwrap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from grpo.config.schema import TRL_SCALES
from grpo.rewards.advantages import attribute
from grpo.rewards.estimators import ESTIMATORS
from tests.helpers.calculator import (
    ask,
)


@pytest.fixture(scope="module")
def trl_code() -> Any:
    """The code of TRL that computes advantages from scores (trl 1.16.0, trl/trainer/grpo_trainer.py, from line 2759)."""
    trl = pytest.importorskip("trl")
    source = inspect.getsource(inspect.unwrap(trl.GRPOTrainer._generate_and_score_completions))
    lines = source[
        source.index("        unscorable_mask =") : source.index("        # Slice to keep only the local part")
    ]
    return compile(textwrap.dedent(lines), "trl/trainer/grpo_trainer.py", "exec")


def by_trl(lines: Any, scores: np.ndarray, weights: np.ndarray, k: int, scale: str) -> np.ndarray:
    """The advantages by TRL's code in float64."""
    import torch
    from trl.trainer.utils import nanstd

    of = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=torch.tensor(weights, dtype=torch.float64),
        scale_rewards=scale,
    )
    names = {"torch": torch, "nanstd": nanstd, "self": of, "device": "cpu", "num_generations": k}
    names["rewards_per_func"] = torch.tensor(scores, dtype=torch.float64)
    exec(lines, names)
    return names["advantages"].numpy()


BY_PAGE = """cases => cases.map(([groups, weights, scale]) => {
  const of = attribute(groups, weights, scale), totals = groups.map((group) => group.map((scores) => total(scores, weights)));
  return {
    advantages: of.flatMap((group) => group.advantages), parts: of.flatMap((group) => group.parts), shares: shares(of),
    zero: of.map(({ constant, flat }) => [...constant, flat]), means: totals.map(mean), stds: totals.map(std),
  };
})"""


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_and_shares(open_page, trl_code, scale: str) -> None:
    rng, cases = np.random.default_rng(0), []
    for _ in range(300):
        k, groups = int(rng.integers(2, 17)), int(rng.integers(1, 6))
        scores = rng.choice([0.0, 0.125, 0.389, 0.5, 2.0, -1.271], size=(groups, k, 5))
        if rng.random() < 0.3:
            scores[0] = scores[0, 0]  # a group without signal
        cases.append((scores, rng.choice([-1.0, 0.0, 0.1, 1.0, 3.0], size=5)))
    found = ask(open_page(), BY_PAGE, [[scores.tolist(), weights.tolist(), scale] for scores, weights in cases])
    varied = 0
    for (scores, weights), page in zip(cases, found, strict=True):
        k, flat = scores.shape[1], scores.reshape(-1, 5)
        split = attribute(flat, weights, k, ESTIMATORS[TRL_SCALES[scale]])
        assert page["advantages"] == pytest.approx(by_trl(trl_code, flat, weights, k, scale), abs=1e-5)
        assert page["advantages"] == pytest.approx(split.advantages, abs=1e-9)
        assert np.array(page["parts"]) == pytest.approx(split.parts, abs=1e-9)
        assert page["zero"] == split.zero_std.tolist()
        ours = split.shares()
        assert page["shares"] == (None if ours is None else pytest.approx(ours, abs=1e-9))
        assert page["means"] == pytest.approx((scores @ weights).mean(axis=1), abs=1e-9)
        assert page["stds"] == pytest.approx((scores @ weights).std(axis=1, ddof=1), abs=1e-9)
        varied += ours is not None
    assert varied > 200


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_abstentions(open_page, scale: str) -> None:
    """A reward that abstains, nan in Python and null on the page, counts as in training."""
    rng, cases = np.random.default_rng(1), []
    for _ in range(200):
        k, groups = int(rng.integers(2, 9)), int(rng.integers(1, 4))
        scores = rng.choice([0.0, 0.125, 0.5, 2.0, np.nan, np.nan], size=(groups, k, 3))
        cases.append((scores, rng.choice([-1.0, 0.0, 1.0, 3.0], size=3)))
    given = [[np.where(np.isnan(scores), None, scores).tolist(), weights.tolist(), scale] for scores, weights in cases]
    found = ask(open_page(), BY_PAGE, given)
    for (scores, weights), page in zip(cases, found, strict=True):
        split = attribute(scores.reshape(-1, 3), weights, scores.shape[1], ESTIMATORS[TRL_SCALES[scale]])
        assert page["advantages"] == pytest.approx(split.advantages, abs=1e-9)
        assert np.array(page["parts"]) == pytest.approx(split.parts, abs=1e-9)
        assert page["zero"] == split.zero_std.tolist()
