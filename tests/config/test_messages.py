"""Mistakes on the command line and their messages: names of other projects, quoting, numbers, Hydra's own flags."""

import shlex
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from grpo.config import hints
from grpo.config.command_line import check_arguments
from grpo.config.composition import compose
from grpo.config.keys import schema_keys
from grpo.config.overrides import count_values, explain_unparsable, quote_value, refuse_too_many_jobs, shell_argument
from grpo.config.rules import COMMON_RULES, RULES, SWEEPER_RULES, WEIGHT_RULE
from grpo.config.schema import AuditConfig, CommonConfig, Config, EvaluateConfig, PlanConfig, SearchConfig
from grpo.core.errors import UserError
from grpo.core.files import parse_json_object
from grpo.runs.labels import resume_command
from grpo.runs.resume_arguments import expand_resume_arguments
from grpo.runs.settings import read_overrides, read_settings
from grpo.training.tracking import check_tracking

ROOT = Path(__file__).parents[2]


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


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
def test_values_from_the_environment(override: str, message: str, monkeypatch) -> None:
    monkeypatch.setenv("TEN", "ten")
    assert message in refused(override)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("max_steps 10", "max_steps 10: a setting is written NAME=VALUE, with no spaces around =: max_steps=10"),
        ("max_steps= 10", "max_steps= 10: a setting is written NAME=VALUE, with no spaces around =: max_steps=10"),
        ("max_steps =10", "no spaces around =: max_steps=10"),
        (
            "seed=1 max_steps = 10",
            "max_steps = 10: a setting is written NAME=VALUE, with no spaces around =: max_steps",
        ),
        (
            "optimizer.lr: 3 seed=1",
            "optimizer.lr: 3: a setting is written NAME=VALUE, with no spaces around =: optimiz",
        ),
        ("optimizer.lr:3", "no spaces around =: optimizer.lr=3"),
        ("rewards mine", "no spaces around =: rewards=mine"),
        ("tracking.run_name=try 2 seed=1", "a value with spaces needs quotes: 'tracking.run_name=\"try 2\"'"),
        (
            "tracking=none --experiment gsm8k",
            "--experiment gsm8k: settings are written without dashes, experiment=gsm8k",
        ),
        ("tracking=none --max_steps 10", "--max_steps 10: settings are written without dashes, max_steps=10"),
        ("--pack x", "--pack x: a flag is written in full: --package."),
        ("--config cfg", "a flag is written in full: --config-path or --config-name or --config-dir."),
        ("--mult", "--mult: a flag is written in full: --multirun."),
        ("-max_steps=3", "-max_steps=3: settings are written without dashes, max_steps=3"),
        ("-seed 3", "-seed 3: settings are written without dashes, seed=3"),
        ("--multirun=3", "--multirun=3: --multirun takes no value."),
        ("--config-dir", "argument --config-dir/-cd: expected one argument."),
        ("--config-dir gone resume=RUN", "A resumed run has its settings in its own folder; leave --config-dir out."),
    ],
)
def test_words_that_are_no_overrides(typed: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_arguments(shlex.split(typed), Config)
    assert message in str(error.value)


def test_run_is_a_setting_of_an_evaluation() -> None:
    for typed in (["--run", "RUN"], ["--run=RUN"]):
        with pytest.raises(UserError, match="settings are written without dashes, run=RUN"):
            check_arguments(typed, EvaluateConfig)


@pytest.mark.parametrize(
    ("typed", "arranged"),
    [
        ("tracking=none --config-dir . rewards=mine", "--config-dir . tracking=none rewards=mine"),
        ("rewards=mine --config-dir=. seed=1", "--config-dir=. rewards=mine seed=1"),
        ("tracking=none --cfg job seed=3", "--cfg job tracking=none seed=3"),
        ("seed=1 --config-dir=. resume=RUN", "--config-dir=. seed=1 resume=RUN"),
        ("seed=1,2 -m max_steps=3", "-m seed=1,2 max_steps=3"),
        ("seed=1 --info plugins max_steps=3", "--info plugins seed=1 max_steps=3"),
        ("seed=1 --info max_steps=3", "--info=all seed=1 max_steps=3"),
        ("seed=1 --cfg job -p model max_steps=3 --resolve", "--cfg job -p model --resolve seed=1 max_steps=3"),
    ],
)
def test_flags_may_stand_among_overrides(typed: str, arranged: str) -> None:
    assert check_arguments(shlex.split(typed), Config) == shlex.split(arranged)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000, "nested too deeply"),
        ("a: b: c", "it is not YAML, line 1: mapping values are not allowed"),
        ("a:\n  - [1", "it is not YAML, line 2: "),
        ("a: ${5.", "it contains a .{ without the name of a setting"),
        ("1", "it holds neither a mapping nor a list"),
    ],
)
def test_damaged_settings_of_a_run(text: str, message: str, tmp_path: Path) -> None:
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
def test_damaged_overrides_of_a_run(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_overrides(tmp_path)


@pytest.mark.parametrize(
    ("content", "name"),
    [("null", "null"), ("[]", "a list"), ("1", "a number"), ('"x"', "a text"), ("true", "a boolean")],
)
def test_what_json_holds_is_named_in_words(content: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"it holds {name}, not an object"):
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
def test_a_project_of_a_team(project: str, advice: str | None) -> None:
    with pytest.raises(UserError) as error:
        check_tracking(compose(["tracking=wandb", f'tracking.project="{project}"']).tracking)
    assert ("tracking.entity=" in str(error.value)) == bool(advice) and (advice or "") in str(error.value)


STEP = "a step has prompts_per_step x num_generations completions"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rate=1e-5", "Here it is optimizer.lr"),
        ("+learning_rate=1e-5", "Here it is optimizer.lr"),
        ("lr=1e-5", "Did you mean 'optimizer.lr'?"),
        ("optimizer.learning_rate=1e-5", "Here it is optimizer.lr"),
        ("actor_rollout_ref.actor.optim.lr=1e-6", "Did you mean 'optimizer.lr'?"),
        ("batch_size=8", f"Here it is prompts_per_step (prompts, not completions: {STEP}"),
        ("data.train_batch_size=8", f"Here it is prompts_per_step (prompts, not completions: {STEP}"),
        ("per_device_train_batch_size=8", "Here it is micro_batch_size (completions per forward pass on a device"),
        ("gradient_accumulation_steps=4", f"It has no counterpart here: it follows from the batch: {STEP}"),
        ("actor_rollout_ref.rollout.n=8", "Here it is num_generations (completions for each prompt)."),
        ("beta=0.04", "Did you mean 'algorithm.beta'?"),
        ("kl_coef=0.04", "Here it is algorithm.beta"),
        ("epochs=3", "Here it is num_train_epochs"),
        ("max_new_tokens=64", "Here it is max_completion_length"),
        ("wandb_project=mine", "Here it is tracking.project"),
        ("trainer.project_name=mine", "Here it is tracking.project"),
        ("entity=team", "Did you mean 'tracking.entity'?"),
        ("model_name_or_path=a/b", "Here it is model.path"),
        ("report_to=wandb", "Here it is tracking (a group: wandb, trackio"),
        ("top_p=0.9", "Did you mean 'rollout.top_p'?"),
        ("output_dir=out", "Here it is hydra.run.dir (hydra.sweep.dir for a sweep)."),
        ("hydra.launcher.n_jobs=4", "Here it is hydra.sweeper.parallel"),
        ("n_gpus_per_node=8", "set by the launcher, torchrun or accelerate: docs/multi-gpu.md."),
        ("zzz=1", "zzz: there is no such setting. Known: activation_checkpointing"),
    ],
)
def test_names_of_other_projects(typed: str, meant: str) -> None:
    said = refused(typed)
    assert said.startswith(f"{typed.lstrip('+').partition('=')[0]}: there is no such setting.") and meant in said
    assert ("Known:" in said) == (typed == "zzz=1")


