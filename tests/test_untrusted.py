"""What comes from others: weights that could run code, code beside weights, and text that would be markup."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from grpo.completions import read_completions
from grpo.errors import UserError
from grpo.hub import ASSETS
from grpo.report import write_report
from tests.conftest import SMALL, read_wandb

HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[bold red]not bold[/] [link=http://x]no link[/link] [/nothing]",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x9b31m bell\x07 back\b over\rwritten",
    "a NUL\x00 and a right-to-left override\u202e",
    "lone \ud800 surrogates \udfff",
    "x" * 1_000_000,
    "</td></table><answer>\n1\n</answer>{{ 1 + 1 }}{% for %}",
]


def pickled(folder: Path) -> Path:
    """The embedded policy with its weights pickled."""
    shutil.copytree(ASSETS / "tiny", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_not_loaded_unless_trusted(train, tmp_path, capsys) -> None:
    folder = pickled(tmp_path / "pickled")
    with pytest.raises(UserError, match=r"its weights are pickled \(\*.bin\).*model.trust_pickle=true"):
        train(f"model.path={folder}")
    (tmp_path / "run").rename(tmp_path / "refused")
    train(f"model.path={folder}", "model.trust_pickle=true", "algorithm=grpo_kl")
    assert f"model.trust_pickle=true: code that comes with {folder} can run here." in capsys.readouterr().out


def test_code_beside_the_weights_is_not_run_unless_trusted(command, tmp_path) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "code_of_its_own.py").write_text(
        "from pathlib import Path\nfrom transformers import Qwen2Config, Qwen2ForCausalLM\n\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n\n\n"
        "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n\n\n"
        "class OwnForCausalLM(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "code_of_its_own.OwnConfig",
            "AutoModelForCausalLM": "code_of_its_own.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    settings = [*SMALL, "tracking=none", "model.path=custom"]
    done = command("grpo.train", *settings, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "which is not run unless you say model.trust_remote_code=true" in done.stderr
    assert not (tmp_path / "ran").exists()
    trusted = [*settings, "model.trust_remote_code=true"]
    done = command("grpo.train", *trusted, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert done.returncode == 0, done.stderr
    assert "model.trust_remote_code=true: code that comes with custom can run here." in done.stdout
    assert (tmp_path / "ran").exists()


@pytest.fixture
def hostile(monkeypatch) -> None:
    """Every completion reads as one of HOSTILE."""

    def decode(self, sequences, *args, **kwargs):
        return [HOSTILE[(len(ids) + i) % len(HOSTILE)] for i, ids in enumerate(sequences)]

    monkeypatch.setattr(PreTrainedTokenizerBase, "batch_decode", decode)


def test_hostile_text_stays_text(train, tmp_path, hostile, capsys, monkeypatch) -> None:
    # A terminal, so that markup and colours would show.
    monkeypatch.setattr("grpo.console.console", Console(highlight=False, force_terminal=True, width=100))
    questions = [text for text in HOSTILE if "\ud800" not in text]
    rows = [{"question": f"{i} {text[:200]}", "answer": "#### 1"} for i in range(6) for text in questions]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = ["data=jsonl", f"data.path={tmp_path}", "data.eval_problems=12", "tracking=wandb"]
    out, results = train(*settings, "data.train_problems=20", "tracking.completions_every=1")
    said = capsys.readouterr().out
    # Of what a terminal obeys, only colours and the bar's own movements are left.
    assert not re.search(r"\x00|\x07|\x08|\x9b|\u202e|\x1b\]|\x1b\[31m", said)
    assert "[bold red]not bold[/]" in said

    page = write_report(out).read_text(encoding="utf-8")
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
def test_hostile_completions_of_a_file(command, tmp_path, text: str) -> None:
    row = {"question": text[:500], "gold": "1", "completion": text}
    (tmp_path / "file.jsonl").write_text(json.dumps(row) + "\n")
    assert read_completions(tmp_path / "file.jsonl", "completions")[1][0, 0].text == text
    done = command("grpo.evaluate", "completions=file.jsonl", "show=1")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00\x07\x08\x1b\x9b\u202e]", done.stdout + done.stderr)


def test_a_message_that_names_hostile_text(command) -> None:
    done = command("grpo.train", "model.path='\x1b[31m[bold]x'")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr and "[bold]x" in done.stderr
