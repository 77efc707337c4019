"""What a stack of rewards pays for, before GPU time is spent on it.

python -m grpo.audit rewards=verbatim
python -m grpo.audit rewards=verbatim fail_on=warning
python -m grpo.audit completions=file.jsonl
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from math import ceil
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from grpo.config.application import Command, hydra_job, is_multirun, job_overrides, run_command
from grpo.config.composition import load_config
from grpo.config.groups import CONF
from grpo.config.schema import AuditConfig
from grpo.core.console import console, error_message, say
from grpo.core.errors import UserError
from grpo.core.tables import facts
from grpo.core.text import printable
from grpo.rewards.advantages import ROUNDING, Attribution, Floats, attribute
from grpo.rewards.probes import CHANGES, PROBES, Finding, Measured, judge, listing, measure, number, probe
from grpo.rewards.registry import RewardStack, build_rewards
from grpo.runs.lock import removed_if_unused

ALIKE = 0.95  # two rewards that correlate above this teach the same


def run(config: AuditConfig) -> list[Finding]:
    """Say what the stack pays for, on the battery or on the completions of a file.

    Raises:
        UserError: anything that the user can mend, and findings on which the command shall fail.
    """
    stack = build_rewards(config.rewards, config.reward_files, config.data.answer_match)
    weights = ", ".join(f"{name} {weight:g}" for name, weight in stack.weights.items() if weight)
    if config.completions is None:
        measured = measure(stack)
        found = judge(measured)
        what = f"{len(PROBES)} probes"
        _say_battery(weights, measured, found)
    else:
        scored = score_file(stack, Path(config.completions).expanduser())
        found = list(scored.judge())
        what = f"{len(scored.completions):,} completions"
        _say_file(weights, scored)
    _say_findings(found)
    warnings = sum(finding.level == "warning" for finding in found)
    counted = f"{_count(warnings, 'warning')}, {_count(len(found) - warnings, 'note')}"
    say(Text(f"{counted[0].upper()}{counted[1:]} from {what}.", style="bold yellow" if warnings else "bold"))
    failing = {None: 0, "warning": warnings, "note": len(found)}[config.fail_on]
    if failing:
        raise UserError(f"fail_on={config.fail_on}: {counted}.")
    return found


def _count(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


# The battery


def _say_battery(weights: str, measured: Measured, found: Sequence[Finding]) -> None:
    best, top = measured.best, measured.parts.max(axis=0).sum()
    reached = "" if measured.total(best.name) >= top - measured.rounding else f" of {number(top)}"
    score = f"{number(measured.total(best.name))}{reached}, attained by '{best.name}':\n{shown(best.completion)}"
    say(facts({"weights": weights, "best": score}))
    say(_probes_table(measured, found))
    say(_changes_table(measured))


def shown(completion: str, most: int = 220) -> str:
    """A completion in one line, its line breaks as `\\n`, cut in the middle."""
    text = printable(completion).replace("\n", "\\n")
    return (text or "(empty)") if len(text) <= most else f"{text[: most - 60]} [...] {text[-50:]}"


def _probes_table(measured: Measured, found: Sequence[Finding]) -> Table:
    """A row a probe; `!` marks those that a warning points at."""
    marked = {name for finding in found if finding.level == "warning" for name in finding.probes}
    prefix = _prefix(measured.names)
    totals, *columns = map(_column, [measured.totals, *measured.raw.T])
    names = [f"  {probe.name}" for probe in PROBES]
    room = console.width - max(map(cell_len, names)) - max(map(len, totals)) - 4
    heads = _heads([name.removeprefix(prefix) for name in measured.names], columns, room)
    table = _table(f"probe\n(rewards: {prefix}...)" if prefix else "probe", "total", *heads)
    cells = zip(totals, *columns, strict=True)
    for kind, rows in groupby(zip(PROBES, cells, strict=True), key=lambda row: row[0].kind):
        table.add_row(Text(kind, style="bold"))
        for each, values in rows:
            worry = each.name in marked
            table.add_row(
                Text(f"{'!' if worry else ' '} {each.name}", style="yellow" if worry else ""),
                Text(values[0], style="bold"),
                *(Text(value, style="" if float(value) else "dim") for value in values[1:]),
            )
    return table


def _table(first: str, *columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold")
    for name in columns:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a `_`; it would only widen the columns."""
    words = names[0].split("_")[:-1] if len(names) > 1 else []
    while words and not all(name.startswith("_".join([*words, ""])) for name in names):
        words.pop()
    return "_".join([*words, ""])