def test_every_hint_names_a_setting() -> None:
    known = schema_keys(Config).keys() | {"hydra.run.dir", "hydra/sweeper", "hydra/launcher", "rewards.NAME"}
    known |= {f"hydra.sweeper.{item.name}" for item in fields(SearchConfig)}
    table = list(chain(*hints.HINTS.values()))
    names = [name for each in table for name in each.names]
    assert len(names) == len(set(names))
    for each in table:
        assert not each.ours or each.ours.partition("=")[0] in known, each
        assert each.ours or each.note, each
    # What is a setting here, at the top level, is never looked up.
    assert not set(names) & ({item.name for item in fields(Config)} - {"trust_run"})


def test_the_page_is_made_of_the_table() -> None:
    assert (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8") == hints.hints_page()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=a/epoch=9.ckpt", """needs quotes within quotes: 'model.path="a/epoch=9.ckpt"'"""),
        ("optimizer={'lr': 0.02}", "set the settings of a group one by one: optimizer.lr=0.02"),
        ("rewards={'int': 0, 'xmlcount': 1}", "one by one: rewards.int=0 rewards.xmlcount=1"),
        (
            "system_prompt=Think first, then answer.",
            """a text with a comma needs quotes within quotes, 'system_prompt=""",
        ),
        ("system_prompt=Use {braces}", """'system_prompt="Use {braces}"'"""),
        (
            "system_prompt=Format: use (tags), please",
            """needs quotes within quotes: 'system_prompt="Format: use (tags), please"'""",
        ),
        (
            "system_prompt=it's (a test): 50%",
            """needs quotes within quotes: 'system_prompt="it'"'"'s (a test): 50%"'""",
        ),
        ("tracking.run_name=try 2: lr=1e-3", """needs quotes within quotes: 'tracking.run_name="try 2: lr=1e-3"'"""),
        ("data.question_column=a: b, c", """'data.question_column="a: b, c"'"""),
        ("system_prompt={- braces}", """needs quotes within quotes: 'system_prompt="{- braces}"'"""),
        ("system_prompt=${", "${ starts a name, as in ${seed}; for the characters themselves, write"),
        ('system_prompt="${"', "${ starts a name, as in ${seed}; for the characters themselves, write"),
        ("reward_files=[~nosuchuser/x.py]", "this machine has no user nosuchuser; write the path in full."),
        ("reward_files=[a.py,~nosuchuser/x.py]", "this machine has no user nosuchuser; write the path in full."),
        ("max_steps=ten", "max_steps=ten: must be a whole number."),
        ("max_steps=1.5", "max_steps=1.5: must be a whole number."),
        ("max_steps=", "max_steps=: must be a whole number."),
        ("optimizer.lr=fast", "optimizer.lr=fast: must be a number."),
        ("rewards.int=[1]", "rewards.int=[1]: must be a number."),
        ("bf16=maybe", "bf16=maybe: must be true or false."),
        ("system_prompt=[a]", "system_prompt=[a]: must be a text."),
        ("stop_on={a:1}", "stop_on={a:1}: must be a list, in brackets."),
        ("rewards=", "rewards=: rewards has no option ''."),
        ("system_prompt=#1", """'system_prompt="#1"'"""),
        ("system_prompt=Don't", r"""'system_prompt="Don'"'"'t"'"""),
        ("data.path=~/mine", "write data.path=/"),
        ("reward_files=[~/mine.py]", "write 'reward_files=[/"),
        ("reward_files=[a=b.py]", """write 'reward_files=["a=b.py"]'"""),
        ("stop_on=no_signal,truncated", "a list is written in brackets, stop_on=[no_signal,truncated]"),
        ("system_prompt", "not a setting; write NAME=VALUE."),
        ("a b=1", "not a setting; write NAME=VALUE."),
        ("num_generations=null", "it needs a value."),
        ("optimizer.lr=${nothing}", "there is no setting nothing to take a value from."),
        ("optimizer.lr=${nope:1}", "there is no resolver nope."),
    ],
)
def test_the_override_at_fault_is_named_and_what_to_type(override: str, message: str) -> None:
    said = refused(override)
    assert message in said and (said.startswith((f"{override}: ", "optimizer.lr=${nope:...}")))


