"""Compare the decode step with Triton's kernels (rollout.kernels=triton) and without, on a GPU.

`python scripts/benchmark_decode.py`: Qwen2.5-0.5B's architecture with random weights, 4 x 16 completions of 200 tokens
after 256 of prompt, in bfloat16 over float32 weights. Then it measures complete steps with `scripts/benchmark.py`,
beside TRL's and the lower bound; `--steps 0` leaves that out.

The two arms take turns in one process. A decode step is the time of sampling all completions divided by their tokens,
after the graphs were captured. The columns: milliseconds per decode step, with quartiles; kernels that the GPU runs in
a step; the share of tokens before a completion first differs from the one without Triton (random weights make all
tokens nearly equally probable, so rounding decides some); and the mean difference of log-probabilities in the worst of
16 steps. The exit code is 1 if in float32 the difference is above 1e-3 or the share below a half.

Rehearsal without a GPU, in Triton's interpreter, whose times mean nothing:
`TRITON_INTERPRET=1 python scripts/benchmark_decode.py --model tiny`
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

from grpo.config.composition import compose
from grpo.core.process import guard_streams
from grpo.policy.hub import ASSETS
from grpo.policy.loading import build_tokenizer
from grpo.policy.prefix_sharing import forward_packed, unwrap_adapters
from grpo.sampling.cuda_graphs import StaticSlots
from grpo.sampling.kv_cache import PromptPrefill
from grpo.sampling.policy_state import sampling_mode
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler, draw_uniforms
from grpo.sampling.token_sampler import TokenSampler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QWEN = json.loads((ASSETS / "architectures.json").read_text())["Qwen/Qwen2.5-0.5B-Instruct"]
TINY = QWEN | {
    "vocab_size": 5000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
console = Console(highlight=False)


def build_arms(policy: Any, bf16: bool) -> dict[str, PrefixSharingSampler]:
    """A sampler without and one with the kernels; no token ends a completion."""
    tokenizer = build_tokenizer(compose().model)
    arms = {name: PrefixSharingSampler(policy, tokenizer, bf16, fused=True) for name in ("torch", "triton")}
    arms["triton"].use_kernels()
    if arms["triton"].sample is arms["torch"].sample:
        sys.exit("error: the kernels do not work here; the reason is above.")
    for sampler in arms.values():
        sampler.is_end_token.fill_(False)
    return arms


def count_kernels(sampler: PrefixSharingSampler, prompts: list[list[int]], slots: int) -> int:
    """Kernels and copies that the GPU runs in one decode step; 0 without a GPU."""
    if DEVICE == "cpu":
        return 0
    rows = [prompt for prompt in range(len(prompts)) for _ in range(slots)]
    with sampling_mode(sampler.policy, sampler.bf16):
        prefill = PromptPrefill(prompts, sampler.is_end_token.device)
        sampler.decoder.update_weights()
        forward_packed(unwrap_adapters(sampler.policy).base_model, prefill)
        static_slots = StaticSlots.create(prefill, rows, draw_uniforms(len(rows), 64, None), 64)
        token_sampler = TokenSampler(sampler.decoder, 1.0, sampler.is_end_token, sampler.sample)
        static_slots.step(token_sampler)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            static_slots.step(token_sampler)
            torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events())


def time_arms(
    arms: dict[str, PrefixSharingSampler], rows: list[list[int]], tokens: int, rounds: int
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds per decode step of each arm in each round, and the share of tokens before completions differ."""
    seeds = [(0, row) for row in range(len(rows))]
    times: dict[str, list[float]] = {name: [] for name in arms}
    completions: dict[str, list[list[int]]] = {}
    for number in range(rounds + 1):  # the first captures the graphs
        for name, sampler in arms.items():
            began = time.perf_counter()
            completions[name] = sampler.complete(rows, tokens, 1.0, seeds)  # reads its tokens, so the GPU has finished
            if number:
                times[name].append((time.perf_counter() - began) * 1e3 / tokens)
    equal = sum(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*pair, strict=True)))
        for pair in zip(*completions.values(), strict=True)
    )
    return times, equal / (len(rows) * tokens)


def compare_decode(
    sizes: dict[str, Any], prompts: int, slots: int, prompt_tokens: int, tokens: int, rounds: int
) -> bool:
    """Measure both arms and print a table; returns whether the kernels compute the same in float32."""
    set_seed(0)
    policy: Any = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval().to(DEVICE)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(sizes["vocab_size"], (prompts, prompt_tokens), generator=generator).tolist()
    rows = [prompt for prompt in ids for _ in range(slots)]
    table = Table("decode step", "ms", "kernels", "equal", "difference", title_justify="left")
    table.title = f"{prompts} x {slots} completions of {tokens} tokens, prompts of {prompt_tokens}, {DEVICE}"
    same = True
    # The interpreter has no products in bfloat16.
    for bf16 in (True, False) if DEVICE == "cuda" else (False,):
        arms = build_arms(policy, bf16)
        decoder: Any = arms["triton"].decoder
        difference = decoder.difference(policy, bf16, ids, slots, min(tokens, 16))
        times, equal = time_arms(arms, rows, tokens, rounds)
        for name, sampler in arms.items():
            low, middle, high = quantiles(times[name], n=4)
            table.add_row(
                f"{name}, {'bfloat16' if bf16 else 'float32'}",
                f"{middle:.2f} ({low:.2f}-{high:.2f})",
                str(count_kernels(sampler, ids, slots) or ""),
                f"{equal:.0%}" if name == "triton" else "",
                f"{difference:.1e}" if name == "triton" else "",
            )
            sampler.release_memory()
        same &= bf16 or (difference <= 1e-3 and equal >= 0.5)
    console.print(table)
    return same


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("qwen", "tiny"), default="qwen", help="tiny: for a rehearsal")
    parser.add_argument("--rounds", type=int, default=5, help="rollouts that are timed for each arm")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of scripts/benchmark.py; 0: none")
    arguments = parser.parse_args()
    if arguments.model == "tiny":
        sys.exit(not compare_decode(TINY, 2, 2, 5, 6, max(2, arguments.rounds // 2)))
    if DEVICE == "cpu":
        parser.error("--model qwen needs a GPU; rehearse with TRITON_INTERPRET=1 and --model tiny")
    same = compare_decode(QWEN, 4, 16, 256, 200, arguments.rounds)
    if arguments.steps:
        torch.cuda.empty_cache()
        arms = ["--arms", "trl", "fast", "kernels"]
        script = str(Path(__file__).with_name("benchmark.py"))
        subprocess.run([sys.executable, script, "--no-memory", "--steps", str(arguments.steps), *arms], check=True)
    sys.exit(not same)


if __name__ == "__main__":
    main()
