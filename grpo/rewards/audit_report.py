"""Prints what `grpo.audit` found: the tables of probes and of completions, and the findings.

Called by grpo/audit.py alone. It computes no score and no finding.
"""

from collections.abc import Sequence
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
from grpo.rewards.findings import Finding, format_score
from grpo.rewards.probe_scores import ProbeScores
from grpo.rewards.probes import CHANGES, PROBES, probe_named


def print_probes(weights: str, measured: ProbeScores, found: Sequence[Finding]) -> None:
    best, top = measured.best, measured.parts.max(axis=0).sum()
    reached = "" if measured.total(best.name) >= top - measured.rounding else f" of {format_score(top)}"
    score = (
        f"{format_score(measured.total(best.name))}{reached}, attained by '{best.name}':\n{one_line(best.completion)}"
    )
    say(key_value_table({"weights": weights, "best": score}))
    say(_probes_table(measured, found))
    say(_changes_table(measured))


def one_line(completion: str, most: int = 220) -> str:
    """A completion in one line, its line breaks as `\\n`, cut in the middle."""
    text = printable(completion).replace("\n", "\\n")
    return (text or "(empty)") if len(text) <= most else f"{text[: most - 60]} [...] {text[-50:]}"


def _probes_table(measured: ProbeScores, found: Sequence[Finding]) -> Table:
    """A row a probe; `!` marks those that a warning points at."""
    marked = {name for finding in found if finding.level == "warning" for name in finding.probes}
    prefix = _common_prefix(measured.names)
    totals, *columns = map(_format_column, [measured.totals, *measured.raw.T])
    names = [f"  {probe.name}" for probe in PROBES]
    room = console.width - max(map(cell_len, names)) - max(map(len, totals)) - 4
    heads = _column_heads([name.removeprefix(prefix) for name in measured.names], columns, room)
    table = _score_table(f"probe\n(rewards: {prefix}...)" if prefix else "probe", "total", *heads)
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


def _score_table(first: str, *columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold")
    for name in columns:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a `_`; it would only widen the columns."""
    words = names[0].split("_")[:-1] if len(names) > 1 else []
    while words and not all(name.startswith("_".join([*words, ""])) for name in names):
        words.pop()
    return "_".join([*words, ""])


def _column_heads(names: Sequence[str], columns: Sequence[Sequence[str]], room: int) -> list[str]:
    """Names broken at `_`, and within words where the columns would not fit into `room` otherwise."""
    words = [name.replace("_", "_ ").split() for name in names]
    least = [max(min(6, max(map(len, parts))), *map(len, column)) for parts, column in zip(words, columns, strict=True)]
    widths = [max(low, *map(len, parts)) for low, parts in zip(least, words, strict=True)]
    while sum(widths) + 2 * len(widths) > room and widths != least:
        widest = max(range(len(widths)), key=lambda k: (widths[k] > least[k]) * widths[k])
        widths[widest] -= 1
    return ["\n".join(_break_word(word, width) for word in parts) for parts, width in zip(words, widths, strict=True)]


def _break_word(word: str, width: int) -> str:
    """A word in equal pieces of at most `width`."""
    size = ceil(len(word) / ceil(len(word) / width))
    return "\n".join(word[i : i + size] for i in range(0, len(word), size))


def _format_column(values: Floats, sign: str = "") -> list[str]:
    """Numbers with as few decimals as tell them whole, up to three, and one beside large ones."""
    decimals = next((d for d in (1, 2) if np.allclose(values, np.round(values, d), rtol=0, atol=5e-5)), 3)
    decimals = 1 if np.abs(values).max() >= 100 else decimals
    return [f"{value:{sign}z.{decimals}f}" for value in values]


def _changes_table(measured: ProbeScores) -> Table:
    prefix = _common_prefix(measured.names)
    table = _score_table("a change of form", "total")
    table.add_column(Text(f"by (rewards: {prefix}...)" if prefix else "by"))
    changes = {change: measured.change(*probes) for change, probes in CHANGES.items()}
    totals = _format_column(np.array([total for total, _ in changes.values()]), "+")
    for (change, (_, parts)), total in zip(changes.items(), totals, strict=True):
        made = ", ".join(f"{name.removeprefix(prefix)} {part:+.4g}" for name, part in parts.items())
        table.add_row(Text(change), total if parts else "", Text(made or "nothing", style="" if made else "dim"))
    return table


def print_findings(found: Sequence[Finding]) -> None:
    for level, style in (("warning", "bold yellow"), ("note", "")):
        table = Table.grid(padding=(0, 1))
        for finding in found:
            if finding.level == level:
                table.add_row(Text("!" if level == "warning" else "-", style=style), Text(finding.text))
                if finding.example is not None:
                    table.add_row("", Text(one_line(probe_named(finding.example).completion, 140), style="dim"))
        if table.row_count:
            say(Text(f"{level.capitalize()}s", style=style or "bold"))
            say(table)
            say("")


def print_completions(weights: str, scored: CompletionScores) -> None:
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
        lines[title] = f"{format_score(totals[place])}: {one_line(scored.completions[place])}"
    say(key_value_table(lines))
    say(_distribution_table(scored))
    say(_variance_table(scored))


def _distribution_table(scored: CompletionScores) -> Table:
    table = _score_table("score", "mean", "std", "min", "25%", "50%", "75%", "max", ">0")
    columns = np.column_stack([scored.scores, scored.totals]).T
    for name, values in zip([*scored.names, "total"], columns, strict=True):
        figures = np.array([values.mean(), values.std(), *np.percentile(values, [0, 25, 50, 75, 100])])
        table.add_row(Text(name), *_format_column(figures), f"{(values > 0).mean():.0%}")
    return table


def _variance_table(scored: CompletionScores) -> Table:
    """What each reward makes of the variance within groups, and correlations over all completions."""
    correlations, shares = scored.correlations(), scored.attribution.shares()
    names = [*scored.names, "total"]
    table = _score_table("share within groups,\ncorrelations", "share", *(f"{k + 1}" for k in range(len(names))))
    for k, name in enumerate(names):
        paid = k < len(scored.weights) and scored.weights[k] != 0 and shares is not None
        share = f"{shares[k]:z.1%}" if paid and shares is not None else ""
        row = correlations[k, : k + 1]
        cells = ["" if np.isnan(value) else f"{value:z.2f}".replace("0.", ".") for value in row]
        label = Text(f"{k + 1} {name}", no_wrap=True, overflow="ellipsis")
        table.add_row(label, share, *(["const"] if np.isnan(row[k]) else cells))
    return table
