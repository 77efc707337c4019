"""`python -m grpo.audit`: findings in the shipped stacks, in faulty stacks, and in files of completions."""

import json
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose as hydra_compose

from grpo import audit
from grpo.config.composition import config_search_path, load_config
from grpo.config.groups import CONF, option_names
from grpo.config.hydra_errors import translate_errors
from grpo.config.schema import AuditConfig
from grpo.core.errors import UserError
from grpo.rewards.answer_probes import FORMS, PROBLEMS, built_in_probes
from grpo.rewards.completion_scores import CompletionScores, judge_completions
from grpo.rewards.finding import Finding
from grpo.rewards.probe import AS_REQUESTED
from grpo.rewards.probe_rules import judge_probes
from grpo.rewards.probe_scores import paid_format, score_probes
from grpo.rewards.probe_templates import CHANGES
from grpo.rewards.scoring_batch import ScoringBatch
from grpo.rewards.stack import build_rewards
from grpo.tasks.answer_format import DEFAULT_FORMAT, AnswerFormat, BoxedFormat, TagFormat
from grpo.tasks.answer_types import ANSWER_TYPES

PROBES = built_in_probes("number")
DEFAULT_STACK = dict.fromkeys(("correctness", "int", "strict_format", "soft_format", "xmlcount"), 1.0)

