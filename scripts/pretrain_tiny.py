"""Pretrain the embedded policy from scratch, about 15 minutes on two CPU cores.

python scripts/pretrain_tiny.py

It trains a small Qwen2 policy that replaces an instruct model as the start of GRPO. Three quarters of every batch are
chats about training problems (grpo/tasks/arithmetic.py), answered in the styles of STYLES: most often a bare answer,
sometimes a solution with steps, rarely the requested format. The other quarter is plain arithmetic (`7*8=56`). No
held-out problem is in the training text.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from grpo.config.composition import compose
from grpo.core.process import guard_streams
from grpo.policy.chat_template import build_messages
from grpo.rewards.binding import RewardSettings
from grpo.rewards.scoring import score_reward
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.tasks.answer_types import ANSWER_TYPES
from grpo.tasks.arithmetic import Problem, generate_problems, make_problem
from grpo.tasks.arithmetic_templates import OPERATIONS
from grpo.tasks.example import Example

# Style of an answer -> its share of the chats. Only the last style is the format that the system prompt requests.
STYLES = {
    "bare": 0.60,
    "worked": 0.14,
    "worked, GSM8K's ending": 0.04,
    "tags without line breaks": 0.04,
    "answer outside the tags": 0.04,
    "answer not closed": 0.03,
    "trailing words": 0.03,
    "exact": 0.08,
}
MAX_NUMBER = 150
SINGLE_TOKEN_NUMBERS = range(10, 201)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def format_answer(style: str, problem: Problem) -> str:
    """The answer to a problem in one of STYLES."""
    solution, answer = "\n".join(problem.solution), problem.answer
    return {
        "bare": f"The answer is {answer}.",
        "worked": f"{solution}\nThe answer is {answer}.",
        "worked, GSM8K's ending": f"{solution}\n#### {answer}",
        "tags without line breaks": f"<reasoning>{solution}</reasoning><answer>{answer}</answer>",
        "answer outside the tags": f"<reasoning>\n{solution}\n</reasoning>\n{answer}",
        "answer not closed": f"<reasoning>\n{solution}\n</reasoning>\n<answer>\n{answer}",
        "trailing words": f"<reasoning>\n{solution}\n</reasoning>\n<answer>\n{answer}\n</answer>\nI hope this helps.",
        "exact": f"<reasoning>\n{solution}\n</reasoning>\n<answer>\n{answer}\n</answer>\n",
    }[style]


def arithmetic_lines(rng: random.Random) -> Iterator[str]:
    """Endless lines of plain arithmetic: alternately a step of a training problem and a random operation."""
    steps = [step for problem in islice(training_problems(rng), 40_000) for step in problem.steps]
    while True:
        left, operation, right = rng.choice(steps)
        yield f"{left}{operation}{right}={OPERATIONS[operation](left, right)}\n"
        operation = rng.choice("+-*")
        left, right = rng.randint(1, MAX_NUMBER), rng.randint(1, 30)
        result = OPERATIONS[operation](left, right)
        if 1 <= result <= MAX_NUMBER:
            yield f"{left}{operation}{right}={result}\n"
            if operation == "*":
                yield f"{result}/{left}={right}\n"


def training_problems(rng: random.Random) -> Iterator[Problem]:
    """Endless random problems, none of them held out."""
    while True:
        problem = make_problem(rng, MAX_NUMBER, 1, 4)
        if not problem.held_out:
            yield problem


def train_tokenizer(seed: int, vocab_size: int, system_prompt: str) -> Qwen2Tokenizer:
    """A small BPE tokenizer with the pre-tokenizer of Qwen2, which `AutoTokenizer` uses for every `qwen2` folder.

    The pre-tokenizer splits numbers into digits; added tokens represent the numbers of SINGLE_TOKEN_NUMBERS.
    """
    rng = random.Random(seed)
    corpus = [system_prompt]
    for problem in islice(training_problems(rng), 20_000):
        corpus += [problem.question, format_answer(rng.choice(list(STYLES)), problem)]
    bpe = Tokenizer(BPE())
    reference = Qwen2Tokenizer().backend_tokenizer
    bpe.normalizer, bpe.pre_tokenizer = reference.normalizer, reference.pre_tokenizer
    bpe.train_from_iterator(
        corpus, BpeTrainer(vocab_size=vocab_size, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    )
    trained = json.loads(bpe.to_str())["model"]
    special: Any = {"unk_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    merges: Any = [tuple(pair) for pair in trained["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=trained["vocab"], merges=merges, **special)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.add_tokens([AddedToken(str(number), normalized=False) for number in SINGLE_TOKEN_NUMBERS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def batches(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, rows: int, system_prompt: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches `(input_ids, labels)`, each `(rows, T)`: chats, with a loss on the answer only, then lines of
    arithmetic, with a loss on the results only. Labels without a loss are -100."""
    styles, weights = list(STYLES), list(STYLES.values())
    equals = tokenizer.convert_tokens_to_ids("=")
    lines, source = arithmetic_lines(rng), training_problems(rng)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    while True:
        ids, labels = [], []
        for problem in islice(source, rows * 3 // 4):
            # One chat in ten has no system prompt; its answer has the same distribution of styles.
            messages = build_messages(problem.question, system_prompt if rng.random() < 0.9 else "")
            prompt = encode(str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)))
            answer = encode(format_answer(rng.choices(styles, weights)[0], problem) + tokenizer.eos_token)
            ids.append(prompt + answer)
            labels.append([-100] * len(prompt) + answer)
        width = max(map(len, ids))
        for _ in range(rows - len(ids)):
            # A line has at least five tokens.
            line = encode("".join(islice(lines, width // 5)))[:width]
            ids.append(line)
            labels.append([-100] + [token if before == equals else -100 for before, token in pairwise(line)])
        yield _padded(ids, width, tokenizer.pad_token_id), _padded(labels, width, -100)


def _padded(rows: list[list[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def build_untrained_policy(tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int) -> Qwen2ForCausalLM:
    """A Qwen2 policy with random weights, `hidden` wide, with attention heads of size 32."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) in fp32, with updates scaled to the root mean square of AdamW's (Liu et al. 2025).

    Here it needs a third of the steps that AdamW needs. torch.optim.Muon orthogonalizes in bfloat16, which on a CPU
    without bfloat16 instructions takes longer than the rest of the step.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(weight.grad.lerp(average, group["momentum"]))
                weight.add_(update, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Approximate the nearest semi-orthogonal matrix by five quintic Newton-Schulz iterations."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x


def train(policy: Qwen2ForCausalLM, source: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int, lr: float) -> None:
    """Train with a one-cycle schedule: matrices by Muon at `lr`, embeddings and norms by AdamW at `lr` / 2."""
    matrices = [p for name, p in policy.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in policy.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [Muon(matrices, lr), torch.optim.AdamW(others, lr / 2, betas=(0.9, 0.98), weight_decay=0.01)]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.param_groups[0]["lr"], total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    for step in (progress := tqdm(range(steps), desc="pretraining", mininterval=1)):
        input_ids, labels = next(source)
        has_loss = labels[:, 1:] != -100
        hidden = policy.model(input_ids).last_hidden_state[:, :-1]
        loss = F.cross_entropy(policy.lm_head(hidden[has_loss]), labels[:, 1:][has_loss])
        policy.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")


@torch.inference_mode()
def evaluate_policy(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[Problem],
    system_prompt: str,
    prefix: str = "",
    sample: bool = False,
) -> dict[str, float]:
    """The share of answers in the strict format and with the right answer; every answer begins with `prefix`."""
    prompts = [
        str(
            tokenizer.apply_chat_template(
                build_messages(p.question, system_prompt), add_generation_prompt=True, tokenize=False
            )
        )
        for p in problems
    ]
    encoded = tokenizer([prompt + prefix for prompt in prompts], return_tensors="pt", padding=True, padding_side="left")
    generated = policy.generate(**encoded, max_new_tokens=120, do_sample=sample, top_k=0)
    width = encoded["input_ids"].shape[1]
    texts = [prefix + text for text in tokenizer.batch_decode(generated[:, width:], skip_special_tokens=True)]
    batch = ScoringBatch(texts, [Example(problem.question, str(problem.answer)) for problem in problems])
    number = ANSWER_TYPES["number"]
    right = {
        "strict_format": [score > 0 for score in score_reward("strict_format", batch, RewardSettings(number))],
        "accuracy_strict": [score > 0 for score in score_reward("correctness", batch, RewardSettings(number))],
        "accuracy_flexible": [
            number.matches(number.extract_anywhere(text) or "", example)
            for text, example in zip(texts, batch.examples, strict=True)
        ],
    }
    return {name: sum(values) / len(problems) for name, values in right.items()}


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\nIt trains")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("grpo/assets/tiny"), help="folder to write the policy to")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and text")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--rows", type=int, default=32, help="rows of text per step")
    parser.add_argument("--lr", type=float, default=6e-3, help="highest learning rate")
    parser.add_argument("--hidden", type=int, default=128, help="width of the policy")
    parser.add_argument("--layers", type=int, default=4, help="layers of the policy")
    parser.add_argument("--vocab", type=int, default=640, help="tokens of the BPE, without numbers and special tokens")
    parser.add_argument("--problems", type=int, default=256, help="held-out problems for the final evaluation")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    system_prompt = compose().system_prompt
    tokenizer = train_tokenizer(args.seed, args.vocab, system_prompt)
    policy = build_untrained_policy(tokenizer, args.hidden, args.layers)
    parameters = sum(p.numel() for p in policy.parameters())
    print(f"{parameters:,} parameters, {len(tokenizer)} tokens")
    began = time.perf_counter()
    train(policy, batches(tokenizer, random.Random(args.seed), args.rows, system_prompt), args.steps, args.lr)
    seconds = round(time.perf_counter() - began)

    policy.eval()
    problems = list(islice(generate_problems(True, seed=0, max_number=MAX_NUMBER), args.problems))
    figures = {
        "greedy": evaluate_policy(policy, tokenizer, problems, system_prompt),
        "sampled at temperature 1": evaluate_policy(policy, tokenizer, problems, system_prompt, sample=True),
        "greedy, made to answer at once": evaluate_policy(policy, tokenizer, problems, system_prompt, "The answer is"),
        "greedy, made to reason": evaluate_policy(policy, tokenizer, problems, system_prompt, "<reasoning>\n"),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    record = {
        "command": "python scripts/pretrain_tiny.py",
        "arguments": {name: value for name, value in vars(args).items() if name != "out"},
        "parameters": parameters,
        "styles": STYLES,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("torch", "transformers", "tokenizers")},
        "held_out": figures,
    }
    (args.out / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
