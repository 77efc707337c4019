"""Compare the forecasts of `grpo.preflight` with the first optimizer step of training, seed by seed.

python scripts/check_preflight.py --seeds 10
python scripts/check_preflight.py --seeds 10 --prompts 4 32 rewards=no_xmlcount

For each seed, the policy is asked once, and a run is trained for one step with each number of prompts per step. A
forecast is right if the metric of the step lies within its 95% range. docs/preflight.md has the results.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra import compose as hydra_compose

from grpo.config.composition import compose, config_search_path, load_config
from grpo.config.schema import PreflightConfig
from grpo.core.console import console, quiet
from grpo.core.metric_names import CORRECT, MIXED, PHANTOM, ZERO_STD, advantage_share
from grpo.core.tables import empty_table
from grpo.forecast.forecast import Estimate, Forecast
from grpo.rewards.stack import rewards_of
from grpo.runs.run_dir import RunDir
from grpo.runs.settings import save_settings
from grpo.training.policy_forecast import ask_policy
from grpo.training.session import train_run

# What does not change the first step, and takes time.
QUICK = ["tracking=none", "max_steps=1", "save_steps=null", "data.eval_problems=4"]


def forecasts(overrides: Sequence[str], prompts: Sequence[int]) -> list[dict[str, Estimate]]:
    """The metrics of the first step, for each number of prompts per step, from the same completions."""
    with config_search_path():
        config = load_config(hydra_compose("preflight", [*overrides, *QUICK]), PreflightConfig)
    forecast, _, _ = ask_policy(config, rewards_of(config))
    return [
        Forecast(replace(config, prompts_per_step=count), forecast.evaluation, forecast.prompt_tokens.tolist()).step
        for count in prompts
    ]


def first_step(overrides: Sequence[str]) -> dict[str, float]:
    """What training logs at its first step."""
    typed = [*overrides, *QUICK]
    config = compose(typed)
    with tempfile.TemporaryDirectory() as folder:
        save_settings(Path(folder), config, typed)
        train_run(config, Path(folder))
        metrics: dict[str, float] = json.loads(RunDir(Path(folder)).metrics_jsonl.read_text().splitlines()[0])
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare forecasts with the first step of training.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 32], help="prompts per step")
    parser.add_argument("overrides", nargs="*", help="settings of training")
    arguments = parser.parse_args()
    rewards = [name for name, weight in compose(arguments.overrides).rewards.items() if weight]
    names = [CORRECT, MIXED, ZERO_STD, PHANTOM, *map(advantage_share, rewards)]
    pairs: dict[tuple[int, str], list[tuple[Estimate, float]]] = {}
    for seed in range(arguments.seeds):
        typed = [*arguments.overrides, f"seed={seed}"]
        with quiet():
            predicted = forecasts(typed, arguments.prompts)
            logged = [first_step([*typed, f"prompts_per_step={count}"]) for count in arguments.prompts]
        for count, forecast, metrics in zip(arguments.prompts, predicted, logged, strict=True):
            for name in names:
                pairs.setdefault((count, name), []).append((forecast[name], metrics[name]))
        console.print(f"seed {seed}: done")
    table = empty_table("forecast", "range", "first step", "within")
    table.columns[0].header = f"means over {arguments.seeds} seeds"
    for (count, name), of_seeds in pairs.items():
        low, value, high, logged_mean = (
            sum(values) / len(of_seeds)
            for values in zip(*((each.low, each.value, each.high, metric) for each, metric in of_seeds), strict=True)
        )
        hits = sum(each.low <= metric <= each.high for each, metric in of_seeds)
        table.add_row(
            f"{count} prompts: {name}",
            f"{value:z.1%}",
            f"{100 * low:z.1f} to {100 * high:z.1f}",
            f"{logged_mean:z.1%}",
            f"{hits} of {len(of_seeds)}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
