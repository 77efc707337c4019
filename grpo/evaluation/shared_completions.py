"""Completions of the untrained policy that the jobs of a sweep share: one job generates them, the others read them.

Called by training runs that are jobs of a sweep. It stores completions without scores, because the jobs may differ in
their rewards.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from grpo.config.schema import Config
from grpo.core.console import say
from grpo.core.files import parse_json_object
from grpo.evaluation.completion import Completion, CompletionBatch

# The settings that do not change the completions of an untrained policy for given prompts. All others count: jobs that
# differ in a new setting share nothing until it is listed here.
WITHOUT_EFFECT = {
    "data",  # the prompts count instead
    "rewards", "reward_files", "correct_by", "placebo", "reward_args",
    "reward_timeout", "on_reward_timeout", "reward_workers", "reward_concurrency",
    "optimizer", "algorithm", "num_generations", "prompts_per_step", "micro_batch_size", "max_steps",
    "num_train_epochs", "max_prompt_length", "activation_checkpointing", "share_prompts", "prefix_attention",
    "on_nonfinite", "alarm_window", "stop_on",
    "tracking", "logging_steps", "eval_steps", "save_steps", "save_total_limit", "resume", "trust_run",
    "threads",  # the number of threads in use counts instead
    "seed", "temperature", "eval_samples",  # they count if completions are sampled
}  # fmt: skip


def generation_inputs(
    config: Config, provenance: Mapping[str, Any], samples: int, temperature: float
) -> dict[str, Any]:
    """What the completions depend on, besides the prompts.

    Args:
        config: the settings of the run, with the sampler for evaluation.
        provenance: as `collect_provenance` returns it. Its `model` has the digests of the policy's files, and the seed
            of random weights.
        samples: completions of each prompt.
        temperature: of sampling; 0 is greedy decoding.
    """
    return {
        **{name: provenance[name] for name in ("code", "versions", "hardware", "model")},
        "settings": {name: value for name, value in asdict(config).items() if name not in WITHOUT_EFFECT},
        "decoding": [samples, temperature, config.seed] if temperature else [samples],
    }


class SharedCompletions:
    """Completions in the folder of a sweep, one file for each evaluation.

    A file is written atomically, so that jobs in several processes and on several machines can share it. Two jobs that
    start at the same time both generate, and write equal files.
    """

    def __init__(self, folder: Path, config: Config, provenance: Mapping[str, Any]) -> None:
        """
        Args:
            folder: need not exist.
            config, provenance: as for `generation_inputs`.
        """
        self.folder, self.config, self.provenance = folder, config, provenance

    def stored_or_generated(
        self,
        prompt_ids: Sequence[Sequence[int]],
        end_token_ids: Sequence[int],
        samples: int,
        temperature: float,
        generated: Iterable[CompletionBatch],
        title: str,
    ) -> Iterator[CompletionBatch]:
        """The stored completions of these prompts in their batches; without them, those of `generated` are stored.

        Args:
            prompt_ids: the token ids of each prompt.
            generated: the batches of `generate_completions`; it runs only if nothing is stored.
            title: what the completions are for, in the message that they come from another job.
        """
        inputs = generation_inputs(self.config, self.provenance, samples, temperature)
        inputs |= {"prompts": _digest([list(map(list, prompt_ids)), list(end_token_ids)])}
        identity = _digest(inputs)
        path = self.folder / f"{identity[:16]}.json"
        batches = _read(path, identity)
        if batches is not None:
            say(f"{title}: the completions are those of another job of this sweep with the same policy and prompts")
            yield from batches
            return
        batches = []
        for batch in generated:
            batches.append(batch)
            yield batch
        # The job does not need the file: a full disk does not end it here.
        with suppress(OSError):
            _write(path, identity, batches)


def _digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path, identity: str) -> list[CompletionBatch] | None:
    """The batches in a file; None if the file is missing, damaged or of another evaluation."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        stored = parse_json_object(path.read_text(encoding="utf-8"))
        if stored["identity"] == identity:
            return [
                {
                    (problem, sample): Completion(text, tokens, truncated, tuple(ids))
                    for problem, sample, text, tokens, truncated, ids in batch
                }
                for batch in stored["batches"]
            ]
    return None


def _write(path: Path, identity: str, batches: Sequence[CompletionBatch]) -> None:
    rows = [
        [[*sample_id, each.text, each.tokens, each.truncated, each.ids] for sample_id, each in batch.items()]
        for batch in batches
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")  # a name of its own: other jobs may write
    try:
        partial.write_text(json.dumps({"identity": identity, "batches": rows}), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
