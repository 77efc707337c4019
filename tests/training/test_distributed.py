"""A step of several processes: advantages, their attribution and gradients equal those of one process."""

import json
import os
import sys
import traceback
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.distributed.fsdp import fully_shard

import grpo.training.reward_adapter
from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.config.rules import ESTIMATOR_NAMES
from grpo.config.schema import TRL_SCALES
from grpo.config.weights import WeightSchedule
from grpo.core import distributed
from grpo.core.metric_names import is_time
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.policy.sharding import copy_full_weights, full_copy
from grpo.rewards.advantages import Attribution, attribute
from grpo.rewards.estimators import ESTIMATORS
from grpo.rewards.registry import REWARDS, reward
from grpo.rewards.stack import RewardStack
from grpo.sampling.build import build_sampler
from grpo.tasks.splits import load_splits
from grpo.tasks.train_set import select_train_examples
from grpo.training.recorder import Recorder
from grpo.training.trackers.interface import NoTracker
from grpo.training.trainer import Trainer, build_trainer
from tests.conftest import Process
from tests.helpers.trainers import decoded, micro_batches

K = 4
# Prompts per step and micro-batch. A process has half a group; one; one and a half; two, in two micro-batches.
SHAPES = [(1, 8), (2, 8), (3, 8), (4, 4)]
CASES = [
    *product(SHAPES, ESTIMATOR_NAMES, ["off"]),
    *product([(3, 8), (4, 4)], ["group_std", "reinforce_pp", "passk"], ["correctness"]),
]
# `by_text` and `by_length` vary wherever completions do, `by_gold` between groups alone.
NAMES = ["correctness", "xmlcount", "by_text", "by_length", "by_gold"]

ABSTAINING = {"correctness": 0.0, "sometimes": 1.0, "by_length": -0.5}


# K and prompts per step. A process has one group and a half; half of each group; a third or two thirds of a group, where
# two further groups at a time can be divided.
RESAMPLED = [(4, 3), (4, 1), (3, 2)]


def draw_weights(seed: int) -> dict[str, float]:
    """Random ones, a negative one and a zero among them."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.2, 2, len(NAMES)) * rng.permutation([0, -1, 1, 1, rng.choice([-1, 1])])
    return dict(zip(NAMES, weights.tolist(), strict=True))


def build(
    out: Path,
    weights: dict[str, float],
    prompts: int,
    micro: int,
    *overrides: str,
    dtype: str = "float32",
    schedules: dict[str, WeightSchedule] | None = None,
    k: int = K,
) -> Trainer:
    """This process's part of a run."""
    out.mkdir()
    batch = [f"num_generations={k}", f"prompts_per_step={prompts}", f"micro_batch_size={micro}"]
    config = compose([*batch, "max_completion_length=48", "temperature=1.5", "data.train_problems=40", *overrides])
    tokenizer = build_tokenizer(config.model)
    policy = build_policy(config.model, 0).to(getattr(torch, dtype))
    examples, _ = select_train_examples(load_splits(config.data).train, tokenizer, config)
    cut = derive_batch(k, prompts, micro, world_size=distributed.world_size())
    rollout = build_sampler(policy, tokenizer, config)
    stack = RewardStack(weights, schedules=schedules or {})
    recorder = Recorder(config, stack, NoTracker(), out)
    return build_trainer(config, cut, policy, tokenizer, examples, stack, rollout, recorder, out)


def ours(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name.startswith(("advantage_", "groups/"))}


