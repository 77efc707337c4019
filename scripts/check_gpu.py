"""Check on a GPU what tests on a CPU cannot show.

`python scripts/check_gpu.py`, or with names: `python scripts/check_gpu.py graphs train`

  graphs     sampling with CUDA graphs: greedy tokens equal those of generate, also after the weights change; sampled
             tokens equal those of the same sampler without graphs
  kernels    Triton's kernels: their tests, then scripts/benchmark_decode.py without complete steps
  attention  prefix_attention=flex: its tests, then scripts/benchmark_attention.py; the embedded default with each
             attention, and five steps of the reference, if the folders are named
  train      the embedded default, and whether twenty steps of it are reproducible to the last bit
  reference  ten steps of experiment=gsm8k at full size with random weights, if GRPO_GSM8K_DIR and GRPO_QWEN_DIR name
             the folders of its data and tokenizer
  continuous_batching  the embedded default with transformers' engine, in bfloat16 and in float32: it learns, and the
             weights stay float32; then five steps of the reference, if the folders are named
  vllm       if vLLM is installed, the embedded default with it, with and without sleep, and with adapters: its
             log-probabilities are close to the trainer's at every step, so the weights arrive; then five steps of the
             reference
  vllm_server  the same with a server that it starts on a second GPU
  plan       the memory that python -m grpo.plan computes for some settings of experiment=gsm8k at full size, compared
             with two measured steps of each, with random weights and the same two folders; one line per phase

Each check prints one line: ok, FAILED or skipped, and the results. The exit code is 1 if any check failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from grpo.config.composition import compose
from grpo.core.process import guard_streams
from grpo.core.run_log import quiet_libraries
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.hub import resolve_model_path
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.sampling.engines import VLLM_INSTALL
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.tasks.arithmetic import generate_problems
from scripts.check_gpu_plan import GSM8K, QWEN, Skipped, check_plan


def count_differences(
    policy: Any, prompts: list[list[int]], completions: list[list[int]], others: list[list[int]]
) -> tuple[int, float]:
    """The number of completions that differ, and the largest gap between the two best logits where they diverge."""
    gaps = []
    for prompt, completion, other in zip(prompts, completions, others, strict=True):
        if completion != other:
            diverged = next(i for i, (a, b) in enumerate(zip(completion, other, strict=False)) if a != b)
            with torch.no_grad():
                logits = policy(torch.tensor([prompt + completion[:diverged]], device=policy.device)).logits[0, -1]
            first, second = logits.topk(2).values.tolist()
            gaps.append(first - second)
    return len(gaps), max(gaps, default=0.0)


def compare_tokens(policy: Any, tokenizer: Any, prompts: list[list[int]], limit: int, largest_gap: float) -> list[str]:
    """Compare greedy tokens with those of `generate`, and sampled tokens with those of the sampler without graphs."""
    graphs, reference_sampler = (PrefixSharingSampler(policy, tokenizer, bf16=False, fused=True) for _ in range(2))
    assert graphs.graphs is not None, "no CUDA graphs were used"
    reference_sampler.graphs = None
    report = []
    for weights in ("as they are", "changed"):
        if weights == "changed":
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
        reference = GenerateSampler(policy, tokenizer, bf16=False).complete(prompts, limit)
        for _ in range(2):  # captured, then replayed
            count, gap = count_differences(policy, prompts, graphs.complete(prompts, limit), reference)
            assert gap < largest_gap, (
                f"greedy tokens diverge from generate's at a gap of {gap} between the two best logits"
            )
        report.append(f"greedy, weights {weights}: {count} of {len(prompts)} diverge, at near-ties (gap {gap:.1e})")
    seeds = [(0, row) for row in range(len(prompts))]
    ours = graphs.complete(prompts, limit, 1.0, seeds)
    again = graphs.complete(prompts, limit, 1.0, seeds)
    assert ours == again, "the same seeds gave other tokens"
    same = sum(a == b for a, b in zip(ours, reference_sampler.complete(prompts, limit, 1.0, seeds), strict=True))
    assert same >= 0.97 * len(prompts), f"only {same} of {len(prompts)} sampled completions are those without graphs"
    return [*report, f"sampled: {same} of {len(prompts)} as without graphs"]


def check_graphs() -> str:
    config = compose(["device=cuda"])
    tokenizer = build_tokenizer(config.model)
    policy: Any = build_policy(config.model, 0)
    policy.cuda()
    questions = [problem.question for problem in islice(generate_problems(True, seed=0), 256)]
    answer_start = tokenizer("<reasoning>\n")["input_ids"]
    prompts = [ids + answer_start for ids in ChatTemplate.of(tokenizer, config).prompt_ids(questions)]
    report = compare_tokens(policy, tokenizer, prompts, 48, 1e-3)
    if QWEN:
        config = compose(["experiment=gsm8k", f"model.path={QWEN}", "model.init=random"])
        tokenizer = build_tokenizer(config.model)
        set_seed(0)
        policy = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(QWEN)).float().eval()
        policy.cuda()
        chat = ChatTemplate.of(tokenizer, config)
        prompts = [ids for ids in chat.prompt_ids(questions[:8]) for _ in range(4)]
        report += [f"Qwen2.5-0.5B: {line}" for line in compare_tokens(policy, tokenizer, prompts, 40, 1e-3)]
    return "; ".join(report)


def run(*arguments: str, exit_codes: tuple[int, ...] = (0,)) -> str:
    """The output of a command of this project, which must end with one of `exit_codes`."""
    command = [sys.executable, "-m", *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.returncode in exit_codes, (
        f"{' '.join(arguments)} ended with {process.returncode}:\n{process.stdout[-3000:]}"
    )
    return process.stdout


def read_results(folder: Path) -> dict[str, Any]:
    """The content of a run's results.json."""
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def check_train() -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run("grpo.train", "device=cuda", "tracking=none", f"hydra.run.dir={out}")
        results = read_results(out)
        before, after = (results[when]["accuracy_strict"] for when in ("before", "after"))
        assert after > before + 0.3, f"strict accuracy went from {before} to {after}"
        report = [f"strict accuracy {before:.3f} -> {after:.3f}, seconds {results['seconds']}"]
        for deterministic in ("false", "true"):
            out = Path(folder) / deterministic
            settings = ["device=cuda", "tracking=none", "max_steps=20", f"deterministic={deterministic}"]
            run("grpo.train", *settings, f"hydra.run.dir={out}")
            again = run("grpo.reproduce", str(out), "--out", f"{out}-again", exit_codes=(0, 1)).splitlines()
            report.append(f"reproduced with deterministic={deterministic}: {again[-1].strip()}")
        return "; ".join(report)


