"""What comes from others: weights that could run code, code beside weights, and text that would be markup."""

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.core.files import file_sha256, write_json
from grpo.evaluation.completion_files import read_completions
from grpo.reports.run_report import write_run_report
from grpo.runs.checkpoints import MANIFEST, checkpoint_fault
from grpo.runs.resume import find_checkpoint, truncate_to_checkpoint
from grpo.runs.resume_settings import resumed_config
from grpo.runs.settings import save_settings
from grpo.training.session import train_run
from tests.conftest import SMALL, read_wandb
from tests.helpers.untrusted_policies import pickled, with_code

HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[bold red]not bold[/] [link=http://x]no link[/link] [/nothing]",
    "\x1b[45mred\x1b[0m\x1b]0;title\x07 \x9b31m bell\x07 back\b over\rwritten",
    "a NUL\x00 and a right-to-left override\u202e",
    "lone \ud800 surrogates \udfff",
    "x" * 1_000_000,
    "</td></table><answer>\n1\n</answer>{{ 1 + 1 }}{% for %}",
]


def test_pickled_weights_are_not_loaded_unless_trusted(train, tmp_path, capsys) -> None:
    folder = pickled(tmp_path / "pickled")
    with pytest.raises(UserError, match=r"its weights are pickled \(\*.bin\).*model.trust_pickle=true"):
        train(f"model.path={folder}")
    (tmp_path / "run").rename(tmp_path / "refused")
    train(f"model.path={folder}", "model.trust_pickle=true", "algorithm=grpo_kl")
    assert "model.trust_pickle=true: code that comes with pickled can run here." in capsys.readouterr().out


