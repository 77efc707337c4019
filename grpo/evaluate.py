"""Held-out figures of a policy, with 95% intervals and the protocol they were measured by.

python -m grpo.evaluate run=outputs/DATE/TIME
python -m grpo.evaluate run=A baseline=B show=5
python -m grpo.evaluate completions=file.jsonl
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from grpo.config.application import Command, hydra_job, is_multirun, job_overrides, run_command
from grpo.config.composition import load_config, to_dataclass, with_absolute_paths
from grpo.config.groups import CONF
from grpo.config.schema import CommonConfig, DataConfig, EvaluateConfig
from grpo.config.validation import check_config
from grpo.core.console import error_message, say
from grpo.core.device import set_threads
from grpo.core.errors import UserError
from grpo.core.files import file_sha256, parse_file, parse_json_object, write_json
from grpo.core.metric_format import ordered_metrics
from grpo.core.paths import display_path
from grpo.core.progress import progress, spinner
from grpo.core.redact import to_interpolations
from grpo.core.run_log import quiet_libraries
from grpo.core.tables import answers_table, at_k_table, comparison_table, key_value_table, metrics_table
from grpo.evaluation.completion import Batch
from grpo.evaluation.completions import SUFFIXES, Unfinished, read_completions
from grpo.evaluation.difference import Difference, compare, pairs
from grpo.evaluation.evaluation import Evaluation, evaluate
from grpo.evaluation.generation import answer
from grpo.evaluation.protocol import extraction, protocol
from grpo.evaluation.storage import made_now, save_evaluation
from grpo.policy.hub import on_hub, prepare_hub
from grpo.policy.requirements import check_cuda, check_packages, slow_bfloat16_warning
from grpo.rewards.stack import RewardStack, build_rewards
from grpo.runs.provenance import problems_of
from grpo.runs.run_dir import removed_if_unused, resolve_link
from grpo.runs.settings import load_run, saved_settings, trained
from grpo.runs.trust import refuse_links, require_trust
from grpo.tasks.example import Example
from grpo.tasks.splits import load_held_out, load_splits

# Settings that cannot hold for completions made elsewhere.
OF_POLICIES = {"model", "data", "rollout", "system_prompt", "max_completion_length", "samples", "temperature"}
ELSEWHERE = Path("outputs/evaluations")


@dataclass
class Subject:
    """Whose completions are evaluated, on what, and where the evaluation is kept."""

    title: str
    config: EvaluateConfig
    folder: Path
    stem: str
    examples: list[Example]
    seed: int = 0  # of random weights
    made: tuple[Path, Batch] | None = None  # completions of a file; None: they are the policy's


@dataclass
class Done:
    evaluation: Evaluation
    protocol: dict[str, Any]
    path: Path


def run(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Evaluate what the settings name; say and keep what was found.

    Raises:
        UserError: anything that the user can mend.
    """
    config = with_absolute_paths(to_dataclass(composed, EvaluateConfig))
    subjects = [_subject(config, composed, overrides)]
    if config.baseline is not None:
        subjects.insert(0, _baseline(config.baseline, subjects[0], config, composed, overrides))
        pairs(subjects[1].examples, subjects[0].examples)
    for key in _keys(overrides) if all(subject.made for subject in subjects) else ():
        if key.partition(".")[0] in OF_POLICIES and key != "data.answer_match":
            raise UserError(f"{key}: completions=FILE asks no policy and has no use for it; leave it out.")
    # What can go wrong with either is found out before hours are spent on one.
    ready = [_prepare(subject) for subject in subjects]
    done = {subject.title: evaluation() for subject, evaluation in zip(subjects, ready, strict=True)}
    *_, main = done.values()
    say(key_value_table(described(main.protocol)))
    if len(done) == 2:
        _compare(done, config.k)
    else:
        figures = {name: value for name, value in main.evaluation.figures.items() if _wanted(name, config.k)}
        say(metrics_table(figures, main.evaluation.intervals))
        if not main.evaluation.single:
            say(at_k_table(figures, main.evaluation.intervals))
    _show(config.show, {title: each.evaluation for title, each in done.items()})
    say(f"Every completion with its scores: {display_path(main.path.with_suffix('.parquet').absolute())}")


