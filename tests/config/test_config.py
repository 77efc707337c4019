"""Every shipped option composes, and every user error gives a message of one line."""

from dataclasses import asdict, fields, is_dataclass

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from grpo.config.composition import compose, config_search_path, load_config
from grpo.config.groups import CONF, option_names
from grpo.config.hydra_errors import translate_errors
from grpo.config.hydra_output import quick_group_options
from grpo.config.samplers import SAMPLER_SETTINGS
from grpo.config.schema import Config, EvaluateConfig, PlanConfig, PreflightConfig
from grpo.config.validation import check_config
from grpo.core.errors import UserError
from grpo.plan import compose_plan
from tests.helpers.import_times import imported, run_command

GROUPS = {
    folder.name: option_names(folder.name) for folder in CONF.iterdir() if folder.name != "hydra" and folder.is_dir()
}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in sorted(GROUPS.items()) for name in sorted(names)]
)
def test_every_option_composes(group: str, name: str) -> None:
    extra = {name: ["data.path=somewhere"] for name in ("jsonl", "files", "hub")}
    extra |= {"vllm": ["device=cuda"], "vllm_server": ["device=cuda"]}
    (compose_plan if group == "hardware" else compose)([f"{group}={name}", *extra.get(name, [])])


def test_the_groups_have_the_documented_options() -> None:
    of_training = {"model", "data", "rewards", "optimizer", "algorithm", "rollout", "tracking", "experiment", "format"}
    assert GROUPS.keys() == of_training | {"hardware"}
    assert {"tiny", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b"} <= set(GROUPS["model"])
    assert {f"qwen2.5-{size}-{way}" for size in ("1.5b", "3b") for way in ("lora", "qlora")} <= set(GROUPS["model"])
    assert {"rtx3090", "rtx4090", "a100-40gb", "a100-80gb", "h100", "h200"} <= set(GROUPS["hardware"])
    assert {"default", "no_xmlcount", "no_format", "correctness_only", "verbatim"} <= set(GROUPS["rewards"])
    assert {"grpo", "grpo_kl", "dr_grpo", "dapo", "gspo"} <= set(GROUPS["algorithm"])
    assert set(GROUPS["format"]) == {"tags", "boxed"}
    assert set(SAMPLER_SETTINGS) == set(GROUPS["rollout"])
    assert {"wandb", "trackio", "tensorboard", "none"} <= set(GROUPS["tracking"])


def test_experiments_can_be_combined_and_the_command_line_has_precedence() -> None:
    config = compose(["experiment=[gsm8k,gsm8k_original]", "rewards=no_xmlcount", "num_generations=8"])
    assert config.num_generations == 8 and config.rewards["xmlcount"] == 0.0
    assert (config.model.dtype, config.algorithm.beta, config.temperature) == ("bfloat16", 0.04, 0.9)
    assert config.algorithm.kl_bias_correction is False


def test_the_settings_of_the_reference_run() -> None:
    config = compose(["experiment=gsm8k"])
    assert (config.model.path, config.data.name, config.device) == ("Qwen/Qwen2.5-0.5B-Instruct", "gsm8k", "cuda")
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.schedule, optimizer.warmup, optimizer.max_grad_norm) == (5e-6, "cosine", 0.1, 0.1)
    assert (config.num_generations, config.prompts_per_step, config.num_train_epochs) == (16, 4, 1)
    assert (config.max_prompt_length, config.max_completion_length, config.max_steps) == (256, 320, None)
    assert config.bf16 and config.model.dtype == "float32"


@pytest.mark.parametrize(
    ("overrides", "stack", "placebo"),
    [
        ([], "default", False),
        (["rewards=placebo"], "default", True),
        (["rewards=no_xmlcount", "placebo=true"], "no_xmlcount", True),
        (["rewards=placebo", "placebo=false"], "default", False),
        (["rewards=placebo", "experiment=gsm8k"], "default", True),
    ],
)
def test_a_placebo_is_of_any_stack(overrides: list[str], stack: str, placebo: bool) -> None:
    config = compose(overrides)
    assert (config.rewards, config.placebo) == (compose([f"rewards={stack}"]).rewards, placebo)


@pytest.mark.parametrize(("command", "schema"), [("plan", PlanConfig), ("preflight", PreflightConfig)])
def test_commands_that_extend_training_have_its_settings(command: str, schema: type[Config]) -> None:
    """Groups whose values differ from the defaults in the schema, too."""
    typed = ["format=boxed", "algorithm=gdpo", "data=countdown", "correct_by=int"]
    with config_search_path(), translate_errors(schema):
        extended = asdict(load_config(hydra_compose(command, typed), schema))
    settings = asdict(compose(typed))
    assert {key: extended[key] for key in settings} == settings


