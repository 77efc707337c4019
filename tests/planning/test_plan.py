"""`python -m grpo.plan`: its formulas compared with torch's accounting of real training steps, and its output."""

import json
import os
import re
import time
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.kernels.chunked_logprob
import trl.trainer.utils
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from grpo.config.groups import CONF, option_names
from grpo.config.schema import PlanConfig
from grpo.core.errors import UserError
from grpo.core.text import format_bytes
from grpo.plan import compose_plan, hardware_of, run
from grpo.planning import memory_parts, training_memory
from grpo.planning.architecture import Architecture, read_architecture
from grpo.planning.fit import batch_of, nearest_fitting, usable_memory
from grpo.planning.memory import memory_by_phase, peak_memory
from grpo.planning.planned_run import PlannedRun
from grpo.planning.roofline import DeviceRates, step_seconds
from grpo.policy.hub import ASSETS
from grpo.policy.loading import build_policy
from scripts.check_gpu_plan import build_longest_trainer
from tests.helpers.gsm8k import GSM8K, needs_gsm8k
from tests.helpers.models import QWEN, needs_bitsandbytes, needs_qwen

RESIDENT = {getattr(memory_parts, name) for name in ("WEIGHTS", "ADAPTERS", "REFERENCE", "OPTIMIZER", "SAMPLER")}
STEPS = ["max_steps=2", "save_steps=null", "tracking=none", "max_completion_length=16", "num_generations=4"]
TINY = ["max_prompt_length=84", "prompts_per_step=2", "data.train_problems=200", *STEPS]
RANDOM = [*TINY, "model.init=random"]
CUT = [
    "experiment=gsm8k",
    "device=cpu",
    "bf16=false",
    f"model.path={QWEN}",
    "model.init=random",
    "model.num_layers=2",
    f"data.path={GSM8K}",
    "data.train_problems=200",
    "max_prompt_length=92",
    "prompts_per_step=1",
    *STEPS,
    "max_completion_length=8",
]


def planned(*overrides: str) -> PlannedRun:
    config = compose_plan(overrides)
    return PlannedRun(config, batch_of(config), read_architecture(config.model)[0], config.sharding)


def memory(*overrides: str) -> dict[str, memory_parts.Parts]:
    return memory_by_phase(planned(*overrides))