@pytest.mark.parametrize(
    "text",
    [
        "a=b",
        "a, b",
        "it's",
        'say "x"',
        "a\\b",
        "a\\",
        'a\\"b',
        "1e5",
        "true",
        "null",
        "007",
        "~/x",
        "{a}",
        "é",
        "",
        " ",
    ],
)
def test_what_is_suggested_is_read_as_it_was_meant(text: str) -> None:
    (word,) = shlex.split(shell_argument("system_prompt", text))
    assert compose([word]).system_prompt == text
    assert OverridesParser.create().parse_override(f"key={quote_value(text)}").value() == text
    if text and (
        advice := explain_unparsable(f"system_prompt={text}").partition(": this value needs quotes within quotes: ")[2]
    ):
        assert compose(shlex.split(advice)).system_prompt == text


def schemas() -> list[tuple[type[Any], dict[str, Any]]]:
    of = [(schema, COMMON_RULES | RULES[schema]) for schema in (Config, EvaluateConfig, PlanConfig)]
    return [*of, (AuditConfig, RULES[AuditConfig]), (SearchConfig, SWEEPER_RULES)]


def test_every_number_has_a_range() -> None:
    checked = 0
    for schema, rules in schemas():
        assert issubclass(schema, (CommonConfig, AuditConfig, SearchConfig))
        for key, kind in schema_keys(schema).items():
            if key == "rewards":
                assert not WEIGHT_RULE[0](10**30)
            elif {int, float} & {kind, *get_args(kind)}:
                holds, rule = rules[key]
                assert not holds(10**30) and not holds(-(10**30)) and rule, key
                checked += 1
    assert checked > 80


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["threads=1000000"], "threads=1000000: must be between 1 and 1,024."),
        (["data.train_problems=1000000000000"], "data.train_problems=1000000000000: must be between 1 and 10,000,000."),
        (["data.eval_problems=1000000000000"], "must be between 1 and 10,000,000."),
        (["num_generations=100000000"], "num_generations=100000000: must be between 2 and 65,536"),
        (["max_steps=99999999999999999999"], "must be between 1 and 10,000,000."),
        (["num_train_epochs=1e300"], "num_train_epochs=1e+300: must be between"),
        (["model.lora_rank=1000000000"], "must be between 0 and 8,192."),
        (["model.num_layers=1000000", "model.init=random"], "must be between 1 and 1,000."),
        (["algorithm.epsilon=1e300"], "algorithm.epsilon=1e+300: must be between"),
        (["rollout=generate", "rollout.repetition_penalty=1e-300"], "must be between 0.01 and 100."),
        (["optimizer.lr=1e-300"], "must be between 1e-12 and 100."),
        (["rewards.int=1e300"], "rewards.int=1e+300: must be between -10,000 and 10,000: advantages"),
        (["prompts_per_step=60000", "num_generations=60000"], "= 3,600,000,000 completions sampled at once"),
        ([f"optimizer.lr={'1' * 400}"], "optimizer.lr: a number of hundreds of digits"),
        ([f"seed={'1' * 400}"], "(400 characters): must be between 0 and"),
        ([f"model.path={'a' * 5000}"], "(5,000 characters): a path has at most 2,000 bytes."),
        ([f"model.path={'a' * 300}"], "a file name has at most 255 bytes."),
        ([f"reward_files=[{'a/' * 2500}x.py]"], "a path has at most 2,000 bytes."),
        (["data=jsonl", f"data.path={'a/' * 2500}"], "a path has at most 2,000 bytes."),
        (["model.path='~nosuchuser/x'"], "model.path=~nosuchuser/x: this machine has no user nosuchuser"),
        (["reward_files=['~nosuchuser/x']"], "reward_files=~nosuchuser/x: this machine has no user nosuchuser"),
        (["stop_on=[[no_signal]]"], "stop_on=[['no_signal']]: must be a list of text"),
        (["stop_on=[{a:b}]"], "stop_on=[{'a': 'b'}]: must be a list of text"),
        (["reward_files=[[a.py]]"], "reward_files=[['a.py']]: must be a list of text"),
    ],
)
def test_values_that_are_too_large(overrides: list[str], message: str) -> None:
    said = refused(*overrides)
    assert message in said and len(said) < 500