MINE = """
import math
from grpo.rewards import reward

@reward
def length(completion):
    return len(completion)

@reward
def flat(completion):
    return 0.25

@reward
def crosses(completion):
    return completion.count("x")

@reward
def anywhere(completion, gold):
    return float(gold in completion)

@reward
def floored(completion):
    return max(0.0, 0.5 - (0 if completion.endswith("\\n") else len(completion)) / 1000)

@reward
def closed(completion):
    return 0.5 * completion.endswith("</answer>\\n")

@reward
def signed(completion, gold):
    return 1.0 if completion.endswith(gold) else -1.0

@reward
def broken(completion):
    return 1 / len(completion)

@reward
def endless(completion):
    return 1.0 if completion else math.inf

@reward
def picky(completion, gold):
    return [].pop() if "$" in completion else 1.0

@reward
def useless(completions):
    raise ValueError("no")

@reward
def tokens(completion_tokens, truncated):
    return completion_tokens - truncated
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*overrides: str) -> list[Finding]:
    """Run the command in this process."""
    with config_search_path(), translate_errors(AuditConfig):
        return audit.run(load_config(hydra_compose("audit", list(overrides)), AuditConfig))


def found(level: str, **weights: float) -> list[str]:
    return [
        finding.text
        for finding in judge_probes(score_probes(build_rewards(weights, ["mine.py"]), PROBES))
        if finding.level == level
    ]


def lines(path: Path, rows: list) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize("requested", [DEFAULT_FORMAT, TagFormat("think", "solution"), BoxedFormat()])
@pytest.mark.parametrize("answer", ["number", "choice", "text", "equation", "math"])
def test_the_probes_are_what_they_say(answer: str, requested: AnswerFormat) -> None:
    if answer == "math":
        pytest.importorskip("math_verify")
    probes = built_in_probes(answer, requested)
    assert len({probe.name for probe in probes}) == len(probes)
    assert {name for pair in CHANGES.values() for name in pair} <= {probe.name for probe in probes}
    batch = ScoringBatch([probe.completion for probe in probes], [probe.example for probe in probes])
    stack = build_rewards({"correctness": 1.0, "strict_format": 1.0}, answer_type=answer, answer_format=requested)
    scores = stack.score(batch)
    for probe, correct, strict in zip(probes, scores["correctness"], scores["strict_format"], strict=True):
        if probe.right is not None and requested.tags[-1] in probe.completion:
            assert correct == 2.0 * probe.right, probe.name
        assert probe.kind != AS_REQUESTED or strict == 0.5, probe.name
    # Equal questions are adjacent in a batch.
    questions = [probe.example.question for probe in probes]
    assert sum(a != b for a, b in pairwise(questions)) == len(set(questions)) - 1


@pytest.mark.parametrize("requested", [TagFormat("think"), TagFormat(answer="solution"), BoxedFormat()])
@pytest.mark.parametrize("answer", ["number", "choice", "text", "equation"])
def test_the_default_stack_has_the_same_warnings_in_each_format(answer: str, requested: AnswerFormat) -> None:
    def findings(answer_format: AnswerFormat) -> list[Finding]:
        stack = build_rewards(DEFAULT_STACK, answer_type=answer, answer_format=answer_format)
        assert paid_format(stack) == answer_format
        return judge_probes(score_probes(stack, built_in_probes(answer, answer_format)))

    found, expected = findings(requested), findings(DEFAULT_FORMAT)
    if isinstance(requested, BoxedFormat):  # a preamble and a line break are part of the reasoning there
        found, expected = ([each for each in some if each.level == "warning"] for some in (found, expected))
    assert [finding.text for finding in found] == [finding.text for finding in expected]


def test_types_of_answers_without_probes_say_so() -> None:
    assert set(PROBLEMS) == set(FORMS) == set(ANSWER_TYPES) - {"reasoning_gym"}
    with pytest.raises(
        UserError, match=r"^data\.answer=reasoning_gym: there are no built-in probes .*, probes=FILE\.$"
    ):
        built_in_probes("reasoning_gym")


def test_verbatim(capsys) -> None:
    findings = run("rewards=verbatim")
    assert [finding.text for finding in findings if finding.level == "warning"] == [
        "Wrong outscores right in 36 of 577 pairs: 'wrong as asked' 1.5 over '18.0' 1, '$18' 1 and '18 pens' 1 (verbatim_int).",
        "verbatim_strict_format and verbatim_soft_format exclude each other: no probe is paid by both, so the best score found is 3.5; the best of each reward would sum to 4.",
        "verbatim_correctness reads numbers, but refuses the right answers 1,080 for gold 1080 and 1080 for gold 1,080.",
        "verbatim_int reads numbers, but refuses the right answers -5 and 1,080, and pays for ² (superscript), ٣ (Arabic-Indic) and １８ (full-width).",
        "Right without work outscores right with work: 'empty reasoning' 3.5 and 'filler reasoning' 3.5 over 'three lines' 3; 'bare answer' 2.5 over 'many lines, no break' 2.016.",
        "Wrong answers differ by 2.406, more than the 2 that right adds: 'wrong, then long text' -0.906 and 'wrong as asked' 1.5 (verbatim_int 0.5, verbatim_strict_format 0.5, verbatim_xmlcount 1.406).",
        "More reasoning lowers the score of the same answer: by 0.5 in 'three lines' (verbatim_strict_format) and by 0.9 in 'many lines, no break' (verbatim_xmlcount).",
        "A missing last line break is charged for the whole completion, 0.001 per character (verbatim_xmlcount): a right answer of 86 characters falls from 3.5 to 2.916, one of 986 from 3 to 2.016.",
        "A bare answer in no format earns 2.5 of 3.5 (verbatim_correctness 2, verbatim_int 0.5).",
        "Another format pays more than the requested one: 'on one line, no break' 3 over 'one line, no break' 2.916 (verbatim_soft_format 0.5, verbatim_xmlcount -0.416).",
    ]
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    flat = " ".join(said.split())
    assert r"best 3.5 of 4, attained by 'one line': <reasoning>\n3 boxes of 6 pens are 3 * 6 = 18 pens." in flat
    assert "no last line break -0.584 strict_format -0.5, xmlcount -0.084" in flat
    assert "! bare answer 2.500 2.0 0.5 0.0 0.0 0.000" in flat and "  bare sentence  " in said
    assert flat.endswith(f"10 warnings, 4 notes from {len(PROBES)} probes.")


def test_default_has_limits_and_no_faults(capsys) -> None:
    assert [(finding.level, finding.text) for finding in run("fail_on=warning")] == [
        (
            "note",
            "Wrong outscores right, which correctness does not count as right: 'wrong as asked' 2 over '\\boxed{} instead' 0, 'bare answer' 0 and 'bare sentence' 0.",
        ),
        ("note", "18.0, $18, 18 pens, \\boxed{18} and **18** for 18: refused by int."),
        ("note", "No work pays as much as work, 4: filler reasoning and empty steps."),
        (
            "note",
            "Format pays without a right answer: 'wrong as asked' 2, 'empty answer block' 0.5 and 'template copied' 1.5, of 4.",
        ),
    ]
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and "best     4, attained by 'one line':" in said
    assert said.endswith(f"No warnings, 4 notes from {len(PROBES)} probes.\n")
    with pytest.raises(UserError, match=r"^fail_on=note: no warnings, 4 notes.$"):
        run("fail_on=note")


@pytest.mark.parametrize("stack", option_names("rewards"))
def test_warnings_of_the_shipped_stacks(stack: str) -> None:
    warned = {"verbatim": "10 warnings, 4 notes", "no_correctness": "2 warnings, 3 notes"}
    if stack in warned:
        with pytest.raises(UserError, match=rf"^fail_on=warning: {warned[stack]}.$"):
            run(f"rewards={stack}", "fail_on=warning")
    else:
        assert all(finding.level == "note" for finding in run(f"rewards={stack}", "fail_on=warning"))


def test_the_answer_type_of_a_run_can_be_audited(folder) -> None:
    notes = [finding.text for finding in run("data.answer=strict", "rewards=correctness_only")]
    assert notes[0] == r"18 pens, \boxed{18} and **18** for 18: refused by correctness."
    lines(folder / "made.jsonl", [{"question": "?", "gold": "7", "completion": "<answer>7.0</answer>"}])
    for answer, right in (("number", 2.0), ("strict", 2.0), ("text", 0.0)):
        stack = build_rewards({"correctness": 1.0}, answer_type=answer)
        assert audit.score_file(stack, folder / "made.jsonl").raw == [[right]]


def test_measured_rewards_are_not_judged() -> None:
    assert found("warning", correctness=1, flat=0, length=0, verbatim_xmlcount=0) == []


@pytest.mark.parametrize(
    ("weights", "warnings"),
    [
        (
            {"correctness": 1, "flat": 1},
            [
                "flat gives every probe the same score, 0.25: it distinguishes none of them.",
            ],
        ),
        (
            {"correctness": 1, "anywhere": 1},
            [
                "anywhere pays for wrong answers as for right ones: '3 answers in one', 'right work, wrong end', 'empty answer block', '118 for 18', '180 for 18', '-18 for 18' and 4 more.",
                "anywhere reads numbers, but refuses the right answers 1,080 for gold 1080 and 1080 for gold 1,080.",
                "A bare answer in no format earns 1 of 3 (anywhere).",
            ],
        ),
        (
            {"length": 1},
            [
                "Wrong outscores right in 175 of 577 pairs: 'wrong, padded' 972 over 'answer block alone' 22, 'empty reasoning' 48 and 'filler reasoning' 51 (length).",
                "A right answer earns no more than a wrong one in the same format: 86 and 86.",
                "Right without work outscores right with work: 'empty steps' 143 over 'one line' 86.",
                "Padding pays: 886 characters of filler add 886 (length).",
                "Another format pays more than the requested one: 'preamble before' 104 over 'one line' 86 (length); 'short text after' 105 over 'one line' 86 (length); 'long text after' 789 over 'one line, no break' 85 (length).",
                "Repetition pays: 'everything twice' 172, 'inline, then in lines' 168, 'reasoning twice' 150, 'last of 3 right' 130, 'first of 3 right' 130, 'answer twice' 108 and '3 answers in one' 92, against 86 without.",
            ],
        ),
        (
            {"correctness": 1, "strict_format": 1, "signed": 1},
            [
                "signed excludes each of correctness and strict_format: no probe is paid by both, so the best score found is 1.5; the best of each reward would sum to 3.5.",
                "A bare answer in no format earns 2 of 2.5 (signed).",
            ],
        ),
        # A price on length may be deliberate; its effect is reported all the same.
        (
            {"correctness": 1, "length": -0.001},
            [
                "Right without work outscores right with work: 'answer block alone' 1.978, 'empty reasoning' 1.952, 'filler reasoning' 1.949 and 'empty steps' 1.857 over 'many lines' 1.014.",
                "More reasoning lowers the score of the same answer: by 0.9 in 'many lines' (length).",
            ],
        ),
        (
            {"correctness": 1, "floored": 1},
            [
                "More reasoning lowers the score of the same answer: by 0.415 in 'long line, no break' (floored).",
                "A missing last line break is charged for the whole completion, 0.001 per character (floored): a right answer of 86 characters falls from 2.5 to 2.415, one of 986 from 2.5 to 2.",
            ],
        ),
    ],
)
def test_faults_of_other_stacks(weights: dict, warnings: list[str]) -> None:
    assert found("warning", **weights) == warnings


def test_a_line_break_at_a_fixed_price_is_a_note() -> None:
    assert "A missing last line break costs 0.5 (closed)." in found("note", correctness=1, closed=1)
    assert "A last line break costs 0.5 (closed)." in found("note", correctness=1, closed=-1)


FAILS = "A run stops at such a completion."


@pytest.mark.parametrize(
    ("weights", "warning"),
    [
        (
            {"correctness": 1, "broken": 1e-6},
            f"broken fails on 'empty text': raised ZeroDivisionError: division by zero (mine.py:35). {FAILS}",
        ),
        (
            {"correctness": 1, "endless": 1e-6},
            "endless fails on 'empty text': returned inf; a reward is a finite number",
        ),
        ({"correctness": 1, "picky": 1e-6}, "picky fails on '$18': raised IndexError: pop from"),
    ],
)
def test_a_reward_that_fails_on_a_probe_is_a_finding(weights: dict, warning: str) -> None:
    others = found("warning", correctness=1)
    first, *rest = found("warning", **weights)
    assert first.startswith(warning) and first.endswith(FAILS)
    assert [text for text in rest if "distinguishes" not in text] == others


def test_a_reward_that_fails_everywhere_stops_the_audit() -> None:
    with pytest.raises(UserError, match=r"^reward 'useless' raised ValueError: no \(mine.py:\d+\)\. The completion"):
        run("reward_files=[mine.py]", "+rewards.useless=0.1")


def test_a_failing_reward_in_the_report(capsys) -> None:
    with pytest.raises(UserError, match=r"^fail_on=warning: "):
        run("reward_files=[mine.py]", "+rewards.broken=1e-6", "fail_on=warning", "rewards=correctness_only")
    said = capsys.readouterr().out
    assert "! empty text" in said and "broken fails on 'empty text'" in " ".join(said.split())


def test_many_rewards_fit_into_their_columns(capsys) -> None:
    run("reward_files=[mine.py]", "+rewards.anywhere=1", "+rewards.flat=0.1")
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and "  three lines, no break  " in said and "…" not in said


# Two groups: correctness 2, 0 and 0, 0, 0; crosses 0, 1 and 0, 0, 3.
ROWS = [
    {"question": "1?", "gold": "1", "completion": "<answer>1</answer>"},
    {"question": "2?", "gold": "2", "completion": "<answer>1</answer>"},
    {"question": "2?", "gold": "2", "completion": "[bold]no[/bold]\x1b[31m"},
    {"question": "1?", "gold": "1", "completion": "<answer>2</answer> x"},
    {"question": "2?", "gold": "2", "completion": "xxx"},
]
CROSSES = ["reward_files=[mine.py]", "rewards=correctness_only", "+rewards.crosses=1"]


def scored(folder: Path, rows: list, **weights: float) -> CompletionScores:
    lines(folder / "made.jsonl", rows)
    return audit.score_file(build_rewards(weights, ["mine.py"]), folder / "made.jsonl")


def test_shares_and_correlations_by_hand(folder) -> None:
    result = scored(folder, ROWS, correctness=1, crosses=1, flat=0)
    assert result.names == ["correctness", "crosses", "flat"] and result.groups == [[0, 1], [2, 3, 4]]
    # Centered in their groups: correctness 1 -1 | 0 0 0, crosses -.5 .5 | -1 -1 2, and so the total .5 -.5 | -1 -1 2.
    assert result.attribution.shares() == pytest.approx([1 / 6.5, 5.5 / 6.5, 0])
    expected = -1.6 / (3.2 * 6.8) ** 0.5
    assert result.correlations()[0, 1] == pytest.approx(expected) and result.correlations()[1, 1] == pytest.approx(1)
    assert np.isnan(result.correlations()[2]).all()
    assert list(judge_completions(result)) == []
    alone = scored(folder, [ROWS[0], ROWS[3]], correctness=1, crosses=1)
    assert alone.attribution.shares() == pytest.approx([2, -1])
    assert [finding.text for finding in judge_completions(alone)] == [
        "Acting against the total, with a negative share of its variance: crosses (-100.0%)."
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_of_completions(folder, capsys, suffix: str) -> None:
    lines(folder / "made.jsonl", ROWS)
    pd.DataFrame(ROWS).to_parquet(folder / "made.parquet")
    assert run(f"completions=made.{suffix}", *CROSSES) == []
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and "\x1b" not in said
    flat = " ".join(said.split())
    assert "completions 5 groups 2 of 2 to 3 no spread the total does not vary in 0 of 2 groups" in flat
    assert "best 3: xxx worst 0: <answer>1</answer>" in flat
    assert "correctness 0.4 0.8 0.0 0.0 0.0 0.0 2.0 20%" in flat
    assert "crosses 0.800 1.166 0.000 0.000 0.000 1.000 3.000 40%" in flat
    assert "1 correctness 15.4% 1.00" in flat and "6 crosses 84.6% -.34" in flat and "3 strict_format const" in flat
    assert flat.endswith("No warnings, no notes from 5 completions.")


@pytest.mark.parametrize(
    ("rows", "weights", "findings"),
    [
        (
            ROWS[1:3],
            {"correctness": 1, "flat": 1},
            [
                "The same score for every completion: correctness (0) and flat (0.25).",
                "The total does not vary within any group: no completion has an advantage.",
            ],
        ),
        (
            [ROWS[0], ROWS[1]],
            {"correctness": 1},
            [
                "Every group is a single completion, which has no advantage, so the shares of the rewards are unknown; give several"
            ],
        ),
        (
            [ROWS[0], {**ROWS[0], "completion": ""}],
            {"correctness": 1, "int": 1},
            ["correctness and int pay for the same: their correlation is 1.000."],
        ),
        (
            [ROWS[0], {**ROWS[0], "completion": ""}, ROWS[3]],
            {"correctness": 1, "broken": 1e-6},
            [
                "broken fails on 1 of 3 completions: raised ZeroDivisionError: division by zero (mine.py:35). The first: ''"
            ],
        ),
        (
            [{**ROWS[0], "tokens": 3, "truncated": False}, {**ROWS[0], "tokens": 9, "truncated": True}],
            {"tokens": 1, "length": 0},
            [],
        ),
        (
            [{**row, "completion": [{"role": "assistant", "content": row["completion"]}]} for row in ROWS],
            {"correctness": 1, "crosses": 1},
            [],
        ),
    ],
)
def test_findings_of_a_file(folder, rows: list, weights: dict, findings: list[str]) -> None:
    result = list(judge_completions(scored(folder, rows, **weights)))
    assert len(result) == len(findings)
    assert all(finding.text.startswith(text) for finding, text in zip(result, findings, strict=True))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rewards=verbatm", "rewards=verbatm: rewards has no option 'verbatm'. Did you mean 'verbatim'?"),
        ("rewards.corectness=1", "rewards.corectness: the composed stack has no such reward"),
        ("+rewards.corectness=1", "rewards.corectness: there is no reward 'corectness'. Did you mean 'correctness'?"),
        ("completions=nowhere.jsonl", "completions: there is no file nowhere.jsonl."),
        ("completions=mine.py", "completions=mine.py: the name of a file of completions ends in .jsonl or .parquet."),
        ("completions=empty.jsonl", "completions=empty.jsonl: the file has no completions."),
        ("reward_files=[nowhere.py]", "reward_files: no file "),
        ("fail_on=often", "fail_on=often: must be one of warning, note."),
        ("fail=warning", "fail: there is no such setting. Did you mean 'fail_on'?"),
        ("model=tiny", "model: there is no such setting. Known: completions, correct_by, data, fail_on, "),
        ("data.answer=exact", "data.answer=exact: must be one of number, strict, text, choice, math, equation"),
        ("data.seed=1", "data.seed: there is no such setting."),
        ("data=gsm8k", "data: this command has no group data, only data.answer."),
        ("+seed=1", "seed: there is no such setting."),
    ],
)
def test_mistakes(folder, override: str, message: str) -> None:
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(UserError) as error:
        run(override)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_every_setting_has_a_comment() -> None:
    text = (CONF / "audit.yaml").read_text()
    for item in fields(AuditConfig):
        if item.name not in ("rewards", "format", "system_prompt"):  # of their own files
            assert text.partition(f"\n{item.name}:")[0].splitlines()[-1].startswith("# "), item.name


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rewards=verbatim", "fail_on=warning"], 1, ["error: fail_on=warning: 10 warnings, 4 notes."]),
        (["completions=made.jsonl", *CROSSES, "fail_on=warning"], 0, []),
    ],
)
def test_the_command_imports_nothing_heavy_and_leaves_no_files(
    light, folder, arguments: list, code: int, said: list
) -> None:
    lines(folder / "made.jsonl", ROWS)
    before = set(folder.rglob("*"))
    done = light("grpo.audit", *arguments)
    assert done.returncode == code
    assert done.stderr.splitlines() == said
    assert not {"torch", "transformers", "scipy", "pandas"} & done.modules
    assert {path for path in folder.rglob("*") if "__pycache__" not in str(path)} == before


def test_the_probes_are_as_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reward-audit.md").read_text(encoding="utf-8")
    assert (
        f"10 warnings, 4 notes from {len(PROBES)} probes." in text and f"that these {len(PROBES)} found nothing" in text
    )
    for probe in ("many lines, no break    2.016", "bare answer             2.500"):
        assert probe in text


def test_help_teaches(light) -> None:
    done = light("grpo.audit", "--help")
    assert done.returncode == 0 and "rewards=verbatim" in done.stdout and "completions=file.jsonl" in done.stdout
