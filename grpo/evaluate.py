"""Held-out figures of a policy, with 95% intervals and the protocol they were measured by.

python -m grpo.evaluate run=outputs/DATE/TIME
python -m grpo.evaluate run=A baseline=B show=5
python -m grpo.evaluate completions=file.jsonl
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from grpo.command import command, job
from grpo.completions import SUFFIXES, Unfinished, read_completions
from grpo.config import CONF, Common, EvaluateConfig, check, load, load_run, neutral, trained, typed
from grpo.console import (
    answers,
    at_k_table,
    comparison_table,
    facts,
    figures_table,
    listed,
    progress,
    quiet_libraries,
    say,
    shortest,
)
from grpo.data import Example, load_held_out
from grpo.device import require, use_threads
from grpo.errors import UserError
from grpo.evaluation import (
    EXTRACTION,
    Batch,
    Difference,
    Evaluation,
    answer,
    compare,
    evaluate,
    pairs,
    problems_of,
    protocol,
)
from grpo.files import write_json
from grpo.hub import on_hub, prepare_hub
from grpo.rewards import RewardStack, build_rewards

# Settings that completions made elsewhere have no use for.
OF_POLICIES = {item.name for item in fields(Common)} - {"rewards", "reward_files"} | {"samples", "temperature"}
ELSEWHERE = Path("outputs/evaluations")


@dataclass
class Subject:
    """Whose completions are evaluated, on what, and where the evaluation is kept."""

    title: str
    config: EvaluateConfig
    folder: Path
    stem: str
    examples: list[Example]
    file: Path | None = None  # of completions; None: they are the policy's
    completions: Batch | None = None


@dataclass
class Kept:
    evaluation: Evaluation
    protocol: dict[str, Any]
    path: Path


def run(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Evaluate what the settings name; say and keep what was found.

    Raises:
        UserError: anything that the user can mend.
    """
    config = typed(composed, EvaluateConfig)
    subject = _subject(config, composed, overrides)
    baseline = None
    if config.baseline is not None:
        baseline = _baseline(config.baseline, config, composed, overrides)
        pairs(subject.examples, baseline.examples)  # before hours are spent on what cannot be compared
    files_alone = subject.file is not None and (baseline is None or baseline.file is not None)
    for key in _keys(overrides) if files_alone else ():
        if key.partition(".")[0] in OF_POLICIES:
            raise UserError(f"{key}: completions=FILE asks no policy and has no use for it; leave it out.")
    first = _evaluate(baseline) if baseline else None
    done = _evaluate(subject)
    say(facts(described(done.protocol)))
    if baseline and first:
        say(f"\n{baseline.title}, where it differs:")
        say(facts(unlike(first.protocol, done.protocol) or {"nothing": "the same policy under the same protocol"}))
        differences = compare(done.evaluation, first.evaluation)
        _say_comparison((baseline.title, subject.title), first.evaluation, done.evaluation, differences)
        _keep_comparison(first, done, differences)
    else:
        say(figures_table(done.evaluation.figures, done.evaluation.intervals))
        if not done.evaluation.single:
            say(at_k_table(done.evaluation.figures, done.evaluation.intervals))
    shown = {baseline.title: first.evaluation} if baseline and first else {}
    _show(config.show, shown | {subject.title: done.evaluation})
    say(f"Every completion with its scores: {shortest(done.path.with_suffix('.parquet').absolute())}")


def _subject(config: EvaluateConfig, composed: DictConfig, overrides: Sequence[str]) -> Subject:
    if config.completions is not None and config.run is not None:
        raise UserError(
            f"run={config.run} completions={config.completions}: evaluate one of them; the other can be the baseline=."
        )
    if config.completions is not None:
        return _of_file("file", config.completions, "completions", config)
    if config.run is not None:
        return _of_run("run", Path(config.run), composed, overrides)
    check(config)
    stem = re.sub(r"[^\w.-]", "-", Path(config.model.path).name)
    return Subject("policy", config, ELSEWHERE, f"{stem}-{config.data.name}", load_held_out(config.data))


def _baseline(given: str, config: EvaluateConfig, composed: DictConfig, overrides: Sequence[str]) -> Subject:
    # The policy and the name on the command line are the other side's.
    overrides = [
        override
        for override, key in zip(overrides, _keys(overrides), strict=True)
        if key.partition(".")[0] not in ("model", "name")
    ]
    config, composed = replace(config, name=None), composed.copy()
    composed.name = None
    if given == "before":
        if config.run is None:
            raise UserError("baseline=before: means the policy from which run= was trained; add run=FOLDER.")
        subject = _of_run("before", Path(config.run), composed, overrides, before=True)
    elif Path(given).suffix in SUFFIXES:
        subject = _of_file("baseline", given, "baseline", config)
    elif Path(given).is_dir():
        subject = _of_run("baseline", Path(given), composed, overrides)
    else:
        raise UserError(
            f"baseline={given}: there is no such folder; give the folder of a run, a file of completions "
            f"({' or '.join(SUFFIXES)}), or before."
        )
    return subject