def _heads(names: Sequence[str], columns: Sequence[Sequence[str]], room: int) -> list[str]:
    """Names broken at `_`, and within words where the columns would not fit into `room` otherwise."""
    words = [name.replace("_", "_ ").split() for name in names]
    least = [max(min(6, max(map(len, parts))), *map(len, column)) for parts, column in zip(words, columns, strict=True)]
    widths = [max(low, *map(len, parts)) for low, parts in zip(least, words, strict=True)]
    while sum(widths) + 2 * len(widths) > room and widths != least:
        widest = max(range(len(widths)), key=lambda k: (widths[k] > least[k]) * widths[k])
        widths[widest] -= 1
    return ["\n".join(_broken(word, width) for word in parts) for parts, width in zip(words, widths, strict=True)]


def _broken(word: str, width: int) -> str:
    """A word in equal pieces of at most `width`."""
    size = ceil(len(word) / ceil(len(word) / width))
    return "\n".join(word[i : i + size] for i in range(0, len(word), size))


def _column(values: Floats, sign: str = "") -> list[str]:
    """Numbers with as few decimals as tell them whole, up to three, and one beside large ones."""
    decimals = next((d for d in (1, 2) if np.allclose(values, np.round(values, d), rtol=0, atol=5e-5)), 3)
    decimals = 1 if np.abs(values).max() >= 100 else decimals
    return [f"{value:{sign}z.{decimals}f}" for value in values]


def _changes_table(measured: Measured) -> Table:
    prefix = _prefix(measured.names)
    table = _table("a change of form", "total")
    table.add_column(Text(f"by (rewards: {prefix}...)" if prefix else "by"))
    changes = {change: measured.change(*probes) for change, probes in CHANGES.items()}
    totals = _column(np.array([total for total, _ in changes.values()]), "+")
    for (change, (_, parts)), total in zip(changes.items(), totals, strict=True):
        made = ", ".join(f"{name.removeprefix(prefix)} {part:+.4g}" for name, part in parts.items())
        table.add_row(Text(change), total if parts else "", Text(made or "nothing", style="" if made else "dim"))
    return table


def _say_findings(found: Sequence[Finding]) -> None:
    for level, style in (("warning", "bold yellow"), ("note", "")):
        table = Table.grid(padding=(0, 1))
        for finding in found:
            if finding.level == level:
                table.add_row(Text("!" if level == "warning" else "-", style=style), Text(finding.text))
                if finding.example is not None:
                    table.add_row("", Text(shown(probe(finding.example).completion, 140), style="dim"))
        if table.row_count:
            say(Text(f"{level.capitalize()}s", style=style or "bold"))
            say(table)
            say("")


# A file of completions


@dataclass(frozen=True)
class Scored:
    """Completions of a file under a stack.

    Attributes:
        completions: (N) texts.
        stack: R rewards, those of weight 0 included.
        scores: (N, R) raw.
        groups: the places of the completions of each group.
    """

    completions: list[str]
    stack: RewardStack
    scores: Floats
    groups: list[list[int]]

    @property
    def names(self) -> list[str]:
        return list(self.stack.weights)

    @property
    def weights(self) -> Floats:
        return np.array(list(self.stack.weights.values()))

    @property
    def totals(self) -> Floats:
        return self.scores @ self.weights

    @cached_property
    def attribution(self) -> Attribution:
        """The advantages of groups of two and more under `scale_rewards: none`, and their parts."""
        parts, spread = [np.zeros((0, len(self.names)))], [np.zeros((0, len(self.names) + 1), dtype=bool)]
        for size in sorted({len(group) for group in self.groups} - {1}):
            places = [place for group in self.groups if len(group) == size for place in group]
            of_size = attribute(self.scores[places], self.weights, size, scale_rewards="none")
            parts.append(of_size.parts)
            spread.append(of_size.zero_std)
        joined = np.concatenate(parts)
        return Attribution(joined.sum(axis=1), joined, np.concatenate(spread))

    def correlations(self) -> Floats:
        """Pearson's r (R + 1, R + 1) of the rewards and, last, the total; NaN where one does not vary."""
        columns = np.column_stack([self.scores, self.totals])
        centred = columns - columns.mean(axis=0)
        centred[:, np.abs(centred).max(axis=0) <= ROUNDING * np.abs(columns).max(axis=0)] = 0.0
        norms = np.sqrt((centred**2).sum(axis=0))
        products = np.outer(norms, norms)
        return np.divide(centred.T @ centred, products, out=np.full_like(products, np.nan), where=products > 0)

    def judge(self) -> Iterator[Finding]:
        """What is found, warnings first."""
        names, correlations, shares = self.names, self.correlations(), self.attribution.shares()
        paid = [k for k in range(len(names)) if self.weights[k]]
        if constant := [f"{names[k]} ({number(self.scores[0, k])})" for k in paid if np.isnan(correlations[k, k])]:
            yield Finding("warning", f"The same score for every completion: {listing(constant)}.")
        alone = all(len(group) == 1 for group in self.groups)
        if shares is not None:
            if against := [f"{names[k]} ({shares[k]:.1%})" for k in paid if shares[k] <= -0.0005]:
                text = f"Pulling against the total, with a negative share of its variance: {listing(against)}."
                yield Finding("warning", text)
        elif not alone:
            yield Finding("warning", "The total does not vary within any group: no completion has an advantage.")
        for i, j in combinations(paid, 2):
            if correlations[i, j] > ALIKE:
                yield Finding(
                    "note", f"{names[i]} and {names[j]} pay for the same: they correlate by {correlations[i, j]:.3f}."
                )
        if alone:
            yield Finding(
                "note",
                "Every group is a single completion, so nothing can be said of what moves a policy; give several "
                "completions of each question.",
            )


