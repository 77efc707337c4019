"""Secrets: values of environment variables and of settings named like secrets are not stored, printed or sent."""

import copy
import json
import pickle
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from grpo.config.composition import compose, config_from_saved
from grpo.config.schema import Config
from grpo.core.environment_values import FromEnvironment, to_interpolations
from grpo.core.redact import mask_message, mask_override, redacted
from grpo.policy.hub import ASSETS
from grpo.runs import provenance
from tests.conftest import SMALL
from tests.helpers.evaluation import evaluated

REWARD = "from grpo.rewards import reward\n\n\n@reward\ndef own(completion):\n    return 0.0\n"
ENVIRONMENT = {
    "A_PROMPT": "Answer, hunter2.",
    "A_FOLDER": "hunter2/data",
    "A_MODEL": "hunter2/model",
    "A_KEY": "hunter2",
}


def leaks(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    return [str(path.relative_to(folder)) for path in found]


def test_a_run_stores_interpolations_instead_of_environment_values(start, tmp_path, monkeypatch) -> None:
    (tmp_path / "hunter2" / "data").mkdir(parents=True)
    rows = [json.dumps({"question": f"{i} and {i}?", "answer": f"{2 * i}"}) for i in range(30)]
    (tmp_path / "hunter2" / "data" / "train.jsonl").write_text("\n".join(rows))
    (tmp_path / "hunter2" / "own.py").write_text(REWARD)
    shutil.copytree(ASSETS / "tiny", tmp_path / "hunter2" / "model")
    settings = [
        *SMALL,
        "save_steps=1",
        "system_prompt='${oc.env:A_PROMPT} In words.'",
        "data=jsonl",
        "data.path=${oc.env:A_FOLDER}",
        "model.path=${oc.env:A_MODEL}",
        "reward_files=['${oc.env:A_KEY}/own.py']",
        "+rewards.own=0",
        "+hydra.job.env_set.SERVICE_TOKEN=hunter2",
        "hydra.sweep.dir=sweep",
    ]
    sweep = start("-m", "seed=0", *settings, **ENVIRONMENT)
    assert sweep.ended() == 0, sweep.complained()
    run = tmp_path / "sweep" / "0"
    saved = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
    assert saved["system_prompt"] == "${oc.env:A_PROMPT} In words."
    assert saved["model"]["path"] == f"{tmp_path}/${{oc.env:A_MODEL}}"
    assert "SERVICE_TOKEN=***" in json.loads((run / "results.json").read_text())["provenance"]["command"]
    assert leaks(tmp_path / "sweep") == [] and "hunter2" not in sweep.said()

    resumed = start("resume=sweep/0", "max_steps=3", **ENVIRONMENT)
    assert resumed.ended() == 0, resumed.complained()
    assert "Changed since the run started" not in resumed.said() and leaks(tmp_path / "sweep") == []
    without = start("resume=sweep/0", "max_steps=4")
    assert without.ended() == 1
    assert "the environment variable A_FOLDER, A_KEY, A_MODEL, A_PROMPT, which is not set" in without.complained()

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    evaluated("run=sweep/0", "name=x", "baseline=before")
    assert leaks(tmp_path / "sweep") == []


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("hydra.job.env_set.HF_TOKEN=abc", "hydra.job.env_set.HF_TOKEN=***"),
        ("hydra.job.env_set={WANDB_API_KEY: abc, LANG: C}", "hydra.job.env_set=***"),
        ("+hydra.job.env_set.LANG=C", "+hydra.job.env_set.LANG=***"),
        ("+x={WANDB_API_KEY: abc, LANG: C}", "+x={WANDB_API_KEY: ***, LANG: C}"),
        ("SECRETKEY=abc", "SECRETKEY=***"),
        ("AWS_ACCESSKEY=abc", "AWS_ACCESSKEY=***"),
        ("+AUTHTOKEN=abc", "+AUTHTOKEN=***"),
        ("GH_PAT=abc", "GH_PAT=***"),
        ("passwords=abc", "passwords=***"),
        ("db_pwd=abc", "db_pwd=***"),
        ("bearer=abc", "bearer=***"),
        ("userpassword=abc", "userpassword=***"),
        ("password=1234", "password=***"),
        ("hydra.sweeper.storage=postgresql://me:abc@host/db", "hydra.sweeper.storage=postgresql://***@host/db"),
        ("hydra.sweeper.storage='mysql://abc@host'", "hydra.sweeper.storage='mysql://***@host'"),
        ("+api_key=1234", "+api_key=***"),
        ("tracking.apikey=abc", "tracking.apikey=***"),
        ("db_password='a b'", "db_password=***"),
        ("aws_secret_access_key=abc", "aws_secret_access_key=***"),
        ("my_credentials=abc", "my_credentials=***"),
        # Not secrets.
        ("key=value", "key=value"),
        ("--max_tokens=50", "--max_tokens=50"),
        ("max_new_tokens=1e3", "max_new_tokens=1e3"),
        ("data.prompt_key=question", "data.prompt_key=question"),
        ("+pad_token=<pad>", "+pad_token=<pad>"),
        ("data.path=a/b", "data.path=a/b"),
        ("hydra.job.env_set.HF_TOKEN=${oc.env:OTHER}", "hydra.job.env_set.HF_TOKEN=${oc.env:OTHER}"),
        ("+rewards.token=0.1", "+rewards.token=0.1"),
        ("rewards={key: 1}", "rewards={key: 1}"),
        ("model.path=tokenizers/monkey", "model.path=tokenizers/monkey"),
        ("max_completion_length=16", "max_completion_length=16"),
        ("rollout.server=http://localhost:8000", "rollout.server=http://localhost:8000"),
        ("system_prompt='mail me@host, see http://a/b'", "system_prompt='mail me@host, see http://a/b'"),
        ("~tracking", "~tracking"),
    ],
)
def test_secrets_in_overrides_are_masked(typed, expected) -> None:
    assert mask_override(typed) == expected
    assert mask_message(f"error: {typed}: there is no such setting") == f"error: {expected}: there is no such setting"


