"""Compare the decode step of a large policy on a CPU: transformers' `generate`, dense weights, packed weights.

`python scripts/benchmark_cpu_decode.py --policy FOLDER`: 16 completions of 32 tokens, 4 for each of 4 prompts of 64
random tokens; no token ends a completion. Without a folder, Qwen2.5-0.5B's architecture with random weights.

The arms take turns in one process. They are `generate`, and the project's own sampler with the products of
grpo/sampling/products.py that it may choose from. The columns: the median of the milliseconds of a decode step, with
quartiles; tokens per second of such steps, and of complete rollouts, which include the prompts and the preparation of
weights.

`--products` compares single products with each weight of a layer instead, in ways that the sampler does not use too.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median, quantiles
from typing import Any

import grpo  # noqa: F401  # before torch: it limits for how long OpenMP threads spin

# isort: split
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, set_seed

from grpo.config.composition import compose
from grpo.core.process import guard_streams
from grpo.policy.hub import ASSETS
from grpo.policy.loading import build_tokenizer
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.sampling.products import DenseProducts, PackedProducts, Products
from grpo.sampling.sampler import Sampler

QWEN = json.loads((ASSETS / "architectures.json").read_text())["Qwen/Qwen2.5-0.5B-Instruct"]
PROMPTS, PROMPT_TOKENS = 4, 64
console = Console(highlight=False)


class Arm:
    """A sampler, the times at which its forward passes began, and its rounds."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.began = sampler, list[float]()
        self.steps, self.rollouts = list[float](), list[float]()

    def note_start(self, *_: Any) -> None:
        self.began.append(time.perf_counter())

    def run(self, prompts: list[list[int]], tokens: int) -> None:
        """A rollout. The first interval is left out: that of `generate` is the prefill."""
        self.began.clear()
        self.rollouts.append(seconds(partial(self.sampler.complete, prompts, tokens, 1.0)))
        self.steps += [(end - start) * 1e3 for start, end in pairwise(self.began[1:])]


def build_arms(policy: Any, bf16: bool) -> dict[str, Arm]:
    tokenizer = build_tokenizer(compose().model)
    generate = GenerateSampler(policy, tokenizer, bf16)
    generate.end_token_ids = [policy.config.vocab_size]  # no token
    arms = {"generate": Arm(generate)}
    policy.register_forward_pre_hook(arms["generate"].note_start)
    kinds: tuple[Products, ...] = (DenseProducts(), PackedProducts())
    for products in kinds:
        sampler: Any = PrefixSharingSampler(policy, tokenizer, bf16, fused=True)
        chosen = sampler.decoder.products.name
        sampler.decoder.products = products
        sampler.is_end_token.fill_(False)
        arm = arms[f"{products.name}{' (chosen here)' if chosen == products.name else ''}"] = Arm(sampler)
        sampler.decoder.logits = partial(timed_logits, arm, sampler.decoder.logits)
    return arms


def timed_logits(arm: Arm, logits: Callable[[Any], torch.Tensor], batch: Any) -> torch.Tensor:
    arm.note_start()
    return logits(batch)


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare_decode(policy: Any, bf16: bool, rows: int, tokens: int, rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(5_000, policy.config.vocab_size), (min(rows, PROMPTS), PROMPT_TOKENS), generator=generator)
    prompts = [prompt for prompt in ids.tolist() for _ in range(rows // len(ids))]
    arms = build_arms(policy, bf16)
    for _ in range(rounds):
        for arm in arms.values():
            arm.run(prompts, tokens)
    table = Table("arm", "ms per decode step", "decoded tokens/s", "tokens/s of a rollout", "against generate")
    for name, arm in arms.items():
        low, middle, high = quantiles(arm.steps, n=4)
        table.add_row(
            name,
            f"{middle:.0f} ({low:.0f}-{high:.0f})",
            f"{len(prompts) / middle * 1e3:.1f}",
            f"{len(prompts) * tokens / median(arm.rollouts):.1f}",
            f"{median(arms['generate'].steps) / middle:.2f}x",
        )
    console.print(
        f"{len(prompts)} completions of {tokens} tokens, prompts of {PROMPT_TOKENS}, "
        f"{'bfloat16' if bf16 else 'float32'}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    console.print(table)


def ways_to_multiply(weight: torch.Tensor, rows: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Functions that compute x @ weight.T for x (rows, I)."""
    packed, transposed, outputs = PackedProducts(), weight.T.contiguous(), len(weight)
    stored, blocks = packed.prepare(weight), weight.unflatten(0, (64, -1))
    parts = weight.split(256 if outputs < 20_000 else 2_048)
    ways = {
        "F.linear": lambda x: F.linear(x, weight),
        "weight stored transposed": lambda x: x @ transposed,
        "weight @ x.T": lambda x: (weight @ x.T).T,
        "row by row": lambda x: torch.stack([weight @ row for row in x]),
        "parts of the outputs": lambda x: torch.cat([F.linear(x, part) for part in parts], -1),
        "bmm, 64 parts": lambda x: torch.bmm(blocks, x.T.expand(64, -1, -1)),
        "packed": lambda x: packed.multiply(x, stored),
    }
    if weight.dtype == torch.float32 and torch.backends.mkl.is_available():
        operators: Any = torch.ops.mkl
        reordered = operators._mkl_reorder_linear_weight(weight, rows)
        ways["MKL, packed"] = lambda x: operators._mkl_linear(x, reordered, weight, None, rows)
    return ways


@torch.no_grad()
def compare_products(sizes: dict[str, Any], dtype: torch.dtype, rows: list[int], rounds: int) -> None:
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    head_dim = hidden // sizes["num_attention_heads"]
    qkv = hidden + 2 * sizes["num_key_value_heads"] * head_dim
    shapes = {
        "qkv": (hidden, qkv),
        "out": (hidden, hidden),
        "gate, up": (hidden, 2 * inner),
        "down": (inner, hidden),
        "head": (hidden, sizes["vocab_size"]),
    }
    for name, (inputs, outputs) in shapes.items():
        weight = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
        table = Table(f"{name}, {inputs} to {outputs}", *(f"{count} rows" for count in rows))
        columns = []
        for count in rows:
            x, ways = torch.randn(count, inputs).to(dtype), ways_to_multiply(weight, count)
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds + 1):
                for way, multiply in ways.items():
                    times[way].append(seconds(partial(multiply, x)) * 1e3)
            columns.append({way: f"{median(measured[1:]):.2f}" for way, measured in times.items()})
        for way in columns[0]:
            table.add_row(way, *(column[way] for column in columns))
        console.print(table)


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="folder of a Qwen2 policy; without one, random weights")
    parser.add_argument("--layers", type=int, default=QWEN["num_hidden_layers"], help="layers of the random weights")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, nargs="+", default=[16], help="completions; a multiple of 4, or below")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--products", action="store_true", help="compare single products; medians in ms")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    set_seed(0)
    if arguments.products:
        dtype = torch.bfloat16 if arguments.bf16 else torch.float32
        compare_products(QWEN, dtype, arguments.rows, arguments.rounds)
        return
    policy: Any = (
        AutoModelForCausalLM.from_pretrained(arguments.policy, dtype=torch.float32)
        if arguments.policy
        else Qwen2ForCausalLM(Qwen2Config(**QWEN | {"num_hidden_layers": arguments.layers}))
    )
    for rows in arguments.rows:
        compare_decode(policy.eval(), arguments.bf16, rows, arguments.tokens, arguments.rounds)


if __name__ == "__main__":
    main()