def work(out: Path) -> None:
    """The work of one of two processes; writes what it observed to rank_<number>.json."""
    rank = int(os.environ["RANK"])
    with_rewards()
    splits: list[Attribution] = []

    def keep(*args: Any) -> Attribution:
        splits.append(attribute(*args))
        return splits[-1]

    grpo.training.reward_adapter.attribute = keep
    seen = []
    for seed, ((prompts, micro), estimator, gate) in enumerate(CASES):
        overrides = [
            *(f"seed={seed}", f"algorithm.estimator={estimator}", "algorithm.pass_k=2", f"algorithm.gate={gate}"),
        ]
        built = build(out / f"{seed}_{rank}", draw_weights(seed), prompts, micro, *overrides)
        batches = micro_batches(built)
        seen.append(
            {
                "cut": [len(inputs["advantages"]) for inputs in batches],
                "loss": np.concatenate([inputs["advantages"] for inputs in batches]).tolist(),
                "all": list(built._logs["advantages"]),
                "scores": [list(built._logs["rewards"][name]) for name in NAMES],
                "texts": [messages[0]["content"] for messages in built._logs["completion"]],
                "exact": splits[-1].advantages.tolist(),
                "parts": None if splits[-1].parts is None else splits[-1].parts.tolist(),
                "logged": {name: value for name, (value,) in ours(built._metrics["train"]).items()},
            }
        )
    abstaining = []
    for number, estimator in enumerate(("group_std", "gdpo", "reinforce_pp")):
        built = build(out / f"abstaining_{number}_{rank}", ABSTAINING, 3, 8, f"algorithm.estimator={estimator}")
        batches = micro_batches(built)
        abstaining.append(
            {
                "loss": np.concatenate([inputs["advantages"] for inputs in batches]).tolist(),
                "scores": list(built._logs["rewards"]["sometimes"]),
                "parts": splits[-1].parts.tolist(),
                "logged": {name: value for name, (value,) in built._metrics["train"].items()},
            }
        )
    resampled = []
    for k, prompts in RESAMPLED:
        weights = {"correctness": 1.0, "by_length": 0.0}
        overrides = ["algorithm.resample=100", "data.train_problems=200"]
        built = build(out / f"resampled_{k}_{prompts}_{rank}", weights, prompts, 8, *overrides, k=k)
        batches = micro_batches(built)
        resampled.append(
            {
                "own": [
                    np.concatenate([inputs["advantages"] for inputs in batches]).tolist(),
                    *decoded(built, batches),
                ],
                "questions": [
                    built.recorder.completion_log.examples[row].question for row in built._logs["extra"]["row"]
                ],
                "advantages": list(built._logs["advantages"]),
                "texts": [messages[0]["content"] for messages in built._logs["completion"]],
                "scores": list(built._logs["rewards"]["by_length"]),
                "logged": {name: value for name, (value,) in built._metrics["train"].items() if not is_time(name)},
            }
        )
    placebo = []
    for prompts, micro in SHAPES:
        built = build(out / f"placebo_{prompts}_{rank}", draw_weights(0), prompts, micro, "placebo=true")
        batches = micro_batches(built)
        placebo.append(
            {
                "loss": np.concatenate([inputs["advantages"] for inputs in batches]).tolist(),
                "all": list(built._logs["advantages"]),
                "exact": splits[-1].advantages.tolist(),
            }
        )
    schedules = {"by_text": WeightSchedule(1.0, 0.0, 1.0)}
    run = build(out / f"run_{rank}", draw_weights(0), 1, 8, "max_steps=2", "logging_steps=1", schedules=schedules)
    run.train()
    history = [logs for logs in run.state.log_history if "reward" in logs]
    steps = [
        {"grad_norm": logs["grad_norm"], "weight": logs["reward_weight/by_text"], **ours(logs)} for logs in history
    ]
    (out / f"rank_{rank}.json").write_text(
        json.dumps(
            {"cases": seen, "steps": steps, "abstaining": abstaining, "resampled": resampled, "placebo": placebo}
        )
    )


def work_on_gradients(out: Path) -> None:
    with_rewards()
    torch.save(gradients(out), out / f"gradients_{distributed.rank()}.pt")


# How the losses average, and the most completions at once: one micro-batch, or several.
LOSSES = [(loss, micro) for loss in ("grpo", "dr_grpo", "dapo") for micro in (16, 2)]


