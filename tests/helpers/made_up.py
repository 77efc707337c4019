"""Runs that nobody trained, with the figures that a test wants."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from grpo.config.composition import compose
from grpo.config.schema import Config
from grpo.runs.settings import save_settings

CHOICES = {"rewards": "default", "model": "tiny", "optimizer": "adamw", "tracking": "wandb"}
# arm -> the share of right answers of each seed
RIGHT = {
    "num_generations=4 optimizer.lr=0.0001": [0.50, 0.54, 0.52],
    "num_generations=4 optimizer.lr=0.0003": [0.60, 0.70, 0.62],
    "num_generations=16 optimizer.lr=0.0001": [0.55, 0.57, 0.58],
    "num_generations=16 optimizer.lr=0.0003": [0.81, 0.80, 0.88],
}
composed = cache(lambda *overrides: compose(overrides))


def made_up(folder: Path, *overrides: str, right: float | list[bool] = 0.5, **results: Any) -> Path:
    """A run's folder as it would be if `right` of its problems (100, or as many as are listed) had been solved."""
    problems = right if isinstance(right, list) else [i < round(100 * right) for i in range(100)]
    config: Config = composed(*(each for each in overrides if not each.startswith("+experiment")))
    folder.mkdir(parents=True)
    save_settings(folder, config, overrides)
    chosen = dict(each.split("=") for each in overrides if each.split("=")[0] in CHOICES)
    hydra = {"hydra": {"runtime": {"choices": CHOICES | chosen | {"experiment": None}}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    accuracy = sum(problems) / len(problems) if isinstance(right, list) else right
    after = {"accuracy_strict": accuracy, "accuracy_flexible": accuracy, "strict_format": 1.0, "soft_format": 1.0}
    after |= {"truncated": 0.0, "mean_completion_tokens": 30 + accuracy, "reward": 2 * accuracy}
    after |= {f"rewards/{name}": 0.5 for name in config.rewards} | {"rewards/correctness": 2 * accuracy}
    accuracies = ("accuracy_strict", "accuracy_flexible")
    figures = {"n": len(problems), "intervals": {name: [accuracy, accuracy] for name in accuracies}} | after
    change = {name: {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0} for name in accuracies}
    batch = {"num_generations": config.num_generations, "prompts_per_step": config.prompts_per_step}
    written = {
        "before": figures,
        "after": figures,
        "difference": change,
        "steps": 10,
        "stopped_by": None,
        "examples": [],
        "problems": {"train": 1_000, "held_out": len(problems)},
        "batch": batch | {"per_device": 1, "accumulation": 1, "world_size": 1},
        "device": "cpu",
        "threads": 1,
        "seed": config.seed,
        "versions": {},
        "seconds": {},
        "train_seconds": 10.0 + config.seed,
    }
    (folder / "results.json").write_text(json.dumps(written | results))
    (folder / "evaluations").mkdir()
    table = {"problem": range(len(problems)), "sample": 0, "question": [f"Q{i}" for i in range(len(problems))]}
    table |= {
        "gold": "1",
        "completion": "1",
        "accuracy_strict": problems,
        "accuracy_flexible": problems,
        "tokens": 30,
        "truncated": False,
    }
    pd.DataFrame(table).to_parquet(folder / "evaluations" / "after.parquet")
    groups = {"groups/all_correct": 0.2, "groups/mixed": 0.5, "groups/none_correct": 0.3, "groups/zero_std": 0.5}
    steps = [
        {"step": step, "reward": accuracy * step, "reward_std": 0.5, "completions/mean_length": 20.0 + step}
        | groups
        | {f"rewards/{name}/mean": accuracy * step / 10 for name in asdict(config)["rewards"]}
        | {f"groups/zero_std/{name}": 0.5 for name in config.rewards}
        for step in range(1, 11)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    return folder


def made_up_sweep(folder: Path, right: dict[str, list[float]], *common: str) -> Path:
    """A job for each setting and seed (0, 1, ...), numbered as Hydra does."""
    jobs = [(setting, seed, share) for setting, of in right.items() for seed, share in enumerate(of)]
    for number, (setting, seed, share) in enumerate(jobs):
        made_up(folder / str(number), *setting.split(), f"seed={seed}", *common, right=share)
    return folder


def plan(folder: Path, *names: str, **more: Any) -> None:
    """Write `sweep.json`: the jobs 0, 1, ... of these names."""
    jobs = [{"folder": str(i), "name": name, "overrides": name.split()} for i, name in enumerate(names)]
    content = {"command": "python -m grpo.train -m ...", "varied": [], "jobs": jobs} | more
    (folder / "sweep.json").write_text(json.dumps(content))
