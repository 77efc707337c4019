"""An evaluation from its subject to its files: generate and score completions, or score stored ones again.

Called by `grpo.evaluate`. It imports torch only when completions have to be generated.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from grpo.core.console import say
from grpo.core.device import set_threads
from grpo.core.environment_values import to_interpolations
from grpo.core.errors import UserError
from grpo.core.files import file_sha256, parse_file, parse_json_object
from grpo.core.paths import display_path
from grpo.core.progress import importing, progress, spinner
from grpo.core.run_log import quiet_libraries
from grpo.evaluation.completion_files import CompletionJournal, read_completions
from grpo.evaluation.description import protocol_differences
from grpo.evaluation.evaluation import Evaluation, evaluate_completions
from grpo.evaluation.generation import generate_completions
from grpo.evaluation.protocol import (
    TEMPLATE_FACTS,
    describe_arguments,
    describe_extraction,
    describe_format,
    describe_template,
    evaluation_protocol,
)
from grpo.evaluation.storage import new_origin, save_evaluation
from grpo.evaluation.subjects import Subject
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.hub import is_loaded_from_hub, prepare_hub
from grpo.policy.identity import policy_identity
from grpo.policy.requirements import check_cuda, check_model_files, check_packages, slow_bfloat16_warning
from grpo.rewards.stack import RewardStack, rewards_of
from grpo.runs.provenance import problems_digest
from grpo.tasks.tokenized_format import check_tokenized_format


@dataclass
class StoredEvaluation:
    """An evaluation with its protocol and the .json that it is saved in."""

    evaluation: Evaluation
    protocol: dict[str, Any]
    path: Path


def prepare_evaluation(subject: Subject) -> Callable[[], StoredEvaluation]:
    """Check everything that is quick to check; the function that is returned then evaluates the subject."""
    config = subject.config
    rewards = rewards_of(config)
    rewards.check_columns(subject.examples, f"data={config.data.name}" if subject.from_file is None else "the file")
    if subject.from_file is not None:
        file, completions = subject.from_file
        source = {"path": str(file), "sha256": file_sha256(file), "n": len(completions)}
        protocol: dict[str, Any] = {"completions": source, "problems": problems_digest(subject.examples)}
        protocol |= describe_format(config)
        protocol |= {"extraction": describe_extraction(config), "rewards": config.rewards}
        protocol |= describe_arguments(config)
        sampling = ""
    else:
        check_packages(config)
        check_model_files(config.model)
        check_cuda(config)
        if is_loaded_from_hub(config.model):
            prepare_hub()
            _import_libraries()
        with spinner("reading the policy"):
            policy = policy_identity(config.model, subject.seed)
        protocol = evaluation_protocol(config, "held-out", subject.examples, policy, config.samples, config.temperature)
        sampling = f"-{config.samples}-at-{config.temperature:g}" if config.temperature else "-greedy"
    identity = _protocol_identity(protocol)
    path = subject.folder / f"{config.name or f'{subject.stem}{sampling}-{identity}'}.json"
    if subject.from_file and path.with_suffix(".parquet").absolute() == subject.from_file[0].absolute():
        raise UserError(f"name={path.stem}: the evaluation would replace {subject.from_file[0]}; give another name.")
    stored_report = _stored_report(path, identity, protocol)
    if subject.from_file is not None:
        return lambda: _score_file(subject, protocol, path, new_origin(identity), rewards)
    if stored_report is None:
        journal = CompletionJournal(path.with_suffix(".partial.jsonl"), identity)
        return lambda: _generate_and_score(subject, protocol, path, journal, new_origin(identity), rewards)
    return lambda: _score_stored(subject, path, stored_report, rewards)


def _import_libraries() -> None:
    with importing("PyTorch and Transformers"):
        quiet_libraries()
        import grpo.sampling.build  # noqa: F401  # with it, all that a sampler needs


def _protocol_identity(protocol: dict[str, Any]) -> str:
    """A digest of a protocol, in which a policy or a file counts by its content and not by its path."""
    content = dict(protocol)
    for name in ("policy", "completions"):
        if "sha256" in content.get(name, {}):
            content[name] = {key: value for key, value in content[name].items() if key != "path"}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _stored_report(path: Path, identity: str, protocol: dict[str, Any]) -> dict[str, Any] | None:
    """The report of the same evaluation if it is saved already, else None.

    Raises:
        UserError: the report is damaged, or of another evaluation.
    """
    if not path.is_file():
        return None
    try:
        report = parse_file(path, parse_json_object)
        stored_identity, other = report["identity"], report["protocol"] | {}
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; delete it to evaluate again.") from error
    if stored_identity != identity:
        difference = "other content" if stored_identity else "made by a training run"
        lines = [
            f"{name}: {line}"
            for name, line in protocol_differences(
                other, {name: other[name] for name in TEMPLATE_FACTS if name in other} | to_interpolations(protocol)
            ).items()
        ]
        raise UserError(
            f"name={path.stem}: {path} holds another evaluation ({'; '.join(lines) or difference}); give "
            "this one another name."
        )
    return report if path.with_suffix(".parquet").is_file() else None


def _score_file(
    subject: Subject, protocol: dict[str, Any], path: Path, origin: dict[str, Any], rewards: RewardStack
) -> StoredEvaluation:
    assert subject.from_file is not None
    evaluation = evaluate_completions(subject.examples, [subject.from_file[1]], rewards, subject.config.k)
    save_evaluation(evaluation, path, protocol, origin)
    return StoredEvaluation(evaluation, protocol, path)


def _score_stored(subject: Subject, path: Path, report: dict[str, Any], rewards: RewardStack) -> StoredEvaluation:
    table = path.with_suffix(".parquet")
    try:
        examples, completions = read_completions(table, "evaluation")
    except UserError as error:
        raise UserError(f"{error} Delete it to evaluate again.") from error
    if examples != subject.examples or file_sha256(table) != report.get("parquet_sha256"):
        raise UserError(f"evaluation: {table} is not the file that was saved. Delete it to evaluate again.")
    say(
        f"{subject.title}: saved {report['created']} and used again. To evaluate again, delete "
        f"{display_path(path.absolute())}"
    )
    evaluation = evaluate_completions(subject.examples, [completions], rewards, subject.config.k)
    if evaluation.as_json() != report["figures"]:  # k or a reward file has changed
        save_evaluation(evaluation, path, report["protocol"], report)
    return StoredEvaluation(evaluation, report["protocol"], path)


def _generate_and_score(
    subject: Subject,
    protocol: dict[str, Any],
    path: Path,
    journal: CompletionJournal,
    origin: dict[str, Any],
    rewards: RewardStack,
) -> StoredEvaluation:
    _import_libraries()
    config, started = subject.config, time.perf_counter()
    from grpo.policy.compatibility import prepare_policy
    from grpo.policy.loading import build_policy, build_tokenizer
    from grpo.sampling.build import build_sampler

    set_threads(config.threads)
    with spinner("loading the policy"):
        tokenizer = build_tokenizer(config.model)
        notes = check_tokenized_format(tokenizer, config)
        policy: Any = build_policy(config.model, subject.seed)
        prompts = [example.prompt for example in subject.examples]
        notes += prepare_policy(policy, tokenizer, prompts, config)
        policy.to(config.device)
        sampler = build_sampler(policy, tokenizer, config)
    for note in filter(None, (*notes, slow_bfloat16_warning(config))):
        say(note)
    protocol |= describe_template(
        ChatTemplate.of(tokenizer, config), tokenizer.convert_ids_to_tokens(sampler.end_token_ids)
    )
    total = len(subject.examples) * config.samples
    if journal.saved:
        say(f"{subject.title}: resuming after {len(journal.saved):,} of {total:,} completions.")
    answered = generate_completions(
        sampler, tokenizer, prompts, config, config.samples, config.temperature, journal.saved.keys()
    )
    with progress(f"evaluating {subject.title}", total, unit="answers") as advance:
        evaluation = evaluate_completions(subject.examples, journal.save(answered), rewards, config.k, advance)
    with spinner("saving the evaluation"):
        save_evaluation(evaluation, path, protocol, origin)
    journal.remove()
    say(f"{total:,} completions, {time.perf_counter() - started:.1f} s\n")
    return StoredEvaluation(evaluation, protocol, path)