def _of_file(title: str, file: str, setting: str, config: EvaluateConfig) -> Subject:
    check(config)
    path = Path(file).expanduser()
    examples, completions = read_completions(path, setting)
    return Subject(title, config, ELSEWHERE, re.sub(r"[^\w.-]", "-", path.stem), examples, path, completions)


def _of_run(title: str, folder: Path, composed: DictConfig, overrides: Sequence[str], before: bool = False) -> Subject:
    """A run's policy under the run's own settings, but for those that the command line sets."""
    saved = load_run(folder)
    saved.rollout = neutral(saved.rollout)
    if not before:
        saved.model = trained(saved.model, folder)
    merged = composed.copy()
    OmegaConf.set_struct(merged, False)
    names = [item.name for item in fields(Common)]
    for name in names:
        merged[name] = getattr(saved, name)
    for override, key in zip(overrides, _keys(overrides), strict=True):
        if key.partition(".")[0] in names:
            if override.startswith("~"):
                merged.rewards.pop(key.partition(".")[2], None)
            else:
                OmegaConf.update(merged, key, OmegaConf.select(composed, key), merge=False)
    config = load(merged, EvaluateConfig)
    stem = f"before-{config.data.name}" if before else config.data.name
    return Subject(title, config, folder / "evaluations", stem, load_held_out(config.data))


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.key_or_group for override in OverridesParser.create().parse_overrides(list(overrides))]


def _evaluate(subject: Subject) -> Kept:
    config = subject.config
    rewards = build_rewards(config.rewards, config.reward_files)
    if subject.file is not None and subject.completions is not None:
        return _score(subject, subject.file, subject.completions, rewards)
    require(config)
    if on_hub(config.model.path):
        prepare_hub()
    quiet_libraries()
    from grpo.model import identity

    how = protocol(config, subject.examples, identity(config.model, config.seed), config.samples, config.temperature)
    sampling = f"{config.samples}-at-{config.temperature:g}" if config.temperature else "greedy"
    name = config.name or f"{subject.stem}-{sampling}-{_identity(how)}"
    path = subject.folder / f"{name}.json"
    if (kept := _kept(path, how)) is None:
        return _answer(subject, how, path, rewards)
    report, completions = kept
    say(f"{subject.title}: answered before, {report['created']}. To answer anew, delete {shortest(path.absolute())}")
    evaluation = evaluate(subject.examples, [completions], rewards, config.k)
    if evaluation.as_json() != report["figures"]:  # other k, or a reward of the user's own
        evaluation.keep(path, report["protocol"])
    return Kept(evaluation, report["protocol"], path)


def _score(subject: Subject, file: Path, completions: Batch, rewards: RewardStack) -> Kept:
    with file.open("rb") as content:
        digest = file_digest(content, "sha256").hexdigest()
    how = {
        "completions": {"path": str(file), "sha256": digest},
        "problems": problems_of(subject.examples),
        "extraction": EXTRACTION,
        "rewards": subject.config.rewards,
    }
    evaluation = evaluate(subject.examples, [completions], rewards, subject.config.k)
    path = subject.folder / f"{subject.config.name or f'{subject.stem}-{_identity(how)}'}.json"
    evaluation.keep(path, how)
    return Kept(evaluation, how, path)


def _answer(subject: Subject, how: dict[str, Any], path: Path, rewards: RewardStack) -> Kept:
    config, began = subject.config, time.perf_counter()
    from grpo.model import build_policy, build_tokenizer
    from grpo.rollout import build_rollout

    use_threads(config)
    tokenizer = build_tokenizer(config.model)
    policy: Any = build_policy(config.model, config.seed)
    policy.to(config.device)
    rollout = build_rollout(policy, tokenizer, config)
    how["stop"] = tokenizer.convert_ids_to_tokens(rollout.ends)
    unfinished = Unfinished(path.with_suffix(".partial.jsonl"), _identity(how))
    total = len(subject.examples) * config.samples
    if unfinished.done:
        say(f"{subject.title}: going on after {len(unfinished.done):,} of {total:,} completions.")
    questions = [example.question for example in subject.examples]
    answered = answer(rollout, tokenizer, questions, config, config.samples, config.temperature, unfinished.done.keys())
    with progress(f"evaluating {subject.title}", total) as advance:
        evaluation = evaluate(subject.examples, unfinished.through(answered), rewards, config.k, advance)
    evaluation.keep(path, how)
    unfinished.remove()
    say(f"{total:,} completions, {time.perf_counter() - began:.1f} s\n")
    return Kept(evaluation, how, path)


def _identity(how: dict[str, Any]) -> str:
    """A digest of all that completions hang on and that is known before the policy is loaded."""
    known = {name: value for name, value in how.items() if name != "stop"}
    if "sha256" in known.get("policy", {}):
        known["policy"] = {name: value for name, value in known["policy"].items() if name != "path"}
    return sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]


