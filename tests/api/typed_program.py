"""A program that uses the Python API, for mypy: `make lint` checks it as strict code of a user. It is never executed."""

from contextlib import suppress
from pathlib import Path
from typing import Any, assert_type

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import grpo
from grpo.rewards import reward


@reward
def short(completions: list[str]) -> list[float]:
    return [1.0 if len(text) < 100 else 0.0 for text in completions]


@reward(on_timeout=0.0)
def long(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def program() -> None:
    assert_type(grpo.__version__, str)
    config = grpo.compose(["max_steps=3"])
    assert_type(config, grpo.Config)
    assert_type(config.max_steps, int | None)
    assert_type(config.optimizer.lr, float)
    results = grpo.train.run(config, folder="run")
    assert_type(results, grpo.Results)
    assert_type(results.folder, Path)
    assert_type(results.after["accuracy_strict"], Any)
    run = grpo.load_run(results.folder)
    assert_type(run, grpo.LoadedRun)
    assert_type(run.metrics, pd.DataFrame)
    assert_type(run.completions, pd.DataFrame)
    assert_type(run.evaluations, pd.DataFrame)
    assert_type(run.results, grpo.Results)
    assert_type(run.config, grpo.Config)
    assert_type(run.answers("1 + 1?"), pd.DataFrame)
    assert_type(run.policy("before"), tuple[PreTrainedModel, PreTrainedTokenizerBase])
    assert_type(run.report(), Path)
    assert_type(short(["text"]), list[float])
    grpo.train.run("max_steps=3")  # type: ignore[arg-type]
    run.policy("meanwhile")  # type: ignore[arg-type]
    with suppress(grpo.UserError, grpo.StoppedBySignal):
        grpo.compose(3)  # type: ignore[arg-type]