def _subject(config: EvaluateConfig, composed: DictConfig, overrides: Sequence[str]) -> Subject:
    if config.completions is not None and config.run is not None:
        raise UserError(
            f"run={config.run} completions={config.completions}: evaluate one of them; the other can be the baseline=."
        )
    if config.completions is not None:
        return _of_file("file", config.completions, "completions", config)
    if config.run is not None:
        return _of_run("run", resolve_link(Path(config.run).expanduser()), composed, overrides)
    check_config(config)
    stem = f"{_plain(Path(config.model.path).name)}-{config.data.name}"
    return Subject("policy", config, ELSEWHERE, stem, load_held_out(config.data), config.seed)


def _baseline(
    given: str, other: Subject, config: EvaluateConfig, composed: DictConfig, overrides: Sequence[str]
) -> Subject:
    # The policy and the name on the command line are the other side's.
    keys = zip(overrides, _keys(overrides), strict=True)
    overrides = [override for override, key in keys if key.partition(".")[0] not in ("model", "name")]
    config, composed = replace(config, name=None), composed.copy()
    composed.name = None
    path = resolve_link(Path(given).expanduser())
    if given == "before":
        if config.run is None:
            raise UserError("baseline=before: means the policy from which run= was trained; add run=FOLDER.")
        subject = _of_run("before", resolve_link(Path(config.run).expanduser()), composed, overrides, before=True)
    elif path.suffix in SUFFIXES:
        subject = _of_file("baseline", given, "baseline", config)
    elif path.is_dir():
        subject = _of_run("baseline", path, composed, overrides)
    else:
        raise UserError(
            f"baseline={given}: there is no such folder; give the folder of a run, a file of completions "
            f"({' or '.join(SUFFIXES)}), or before."
        )
    # One stack and one rule score both: totals of two stacks cannot be compared.
    subject.config.rewards, subject.config.reward_files = other.config.rewards, other.config.reward_files
    subject.config.data = replace(subject.config.data, answer_match=other.config.data.answer_match)
    return subject


def _of_file(title: str, file: str, setting: str, config: EvaluateConfig) -> Subject:
    check_config(config)
    path = Path(file).expanduser()
    examples, completions = read_completions(path, setting)
    return Subject(title, config, ELSEWHERE, _plain(path.stem), examples, made=(path, completions))


def _of_run(title: str, folder: Path, composed: DictConfig, overrides: Sequence[str], before: bool = False) -> Subject:
    """A run's policy under the run's own settings, but for those that the command line sets."""
    settings = saved_settings(folder)
    obeyed = {item.name for item in fields(CommonConfig)} - {"rollout"}
    if title == "baseline":  # it is scored with the rewards of run=
        obeyed -= {"rewards", "reward_files"}
    scores = "reward_files" in obeyed and settings.get("reward_files")
    without = "To evaluate without its rewards, add reward_files=[] rewards=default. " if scores else ""
    require_trust(
        folder,
        settings,
        again=f"{without}If you trust whoever made it, add trust_run=true.",
        obeyed=obeyed,
        typed=_keys(overrides),
        trusted=bool(composed.trust_run),
        policy=not before,
    )
    saved = load_run(folder)
    data, seed = saved.data, saved.seed
    if not before:
        saved.model = trained(saved.model, folder)
    merged = composed.copy()
    OmegaConf.set_struct(merged, False)
    names = [item.name for item in fields(CommonConfig)]
    for name in names:
        merged[name] = to_interpolations(
            getattr(saved, name)
        )  # with their interpolations, which this evaluation stores
    for override, key in zip(overrides, _keys(overrides), strict=True):
        if key.partition(".")[0] in names:
            if override.startswith("~"):
                merged.rewards.pop(key.partition(".")[2], None)
            else:
                OmegaConf.update(merged, key, OmegaConf.select(composed, key), merge=False)
    config = load_config(merged, EvaluateConfig)
    stem = f"before-{config.data.name}" if before else config.data.name
    if config.model.path != saved.model.path:
        title, stem = "policy", f"{_plain(Path(config.model.path).name)}-{stem}"
    keep = folder / "evaluations" if os.access(folder, os.W_OK) else ELSEWHERE
    if keep != ELSEWHERE:
        refuse_links(folder, trusted=bool(composed.trust_run))
    return Subject(title, config, keep, stem, _held_out(config.data, data, folder), seed)