def parsed(*overrides: str) -> Any:
    return [OverridesParser.create().parse_override(each) for each in overrides]


@pytest.mark.parametrize(
    ("override", "count"),
    [
        ("a=1", 1),
        ("a=1,2,3", 3),
        ("a=choice(1,2)", 2),
        ("a=range(10)", 10),
        ("a=range(1,10,3)", 3),
        ("a=range(10,0)", 0),
        ("a=range(10,0,-1)", 10),
        ("a=range(0,0.7,0.1)", 7),
        ("a=interval(0,1)", 1),
    ],
)
def test_values_are_counted_without_being_listed(override: str, count: int) -> None:
    assert count_values(parsed(override)[0]) == count


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=range(0,1000000000)"], "seed (1,000,000,000): a sweep of 1,000,000,000 jobs; at most 10,000"),
        (["seed=shuffle(range(0,1000000000))"], "a sweep of 1,000,000,000 jobs"),
        (["seed=range(0,1000)", "num_generations=range(2,1002)"], "seed (1,000) x num_generations (1,000): a sweep of"),
        (["seed=range(0,1,1e-300)"], "or more jobs"),
        (["seed=range(0,inf)"], "a range has a finite start and end"),
        (["seed=range(0,10,0)"], "a step other than 0"),
    ],
)
def test_a_sweep_is_counted_before_it_is_listed(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        refuse_too_many_jobs(parsed(*overrides))
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["1e5", "true", "null", "007", "a\\b", "a\\", "it's", "a b", "a=b", "[a]", "é"])
def test_the_command_to_resume_names_the_folder(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    *_, argument = shlex.split(resume_command(tmp_path / name))
    with pytest.raises(UserError) as error:
        expand_resume_arguments([argument])
    assert str(error.value).startswith(f"{name} is not a run directory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--max_steps 10", "--max_steps 10: settings are written without dashes, max_steps=10"),
        ("--optimizer.lr=0.02", "settings are written without dashes, optimizer.lr=0.02 (a W&B sweep writes them so"),
        ("--learning-rate=0.02", "learning_rate: there is no such setting. Here it is optimizer.lr"),
        ("'--system-prompt=Think first.'", "written without dashes, 'system_prompt=Think first.'"),
        ("-x", "-x: there is no such flag."),
        ("--info nonsense", "argument --info/-i: invalid choice: 'nonsense'"),
        ("--package model", "--package: only with --cfg job"),
        ("--resolve", "--resolve: only with --cfg job"),
        ("--cfg", "argument --cfg/-c: expected one argument."),
        ("-m --cfg job", "--multirun --cfg: only one of these flags is possible at a time."),
        ("--config-name nonsense", "--config-name nonsense: there is no file nonsense.yaml in conf/"),
        ("--config-path nonsense", "--config-path: it would replace conf/; add a folder of your own"),
        ("--config-dir nonsense", "--config-dir nonsense: there is no such folder."),
        ("--shell-completion", "--shell-completion: say which shell"),
        ("--shell-completion query=bash", "--shell-completion query=bash: say which shell"),
        ("--experimental-rerun x", "--experimental-rerun: Hydra's pickles are not read"),
        ("hydra/job_logging=none", "hydra/job_logging=none: the log of a run needs a file name"),
        ("hydra/job_logging=disabled", "hydra/job_logging=disabled: the log of a run needs a file name"),
        ("hydra/job_logging=stdout", "hydra/job_logging=stdout: the log of a run needs a file name"),
        ("hydra.job_logging.root.level=NOPE", "hydra.job_logging.root.level=NOPE: must be one of DEBUG, INFO"),
        ("hydra.hydra_logging.root.level=NOPE", "hydra.hydra_logging.root.level=NOPE: must be one of DEBUG, INFO"),
        ("hydra.job_logging.root.handlers=[nope]", "hydra.job_logging.root.handlers: there is no handler nope"),
        ("hydra.job_logging.handlers.file.filename=null", "hydra.job_logging.handlers.file.filename: the log of a run"),
        ("'hydra.run.dir=a\nb'", r"hydra.run.dir=a\nb: a folder has a name of printable characters."),
        ("'hydra.run.dir=${'", "hydra.run.dir=${: a folder has no ${ in its name, which stands for a setting."),
        ("hydra.job_logging.handlers.file.class=os.system", "hydra.job_logging.handlers.file.class=os.system: it runs"),
        ("-m hydra.sweeper._target_=os.system", "hydra.sweeper._target_=os.system: it runs code"),
        ("-m hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system: it runs code"),
        ("+hydra.callbacks.x._target_=os.system", "a callback runs code, so none is allowed."),
        ("hydra.verbose=[1]", "hydra.verbose=[1]: must be true, false, or names of loggers."),
        ("hydra.job.env_copy=[NO_SUCH]", "hydra.job.env_copy: the environment has no variable 'NO_SUCH'."),
        ("hydra.job.chdir=true", "hydra.job.chdir=true: paths in settings are relative"),
        ("hydra.job.name=a/b", "hydra.job.name=a/b: must be a file name"),
        ("hydra.searchpath=[nowhere]", "hydra.searchpath: there is no folder nowhere"),
        ("'hydra.run.dir=${x}'", "hydra.run.dir=${x}: there is no setting x to take a value from."),
        ("'hydra.run.dir=\"a\nb\"'", "a folder has a name of printable characters."),
        ("'hydra.run.dir=\"a\tb\"'", "a folder has a name of printable characters."),
        ("'hydra.run.dir=\"a\u202eb\"'", "a folder has a name of printable characters."),
        ("'hydra.run.dir=\"a\udcffb\"'", "it is not UTF-8"),
        ("'hydra.run.dir=\"~/x\"'", "hydra.run.dir=~/x: write the path in full"),
        (f"hydra.run.dir={'a' * 5000}", "a path has at most 2,000 bytes."),
        (f"resume={'a' * 5000}", "a path has at most 2,000 bytes."),
        ("'resume=\"~nosuchuser/x\"'", "resume=~nosuchuser/x: this machine has no user nosuchuser"),
        (f"seed={'1' * 5000}", "Exceeds the limit (4300 digits) for integer string conversion"),
        ("optimizer=0.02", "optimizer=0.02: optimizer is a group and takes the name of one of its files"),
        ("-m 'seed=range(0,1000000000)'", "a sweep of 1,000,000,000 jobs"),
        ("grpo.evaluate -m 'seed=range(0,1000000000)'", "a sweep of 1,000,000,000 jobs"),
        ("grpo.audit -m 'rewards.int=range(0,1000000000)'", "a sweep of 1,000,000,000 jobs"),
        ("grpo.evaluate 'run=\"~nosuchuser/x\"'", "run=~nosuchuser/x: this machine has no user nosuchuser"),
        ("grpo.evaluate 'k=[[1]]'", "k=[[1]]: must be a list of whole numbers"),
        ("grpo.plan hardware=h100 hardware.memory=1e300", "hardware.memory=1e+300: must be between"),
    ],
    ids=lambda value: value[:40].encode("unicode_escape").decode(),
)
def test_a_command_answers_in_one_line(arguments: str, message: str, start, tmp_path) -> None:
    words = shlex.split(arguments)
    module = words.pop(0).removeprefix("grpo.") if words[0].startswith("grpo.") else "train"
    run = start(*words, module=module)
    assert run.ended() == 1
    said = run.complained().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0], said
    assert not run.said() and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("path", ["a" * 5000, "a" * 300, "~nosuchuser/x"])