def scripted(prompts: list[list[int]], limit: int, *_: Any) -> list[list[int]]:
    """The completions of this process's rows of a step of 16; the same however many processes share the step."""
    first = distributed.rank() * len(prompts)
    drawn = [np.random.default_rng(row) for row in range(first, first + len(prompts))]
    return [draw.integers(5, 600, draw.integers(1, limit)).tolist() for draw in drawn]


def gradients(out: Path) -> dict[str, Any]:
    """Of every parameter, before clipping, with their norm as it is logged."""
    found: dict[str, Any] = {}
    for number, (loss, micro) in enumerate(LOSSES):
        name = f"{loss}_{micro}"
        weights = {"correctness": 0.0, "by_text": 1.0, "by_length": -0.5}
        built = build(
            out / f"{number}_{distributed.rank()}",
            weights,
            4,
            micro,
            "max_steps=1",
            f"algorithm.loss_type={loss}",
            dtype="float64",
        )
        assert built.shares_prompts
        built.sampler.complete = scripted  # type: ignore[method-assign]
        clip = built._clip_grad_norm

        def keep(model: Any, clip: Any = clip, built: Any = built, name: str = name) -> Any:
            each = {key: parameter.grad.flatten() for key, parameter in built.model.named_parameters()}
            found[name] = torch.cat([each[key] for key in sorted(each)])
            return clip(model)

        built._clip_grad_norm = keep  # type: ignore[method-assign]
        built.train()
    return found