def _held_out(data: DataConfig, of_run: DataConfig, folder: Path) -> list[Example]:
    """The held-out problems of `data`, for the run in `folder`, which was trained on those of `of_run`.

    Raises:
        UserError: some are problems that the run was trained on, or the run's own are not what they were.
    """
    with _settled_by(folder):
        examples = load_held_out(data)
        if of_run.name == "arithmetic":
            return examples  # no held-out problem shares its numbers with a training problem
        protocol = _json(folder / "evaluations" / "after.json").get("protocol")
        known = protocol.get("problems") if isinstance(protocol, dict) else None
        if data == of_run and known not in (None, problems_of(examples)):
            raise UserError("data: the files are not those of the run any more: its held-out problems are others now.")
    if data == of_run:
        return examples  # training excluded them
    try:
        seen = {example.key for example in load_splits(of_run).train}
    except UserError:
        say(f"The training problems of {folder} are not here: whether these are among them is not checked.")
        seen = set()
    if shared := sum(example.key in seen for example in examples):
        raise UserError(
            f"data: {shared:,} of these {len(examples):,} problems are among those the run was trained on; name "
            "others, data.test_file=FILE."
        )
    return examples


@contextmanager
def _settled_by(folder: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (Of {folder}; its settings can be set anew on the command line.)") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return parse_file(path, parse_json_object)
    except (OSError, UserError):
        return {}


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def _prepare(subject: Subject) -> Callable[[], Done]:
    """What evaluates the subject, after everything that is quickly checked."""
    config = subject.config
    rewards = build_rewards(config.rewards, config.reward_files, config.data.answer_match)
    if subject.made is not None:
        file, completions = subject.made
        made = {"path": str(file), "sha256": file_sha256(file), "n": len(completions)}
        how = {"completions": made, "problems": problems_of(subject.examples)}
        how |= {"extraction": extraction(config.data.answer_match), "rewards": config.rewards}
        sampling = ""
    else:
        check_packages(config)
        check_cuda(config)
        if on_hub(config.model.path):
            prepare_hub()
        with spinner("importing PyTorch and Transformers"):
            quiet_libraries()
            from grpo.policy.loading import identity
        with spinner("reading the policy"):
            policy = identity(config.model, subject.seed)
        how = protocol(config, "held-out", subject.examples, policy, config.samples, config.temperature)
        sampling = f"-{config.samples}-at-{config.temperature:g}" if config.temperature else "-greedy"
    digest = _identity(how)
    path = subject.folder / f"{config.name or f'{subject.stem}{sampling}-{digest}'}.json"
    if subject.made and path.with_suffix(".parquet").absolute() == subject.made[0].absolute():
        raise UserError(f"name={path.stem}: the evaluation would take the place of {subject.made[0]}; give it another.")
    kept = _kept(path, digest, how)
    if subject.made is not None:
        return lambda: _score(subject, how, path, made_now(digest), rewards)
    if kept is None:
        unfinished = Unfinished(path.with_suffix(".partial.jsonl"), digest)
        return lambda: _answer(subject, how, path, unfinished, made_now(digest), rewards)
    return lambda: _score_again(subject, path, kept, rewards)


def _identity(how: dict[str, Any]) -> str:
    """A digest of a protocol, in which a folder or a file is its content, wherever it lies."""
    known = dict(how)
    for name in ("policy", "completions"):
        if "sha256" in known.get(name, {}):
            known[name] = {key: value for key, value in known[name].items() if key != "path"}
    return sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]


def _kept(path: Path, identity: str, how: dict[str, Any]) -> dict[str, Any] | None:
    """The report of an evaluation that was finished before, if there is one.

    Raises:
        UserError: what is there is damaged, or another evaluation.
    """
    if not path.is_file():
        return None
    try:
        report = parse_file(path, parse_json_object)
        kept, other = report["identity"], report["protocol"] | {}
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; delete it to answer anew.") from error
    if kept != identity:
        made = "other content" if kept else "made by a training run"
        lines = [
            f"{name}: {line}"
            for name, line in unlike(other, {"stop": other.get("stop", [])} | to_interpolations(how)).items()
        ]
        raise UserError(
            f"name={path.stem}: {path} holds another evaluation ({'; '.join(lines) or made}); give "
            "this one another name."
        )
    return report if path.with_suffix(".parquet").is_file() else None


