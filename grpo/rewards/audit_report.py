"""Prints what `grpo.audit` found: the tables of probes and of completions, and the findings.

Called only by grpo/audit.py. It computes no score and no finding.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import ceil

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from grpo.core.console import console, say
from grpo.core.statistics import Floats
from grpo.core.tables import key_value_table
from grpo.core.text import printable
from grpo.rewards.completion_scores import CompletionScores
from grpo.rewards.finding import Finding, format_score
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probe_templates import CHANGES, REFERENCE
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat

SHOWN_PAIRS = 3


def print_probes(
    weights: str, requested: AnswerFormat, paid: AnswerFormat, scores: ProbeScores, findings: Sequence[Finding]
) -> None:
    """Print the best probe, the scores of all probes, the effect of each change, and the time of each reward.

    Args:
        requested: the format of the run.
        paid: the format of the probes.
    """
    best, best_sum = scores.best, scores.weighted.max(axis=0).sum()
    limit = "" if scores.total(best.name) >= best_sum - scores.rounding else f" of {format_score(best_sum)}"
    total = format_score(scores.total(best.name))
    lines = {"weights": weights, "best": f"{total}{limit}, attained by '{best.name}':\n{one_line(best.completion)}"}
    built_in = REFERENCE in scores.index
    if requested != DEFAULT_FORMAT:
        lines["format"] = requested.setting
    if paid != requested:
        lines["format"] = f"these rewards pay for {paid.tags[0]} instead of {requested.tags[0]}; set {paid.setting}"
    say(key_value_table(lines))
    say(_probes_table(scores, findings))
    if built_in:
        say(_changes_table(scores))
    say(_times_table(scores))


def print_completions(weights: str, answer_format: AnswerFormat, scores: CompletionScores) -> None:
    """Print the best and worst completion of a file, the distribution of scores, shares and correlations."""
    sizes = sorted({len(group) for group in scores.groups})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    lines = {
        "weights": weights,
        "completions": f"{len(scores.completions):,}",
        "groups": f"{len(scores.groups):,} of {size}",
    }
    if answer_format != DEFAULT_FORMAT:
        lines["format"] = answer_format.setting
    constant = scores.attribution.zero_std[:, -1]
    if len(constant):
        count = f"{constant.sum():,} of {len(constant):,}"
        lines["no spread"] = f"the total does not vary in {count} groups of two or more"
    totals = np.nan_to_num(scores.totals)
    for title, row in (("best", int(np.argmax(totals))), ("worst", int(np.argmin(totals)))):
        lines[title] = f"{format_score(totals[row])}: {one_line(scores.completions[row])}"
    say(key_value_table(lines))
    say(_distribution_table(scores))
    say(_variance_table(scores))
    _print_inverted_pairs(scores)


def _print_inverted_pairs(scores: CompletionScores) -> None:
    """Print up to `SHOWN_PAIRS` pairs of which the wrong completion has the higher total, with their scores."""
    for wrong, right in scores.inverted_pairs.examples[:SHOWN_PAIRS]:
        group = next(k for k, rows in enumerate(scores.groups) if wrong in rows)
        lines = {"question": one_line(scores.questions[group], 140)}
        for title, row in (("wrong", wrong), ("right", right)):
            parts = ", ".join(
                f"{name} {format_score(part)}"
                for name, part in zip(scores.names, scores.weighted[row], strict=True)
                if part
            )
            total = format_score(scores.totals[row])
            lines[title] = f"{total}{f' = {parts}' if parts else ''}\n{one_line(scores.completions[row], 140)}"
        say(key_value_table(lines))
        say("")


def print_findings(findings: Sequence[Finding], texts: Mapping[str, str]) -> None:
    """Print warnings, then notes, each example once; `texts` are the probes by their names."""
    shown: set[str] = set()
    for level, style in (("warning", "bold yellow"), ("note", "")):
        table = Table.grid(padding=(0, 1))
        for finding in findings:
            if finding.level == level:
                table.add_row(Text("!" if level == "warning" else "-", style=style), Text(finding.text))
                if finding.example is not None and finding.example not in shown:
                    shown.add(finding.example)
                    table.add_row("", Text(one_line(texts[finding.example], 140), style="dim", overflow="fold"))
        if table.row_count:
            say(Text(f"{level.capitalize()}s", style=style or "bold"))
            say(table)
            say("")


def one_line(completion: str, longest: int = 220) -> str:
    """A completion in one line, with line breaks as `\\n`, truncated in the middle to `longest` characters."""
    text = printable(completion).replace("\n", "\\n")
    return (text or "(empty)") if len(text) <= longest else f"{text[: longest - 60]} [...] {text[-50:]}"


def _probes_table(scores: ProbeScores, findings: Sequence[Finding]) -> Table:
    """One row per probe; `!` marks the probes of warnings."""
    warned = {name for finding in findings if finding.level == "warning" for name in finding.probes}
    prefix = _common_prefix(scores.names)
    totals, *columns = map(_format_column, [np.where(scores.is_scored, scores.totals, np.nan), *scores.raw.T])
    names = [f"  {probe.name}" for probe in scores.probes]
    room = console.width - max(map(cell_len, names)) - max(map(len, totals)) - 4
    heads = _column_heads([name.removeprefix(prefix) for name in scores.names], columns, room)
    table = _score_table(f"probe\n(rewards: {prefix}...)" if prefix else "probe", "total", *heads)
    cells = zip(totals, *columns, strict=True)
    kinds = list(dict.fromkeys(probe.kind for probe in scores.probes))
    by_kind = sorted(zip(scores.probes, cells, strict=True), key=lambda row: kinds.index(row[0].kind))
    for kind, rows in groupby(by_kind, key=lambda row: row[0].kind):
        table.add_row(Text(kind, style="bold"))
        for probe, values in rows:
            is_warned = probe.name in warned
            table.add_row(
                Text(f"{'!' if is_warned else ' '} {probe.name}", style="yellow" if is_warned else ""),
                Text(values[0], style="bold"),
                *(Text(value, style="dim" if value.strip("-0.") == "" else "") for value in values[1:]),
            )
    return table


def _changes_table(scores: ProbeScores) -> Table:
    prefix = _common_prefix(scores.names)
    table = _score_table("a change of format", "total")
    table.add_column(Text(f"by (rewards: {prefix}...)" if prefix else "by"))
    changes = {change: scores.change(*probes) for change, probes in CHANGES.items()}
    totals = _format_column(np.array([total for total, _ in changes.values()]), "+")
    for (change, (_, parts)), total in zip(changes.items(), totals, strict=True):
        by = ", ".join(f"{name.removeprefix(prefix)} {part:+.4g}" for name, part in parts.items())
        table.add_row(Text(change), total if parts else "", Text(by or "nothing", style="" if by else "dim"))
    return table


def _times_table(scores: ProbeScores) -> Table:
    table = _score_table("one call of a reward", "median time")
    for name, seconds in scores.seconds.items():
        table.add_row(Text(name), _format_time(seconds))
    return table


def _format_time(seconds: float) -> str:
    """A short duration with three digits: `12.3 µs`, `4.56 ms`, `1.2 s`."""
    scale, unit = next(((s, u) for s, u in ((1e6, "µs"), (1e3, "ms")) if seconds * s < 999.5), (1.0, "s"))
    return f"{seconds * scale:.3g} {unit}"


def _distribution_table(scores: CompletionScores) -> Table:
    table = _score_table("score", "mean", "std", "min", "25%", "50%", "75%", "max", ">0")
    columns = np.column_stack([scores.raw, scores.totals]).T
    for name, column in zip([*scores.names, "total"], columns, strict=True):
        if not len(values := column[~np.isnan(column)]):
            table.add_row(Text(name), "abstains")
            continue
        statistics = np.array([values.mean(), values.std(), *np.percentile(values, [0, 25, 50, 75, 100])])
        table.add_row(Text(name), *_format_column(statistics), f"{(values > 0).mean():.0%}")
    return table


def _variance_table(scores: CompletionScores) -> Table:
    """Each reward's share of the variance within groups, and correlations over all completions."""
    correlations, shares = scores.correlations(), scores.attribution.shares()
    names = [*scores.names, "total"]
    table = _score_table("share within groups,\ncorrelations", "share", *(f"{k + 1}" for k in range(len(names))))
    for k, name in enumerate(names):
        is_weighted = k < len(scores.weights) and scores.weights[k] != 0
        share = f"{shares[k]:z.1%}" if is_weighted and shares is not None else ""
        row = correlations[k, : k + 1]
        cells = ["" if np.isnan(value) else f"{value:z.2f}".replace("0.", ".") for value in row]
        label = Text(f"{k + 1} {name}", no_wrap=True, overflow="ellipsis")
        table.add_row(label, share, *(["const"] if np.isnan(row[k]) else cells))
    return table