def work_on_shards(out: Path) -> None:
    """A sharded policy is trained for a step; a full copy of it follows."""
    torch.distributed.init_process_group("gloo")
    policy = build_policy(compose().model, 0)
    full = full_copy(policy, torch.float32, "cpu")
    before = {name: weight.clone() for name, weight in full.named_parameters()}
    for layer in policy.model.layers:
        fully_shard(layer)
    fully_shard(policy)
    assert all(len(weight.to_local()) < len(weight) for weight in policy.parameters())
    copy_full_weights(policy, full)
    assert all(torch.equal(weight, before[name]) for name, weight in full.named_parameters())
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    ids = torch.arange(20)[None] + distributed.rank()
    policy(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    copy_full_weights(policy, full)
    assert not any(torch.equal(weight, before[name]) for name, weight in full.named_parameters())
    torch.testing.assert_close(full(ids).logits, policy(ids).logits)


def test_a_full_copy_of_a_sharded_policy(run_processes, tmp_path) -> None:
    run_processes(tmp_path, 2, "work_on_shards")


def with_rewards() -> None:
    @reward
    def by_text(completion):
        return zlib.crc32(completion.encode()) % 7 / 7

    @reward
    def by_length(completion):
        return len(completion) / 100

    @reward
    def by_gold(gold):
        return zlib.crc32(gold.encode()) % 3

    @reward
    def sometimes(completion):
        return None if len(completion) % 3 == 0 else len(completion) % 5 / 5


@pytest.fixture(scope="module")
def run_processes(server) -> Callable[[Path, int, str], None]:
    """Run the function `what` of this file in `count` processes."""

    def call(out: Path, count: int, what: str) -> None:
        cpu = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        process = Process(server, out, what, str(out), module="tests.training.test_distributed", processes=count, **cpu)
        assert process.ended() == 0, (process.said() + process.complained())[-6000:]

    return call


@pytest.fixture(scope="module")
def two(run_processes, tmp_path_factory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    run_processes(out, 2, "work")
    return [json.loads((out / f"rank_{rank}.json").read_text()) for rank in "01"]


@pytest.fixture(scope="module")
def single_process(tmp_path_factory) -> Any:
    with patch.dict(REWARDS):
        with_rewards()
        return gradients(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradients_equal_those_of_one_process(run_processes, tmp_path, single_process, count: int) -> None:
    run_processes(tmp_path, count, "work_on_gradients")
    for rank in range(count):
        found = torch.load(tmp_path / f"gradients_{rank}.pt")
        assert found.keys() == single_process.keys()
        for name, gradient in single_process.items():
            assert gradient.norm() > 1e-3
            assert (found[name] - gradient).norm() <= 1e-10 * gradient.norm(), name


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: f"{CASES[case][0][0]}-{'-'.join(CASES[case][1:])}")
def test_each_rank_attributes_the_advantages_of_all(two, case: int) -> None:
    (prompts, micro), *_ = CASES[case]
    first, second = (rank["cases"][case] for rank in two)
    rows = prompts * K // 2
    assert first["cut"] == second["cut"] == [min(rows, micro)] * (rows // min(rows, micro))
    for name in ("logged", "parts", "exact", "scores", "all"):
        assert first[name] == second[name], name

    # Each rank's loss uses its own rows of these, which are those of all processes, up to rounding in float32.
    _, estimator, gate = CASES[case]
    advantages, exact = np.array(first["loss"] + second["loss"]), np.array(first["exact"])
    assert advantages == pytest.approx(np.array(first["all"]), abs=1e-6)
    assert exact == pytest.approx(advantages, abs=1e-5)
    weights, logged = draw_weights(case), first["logged"]
    if estimator != "passk" and np.abs(advantages).max() > 0.01:
        parts = np.array(first["parts"])
        assert parts.sum(axis=1) == pytest.approx(exact, abs=1e-12)
        shares = [logged[f"advantage_share/{name}"] for name in NAMES]
        assert sum(shares) == pytest.approx(1, abs=1e-9)
        assert shares == pytest.approx(advantages @ parts / (advantages @ advantages), abs=1e-4)
        flips = (exact[:, None] * (exact[:, None] - parts) < 0).mean(axis=0)
        assert [logged[f"advantage_flips/{name}"] for name in NAMES] == pytest.approx(flips)
        for name, weight in weights.items():
            assert weight or logged[f"advantage_share/{name}"] == logged[f"advantage_flips/{name}"] == 0

    groups = np.array(first["scores"]).reshape(len(NAMES), prompts, K)
    right = (groups[0] > 0).mean(axis=1)
    assert logged["groups/mixed"] == pytest.approx(((right > 0) & (right < 1)).mean())
    assert logged["groups/none_correct"] == pytest.approx((right == 0).mean())
    assert logged["groups/all_correct"] == pytest.approx((right == 1).mean())
    still = np.ptp(groups, axis=2) == 0
    for name, of in zip(NAMES, still, strict=True):
        assert logged[f"groups/zero_std/{name}"] == pytest.approx(of.mean())
    if gate == "off" and estimator in TRL_SCALES.values():
        assert logged["groups/zero_std"] == pytest.approx(still[[*map(bool, weights.values())]].all(axis=0).mean())


def test_the_cases_hold_what_they_are_for(two) -> None:
    cases = two[0]["cases"]
    logged = [case["logged"] for case in cases]
    for name in NAMES[:-1]:
        assert any(figures.get(f"advantage_flips/{name}") for figures in logged), name
    assert any(figures.get(f"advantage_share/{name}", 0) < 0 for figures in logged for name in NAMES)
    assert all(figures["groups/zero_std/by_gold"] == 1 for figures in logged)
    for name in ("mixed", "none_correct", "correctness_constant", "zero_std/correctness"):
        assert any(0 < figures[f"groups/{name}"] < 1 for figures in logged), name
    # What a rank holds would by itself tell something else: a part of a group, of which it does not know the mean ...
    cut = [abs(sum(case["loss"])) for case in cases if len(case["loss"]) % K]
    assert np.mean(np.array(cut) > 0.01) > 0.6
    # ... or some of the groups.
    moved = []
    for n, (_, estimator, gate) in enumerate(CASES):
        rows, weights = len(cases[n]["loss"]), draw_weights(n)
        if rows % K == 0 and gate == "off" and estimator != "passk":
            of_rank = np.array(cases[n]["scores"]).T[:rows]
            alone = attribute(of_rank, np.array([*weights.values()]), K, ESTIMATORS[estimator])
            of_all = [logged[n].get(f"advantage_share/{name}", 0.0) for name in NAMES]
            moved.append(alone.shares() is None or np.abs(alone.shares() - of_all).max() > 0.01)
    assert np.mean(moved) > 0.7
    # The ranks draw completions of their own.
    halves = [(case["texts"][: K // 2], case["texts"][K // 2 :]) for case in cases if len(case["texts"]) == K]
    assert all(one != other for one, other in halves)
    every = np.array([[*draw_weights(case).values()] for case in range(len(CASES))])
    assert (every == 0).any(axis=0).all() and (every < 0).any(axis=0).all()


def test_each_rank_attributes_the_advantages_with_abstentions(two) -> None:
    for first, second in zip(*(rank["abstaining"] for rank in two), strict=True):
        assert first["parts"] == second["parts"] and first["logged"]["abstained/sometimes"] > 0
        assert first["logged"]["abstained/sometimes"] == second["logged"]["abstained/sometimes"]
        assert first["logged"]["abstained/sometimes"] == pytest.approx(np.isnan(first["scores"]).mean())
        advantages = np.array(first["loss"] + second["loss"])
        assert np.array(first["parts"]).sum(axis=1) == pytest.approx(advantages, abs=1e-5)
        assert np.abs(advantages).max() > 0.01


@pytest.mark.parametrize("case", range(len(SHAPES)), ids=lambda case: str(SHAPES[case]))
def test_both_ranks_draw_the_same_placebo(two, case: int) -> None:
    first, second = (rank["placebo"][case] for rank in two)
    assert first["all"] == second["all"] == pytest.approx(first["loss"] + second["loss"], abs=1e-6)
    trained, exact = (np.array(first[name]).reshape(-1, K) for name in ("all", "exact"))
    assert np.sort(trained) == pytest.approx(np.sort(exact), abs=1e-6) and np.abs(trained - exact).max() > 0.1


@pytest.mark.parametrize("case", range(len(RESAMPLED)))
def test_both_ranks_replace_the_same_groups(two, case: int) -> None:
    k, prompts = RESAMPLED[case]
    first, second = (rank["resampled"][case] for rank in two)
    assert first["logged"].pop("num_tokens") == second["logged"].pop("num_tokens")
    for name in ("questions", "advantages", "texts", "scores", "logged"):
        assert first[name] == second[name], name
    logged = first["logged"]
    assert logged["groups/zero_std"] == 0 and logged["groups/mixed"] == 1 and logged["resample/groups_discarded"] > 0
    assert (logged["resample/groups_drawn"] - prompts) % (2 if k % 2 else 1) == 0
    # The rows of a rank are its part of the batch.
    advantages, asked, texts = ([*one, *other] for one, other in zip(first["own"], second["own"], strict=True))
    assert advantages == pytest.approx(first["advantages"]) and texts == first["texts"]
    assert all(question in prompt for question, prompt in zip(first["questions"], asked, strict=True))
    assert first["scores"] == pytest.approx([len(text) / 100 for text in texts])
    assert len({*first["questions"]}) == prompts


def test_what_real_steps_log_is_the_same_on_both(two) -> None:
    first, second = (rank["steps"] for rank in two)
    assert first == second and len(first) == 2
    assert [logs["weight"] for logs in first] == [1.0, 0.5]
    for logs in first:
        assert logs["grad_norm"] > 0
        assert sum(logs[f"advantage_share/{name}"] for name in NAMES) == pytest.approx(1, abs=1e-9)


def main() -> None:
    # Not by way of the interpreter's end: a model in DistributedDataParallel that is freed there holds the GIL while it
    # waits for gloo's thread, which may be waiting for the GIL.
    try:
        globals()[sys.argv[1]](Path(sys.argv[2]))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