def _score(subject: Subject, how: dict[str, Any], path: Path, origin: dict[str, Any], rewards: RewardStack) -> Done:
    assert subject.made is not None
    evaluation = evaluate(subject.examples, [subject.made[1]], rewards, subject.config.k)
    save_evaluation(evaluation, path, how, origin)
    return Done(evaluation, how, path)


def _score_again(subject: Subject, path: Path, report: dict[str, Any], rewards: RewardStack) -> Done:
    table = path.with_suffix(".parquet")
    try:
        examples, completions = read_completions(table, "evaluation")
    except UserError as error:
        raise UserError(f"{error} Delete it to answer anew.") from error
    if examples != subject.examples or file_sha256(table) != report.get("parquet_sha256"):
        raise UserError(f"evaluation: {table} is not what was kept. Delete it to answer anew.")
    say(
        f"{subject.title}: answered before, {report['created']}. To answer anew, delete {display_path(path.absolute())}"
    )
    evaluation = evaluate(subject.examples, [completions], rewards, subject.config.k)
    if evaluation.as_json() != report["figures"]:  # another k, or a reward of the user's own that has changed
        save_evaluation(evaluation, path, report["protocol"], report)
    return Done(evaluation, report["protocol"], path)


def _answer(
    subject: Subject,
    how: dict[str, Any],
    path: Path,
    unfinished: Unfinished,
    origin: dict[str, Any],
    rewards: RewardStack,
) -> Done:
    config, began = subject.config, time.perf_counter()
    from grpo.policy.compatibility import check_policy
    from grpo.policy.loading import build_policy, build_tokenizer
    from grpo.sampling.build import build_sampler

    set_threads(config.threads)
    with spinner("loading the policy"):
        tokenizer = build_tokenizer(config.model)
        policy: Any = build_policy(config.model, subject.seed)
        questions = [example.question for example in subject.examples]
        notes = (*check_policy(policy, tokenizer, questions, config), slow_bfloat16_warning(config))
        policy.to(config.device)
        rollout = build_sampler(policy, tokenizer, config)
    for note in filter(None, notes):
        say(note)
    how["stop"] = tokenizer.convert_ids_to_tokens(rollout.eos_token_ids)
    total = len(subject.examples) * config.samples
    if unfinished.done:
        say(f"{subject.title}: going on after {len(unfinished.done):,} of {total:,} completions.")
    answered = answer(rollout, tokenizer, questions, config, config.samples, config.temperature, unfinished.done.keys())
    with progress(f"evaluating {subject.title}", total) as advance:
        evaluation = evaluate(subject.examples, unfinished.through(answered), rewards, config.k, advance)
    with spinner("saving the evaluation"):
        save_evaluation(evaluation, path, how, origin)
    unfinished.remove()
    say(f"{total:,} completions, {time.perf_counter() - began:.1f} s\n")
    return Done(evaluation, how, path)


def described(how: dict[str, Any]) -> dict[str, str]:
    """A protocol, for a person to read."""
    if "completions" in how:
        lines = {
            "completions": f"{how['completions']['n']:,} in {how['completions']['path']}",
            "problems": f"{how['problems']['n']:,} of that file",
        }
    else:
        policy, data, decoding, computing = (how[name] for name in ("policy", "data", "decoding", "computing"))
        known = [f"{name} {policy[name][:8]}" for name in ("sha256", "commit") if policy.get(name)]
        known += [f"random weights of seed {policy['seed']}"] if "seed" in policy else []
        place = f" in {display_path(Path(data['path']))}" if "path" in data else ""
        prompt = " ".join(how["system_prompt"].split())
        settings = ", ".join(f"{name} {'none' if value is None else value}" for name, value in decoding.items())
        penalty = decoding.get("repetition_penalty")
        autocast = f", computing in {computing['autocast']}" if computing["autocast"] else ""
        lines = {
            "policy": display_path(Path(policy["path"])) + (f" ({', '.join(known)})" if known else ""),
            "problems": f"{how['problems']['n']:,} {how['split']} problems of {data['name']}{place}",
            "prompt": f"{prompt!r}, then the question" if prompt else "the question alone",
            "sampling": settings
            if decoding["temperature"]
            else "greedy" + (f", repetition_penalty {penalty}" if penalty else ""),
            "length": f"at most {how['max_completion_length']} tokens, ended by {' or '.join(how.get('stop', []))}",
            "weights": f"{computing['weights']}{autocast} on {computing['device']}, rollout={computing['rollout']}",
        }
    rewards = ", ".join(f"{name} {weight:g}" for name, weight in how["rewards"].items())
    return lines | how["extraction"] | {"rewards": rewards}


