"""Held-out evaluation: completions of problems, scored by the very functions that train the policy.

Nothing here imports torch: completions made elsewhere are scored without a policy.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo.config.schema import NEUTRAL, Common, distorting
from grpo.core.console import progress, say, valid
from grpo.core.errors import UserError
from grpo.core.files import file_sha256, json_text, written_aside
from grpo.core.statistics import MOST, Floats, Interval, bootstrap, maj_at_k, mcnemar, pass_at_k, wilson
from grpo.policy.chat_template import prompt_ids
from grpo.policy.device import out_of_memory
from grpo.rewards.registry import RewardStack, score
from grpo.runs.provenance import VERSIONS, problems_of
from grpo.tasks.answers import extract_answer, last_number, parse_number, same_answer, vote_of
from grpo.tasks.datasets import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo.sampling.sampler import Sampler

# Figures that are 0 or 1 for each completion.
SHARES = ("accuracy_strict", "accuracy_flexible", "strict_format", "soft_format", "truncated")
MATCHES = {
    "number": "holding one number, the one of the gold answer; golds without one are compared as text",
    "text": "equal to the gold answer as text, apart from case and surrounding punctuation",
    "strict": "equal to the gold answer as nothing but a number, else as text",
}


def extraction(answer_match: str) -> dict[str, str]:
    """How answers are taken from completions and compared, for a person to read."""
    return {
        "strict": f"the last closed <answer> block, {MATCHES[answer_match]}",
        "flexible": "the last number anywhere",
    }


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int | None  # the end-of-sequence token included; None where it is not known
    truncated: bool | None


Place = tuple[int, int]  # which problem, and which of its samples
Batch = dict[Place, Completion]


def answer(
    rollout: "Sampler",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    config: Common,
    samples: int = 1,
    temperature: float = 0.0,
    skip: Set[Place] = frozenset(),
) -> Iterator[Batch]:
    """Completions of every question, batch after batch, those with long prompts first; greedy at temperature 0.

    A sampled completion hangs on the seed, its question's place and its own number alone, so that neither an
    interruption nor the batch size changes it. Batches are halved when memory runs out, aloud.

    Raises:
        UserError: memory does not suffice for a single completion.
    """
    if not questions:
        return
    prompts = prompt_ids(tokenizer, questions, config.system_prompt)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    places = [place for i in order for s in range(samples) if (place := (i, s)) not in skip]
    size, done = config.eval_batch_size, 0
    while done < len(places):
        batch = places[done : done + size]
        seeds = [(config.seed, *place) for place in batch] if temperature else None
        try:
            completions = rollout.complete(
                [prompts[i] for i, _ in batch], config.max_completion_length, temperature or None, seeds
            )
        except (MemoryError, RuntimeError) as error:
            size = _smaller(len(batch), error)
            continue
        texts = map(valid, tokenizer.batch_decode(completions, skip_special_tokens=True))
        yield {
            place: Completion(text, len(ids), truncated=ids[-1] not in rollout.eos_token_ids)
            for place, text, ids in zip(batch, texts, completions, strict=True)
        }
        done += len(batch)


def _smaller(size: int, error: Exception) -> int:
    from accelerate.utils.memory import clear_device_cache

    if not out_of_memory(error):
        raise error
    clear_device_cache(garbage_collection=True)
    if size == 1:
        raise UserError("out of memory with a single completion; lower max_completion_length.") from error
    say(f"Out of memory with {size} completions at once: going on with eval_batch_size={size // 2}.")
    return size // 2


def answer_greedily(
    rollout: "Sampler", tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], config: Common
) -> list[str]:
    """One greedy completion a question."""
    texts = {i: each.text for batch in answer(rollout, tokenizer, questions, config) for (i, _), each in batch.items()}
    return [texts[i] for i in range(len(questions))]


def evaluate(
    examples: Sequence[Example],
    batches: Iterable[Batch],
    rewards: RewardStack,
    k: Sequence[int] | None = None,
    on_answered: Callable[[int, str], None] = lambda count, beside: None,
) -> "Evaluation":
    """Score completions of `examples`; `on_answered` is told how many are new, and the accuracy so far in words."""
    completions: list[dict[int, Completion]] = [{} for _ in examples]
    right = total = 0
    for batch in batches:
        rows = [(each.text, examples[i]) for (i, _), each in batch.items()]
        right += sum(value > 0 for value in _scores("correctness", rows, rewards))
        total += len(rows)
        for (i, sample), each in batch.items():
            completions[i][sample] = each
        on_answered(len(rows), f"correct {right / max(1, total):.1%}")
    return Evaluation(list(examples), [[of[s] for s in sorted(of)] for of in completions], rewards, k)


def _scores(name: str, rows: Sequence[tuple[str, Example]], rewards: RewardStack) -> list[float]:
    if not rows:
        return []
    golds, questions = [of.gold for _, of in rows], [of.question for _, of in rows]
    return score(name, [text for text, _ in rows], golds, questions, rewards.answer_match)


def reread(path: Path, examples: Sequence[Example], rewards: RewardStack) -> "Evaluation":
    """An evaluation of `examples` that `Evaluation.keep` wrote to `path`, scored again."""
    from pyarrow import parquet

    rows = parquet.read_table(path.with_suffix(".parquet")).to_pylist()
    batch = {
        (row["problem"], row["sample"]): Completion(row["completion"], row["tokens"], row["truncated"]) for row in rows
    }
    return evaluate(examples, [batch], rewards)


class Evaluation:
    """The completions of every problem and what was measured of them.

    Attributes:
        values: what -> its value for each completion, those of a problem next to each other (N,).
        by_problem: figure -> the mean of its value for each problem, or the estimate of it (P,).
        figures: figure -> its mean over the problems: `accuracy_strict` (the answer inside `<answer>`, the
            `correctness` reward), `accuracy_flexible` (the last number anywhere), `strict_format`, `soft_format` and
            `truncated` as shares, `mean_completion_tokens`, `reward` (the weighted total) and `rewards/<name>` as raw
            scores; with several completions a problem `pass@k` and `maj@k`, of the strict answer and `/flexible`.
    """

    def __init__(
        self,
        examples: list[Example],
        completions: list[list[Completion]],
        rewards: RewardStack,
        k: Sequence[int] | None = None,
    ) -> None:
        assert all(completions) and len(completions) == len(examples) > 0
        self.examples, self.completions, self.rewards = examples, completions, rewards
        self.counts = [len(of) for of in completions]
        rows = [(each.text, example) for example, of in zip(examples, completions, strict=True) for each in of]
        flat = [each for of in completions for each in of]
        texts, golds = [text for text, _ in rows], [example.gold for _, example in rows]
        scores = rewards.score(texts, golds, [example.question for _, example in rows])
        self.answers = {
            "strict": [extract_answer(text) for text in texts],
            "flexible": [last_number(text) for text in texts],
        }
        values: dict[str, list[Any]] = {
            "accuracy_strict": [value > 0 for value in _scores("correctness", rows, rewards)],
            "accuracy_flexible": [
                number is not None and same_answer(number, gold, rewards.answer_match)
                for number, gold in zip(self.answers["flexible"], golds, strict=True)
            ],
            "strict_format": [value > 0 for value in _scores("strict_format", rows, rewards)],
            "soft_format": [value > 0 for value in _scores("soft_format", rows, rewards)],
            "truncated": [each.truncated for each in flat],
            "mean_completion_tokens": [each.tokens for each in flat],
            "reward": rewards.total(scores),
            **{f"rewards/{name}": of for name, of in scores.items()},
        }
        self.values = {name: np.array(of, dtype=np.float64) for name, of in values.items() if None not in of}
        self.starts = np.cumsum([0, *self.counts[:-1]])
        self.by_problem = {name: np.add.reduceat(of, self.starts) / self.counts for name, of in self.values.items()}
        self.single = max(self.counts) == 1
        # Figures of which each problem gives one 0 or 1.
        self.binary = [name for name in self.by_problem if self.single and name in SHARES]
        self._add_at_k(list(k or []))
        self.figures = {name: float(of.mean()) for name, of in self.by_problem.items()}

    def _add_at_k(self, asked: list[int]) -> None:
        fewest, most = min(self.counts), max(self.counts)
        if asked and max(asked) > fewest:
            raise UserError(f"k={asked}: a problem has only {fewest} completions; k must not exceed that.")
        if most > MOST:
            raise UserError(f"a problem has {most:,} completions; pass@k and maj@k are computed for at most {MOST:,}.")
        if self.single:
            return
        chosen = sorted({*asked, *(2**i for i in range(fewest.bit_length()))})
        with progress("pass@k and maj@k", 2 * len(chosen), lasting=False) as advance:
            for kind, suffix in (("strict", ""), ("flexible", "/flexible")):
                right, wrong = self._votes(kind)
                for k in chosen:
                    passed = [pass_at_k(n, c, k) for n, c in zip(self.counts, right, strict=True)]
                    voted = [maj_at_k(n, c, w, k) for n, c, w in zip(self.counts, right, wrong, strict=True)]
                    self.by_problem[f"pass@{k}{suffix}"] = np.array(passed)
                    self.by_problem[f"maj@{k}{suffix}"] = np.array(voted)
                    if k == most:
                        self.binary.append(f"pass@{k}{suffix}")
                    advance(1, "")

    def _votes(self, kind: str) -> tuple[list[int], list[tuple[int, ...]]]:
        """How many completions of each problem are right, and how many agree on each wrong answer."""
        right, wrong, rule = [], [], self.rewards.answer_match
        for example, start, count in zip(self.examples, self.starts, self.counts, strict=True):
            given = [each for each in self.answers[kind][start : start + count] if each is not None]
            others = [each for each in given if not same_answer(each, example.gold, rule)]
            right.append(len(given) - len(others))
            agreed = Counter(vote_of(each, rule) for each in others)
            wrong.append(tuple(sorted(agreed.values())))
        return right, wrong

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals: Wilson's where each problem gives one 0 or 1, else a bootstrap over the problems."""
        n = len(self.examples)
        by_wilson = {name: wilson(round(float(self.by_problem[name].sum())), n) for name in self.binary}
        others = [name for name in self.by_problem if name not in by_wilson]
        return by_wilson | dict(
            zip(others, bootstrap(np.stack([self.by_problem[name] for name in others])), strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        return {"n": len(self.examples), **self.figures, "intervals": intervals}

    def flat(self, prefix: str) -> dict[str, float]:
        """`prefix/figure`, `prefix/figure_low`, `prefix/figure_high`."""
        low = {f"{prefix}/{name}_low": interval[0] for name, interval in self.intervals.items()}
        high = {f"{prefix}/{name}_high": interval[1] for name, interval in self.intervals.items()}
        return {f"{prefix}/{name}": value for name, value in self.figures.items()} | low | high

    def columns(self) -> dict[str, list[Any]]:
        """A row for each completion."""
        rows = [
            (i, s, example, each)
            for i, (example, of) in enumerate(zip(self.examples, self.completions, strict=True))
            for s, each in enumerate(of)
        ]
        return {
            "problem": [i for i, _, _, _ in rows],
            "sample": [s for _, s, _, _ in rows],
            "question": [example.question for _, _, example, _ in rows],
            "gold": [example.gold for _, _, example, _ in rows],
            "completion": [each.text for *_, each in rows],
            "tokens": [each.tokens for *_, each in rows],
            "truncated": [each.truncated for *_, each in rows],
            "answer_strict": self.answers["strict"],
            "answer_flexible": self.answers["flexible"],
            **{
                name: of.astype(bool).tolist() if name in SHARES else of.tolist()
                for name, of in self.values.items()
                if name not in ("truncated", "mean_completion_tokens")
            },
        }

    def keep(self, path: Path, protocol: dict[str, Any], origin: dict[str, Any] | None = None) -> None:
        """Write the protocol and the figures to `path`, and every completion with its scores to a .parquet beside.

        `origin` says when and by what the completions were made, and for which evaluation; here and now where it is
        left out.
        """
        import pyarrow
        from pyarrow import parquet

        path.parent.mkdir(parents=True, exist_ok=True)
        # Both files are complete before either replaces an old one.
        with written_aside(path) as report, written_aside(path.with_suffix(".parquet")) as table:
            parquet.write_table(pyarrow.table(self.columns()), table)
            kept = {"protocol": protocol, "figures": self.as_json(), "parquet_sha256": file_sha256(table)}
            report.write_text(json_text((origin or made_now()) | kept), encoding="utf-8")


def made_now(identity: str | None = None) -> dict[str, Any]:
    return {
        "identity": identity,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {package: version(package) for package in VERSIONS},
    }


@dataclass(frozen=True)
class Difference:
    """A figure of one evaluation less that of another, over the same problems."""

    value: float
    low: float  # the 95% interval, a bootstrap over the problems' differences
    high: float
    # Of a figure that is 0 or 1 for each problem, on how many problems it holds in the first alone, and in the second.
    gained: int | None = None
    lost: int | None = None
    p: float | None = None  # McNemar's exact two-sided test


def compare(evaluation: Evaluation, baseline: Evaluation) -> dict[str, Difference]:
    """The figures of `evaluation` less those of `baseline`.

    Raises:
        UserError: they are not of the same problems.
    """
    order = pairs(evaluation.examples, baseline.examples)
    names = [name for name in evaluation.by_problem if name in baseline.by_problem]
    changes = {name: evaluation.by_problem[name] - baseline.by_problem[name][order] for name in names}
    differences = {}
    for name, interval in zip(names, bootstrap(np.stack(list(changes.values()))), strict=True):
        change: Floats = changes[name]
        value = float(change.mean())
        if name in evaluation.binary and name in baseline.binary:
            gained, lost = int((change > 0).sum()), int((change < 0).sum())
            differences[name] = Difference(value, *interval, gained, lost, mcnemar(gained, lost))
        else:
            differences[name] = Difference(value, *interval)
    return differences


def pairs(examples: Sequence[Example], others: Sequence[Example]) -> list[int]:
    """Where each of `examples` stands among `others`.

    Raises:
        UserError: they are not the same problems.
    """
    keys, other_keys = (
        [(each.question, parse_number(each.gold) or each.gold) for each in of] for of in (examples, others)
    )
    places: dict[Any, list[int]] = {}
    for place, key in enumerate(other_keys):
        places.setdefault(key, []).append(place)
    try:
        order = [places[key].pop(0) for key in keys]
    except (KeyError, IndexError):
        order = []
    if len(order) != len(others):
        shared = len(set(keys) & set(other_keys))
        raise UserError(
            f"baseline: a paired comparison needs the same problems; {shared:,} of {len(examples):,} are among the "
            f"baseline's {len(others):,}. Two runs are evaluated on the same with data= or data.eval_problems=."
        )
    return order


def protocol(
    config: Common,
    split: str,
    examples: Sequence[Example],
    policy: dict[str, Any],
    samples: int = 1,
    temperature: float = 0.0,
) -> dict[str, Any]:
    """How completions are had and judged: all that they and the figures hang on, but for the tokens that end them."""
    decoding: dict[str, Any] = {"samples": samples, "temperature": temperature}
    decoding |= (NEUTRAL if temperature else {}) | distorting(config.rollout)
    if temperature:
        decoding["seed"] = config.seed
    settings = asdict(config.data).items()
    unused = "train_" if split == "validation" else ("train_", "validation_")
    return {
        "policy": policy,
        "split": split,
        "data": {name: value for name, value in settings if value is not None and not name.startswith(unused)},
        "problems": problems_of(examples),
        "system_prompt": config.system_prompt,
        "decoding": decoding,
        "max_completion_length": config.max_completion_length,
        "extraction": extraction(config.data.answer_match),
        "rewards": config.rewards,
        "reward_files": {name: file_sha256(Path(name).expanduser()) for name in config.reward_files},
        "computing": {
            "weights": config.model.dtype,
            "autocast": "bfloat16" if config.bf16 else None,
            "device": config.device,
            "rollout": config.rollout.name,
            "native": config.rollout.native,
        },
    }