def test_every_setting_has_a_comment() -> None:
    commands = (
        (Config, ["common", "format/tags", "config"]),
        (EvaluateConfig, ["common", "format/tags", "evaluate"]),
        (PlanConfig, ["common", "format/tags", "config", "plan"]),
        (PreflightConfig, ["common", "format/tags", "config", "plan", "preflight"]),
    )
    for schema, files in commands:
        text = "\n".join((CONF / f"{file}.yaml").read_text() for file in files)
        for item in fields(schema):
            if not is_dataclass(item.type) and item.name not in ("rewards", "hardware"):
                before = text.partition(f"\n{item.name}:")[0].splitlines()
                assert before[-1].startswith("# "), item.name


@pytest.mark.parametrize(
    "file",
    [
        "model/tiny",
        "optimizer/adamw",
        "algorithm/grpo",
        "rollout/fast",
        "rollout/generate",
        "rollout/continuous_batching",
        "rollout/vllm",
        "rollout/vllm_server",
        "tracking/wandb",
        "data/arithmetic",
        "data/gsm8k",
        "data/jsonl",
        "data/files",
        "data/hub",
        "data/math",
        "hardware/rtx3090",
    ],
)
def test_every_setting_of_a_group_has_a_comment(file: str) -> None:
    text = (CONF / f"{file}.yaml").read_text()
    for key in yaml.safe_load(text).keys() - {"defaults"}:
        assert " # " in next(line for line in text.splitlines() if line.startswith(f"{key}:")), key


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_generations=1", "num_generations=1: must be between 2 and 65,536: an advantage compares"),
        ("num_generations=abc", "num_generations=abc: must be a whole number."),
        ("rollout.top_p=0.9", "rollout.top_p=0.9: rollout=fast samples from the policy's own distribution and has no"),
        ("rollout.top_k=50", "no such setting; use rollout=generate rollout.top_k=50."),
        ("rollout.min_p=0.1", "rollout=generate rollout.min_p=0.1"),
        ("rollout.repetition_penalty=1.1", "rollout=generate rollout.repetition_penalty=1.1"),
        ("rollout.memory=0.5", "rollout.memory=0.5: rollout=fast has no such setting; rollout=vllm has it."),
        ("rollout.correction=token_mask", "rollout=vllm or rollout=vllm_server has it."),
        ("rollout=vllm", "device=cpu: rollout=vllm needs a GPU, device=cuda; on a CPU use rollout=fast"),
        ("rollout=vlm", "rollout=vlm: rollout has no option 'vlm'. Did you mean 'vllm'?"),
        ("threads=0", "threads=0: must be between 1 and 1,024"),
        ("num_generations=8,16", "num_generations=8,16: several values are a sweep, which needs -m."),
        ("nun_generations=8", "nun_generations: there is no such setting. Did you mean 'num_generations'?"),
        ("lr=1e-4", "lr: there is no such setting. Did you mean 'optimizer.lr'?"),
        (
            "optimizer.lrr=1",
            "optimizer.lrr: there is no such setting. Did you mean 'optimizer.lr'?",
        ),
        ("+optimizer.momentum=1", "optimizer.momentum: there is no such setting."),
        ("+max_stepz=1", "max_stepz: there is no such setting. Did you mean 'max_steps'?"),
        ("model=tinny", "model=tinny: model has no option 'tinny'. Did you mean 'tiny'?"),
        ("model=Qwen/Qwen2.5-7B", "model.path=HUB_ID_OR_FOLDER"),
        ("data=gsm", "data=gsm: data has no option 'gsm'. Did you mean 'gsm8k'?"),
        ("algorithm=drgrpo", "algorithm=drgrpo: algorithm has no option 'drgrpo'. Did you mean 'dr_grpo'?"),
        ("experiment=nothing", "experiment=nothing: experiment has no option 'nothing'. Known: ablate_rewards, gsm8k"),
        ("+experiment=gsm8k", "leave out the plus"),
        (
            "rewards.brevity=1",
            "rewards.brevity: the composed stack has no such reward; add one with +rewards.brevity=WEIGHT",
        ),
        ("optimizer.lr=-1", "optimizer.lr=-1.0: must be between 1e-12 and 100."),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a finite number."),
        ("optimizer.warmup=1.5", "optimizer.warmup=1.5: must be a fraction of the steps below 1, or a whole number"),
        ("seed=-1", "seed=-1: must be between 0 and 4,294,967,295."),
        ("device=gpu", "device=gpu: must be one of cpu, cuda; on a Mac use device=cpu bf16=false."),
        ("temperature=0", "temperature=0.0: must be between 0.0001 and 100."),
        ("algorithm.loss_type=ppo", "algorithm.loss_type=ppo: must be one of grpo"),
        ("algorithm.estimator=gae", "algorithm.estimator=gae: must be one of group_std, batch_std, no_scaling, gdpo"),
        ("algorithm.gate=on", "algorithm.gate=on: must be one of off, correctness, none_right; in a YAML file in"),
        ("algorithm.pass_k=1", "algorithm.pass_k=1: must be between 2 and 65,536: k = 1 is estimator=group_std"),
        ("data=jsonl", "data.path: data=jsonl needs the folder of your files"),
        ("data.train_problems=null", "data.train_problems=null: data=arithmetic needs a value there."),
        ("model.num_layers=2", "add model.init=random"),
        ("model.load_in_4bit=true", "4-bit weights are not trained; add model.lora_rank=16."),
        ("reward_files=mine.py", "reward_files=mine.py: a list is written in brackets, reward_files=[mine.py]."),
        ("bf16=maybe", "bf16=maybe: must be true or false."),
        ("prefix_attention=flash", "prefix_attention=flash: must be one of sdpa, flex."),
        ("system_prompt", "system_prompt: not a setting; write NAME=VALUE"),
        ("model=null", "a group takes the name of one of its files, as in model=tiny"),
        ("experiment=[gsm8k,nope]", "experiment=nope: experiment has no option 'nope'. Known: ablate_rewards, gsm8k"),
        ("optimizer.beta2=1", "optimizer.beta2=1.0: must be at least 0 and below 1."),
        ("data.path=folder", "data.path=folder: data=arithmetic has no such setting; choose the dataset with data=."),
        ("hydra.nothing=1", "hydra.nothing: there is no such setting. Those of Hydra, its sweeper and its launcher"),
    ],
)
def test_messages_about_wrong_settings(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        compose([override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_data_min_steps_must_not_exceed_data_max_steps() -> None:
    with pytest.raises(UserError, match=r"data.min_steps=4: must not exceed data.max_steps=3"):
        compose(["data.min_steps=4", "data.max_steps=3"])


def test_a_setting_of_shared_prompts_without_shared_prompts_is_refused() -> None:
    with pytest.raises(UserError, match=r"prefix_attention=flex: applies to shared prompts only; leave it out, or"):
        compose(["prefix_attention=flex", "share_prompts=false"])


def test_kernels_of_native_decoding_without_it_are_refused() -> None:
    with pytest.raises(UserError, match="rollout.native=true, or rollout.kernels=torch"):
        compose(["rollout.native=false", "rollout.kernels=triton"])


def test_seed_zero_and_null_are_values() -> None:
    config = compose(["seed=0", "max_prompt_length=null", "save_total_limit=null"])
    check_config(config)
    assert config.seed == 0 and config.max_prompt_length is None


@pytest.mark.parametrize(
    "arguments",
    [["nun_generations=8"], ["model=tinny"], ["num_generations=1"], ["+rewards.corectness=1"], ["optimizer.lr=fast"]],
)
def test_the_command_refuses_a_mistake_before_torch_is_imported(arguments: list[str], light, tmp_path) -> None:
    done = light("grpo.train", *arguments)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert "torch" not in done.modules
    assert not list(tmp_path.rglob("results.json"))


def test_a_log_that_cannot_be_opened_ends_in_one_line(light, tmp_path) -> None:
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    done = light("grpo.train", "hydra.run.dir=run")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line and "hydra.run.dir=FOLDER" in line


def test_the_quick_list_of_options_is_that_of_hydra() -> None:
    groups = ["", "hydra", "hydra/launcher", *GROUPS]

    def listed() -> list[list[str]]:
        loader = GlobalHydra.instance().config_loader()
        return [loader.get_group_options(name, kind) for name in groups for kind in (None, *ObjectType)]

    with config_search_path():
        hydras = listed()
        with quick_group_options():
            assert listed() == hydras


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "experiment=gsm8k"]])
def test_help_and_settings_need_no_torch(arguments: list[str], tmp_path) -> None:
    done = run_command("grpo.train", *arguments, cwd=tmp_path)
    assert done.returncode == 0 and not imported(done, "torch")
    assert ("experiment=gsm8k" if "--help" in arguments else "num_generations: 16") in done.stdout


def test_a_folder_that_cannot_be_written_ends_in_one_line(light, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    done = light("grpo.train", f"hydra.run.dir={tmp_path}/file/run")
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == 1 and "hydra.run.dir=FOLDER" in lines[0]
