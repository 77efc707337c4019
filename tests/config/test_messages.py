"""Messages about saved settings, values from the environment and trackers."""

import shlex
from pathlib import Path

import pytest

from grpo.config.composition import compose
from grpo.core.errors import UserError
from grpo.core.files import parse_json_object
from grpo.runs.labels import resume_command
from grpo.runs.resume_arguments import expand_resume_arguments
from grpo.runs.settings import read_overrides, read_settings
from grpo.training.tracking import check_tracking
from tests.helpers.refusals import refusal_of


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_steps=${oc.env:NOPE}", "max_steps: the environment variable NOPE is not set; set it, or give a default"),
        ("max_steps=${oc.env:TEN}", "max_steps=${oc.env:TEN}: must be a whole number."),
        ("optimizer.lr=${oc.env:TEN}", "optimizer.lr=${oc.env:TEN}: must be a number."),
        ("bf16=${oc.env:TEN}", "bf16=${oc.env:TEN}: must be true or false."),
        ("system_prompt=${oc.env:}", "system_prompt: a resolver in ${...} has too few or too many arguments."),
    ],
)
def test_a_message_names_the_environment_variable_of_a_wrong_value(override: str, message: str, monkeypatch) -> None:
    monkeypatch.setenv("TEN", "ten")
    assert message in refusal_of(override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000, "nested too deeply"),
        ("a: b: c", "it is not YAML, line 1: mapping values are not allowed"),
        ("a:\n  - [1", "it is not YAML, line 2: "),
        ("a: ${5.", "it contains a .{ without the name of a setting"),
        ("1", "it contains neither a mapping nor a list"),
    ],
)
def test_damaged_settings_of_a_run_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- seed=5. (", r"seed=5. \( is not a setting"),
        ("- optimizer.lr=${5.", "it contains a .{ without the name"),
        ("- 1", "1 is not a setting"),
        ("seed: 1", "seed is not a setting"),
    ],
)
def test_damaged_overrides_of_a_run_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_overrides(tmp_path)


@pytest.mark.parametrize(
    ("content", "name"),
    [("null", "null"), ("[]", "a list"), ("1", "a number"), ('"x"', "a text"), ("true", "a boolean")],
)
def test_the_type_of_a_json_value_is_named(content: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"it contains {name}, not an object"):
        parse_json_object(content)


@pytest.mark.parametrize(
    ("project", "advice"),
    [
        ("team/mine", "tracking.entity=team tracking.project=mine."),
        ("a/b/c", None),
        ("a/", None),
        ("/a", None),
        ("a/b:c", None),
    ],
)
def test_a_project_name_with_a_team_gives_advice(project: str, advice: str | None) -> None:
    with pytest.raises(UserError) as error:
        check_tracking(compose(["tracking=wandb", f'tracking.project="{project}"']).tracking)
    assert ("tracking.entity=" in str(error.value)) == bool(advice) and (advice or "") in str(error.value)


@pytest.mark.parametrize("name", ["1e5", "true", "null", "007", "a\\b", "a\\", "it's", "a b", "a=b", "[a]", "é"])
def test_the_command_to_resume_names_the_folder(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    *_, argument = shlex.split(resume_command(tmp_path / name))
    with pytest.raises(UserError) as error:
        expand_resume_arguments([argument])
    assert str(error.value).startswith(f"{name} is not a run directory")