def unlike(other: dict[str, Any], how: dict[str, Any]) -> dict[str, str]:
    """The lines of a described protocol that are not those of another."""
    lines = described(how)
    return {name: line for name, line in described(other).items() if line != lines.get(name)}


def _wanted(figure: str, asked: Sequence[int] | None) -> bool:
    """Whether a figure is shown: of pass@k and maj@k those that were asked for, or all."""
    k = re.search(r"@(\d+)", figure)
    return k is None or asked is None or int(k[1]) in asked


def _compare(done: dict[str, Done], k: Sequence[int] | None) -> None:
    (before, first), (after, second) = done.items()
    say(f"\n{before}, where it differs:")
    other = unlike(first.protocol, second.protocol)
    other.pop("problems", None)  # they are the same, wherever they come from
    say(key_value_table(other or {"nothing": "the same policy under the same protocol"}))
    differences = compare(second.evaluation, first.evaluation)
    for names in (ordered_metrics(differences), [name for name in differences if "@" in name and _wanted(name, k)]):
        if names:
            chosen = {name: differences[name] for name in names}
            say(comparison_table((before, after), first.evaluation.figures, second.evaluation.figures, chosen))
    right = differences["accuracy_strict"]
    if right.gained is not None:
        n = len(second.evaluation.examples)
        say(f"Right under {after} alone: {right.gained:,} of {n:,}; under {before} alone: {right.lost:,}.")
    report = {"evaluation": str(second.path), "baseline": str(first.path), "difference": _as_json(differences)}
    path = second.path.with_name(f"{second.path.stem}-vs-{first.path.stem}.json")
    write_json(path, report)
    say(f"The comparison: {display_path(path.absolute())}")


def _as_json(differences: dict[str, Difference]) -> dict[str, Any]:
    return {name: asdict(difference) for name, difference in differences.items()}


def _show(count: int, evaluations: dict[str, Evaluation]) -> None:
    """The first completions of some problems side by side, those first on which the two differ."""
    sides = list(evaluations.values())
    columns = [range(len(sides[0].examples)), *([pairs(sides[0].examples, sides[1].examples)] if sides[1:] else [])]

    def right(places: tuple[int, ...], figure: str = "accuracy_strict") -> list[bool]:
        return [bool(side.values[figure][side.starts[i]]) for side, i in zip(sides, places, strict=True)]

    def labels(places: tuple[int, ...]) -> list[str]:
        flexible = right(places, "accuracy_flexible")
        return [
            "right" if strict else "right, but not in <answer>" if anywhere else "wrong"
            for strict, anywhere in zip(right(places), flexible, strict=True)
        ]

    rows = sorted(zip(*columns, strict=True), key=lambda places: len(set(right(places))) < len(sides))
    for places in rows[:count]:
        example = sides[0].examples[places[0]]
        texts = {
            f"{title}: {label}": side.completions[i][0].text
            for (title, side), i, label in zip(evaluations.items(), places, labels(places), strict=True)
        }
        say(answers_table(f"{example.question} (gold: {example.gold})", texts))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def app(composed: DictConfig) -> None:
    with hydra_job():
        overrides = job_overrides()
        if is_multirun():
            say(f"\n{' '.join(overrides)}")
        try:
            run(composed, overrides)
        except OSError as error:
            if error.strerror is None:
                raise
            raise UserError(f"{error.filename or 'a file'}: {error.strerror}.") from error


def main() -> None:
    try:
        with removed_if_unused(ELSEWHERE, "multirun.yaml"):
            run_command(app, EvaluateConfig, "Interrupted: the same command resumes it.")
    except OSError as error:  # what Hydra itself writes for a multirun
        if Command.current.started:
            raise
        sys.exit(error_message(f"error: {error.filename or ELSEWHERE}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
