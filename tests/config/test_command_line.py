"""Arguments of a command: flags, words that are not overrides, and one line for each user error."""

import shlex

import pytest

from grpo.config.command_line import check_arguments
from grpo.config.schema import Config, EvaluateConfig
from grpo.core.errors import UserError


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
        ("tracking.run_name=a b ~rewards.int seed=1", "a value with spaces needs quotes: 'tracking.run_name=\"a b\"'"),
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
def test_arguments_that_are_no_settings_are_refused(typed: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_arguments(shlex.split(typed), Config)
    assert message in str(error.value)


def test_run_typed_as_a_flag_is_refused_by_evaluate() -> None:
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
def test_flags_may_follow_overrides(typed: str, arranged: str) -> None:
    assert check_arguments(shlex.split(typed), Config) == shlex.split(arranged)


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
        ("'hydra.run.dir=a\nb'", r"hydra.run.dir=a\nb: the name of a folder can have printable characters only."),
        ("'hydra.run.dir=${'", "hydra.run.dir=${: the name of a folder cannot have ${, which refers to a setting."),
        ("hydra.job_logging.handlers.file.class=os.system", "hydra.job_logging.handlers.file.class=os.system: it runs"),
        ("-m hydra.sweeper._target_=os.system", "hydra.sweeper._target_=os.system: it runs code"),
        ("-m hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system: it runs code"),
        ("+hydra.callbacks.x._target_=os.system", "a callback runs code, so none is allowed."),
        ("hydra.verbose=[1]", "hydra.verbose=[1]: must be true, false, or names of loggers."),
        ("hydra.job.env_copy=[NO_SUCH]", "hydra.job.env_copy: the environment has no variable 'NO_SUCH'."),
        ("hydra.job.chdir=true", "hydra.job.chdir=true: paths are relative"),
        ("hydra.job.name=a/b", "hydra.job.name=a/b: must be a file name"),
        ("hydra.searchpath=[nowhere]", "hydra.searchpath: there is no folder nowhere"),
        ("'hydra.run.dir=${x}'", "hydra.run.dir=${x}: there is no setting x to take a value from."),
        ("'hydra.run.dir=\"a\nb\"'", "the name of a folder can have printable characters only."),
        ("'hydra.run.dir=\"a\tb\"'", "the name of a folder can have printable characters only."),
        ("'hydra.run.dir=\"a\u202eb\"'", "the name of a folder can have printable characters only."),
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
        ("grpo.audit experiment=gsm8k", "experiment: this command takes no experiment; give it the settings"),
        ("grpo.evaluate experiment=gsm8k", "experiment: this command takes no experiment; give it the settings"),
        ("grpo.plan hardware=h100 hardware.memory=1e300", "hardware.memory=1e+300: must be between"),
    ],
    ids=lambda value: value[:40].encode("unicode_escape").decode(),
)
def test_a_command_prints_one_line(arguments: str, message: str, start, tmp_path) -> None:
    words = shlex.split(arguments)
    module = words.pop(0).removeprefix("grpo.") if words[0].startswith("grpo.") else "train"
    run = start(*words, module=module)
    assert run.ended() == 1
    said = run.complained().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0], said
    assert not run.said() and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("path", ["a" * 5000, "a" * 300, "~nosuchuser/x"])
@pytest.mark.parametrize("module", ["report", "reproduce", "sample"])
def test_a_path_that_no_file_can_have_is_refused(module: str, path: str, start) -> None:
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
        (
            ["rewards=nope"],
            "rewards=nope: rewards has no option 'nope'. Known: any_answer, correctness_only, default, mine, no_",
        ),
        (["experiment=whol"], "experiment=whol: experiment has no option 'whol'. Did you mean 'whole'?"),
        (["experiment=whole"], "num_generations=1: must be between 2 and 65,536"),
        (["experiment=packaged"], "a file of the group experiment starts with the line `# @package _global_`"),
        (["experiment=packaged_defaults"], "a file of the group experiment starts with the line `# @package _global_`"),
        (["experiment=packaged"], "error: own/experiment/packaged.yaml: a file of the group"),
        (["experiment=callback"], "hydra.callbacks.x="),
    ],
)
def test_errors_in_the_users_config_folder(arguments: list[str], message: str, start, tmp_path) -> None:
    for name, text in OWN.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    run = start("--config-dir", "own", *arguments)
    assert run.ended() == 1 and message in run.complained() and run.complained().count("\n") == 1, run.complained()