def test_code_beside_the_weights_is_not_run_unless_trusted(light, tmp_path) -> None:
    with_code(tmp_path / "custom")
    settings = [*SMALL, "tracking=none", "model.path=custom"]
    done = light("grpo.train", *settings, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "which runs only with model.trust_remote_code=true" in done.stderr
    assert not (tmp_path / "ran").exists()
    trusted = [*settings, "model.trust_remote_code=true"]
    done = light("grpo.train", *trusted, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert done.returncode == 0, done.stderr
    assert "model.trust_remote_code=true: code that comes with custom can run here." in done.stdout
    assert (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that has trained two steps of two, with one checkpoint."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    out.mkdir()
    typed = [*SMALL, "tracking=none"]
    save_settings(out, compose(typed), typed)
    train_run(compose(typed), out)
    return out


def resumed(out: Path) -> None:
    config = resumed_config(out, compose(["max_steps=3"]), ["max_steps=3"])
    found = find_checkpoint(out, config)
    train_run(config, out, checkpoint=found.checkpoint, prepare_directory=partial(truncate_to_checkpoint, found))


class Code:
    """What leaves a mark where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def damaged(path: Path) -> None:
    path.write_bytes(b"\x80\x02 no pickle")


def holds(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def no_weights(path: Path) -> None:
    save_file({}, path)


def other_weights(path: Path) -> None:
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


def pickled_weights(path: Path) -> None:
    (path.parent / "model.safetensors").unlink()
    torch.save(Code(), path)


OF_A_CHECKPOINT: list[tuple[str, Callable[[Path], object]]] = [
    ("optimizer.pt", damaged),
    ("optimizer.pt", holds(Code())),
    ("optimizer.pt", holds({"state": {}, "param_groups": []})),
    ("scheduler.pt", holds([])),
    ("rng_state.pth", holds(Code())),
    ("run_state.pt", damaged),
    ("run_state.pt", holds({"global_step": 2, "recorder": {"stopped_by": None}})),
    ("scaler.pt", holds(Code())),
    ("trainer_state.json", lambda path: path.write_text('{"global_step": 2, "nosuch": 1}')),
    ("model.safetensors", damaged),
    ("model.safetensors", no_weights),
    ("model.safetensors", other_weights),
    ("pytorch_model.bin", pickled_weights),
]


@pytest.mark.parametrize(("name", "tamper"), OF_A_CHECKPOINT)
def test_a_tampered_checkpoint_is_named_by_its_file(stopped, tmp_path, monkeypatch, name: str, tamper) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    checkpoint = out / "checkpoints" / "checkpoint-2"
    tamper(checkpoint / name)
    # The manifest is changed with it; otherwise the checkpoint is skipped as damaged.
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST]
    manifest = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files
    }
    write_json(checkpoint / MANIFEST, manifest)
    with pytest.raises(UserError) as error:
        resumed(out)
    assert str(error.value).startswith(f"run/checkpoints/checkpoint-2: {name} does not hold what a checkpoint of this")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("pytorch_model.bin", "x", "manifest.json does not list pytorch_model.bin, which would be loaded"),
        ("scaler.pt", "x", "manifest.json does not list scaler.pt"),
        ("adapter/adapter_model.safetensors", "x", "does not list adapter/adapter_model.safetensors"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "x", "does not list pytorch_model_fsdp_0/__0_0.distcp"),
        ("model.safetensors.index.json", "{}", "does not list model.safetensors.index.json"),
        (".DS_Store", "x", None),
        ("notes.txt", "x", None),
        ("manifest.json", "[" * 100_000, "manifest.json is damaged"),
    ],
)
def test_a_file_that_the_manifest_does_not_list_is_not_loaded(stopped, tmp_path, name, content, wrong) -> None:
    checkpoint = Path(shutil.copytree(stopped / "checkpoints" / "checkpoint-2", tmp_path / "checkpoint-2"))
    assert checkpoint_fault(checkpoint) is None
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text(content)
    assert (wrong in checkpoint_fault(checkpoint)) if wrong else checkpoint_fault(checkpoint) is None


@pytest.mark.parametrize("content", ["[]", "null", '{"completions": 1}', "[" * 100_000, "\udcff"])
def test_damaged_records_of_a_checkpoint(stopped, tmp_path, content: str) -> None:
    checkpoint = Path(shutil.copytree(stopped / "checkpoints" / "checkpoint-2", tmp_path / "checkpoint-2"))
    path = checkpoint / "records.json"
    path.write_text(content, errors="surrogateescape")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["records.json"] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(checkpoint / MANIFEST, manifest)
    assert checkpoint_fault(checkpoint) == "records.json is damaged"


@pytest.fixture
def hostile(monkeypatch) -> None:
    """Every completion reads as one of HOSTILE."""

    def decode(self, sequences, *args, **kwargs):
        return [HOSTILE[(len(ids) + i) % len(HOSTILE)] for i, ids in enumerate(sequences)]

    monkeypatch.setattr(PreTrainedTokenizerBase, "batch_decode", decode)


def test_hostile_text_stays_text(train, tmp_path, hostile, capsys, monkeypatch) -> None:
    # A terminal, so that markup and colours would show.
    terminal = Console(highlight=False, force_terminal=True, width=100)
    for module in ("console", "progress"):
        monkeypatch.setattr(f"grpo.core.{module}.console", terminal)
    questions = [text for text in HOSTILE if "\ud800" not in text]
    rows = [{"question": f"{i} {text[:200]}", "answer": "#### 1"} for i in range(6) for text in questions]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = ["data=jsonl", f"data.path={tmp_path}", "data.eval_problems=12", "tracking=wandb"]
    out, results = train(*settings, "data.train_problems=20", "tracking.completions_every=1")
    said = capsys.readouterr().out
    # Of what a terminal obeys, only colours and the bar's own movements are left.
    assert not re.search(r"\x00|\x07|\x08|\x9b|\u202e|\x1b\]|\x1b\[45m", said)
    assert "[bold red]not bold[/]" in said

    page = write_run_report(out).read_text(encoding="utf-8")
    assert "<script" not in page and "onerror=alert(1)&gt;" in page
    assert "\x1b" not in page and "\x00" not in page

    table = pd.read_parquet(out / "completions" / "step_000002.parquet")
    assert set(table["completion"]) <= {text.encode("utf-8", "replace").decode() for text in HOSTILE}
    _, _, tables = read_wandb(out)
    assert len(tables[-1]["data"]) == 8
    assert results["before"]["n"] == 12


def test_lone_surrogates_in_a_file_are_named(train, tmp_path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "\ud800", "answer": "1"}) + "\n")
    with pytest.raises(UserError, match=r"line 1.*which is not valid text"):
        train("data=jsonl", f"data.path={tmp_path}")


@pytest.mark.parametrize("text", [text for text in HOSTILE if "\ud800" not in text], ids=lambda text: repr(text[:9]))
def test_hostile_completions_of_a_file(light, tmp_path, text: str) -> None:
    row = {"question": text[:500], "gold": "1", "completion": text}
    (tmp_path / "file.jsonl").write_text(json.dumps(row) + "\n")
    assert read_completions(tmp_path / "file.jsonl", "completions")[1][0, 0].text == text
    done = light("grpo.evaluate", "completions=file.jsonl", "show=1")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00\x07\x08\x1b\x9b\u202e]", done.stdout + done.stderr)


def test_a_message_that_names_hostile_text(light) -> None:
    done = light("grpo.train", "model.path='\x1b[31m[bold]x'")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr and "[bold]x" in done.stderr