def allocations(profiled: Any) -> list[tuple[int, int]]:
    """(time in ns, bytes in use) at each allocation and release that torch's profiler recorded."""
    found = []
    events = list(profiled.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    held: dict[int, int] = {}
    total, series = 0, []
    for at, place, size in sorted(found, key=lambda each: each[0]):
        if size > 0:
            held[place] = size
            total += size
        else:  # memory from before the profile is not counted when it is freed
            total -= held.pop(place, 0)
        series.append((at, total))
    return series


def shorten_first_step(trainer: Any) -> None:
    """Completions of 2 tokens in the first step, of which nothing is measured but the state that it leaves."""
    sample, limit = trainer._generate_single_turn, trainer.args.max_completion_length

    def set_limit(tokens: int) -> None:
        trainer.args.max_completion_length = trainer.generation_config.max_new_tokens = tokens

    def sample_two_tokens(*args: Any, **kwargs: Any) -> Any:
        set_limit(2)
        try:
            return sample(*args, **kwargs)
        finally:
            set_limit(limit)
            trainer._generate_single_turn = sample

    trainer._generate_single_turn = sample_two_tokens


def measure_peaks(config: PlanConfig, out: Path) -> dict[str, int]:
    """The peak bytes of each phase of the last step, and the bytes at its start (`resident`)."""
    began: list[tuple[str, int]] = []

    def phase(name: str) -> None:
        if name == "sampling":
            began.clear()
        began.append((name, time.time_ns()))

    trainer, _ = build_longest_trainer(config, out, phase)
    shorten_first_step(trainer)
    models = [model for model in (trainer.model, trainer.ref_model) if model is not None]
    # Built before the profile, and possibly mapped from a file, which no allocator counts.
    weights = sum(parameter.nbytes for model in models for parameter in model.parameters())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.train()
    events = allocations(profiled)
    times, peaks = [at for at, _ in events], dict.fromkeys(("sampling", "training", "update"), 0)
    for (name, start), (_, end) in zip(began, [*began[1:], ("", times[-1] + 1)], strict=True):
        within = [size for _, size in events[bisect_left(times, start) : bisect_left(times, end)]]
        peaks[name] = max([peaks[name], *(weights + size for size in within)])
    start = bisect_left(times, began[0][1])
    return peaks | {"resident": weights + events[start - 1][1]}


CASES = {
    "tiny": [*RANDOM, "micro_batch_size=8"],
    "tiny, in micro-batches": [*RANDOM, "micro_batch_size=2"],
    "tiny, checkpointing": [*RANDOM, "micro_batch_size=8", "activation_checkpointing=true"],
    "tiny, LoRA": [*RANDOM, "micro_batch_size=8", "model.lora_rank=8"],
    "tiny, TRL's step": [*RANDOM, "micro_batch_size=4", "share_prompts=false", "rollout=generate"],
    "tiny, LoRA and checkpointing, TRL's step": [
        *RANDOM,
        *("micro_batch_size=4", "share_prompts=false", "model.lora_rank=8", "activation_checkpointing=true"),
    ],
    "tiny, with a reference policy": [*RANDOM, "micro_batch_size=8", "algorithm=grpo_kl"],
    "tiny, bf16": [*RANDOM, "micro_batch_size=8", "bf16=true"],
    "tiny, LoRA over bf16": [*RANDOM, "micro_batch_size=8", "bf16=true", "model.dtype=bfloat16", "model.lora_rank=8"],
    "tiny, Adafactor, transformers' decoder": [*RANDOM, "optimizer=adafactor", "rollout.native=false"],
    "tiny, 8-bit AdamW": [*RANDOM, "micro_batch_size=8", "optimizer=adamw_8bit"],
    "tiny, QLoRA": [
        *TINY,
        # Hot enough that no two completions are equal, as with random weights.
        *("micro_batch_size=8", "model.lora_rank=8", "model.load_in_4bit=true", "bf16=true", "temperature=5"),
    ],
    "Qwen2.5, cut": [*CUT, "micro_batch_size=4"],
    "Qwen2.5, cut, in micro-batches": [*CUT, "micro_batch_size=2", "max_completion_length=128"],
    "Qwen2.5, cut, LoRA and checkpointing": [
        *CUT,
        *("micro_batch_size=4", "model.lora_rank=16", "activation_checkpointing=true"),
    ],
    "Qwen2.5, cut, TRL's step": [*CUT, "micro_batch_size=2", "share_prompts=false", "rollout=generate"],
    "Qwen2.5, cut, bf16": [*CUT, "micro_batch_size=4", "bf16=true"],
}
MARKS = {
    "tiny, 8-bit AdamW": [needs_bitsandbytes],
    "tiny, QLoRA": [needs_bitsandbytes],
    "Qwen2.5, cut": [needs_qwen, needs_gsm8k],
    "Qwen2.5, cut, LoRA and checkpointing": [needs_qwen, needs_gsm8k],
    "Qwen2.5, cut, in micro-batches": [needs_qwen, needs_gsm8k, pytest.mark.slow],
    "Qwen2.5, cut, TRL's step": [needs_qwen, needs_gsm8k, pytest.mark.slow],
    "Qwen2.5, cut, bf16": [needs_qwen, needs_gsm8k, pytest.mark.slow],
}


@pytest.mark.parametrize("overrides", [pytest.param(CASES[name], id=name, marks=MARKS.get(name, [])) for name in CASES])
def test_memory_agrees_with_torchs_accounting(overrides: list[str], tmp_path) -> None:
    """The peak of each phase, and the temporary part of training, which is small next to large weights."""
    phases = memory(*overrides)
    said = {name: sum(parts.values()) for name, parts in phases.items()}
    said["temporary"] = sum(size for part, size in phases["training"].items() if part not in RESIDENT)
    took = measure_peaks(compose_plan(overrides), tmp_path)
    took["temporary"] = took["training"] - took["resident"]
    ratios = {name: said[name] / took[name] for name in said}
    print("; ".join(f"{name} {said[name] / 1e6:.1f} / {took[name] / 1e6:.1f} MB = {ratios[name]:.3f}" for name in said))
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values()), ratios


def test_ddp_holds_gradients_twice() -> None:
    """DDP allocates buckets as large as the gradients when it starts."""
    alone = not torch.distributed.is_initialized()  # a test of an engine may leave a process group behind
    if alone:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        layers = torch.nn.Sequential(*[torch.nn.Linear(500, 500, bias=False) for _ in range(4)])
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            # Without the broadcast of the weights, whose copy is freed at some later time.
            torch.nn.parallel.DistributedDataParallel(layers, init_sync=False)
    finally:
        if alone:
            torch.distributed.destroy_process_group()
    assert max(level for _, level in allocations(profiled)) == pytest.approx(4 * 500 * 500 * 4, rel=0.05)
    ddp = memory("experiment=gsm8k", "world_size=2")["update"]
    assert ddp["communication"] == ddp["gradients"] == 4 * 494_032_768