def test_secrets_in_settings_are_masked() -> None:
    given = {"env_set": {"HF_TOKEN": "abc", "LANG": "C"}, "overrides": ["x.secret=abc", "seed=1"], "key": None, "n": 1}
    given |= {"storage": "redis://:abc@host", "rewards": {"token": 0.5}, "password": 1234, "text": "a key is a key"}
    assert redacted(given) == given | {
        "env_set": {"HF_TOKEN": "***", "LANG": "***"},
        "overrides": ["x.secret=***", "seed=1"],
        "storage": "redis://***@host",
        "password": "***",
    }
    assert redacted(asdict(compose())) == asdict(compose())


def test_a_text_from_the_environment_has_its_value_and_its_source(monkeypatch) -> None:
    monkeypatch.setenv("A_PROMPT", "hunter2")
    monkeypatch.setenv("A_SEED", "7")
    config = compose(
        [
            "system_prompt='say ${oc.env:A_PROMPT} or ${data.train_file}'",
            "data=jsonl",
            "data.path=x",
            "data.train_file=${oc.env:A_PROMPT}",
            "data.test_file=${oc.env:UNSET_NAME,test.jsonl}",
            "seed=${oc.env:A_SEED}",
        ]
    )
    assert config.system_prompt == "say hunter2 or hunter2" and config.seed == 7
    for each in (config, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        saved = redacted(asdict(each))
        assert saved["system_prompt"] == "say ${oc.env:A_PROMPT} or ${oc.env:A_PROMPT}"
        assert saved["data"]["train_file"] == "${oc.env:A_PROMPT}" and saved["data"]["test_file"] == "test.jsonl"
        assert saved["seed"] == 7
    assert to_interpolations([FromEnvironment("a", "b"), {"a": (FromEnvironment("a", "b"),)}]) == ["b", {"a": ["b"]}]


@pytest.mark.parametrize(
    "text",
    [
        '${oc.env:"A_SECRET"}',
        "${oc.env:'A_SECRET'}",
        "${oc.env:${oc.env:NAME_OF_IT}}",
        "${oc.env:UNSET,${oc.env:A_SECRET}}",
        "${oc.decode:'${oc.env:A_SECRET}'}",
        "${oc.${oc.env:RESOLVER}:A_SECRET}",
        "${oc.env:A_${oc.env:KIND}}",
    ],
)
def test_every_form_of_interpolation_of_a_variable_is_detected(monkeypatch, text) -> None:
    values = {"A_SECRET": "hunter2", "NAME_OF_IT": "A_SECRET", "RESOLVER": "env", "KIND": "SECRET"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = asdict(config_from_saved(asdict(compose()) | {"system_prompt": f"say {text}"}, Config))
    assert settings["system_prompt"] == "say hunter2"
    assert redacted(settings)["system_prompt"] == "say ${oc.env:A_SECRET}"


def test_the_diff_of_a_checkout_contains_source_files_and_no_secrets(tmp_path, monkeypatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    tracked = ["grpo/code.py", "mine.py", ".env", "conf/Secrets.yaml", "notes.txt", "grpo/local.py", "deep/server.pem"]
    new = ["grpo/new.py", "conf/new.yaml", "grpo/data.bin", "conf/password.yaml", "grpo/ignored.py", "elsewhere.py"]
    for name in tracked:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / ".gitignore").write_text("ignored.py\nlocal.py\n")
    git("add", ".gitignore")
    git("commit", "-qm", "second")
    git("config", "color.ui", "always")
    for name in (*tracked, *new):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}\n")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "grpo")
    changed = provenance.code_diff()
    held = {name for name in (*tracked, *new) if f"+content of {name}\n" in changed}
    assert held == {"grpo/code.py", "mine.py", "notes.txt", "grpo/new.py", "conf/new.yaml"}

    (tmp_path / "mine.py").write_text("x" * 80 + "\n" + "y" * provenance.MAX_DIFF_CHARACTERS)
    provenance.save_code_diff(tmp_path / "git.diff")
    text = (tmp_path / "git.diff").read_text()
    assert len(text) < provenance.MAX_DIFF_CHARACTERS + 100 and text.endswith(" characters]\n")