def _score_table(first: str, *columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold")
    for name in columns:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _common_prefix(names: Sequence[str]) -> str:
    """The common beginning of all names, up to a `_`; column heads omit it to save width."""
    words = names[0].split("_")[:-1] if len(names) > 1 else []
    while words and not all(name.startswith("_".join([*words, ""])) for name in names):
        words.pop()
    return "_".join([*words, ""])


def _column_heads(names: Sequence[str], columns: Sequence[Sequence[str]], room: int) -> list[str]:
    """Names with line breaks at `_`, and within words if the columns would not fit into `room` characters otherwise."""
    words = [name.replace("_", "_ ").split() for name in names]
    lowest = [
        max(min(6, max(map(len, parts))), *map(len, column)) for parts, column in zip(words, columns, strict=True)
    ]
    widths = [max(low, *map(len, parts)) for low, parts in zip(lowest, words, strict=True)]
    while sum(widths) + 2 * len(widths) > room and widths != lowest:
        widest = max(range(len(widths)), key=lambda k: (widths[k] > lowest[k]) * widths[k])
        widths[widest] -= 1
    return ["\n".join(_break_word(word, width) for word in parts) for parts, width in zip(words, widths, strict=True)]


def _break_word(word: str, width: int) -> str:
    """A word in equal pieces of at most `width` characters."""
    size = ceil(len(word) / ceil(len(word) / width))
    return "\n".join(word[i : i + size] for i in range(0, len(word), size))


def _format_column(values: Floats, sign: str = "") -> list[str]:
    """Numbers with as few decimals as they need, at most three; with one decimal if there are large numbers.

    nan, an abstention, is shown as `-`.
    """
    known = np.nan_to_num(values)
    decimals = next((d for d in (1, 2) if np.allclose(known, np.round(known, d), rtol=0, atol=5e-5)), 3)
    decimals = 1 if np.abs(known).max() >= 100 else decimals
    return ["-" if np.isnan(value) else f"{value:{sign}z.{decimals}f}" for value in values]