def test_the_tiles_of_the_head_are_those_of_trl() -> None:
    assert (training_memory.TILE_TOKENS, training_memory.TILE_WIDTH) == (
        trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE,
        trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE,
    )


def test_the_parameters_are_those_of_the_policy() -> None:
    """All parameters, and the trained ones."""
    for rank in (0, 8):
        run = planned(f"model.lora_rank={rank}")
        policy = build_policy(run.config.model, seed=0)
        sizes = {name: parameter.numel() for name, parameter in policy.named_parameters()}
        trained = [sizes[name] for name, parameter in policy.named_parameters() if parameter.requires_grad]
        assert run.architecture.parameters + run.adapter_parameters == sum(sizes.values())
        assert run.trained_parameters == sum(trained)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("llama3.2-1b", 1_235_814_400),
        ("gemma3-270m", 268_098_176),
        ("gemma3-1b", 999_885_952),
    ],
)
def test_shipped_sizes_need_no_hub(name: str, parameters: int) -> None:
    """They add up to the parameters that the hub counts in the published weights."""
    model = compose_plan([f"model={name}"]).model
    of, origin = read_architecture(model)
    assert of.parameters == parameters == pytest.approx(model.parameters, rel=0.005)
    assert origin == f"as shipped, of {model.path}"


@pytest.mark.parametrize("name", ["qwen3-0.6b", "smollm2-135m", "gemma3-270m"])
def test_parameters_are_those_of_transformers(name: str) -> None:
    shipped = json.loads((ASSETS / "architectures.json").read_text())[compose_plan([f"model={name}"]).model.path]
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shipped))
    assert Architecture.from_settings(shipped).parameters == sum(each.numel() for each in policy.parameters())


@needs_qwen
def test_shipped_sizes_are_those_of_the_config() -> None:
    shipped, _ = read_architecture(compose_plan(["model=qwen2.5-0.5b"]).model)
    read, origin = read_architecture(compose_plan(["model=qwen2.5-0.5b", f"model.path={QWEN}"]).model)
    assert read == shipped and origin == f"config.json of {os.path.abspath(QWEN)}"


def test_sharding_divides_gradients_states_and_weights() -> None:
    """Rajbhandari et al. 2020, figure 1: gradients and moments by zero2, the weights too by zero3."""
    base = ["experiment=gsm8k", "bf16=false", "world_size=4", "micro_batch_size=4"]
    ddp, zero2, zero3 = (memory(*base, f"sharding={way}")["update"] for way in ("ddp", "zero2", "zero3"))
    for part in ("gradients", "optimizer states"):
        assert zero2[part] == zero3[part] == ddp[part] / 4
    assert zero2["weights"] == ddp["weights"] == 4 * zero3["weights"]
    assert ddp["weights"] + ddp["gradients"] + 2 / 3 * ddp["optimizer states"] == pytest.approx(16 * 494.03e6, rel=1e-4)
    # With bf16, DeepSpeed stores weights in 2 bytes, and in 4 bytes with the moments.
    mixed = memory(*base, "bf16=true", "sharding=zero2")
    assert 2 * mixed["sampling"]["weights"] == zero2["weights"]
    assert 4 * mixed["sampling"]["optimizer states"] == pytest.approx(12 * 494.03e6, rel=1e-4)