def check_reference() -> str:
    if not (GSM8K and QWEN):
        raise Skipped("GRPO_GSM8K_DIR and GRPO_QWEN_DIR do not name GSM8K and Qwen2.5's tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.monotonic()
        paths = [f"model.path={QWEN}", "model.init=random", f"data.path={GSM8K}"]
        short = ["max_steps=10", "data.eval_problems=64", "save_steps=null", "tracking=none"]
        run("grpo.train", "experiment=gsm8k", *paths, *short, f"hydra.run.dir={out}")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "step_time" in line]
        last = {name: steps[-1][name] for name in ("step", "step_time", "completions/mean_length")}
        return f"{read_results(out)['seconds']}, in all {time.monotonic() - began:.0f} s; {last}"


def test_and_measure(tests: str, *benchmark: str) -> str:
    """The last line of tests on the GPU, and what a benchmark prints."""
    os.environ["GRPO_TEST_CUDA"] = "1"
    return f"{run('pytest', '-n', '0', '-q', tests).strip().splitlines()[-1]}\n{run(*benchmark)}"


def check_kernels() -> str:
    return test_and_measure("tests/sampling/test_kernels.py", "scripts.benchmark_decode", "--steps", "0")


def check_attention() -> str:
    report = [test_and_measure("tests/policy/test_prefix_attention.py", "scripts.benchmark_attention")]
    with tempfile.TemporaryDirectory() as folder:
        for attention in ("sdpa", "flex"):
            out = Path(folder) / attention
            results, _ = train_run(out, f"prefix_attention={attention}", "max_steps=40")
            assert "does not work here" not in (out / "train.log").read_text()
            after = results["after"]["accuracy_strict"]
            assert after > results["before"]["accuracy_strict"] + 0.2, f"{attention}: strict accuracy after is {after}"
            report.append(f"{attention}: strict accuracy {after:.3f} in 40 steps, seconds {results['seconds']}")
            report.append(train_reference(Path(folder) / f"reference-{attention}", f"prefix_attention={attention}"))
    return "\n".join(report)