@pytest.mark.parametrize("module", ["report", "reproduce", "sample"])
def test_paths_that_no_file_can_have(module: str, path: str, start) -> None:
    run = start(path, module=module)
    assert run.ended() == 2
    assert run.complained().splitlines()[-1].startswith(f"python -m grpo.{module}: error: argument ")
    assert "Traceback" not in run.complained()


OWN = {
    "rewards/mine.yaml": "correctness: 1.0\n",
    "experiment/whole.yaml": "# @package _global_\ndefaults:\n  - override /rewards: mine\nnum_generations: 1\n",
    "experiment/packaged.yaml": "num_generations: 4\n",
    "experiment/packaged_defaults.yaml": "defaults:\n  - override /rewards: mine\n",
    "experiment/callback.yaml": "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: os.getcwd\n",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rewards=nope"], "rewards=nope: rewards has no option 'nope'. Known: correctness_only, default, mine, no_"),
        (["experiment=whol"], "experiment=whol: experiment has no option 'whol'. Did you mean 'whole'?"),
        (["experiment=whole"], "num_generations=1: must be between 2 and 65,536"),
        (["experiment=packaged"], "a file of the group experiment starts with the line `# @package _global_`"),
        (["experiment=packaged_defaults"], "a file of the group experiment starts with the line `# @package _global_`"),
        (["experiment=packaged"], "error: own/experiment/packaged.yaml: a file of the group"),
        (["experiment=callback"], "hydra.callbacks.x="),
    ],
)
def test_files_of_the_users_own(arguments: list[str], message: str, start, tmp_path) -> None:
    for name, text in OWN.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    run = start("--config-dir", "own", *arguments)
    assert run.ended() == 1 and message in run.complained() and run.complained().count("\n") == 1, run.complained()