def test_the_least_time_of_a_small_policy() -> None:
    """Each part, counted by hand."""
    sizes = {"hidden_size": 10, "intermediate_size": 20, "num_attention_heads": 1, "num_hidden_layers": 1}
    of = Architecture.from_settings({"model_type": "llama", "vocab_size": 100, "tie_word_embeddings": True, **sizes})
    assert of.linear_parameters == 4 * 10 * 10 + 3 * 10 * 20 == 1000 and of.head_parameters == 1000
    config = compose_plan(
        ["experiment=gsm8k", "max_prompt_length=50", "max_completion_length=10", "micro_batch_size=64"]
    )
    flops, bandwidth = 1e6, 1e30
    seconds = step_seconds(PlannedRun(config, batch_of(config), of), DeviceRates(flops, flops, bandwidth))
    completions, prompts = 64 * 10, 4 * 50
    assert seconds["decode"] == pytest.approx(2 * 2000 * completions / flops)
    assert seconds["prefill"] == pytest.approx(2 * 1000 * prompts / flops)
    # A prompt's last token is computed with its completions; the head computes its logits again in the backward pass.
    assert seconds["train"] == pytest.approx((6 * 1000 * (completions + prompts - 4) + 8 * 1000 * completions) / flops)
    memory_bound = step_seconds(PlannedRun(config, batch_of(config), of), DeviceRates(1e30, 1e30, 1e6))
    assert memory_bound["update"] == pytest.approx(28 * of.parameters / 1e6)
    assert memory_bound["communication"] == 0


def test_flex_attention_stores_neither_padded_rows_nor_a_mask() -> None:
    sdpa, flex = (
        memory("experiment=gsm8k", "device=cuda", f"prefix_attention={name}")["training"][memory_parts.ACTIVATIONS]
        for name in ("sdpa", "flex")
    )
    assert 0.5 * sdpa < flex < 0.95 * sdpa


@pytest.mark.parametrize(
    ("more", "part", "times"),
    [
        (["share_prompts=false"], "train", 2.0),
        (["activation_checkpointing=true"], "train", 1.2),
        (["algorithm.num_iterations=2"], "decode", 0.5),
        (["algorithm=grpo_kl"], "train", 1.0),
        (["bf16=false"], "train", 71 / 35.6),
        (["rollout=generate"], "prefill", 16.0),
    ],
)
def test_settings_change_the_least_time(more: list[str], part: str, times: float) -> None:
    base = ["experiment=gsm8k", "max_completion_length=100"]
    plain, other = (seconds(*base, *extra)[part] for extra in ([], more))
    assert other / plain == pytest.approx(times, rel=0.3 if times in (2.0, 1.2) else 0.01)


def seconds(*overrides: str) -> dict[str, float]:
    config = compose_plan(overrides)
    hardware = hardware_of(config)
    rates = DeviceRates(hardware.flops_bf16, hardware.flops_fp32, hardware.bandwidth, hardware.link)
    return step_seconds(planned(*overrides), rates)


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_each_model_file_states_the_memory_of_its_policy(file: Path) -> None:
    line = next(line for line in file.read_text().splitlines() if line.startswith("# Takes "))
    command = line.partition("python -m grpo.plan")[2].split()
    assert file.stem == "tiny" or f"model={file.stem}" in command
    expected = format_bytes(peak_memory(memory(*command)))
    assert line == f"# Takes {expected} per device: {' '.join(['python -m grpo.plan', *command])}"


@pytest.mark.parametrize("name", option_names("hardware"))
def test_each_hardware_file_names_its_datasheet(name: str) -> None:
    hardware = compose_plan([f"hardware={name}"]).hardware
    assert hardware and hardware.flops_bf16 > 0 and hardware.memory > 0
    assert re.search("datasheet|whitepaper", (CONF / "hardware" / f"{name}.yaml").read_text())


def test_proposals_fit_and_fewer_changes_do_not() -> None:
    config = compose_plan(["experiment=gsm8k", "model=qwen2.5-1.5b", "world_size=4"])
    hardware = hardware_of(config)
    of, room = read_architecture(config.model)[0], usable_memory(hardware, config.rollout)
    assert peak_memory(memory("experiment=gsm8k", "model=qwen2.5-1.5b", "world_size=4")) > room
    proposed = nearest_fitting(config, of, room)
    assert proposed
    for overrides, size in proposed:
        again = memory("experiment=gsm8k", "model=qwen2.5-1.5b", "world_size=4", *overrides)
        assert peak_memory(again) == pytest.approx(size) and size <= room
        ways = [[each for each in overrides if each.startswith("model.")]]
        ways += [[each] for each in overrides if not each.startswith("model.")]
        for way in ways:
            rest = [each for each in overrides if each not in way]
            assert (
                peak_memory(memory("experiment=gsm8k", "model=qwen2.5-1.5b", "world_size=4", *rest)) > room or not way
            )