def train_run(out: Path, *settings: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train a run with these settings; returns its results and the metrics of each step."""
    run("grpo.train", "device=cuda", "tracking=none", *settings, f"hydra.run.dir={out}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return read_results(out), [line for line in lines if "step_time" in line]


def train_reference(out: Path, *settings: str) -> str:
    """Train five steps of experiment=gsm8k at full size with random weights; returns their times."""
    if not (GSM8K and QWEN):
        return "the reference needs GRPO_GSM8K_DIR and GRPO_QWEN_DIR"
    paths = [f"model.path={QWEN}", "model.init=random", f"data.path={GSM8K}"]
    results, steps = train_run(out, "experiment=gsm8k", *paths, "max_steps=5", "data.eval_problems=64", *settings)
    return (
        f"reference: seconds {results['seconds']}, seconds per step {[round(line['step_time'], 2) for line in steps]}"
    )


def check_continuous_batching() -> str:
    report = []
    with tempfile.TemporaryDirectory() as folder:
        for bf16 in ("true", "false"):
            out = Path(folder) / bf16
            results, _ = train_run(out, "rollout=continuous_batching", f"bf16={bf16}", "max_steps=40")
            before, after = (results[when]["accuracy_strict"] for when in ("before", "after"))
            assert after > before + 0.2, f"bf16={bf16}: strict accuracy went from {before} to {after}"
            weights = load_file(out / "policy" / "model.safetensors")
            assert {weight.dtype for weight in weights.values()} == {torch.float32}
            report.append(f"bf16={bf16}: {before:.3f} -> {after:.3f} in 40 steps, seconds {results['seconds']}")
        report.append(train_reference(Path(folder) / "reference", "rollout=continuous_batching"))
    return "; ".join(report)


def check_log_probabilities(steps: list[dict[str, Any]]) -> str:
    """Check that vLLM's log-probabilities are close to the trainer's at every step."""
    differences = [line["sampling/sampling_logp_difference/mean"] for line in steps]
    ratios = [line["sampling/importance_sampling_ratio/mean"] for line in steps]
    assert max(differences) < 0.05, f"log-probabilities differ by {differences} on average"
    assert all(0.9 < ratio < 1.1 for ratio in ratios), f"importance sampling ratios of {ratios}"
    return f"log-probabilities within {max(differences):.1e} on average, ratios {min(ratios):.4f} to {max(ratios):.4f}"


def check_vllm() -> str:
    if not find_spec("vllm"):
        raise Skipped(f"vLLM is not installed: {VLLM_INSTALL}")
    report = []
    for setting in ("bf16=false", "bf16=true", "rollout.sleep=true", "model.lora_rank=8"):
        with tempfile.TemporaryDirectory() as folder:
            results, steps = train_run(Path(folder) / "run", "rollout=vllm", "max_steps=20", setting)
            right = f"{results['before']['accuracy_strict']:.3f} -> {results['after']['accuracy_strict']:.3f}"
            report.append(f"{setting}: {check_log_probabilities(steps)}, {right}, seconds {results['seconds']}")
    with tempfile.TemporaryDirectory() as folder:
        report.append(train_reference(Path(folder) / "run", "rollout=vllm"))
    return "; ".join(report)


def check_vllm_server() -> str:
    if not find_spec("vllm"):
        raise Skipped(f"vLLM is not installed: {VLLM_INSTALL}")
    if torch.cuda.device_count() < 2:
        raise Skipped("a server needs a second GPU")
    serve = ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs"]
    serve += ["--max-logprobs", "-1", "--max-model-len", "512", "--port", "8765"]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "CUDA_VISIBLE_DEVICES": "1"}
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"  # the GPU of the run
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "server.log").open("w") as log:
        command = ["vllm", "serve", resolve_model_path("embedded:tiny"), *serve]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            settings = ["rollout=vllm_server", "rollout.server=http://localhost:8765", "rollout.server_timeout=240"]
            results, steps = train_run(Path(folder) / "run", *settings, "max_steps=20")
            return f"{check_log_probabilities(steps)}, seconds {results['seconds']}"
        finally:
            server.terminate()
            server.wait(60)


CHECKS: dict[str, Callable[[], str]] = {
    "graphs": check_graphs,
    "kernels": check_kernels,
    "attention": check_attention,
    "train": check_train,
    "reference": check_reference,
    "continuous_batching": check_continuous_batching,
    "vllm": check_vllm,
    "vllm_server": check_vllm_server,
    "plan": check_plan,
}


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(CHECKS)}; default: all")
    names = parser.parse_args().names or list(CHECKS)
    if unknown := set(names) - set(CHECKS):
        parser.error(f"{', '.join(unknown)}: the checks are {', '.join(CHECKS)}")
    if not torch.cuda.is_available():
        sys.exit("error: these checks need a CUDA device, and this machine has none.")
    quiet_libraries()
    os.environ["HF_HUB_OFFLINE"] = "1"
    failed = False
    for name in names:
        began = time.monotonic()
        try:
            outcome, details = "ok", CHECKS[name]()
        except Skipped as reason:
            outcome, details = "skipped", str(reason)
        except Exception:
            outcome, details, failed = "FAILED", traceback.format_exc(limit=-4), True
        print(f"{name}: {outcome}, {time.monotonic() - began:.0f} s: {details}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