def _kept(path: Path, how: dict[str, Any]) -> tuple[dict[str, Any], Batch] | None:
    """The report and the completions of an evaluation that was finished before, if there is one."""
    table = path.with_suffix(".parquet")
    if not path.is_file() or not table.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        same = _identity(report["protocol"]) == _identity(how)
        other = unlike(report["protocol"], {"stop": report["protocol"]["stop"]} | how)
        examples, completions = read_completions(table, "evaluation")
        if same and problems_of(examples) != how["problems"]:
            raise UserError(f"evaluation: {table} is damaged: its problems are not those of {path.name}.")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"evaluation: {path} is damaged. Delete it to answer anew.") from error
    except UserError as error:
        raise UserError(f"{error} Delete it to answer anew.") from error
    if not same:
        found = "; ".join(f"{name}: {line}" for name, line in other.items()) or "other data"
        raise UserError(f"name={path.stem}: {path} holds another evaluation ({found}). Give this one another name.")
    return report, completions


def described(how: dict[str, Any]) -> dict[str, str]:
    """A protocol, for a person to read."""
    if "completions" in how:
        lines = {"completions": how["completions"]["path"], "problems": f"{how['problems']['n']:,} of that file"}
    else:
        policy, data, decoding, computing = (how[name] for name in ("policy", "data", "decoding", "computing"))
        known = f"sha256 {policy['sha256'][:8]}" if "sha256" in policy else f"revision {policy['revision'] or 'main'}"
        seed = f", random weights of seed {policy['seed']}" if "init" in policy else ""
        place = f" in {data['path']}" if "path" in data else ""
        prompt = how["system_prompt"].strip()
        knobs = ", ".join(f"{name} {'none' if value is None else value}" for name, value in decoding.items())
        autocast = f", computing in {computing['autocast']}" if computing["autocast"] else ""
        lines = {
            "policy": f"{policy['path']} ({known}{seed})",
            "problems": f"{how['problems']['n']:,} held-out problems of {data['name']}{place}",
            "prompt": f"{' '.join(prompt.split())!r}, then the question" if prompt else "the question alone",
            "sampling": knobs
            if decoding["temperature"]
            else "greedy"
            + (f", repetition_penalty {decoding['repetition_penalty']}" if "repetition_penalty" in decoding else ""),
            "stop": f"{how['max_completion_length']} tokens, or {' or '.join(how['stop'])}",
            "weights": f"{computing['weights']}{autocast} on {computing['device']}, rollout={computing['rollout']}",
        }
    rewards = ", ".join(f"{name} {weight:g}" for name, weight in how["rewards"].items())
    return lines | how["extraction"] | {"rewards": rewards}


def unlike(other: dict[str, Any], how: dict[str, Any]) -> dict[str, str]:
    """The lines of a described protocol that are not those of another."""
    lines = described(how)
    return {name: line for name, line in described(other).items() if line != lines.get(name)}


def _say_comparison(
    titles: tuple[str, str], first: Evaluation, second: Evaluation, differences: dict[str, Difference]
) -> None:
    for names in (listed(differences), [name for name in differences if "@" in name]):
        if names:
            chosen = {name: differences[name] for name in names}
            say(comparison_table(titles, first.figures, second.figures, chosen))
    right, (before, after) = differences["accuracy_strict"], titles
    if right.gained is not None:
        n = len(second.examples)
        say(f"Right under {after} alone: {right.gained:,} of {n:,}; under {before} alone: {right.lost:,}.")


def _keep_comparison(baseline: Kept, evaluation: Kept, differences: dict[str, Difference]) -> None:
    report = {
        "evaluation": str(evaluation.path),
        "baseline": str(baseline.path),
        "difference": {name: asdict(difference) for name, difference in differences.items()},
    }
    write_json(evaluation.path.with_name(f"{evaluation.path.stem}-vs-{baseline.path.stem}.json"), report)


def _show(count: int, evaluations: dict[str, Evaluation]) -> None:
    """The first completions of some problems side by side, those first on which the two differ."""
    sides = list(evaluations.values())
    order = [range(len(sides[0].examples)), pairs(sides[0].examples, sides[-1].examples)]
    rows = list(zip(*order, strict=True)) if len(sides) == 2 else [(i,) for i in order[0]]

    def right(places: tuple[int, ...]) -> list[bool]:
        return [bool(side.values["accuracy_strict"][side.starts[i]]) for side, i in zip(sides, places, strict=True)]

    for places in sorted(rows, key=lambda places: len(set(right(places))) == 1)[:count]:
        example = sides[0].examples[places[0]]
        columns = {
            f"{title}: {'right' if good else 'wrong'}": side.completions[i][0].text
            for (title, side), i, good in zip(evaluations.items(), places, right(places), strict=True)
        }
        say(answers(f"{example.question} (gold: {example.gold})", columns))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def app(composed: DictConfig) -> None:
    with job():
        try:
            run(composed, HydraConfig.get().overrides.task)
        except OSError as error:
            if error.filename is None:
                raise
            raise UserError(f"{error.filename}: {error.strerror}.") from error


def main() -> None:
    command(app, EvaluateConfig, "Interrupted: the same command goes on where it stopped.")


if __name__ == "__main__":
    main()