def test_the_printed_plan(light) -> None:
    done = light("grpo.plan", "experiment=gsm8k", "model=qwen2.5-3b", "world_size=4", "hardware=rtx3090", COLUMNS="80")
    assert done.returncode == 0 and not done.stderr
    proposals = r"  \w+="  # lines to copy are not broken
    assert max(len(line) for line in done.stdout.splitlines() if not re.match(proposals, line)) <= 80
    for said in (
        "4 prompts x 16 completions = 64 per step, 1 x 16 on 4 processes",
        "4 x RTX 3090, 24 GiB each, sharding=ddp",
        "optimizer states",
        "total",
        "does not fit",
        "Nearest settings that fit",
        "lora_rank=16",
        "decode",
        "7,472 problems, 1,868 steps",
        "a lower bound, not a forecast",
    ):
        assert said in done.stdout, said
    phases = memory("experiment=gsm8k", "model=qwen2.5-3b", "world_size=4").values()
    assert " ".join(f"{sum(parts.values()) / 2**30:.2f}" for parts in phases) in " ".join(done.stdout.split())


MINE = """
import time
from grpo.rewards import reward

@reward
def sleepy(completion):
    time.sleep(0.002)
    return 1

@reward
def levels(completion, level):
    return 1 / level
"""


def test_the_time_of_the_rewards_is_measured_or_given(tmp_path, capsys) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    own = [f"reward_files=[{tmp_path / 'mine.py'}]", "+rewards.sleepy=1", "+rewards.levels=1"]
    run(compose_plan(own))
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"rewards \d+\.\d m?s per step: 64 completions x \d+\.\d ms; the slowest is sleepy", said)
    assert "reward levels not measured: reward 'levels' raised TypeError: unsupported operand" in said
    run(compose_plan([*own, "reward_seconds=0.5", "reward_workers=2", "world_size=2"]))
    assert "rewards 16.0 s per step on each process: 32 completions x 500.0 ms" in " ".join(
        capsys.readouterr().out.split()
    )


def test_further_completions_of_resampling_are_counted(capsys) -> None:
    run(compose_plan(["algorithm.resample=2", "algorithm.steps_per_generation=2", "reward_seconds=0.001"]))
    said = " ".join(capsys.readouterr().out.split())
    assert "at most 256 further completions per rollout, to sample and to score" in said


@pytest.mark.parametrize(
    ("typed", "problems"),
    [(["data.difficulty=rates.jsonl"], "2,000"), (["data=gsm8k", "data.filter={topic:[pens]}"], "7,472")],
)
def test_an_epoch_of_chosen_problems_has_at_most_all_of_them(capsys, typed: list[str], problems: str) -> None:
    run(compose_plan([*typed, "reward_seconds=0.001"]))
    assert f"an epoch at most {problems} problems, " in " ".join(capsys.readouterr().out.split())


def test_it_imports_no_torch(light) -> None:
    done = light("grpo.plan", "experiment=gsm8k", "hardware=h100")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "transformers", "datasets"} & done.modules


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["experiment=gsm8k", "world_size=3"], "cannot be divided evenly among 3 processes. Nearest that can:"),
        (["hardware=rtx309"], "hardware=rtx309: hardware has no option 'rtx309'. Did you mean 'rtx3090'?"),
        (["hardware=h100"], "device=cpu: H100 80 GB is a different device; add device=cuda, or use hardware=cpu."),
        (["sharding=zero4"], "sharding=zero4: must be one of ddp, zero2, zero3, fsdp2."),
        (["world_size=0"], "world_size=0: must be between 1 and 1,000,000."),
        (["max_prompt_length=null"], "max_prompt_length=null: a plan needs the longest prompt"),
        (["model.adapter=/nowhere"], "model.adapter=/nowhere: there is no such folder"),
        (["model.path=someone/something"], "its config.json is not on this machine, and a plan does not ask a hub."),
    ],
)
def test_mistakes_end_in_one_line(typed: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        run(compose_plan(typed))
    assert "\n" not in str(raised.value)


def test_a_multirun_plans_each_job(light) -> None:
    done = light("grpo.plan", "-m", "micro_batch_size=16,64", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "micro_batch_size=16" in done.stdout and done.stdout.count("total") == 4


def test_an_unsupported_architecture_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 768, "vocab_size": 50257}))
    with pytest.raises(
        UserError,
        match="there is no num_attention_heads in the config.json of .*; a plan supports decoders of the Qwen2 kind",
    ):
        read_architecture(replace(compose_plan().model, path=str(tmp_path)))


def test_resume_is_refused() -> None:
    with pytest.raises(UserError, match="resume=outputs/latest: a plan is made from settings"):
        run(compose_plan(["resume=outputs/latest"]))