def score_file(stack: RewardStack, path: Path) -> Scored:
    """Score the completions of a file.

    Raises:
        UserError: the file is missing or damaged, or a reward failed.
    """
    from grpo.evaluation.completions import read_completions

    examples, batch = read_completions(path, "completions")
    groups: list[list[int]] = [[] for _ in examples]
    places = sorted(batch)  # completions of one question next to each other, as in training
    for row, (problem, _) in enumerate(places):
        groups[problem].append(row)
    texts = [batch[place].text for place in places]
    asked = [examples[problem] for problem, _ in places]
    scores = stack.score(texts, [example.gold for example in asked], [example.question for example in asked])
    return Scored(texts, stack, np.array(list(scores.values())).T, groups)


def _say_file(weights: str, scored: Scored) -> None:
    sizes = sorted({len(group) for group in scored.groups})
    of = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    lines = {
        "weights": weights,
        "completions": f"{len(scored.completions):,}",
        "groups": f"{len(scored.groups):,} of {of}",
    }
    flat = scored.attribution.zero_std[:, -1]
    if len(flat):
        lines["no spread"] = f"the total does not vary in {flat.sum():,} of {len(flat):,} groups of two or more"
    totals = scored.totals
    for title, place in (("best", int(np.argmax(totals))), ("worst", int(np.argmin(totals)))):
        lines[title] = f"{number(totals[place])}: {shown(scored.completions[place])}"
    say(facts(lines))
    say(_distribution_table(scored))
    say(_variance_table(scored))


def _distribution_table(scored: Scored) -> Table:
    table = _table("score", "mean", "std", "min", "25%", "50%", "75%", "max", ">0")
    columns = np.column_stack([scored.scores, scored.totals]).T
    for name, values in zip([*scored.names, "total"], columns, strict=True):
        figures = np.array([values.mean(), values.std(), *np.percentile(values, [0, 25, 50, 75, 100])])
        table.add_row(Text(name), *_column(figures), f"{(values > 0).mean():.0%}")
    return table


def _variance_table(scored: Scored) -> Table:
    """What each reward makes of the variance within groups, and correlations over all completions."""
    correlations, shares = scored.correlations(), scored.attribution.shares()
    names = [*scored.names, "total"]
    table = _table("share within groups,\ncorrelations", "share", *(f"{k + 1}" for k in range(len(names))))
    for k, name in enumerate(names):
        paid = k < len(scored.weights) and scored.weights[k] != 0 and shares is not None
        share = f"{shares[k]:z.1%}" if paid and shares is not None else ""
        row = correlations[k, : k + 1]
        cells = ["" if np.isnan(value) else f"{value:z.2f}".replace("0.", ".") for value in row]
        label = Text(f"{k + 1} {name}", no_wrap=True, overflow="ellipsis")
        table.add_row(label, share, *(["const"] if np.isnan(row[k]) else cells))
    return table


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="audit")
def app(composed: DictConfig) -> None:
    with hydra_job():
        if is_multirun():
            say(f"\n{' '.join(job_overrides())}")
        run(load_config(composed, AuditConfig))


def main() -> None:
    try:
        with removed_if_unused(Path("outputs/audits"), "multirun.yaml"):
            run_command(app, AuditConfig, "Interrupted.")
    except OSError as error:  # what Hydra itself writes for a multirun
        if Command.current.started:
            raise
        sys.exit(error_message(f"error: {error.filename or 'outputs/audits'}: {error.strerror or error}."))


if __name__ == "__main__":
    main()
