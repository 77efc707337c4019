"""Compare the two attentions of the training step, prefix_attention=sdpa and prefix_attention=flex, on a GPU.

`python scripts/benchmark_attention.py`: Qwen2.5-0.5B's architecture with random weights, 4 prompts of 256 tokens with
16 completions each, of 100 to 200 tokens; the forward and the backward pass of all layers, without the head, in
bfloat16 over float32 weights and in float32.

The policy is checked as a run checks it, which compiles; a compilation after that is an error. Then the two arms take
turns in one process, on batches of changing lengths, of which the first is not timed. The columns: milliseconds, with
quartiles; seconds of the check; GiB above the weights; and the distance of the gradients from those of sdpa, relative
to their norm. The exit code is 1 if it is above 1e-4 in float32, or above 0.05 in bfloat16.

Rehearsal without a GPU, whose times mean nothing: `python scripts/benchmark_attention.py --model tiny`
"""

import argparse
import sys
import time
from statistics import quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

from grpo.core.process import guard_streams
from grpo.policy.prefix_attention import FlexAttention, SdpaAttention
from grpo.policy.prefix_sharing import PackedCompletions, enable_prefix_sharing, flex_attention_fault, forward_packed
from scripts.benchmark_decode import DEVICE, QWEN, TINY

Batch = tuple[Tensor, Tensor, int]  # ids and mask (B, P + C), and C
ARMS: dict[str, type[SdpaAttention | FlexAttention]] = {"sdpa": SdpaAttention, "flex": FlexAttention}


def random_batch(vocabulary: int, prompts: int, slots: int, prompt_tokens: int, tokens: int, seed: int) -> Batch:
    """Random tokens, with completions of tokens / 2 to `tokens` tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = prompts * slots
    ids = torch.randint(vocabulary, (rows, prompt_tokens + tokens), generator=generator)
    ids[:, :prompt_tokens] = ids[:prompts, :prompt_tokens].repeat_interleave(slots, 0)
    lengths = torch.randint(tokens // 2, tokens + 1, (rows, 1), generator=generator)
    mask = (torch.arange(prompt_tokens + tokens) < prompt_tokens + lengths).long()
    return ids.to(DEVICE), mask.to(DEVICE), tokens


def train(policy: Any, batch: Batch, attention: type[SdpaAttention | FlexAttention], bf16: bool) -> tuple[float, float]:
    """Compute the gradients of a batch; returns milliseconds, and GiB above what was allocated before."""
    policy.zero_grad()
    synchronize()  # resets the peak
    before = synchronize()
    began = time.perf_counter()
    packed = PackedCompletions(*batch, attention=attention)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        states = forward_packed(policy.base_model, packed).last_hidden_state[0, packed.predicting].float()
    states.square().mean().backward()
    peak = synchronize()
    return (time.perf_counter() - began) * 1e3, (peak - before) / 2**30


def synchronize() -> int:
    """Wait for the GPU; returns the most bytes that were allocated since the last call, 0 without a GPU."""
    if DEVICE == "cpu":
        return 0
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def compare(policy: Any, bf16: bool, batches: list[Batch], table: Table) -> bool:
    """Measure both arms and add their rows to the table; returns whether their gradients are equal."""
    began = time.perf_counter()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        if fault := flex_attention_fault(policy):
            sys.exit(f"error: prefix_attention=flex does not work here: {fault}.")
    seconds = time.perf_counter() - began
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    memory = dict.fromkeys(ARMS, 0.0)
    gradients = {}
    with torch.compiler.set_stance("fail_on_recompile"):
        for number, batch in enumerate(batches):
            for name, attention in ARMS.items():
                milliseconds, memory[name] = train(policy, batch, attention, bf16)
                if number:
                    times[name].append(milliseconds)
                else:
                    gradients[name] = torch.cat([weight.grad.flatten() for weight in policy.base_model.parameters()])
    difference = float((gradients["flex"] - gradients["sdpa"]).norm() / gradients["sdpa"].norm())
    for name in ARMS:
        low, middle, high = quantiles(times[name], n=4)
        table.add_row(
            f"{name}, {'bfloat16' if bf16 else 'float32'}",
            f"{middle:.1f} ({low:.1f}-{high:.1f})",
            f"{seconds:.1f}" if name == "flex" else "",
            f"{memory[name]:.2f}" if DEVICE == "cuda" else "",
            f"{difference:.1e}" if name == "flex" else "",
        )
    return difference <= (0.05 if bf16 else 1e-4)


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("qwen", "tiny"), default="qwen", help="tiny: for a rehearsal")
    parser.add_argument("--rounds", type=int, default=10, help="batches that are timed for each arm")
    arguments = parser.parse_args()
    if DEVICE == "cpu" and arguments.model == "qwen":
        parser.error("--model qwen needs a GPU; rehearse with --model tiny")
    sizes, shape = (QWEN, (4, 16, 256, 200)) if arguments.model == "qwen" else (TINY, (2, 3, 20, 40))
    set_seed(0)
    policy: Any = Qwen2ForCausalLM(Qwen2Config(**sizes))
    policy.to(DEVICE)
    enable_prefix_sharing(policy)
    batches = [random_batch(sizes["vocab_size"], *shape, seed) for seed in range(1 + max(2, arguments.rounds))]
    table = Table("forward and backward", "ms", "check, s", "GiB", "difference", title_justify="left")
    table.title = f"{shape[0]} x {shape[1]} completions of {shape[3] // 2} to {shape[3]} tokens, prompts of {shape[2]}"
    same = [compare(policy, bf16, batches, table) for bf16 in (True, False)]
    Console(highlight=False).print(table)
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
