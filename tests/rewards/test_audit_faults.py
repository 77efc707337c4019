"""What `python -m grpo.audit` finds in well-known stacks (audit_stacks/), in rewards with one fault, and in pairs."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose as hydra_compose

from grpo import audit
from grpo.config.composition import config_search_path, load_config
from grpo.config.hydra_errors import translate_errors
from grpo.config.schema import AuditConfig
from grpo.core.errors import UserError
from grpo.rewards.answer_probes import built_in_probes
from grpo.rewards.finding import Finding
from grpo.rewards.inverted_pairs import find_inverted_pairs
from grpo.rewards.probe_rules import judge_probes
from grpo.rewards.probe_scores import paid_format, score_probes
from grpo.rewards.stack import build_rewards

STACKS = Path(__file__).parent / "audit_stacks"
WEIGHTS = {
    "gsm8k_demo": ["demo_correctness", "demo_int", "demo_strict_format", "demo_soft_format", "demo_xmlcount"],
    "open_r1_like": ["accuracy", "think_format", "cosine_length", "repetition_penalty", "reasoning_steps"],
    "countdown_like": ["countdown_format", "countdown_equation"],
}
CORRECT_BY = {"gsm8k_demo": "demo_correctness", "open_r1_like": "accuracy", "countdown_like": "countdown_equation"}


def findings(file: str, names: list[str], answer: str = "number", correct_by: str = "correctness") -> list[Finding]:
    stack = build_rewards(dict.fromkeys(names, 1.0), [str(STACKS / f"{file}.py")], answer, correct_by)
    return judge_probes(score_probes(stack, built_in_probes(answer, paid_format(stack))))


@pytest.fixture(scope="module")
def audited() -> dict[str, list[Finding]]:
    """The findings about the well-known stacks, and about each reward with one fault."""
    result = {
        file: findings(file, names, "equation" if "countdown" in file else "number", CORRECT_BY[file])
        for file, names in WEIGHTS.items()
    }
    return result | {
        name: findings("single_faults", [name])
        for name in ("closeness", "gold_in_answer", "gold_anywhere", "truncated_number", "truthy_number", "falsy_gold")
        + ("boxed_only", "plain_number_only", "evaluated", "parsed_safely", "number_or_nothing")
    }


@pytest.mark.parametrize(
    ("stack", "level", "text"),
    [
        # A wrong answer outscores a right one, numbers in other forms included.
        (
            "gsm8k_demo",
            "warning",
            "Wrong outscores right in 36 of 596 pairs: 'wrong as asked' 1.5 over '18.0' 1, '$18'",
        ),
        ("open_r1_like", "warning", "Wrong outscores right in "),
        ("countdown_like", "warning", "'3.6 * 5 * 1' 1.1 over '6 * (5 - 3 + 1) = 18' 0.1"),
        # Credit for a near miss.
        (
            "closeness",
            "warning",
            "credit for near misses, of 1 for right: '18.4 for 18' 0.96, '18.9 for 18' 0.91, 'wrong",
        ),
        # The asked format pays less than an inline one.
        (
            "gsm8k_demo",
            "warning",
            "Another format pays more than the requested one: 'on one line, no break' 3 over 'one",
        ),
        # Text after the answer is free.
        ("countdown_like", "note", "Text after the answer costs nothing, 1.1: short text after and long text after."),
        # `gold in completion`, and the last number of several.
        (
            "gold_in_answer",
            "warning",
            "as for right ones: '3 answers in one', '118 for 18', '180 for 18', '-18 for 18'",
        ),
        ("gold_anywhere", "warning", "'right work, wrong end', 'empty answer block', '118 for 18'"),
        (
            "open_r1_like",
            "warning",
            "accuracy, which says what counts as right (correct_by), accepts wrong answers: '3",
        ),
        # Rounding.
        ("truncated_number", "warning", "as for right ones: '3 answers in one', '18.9 for 18', '18.4 for 18' and '17"),
        # `eval` of model text, also behind a pattern that permits only arithmetic.
        ("evaluated", "warning", "evaluated executes the text of a completion as Python code"),
        ("countdown_like", "warning", "countdown_equation executes the text of a completion as Python code"),
        # Steps without content.
        ("open_r1_like", "warning", "Right without work outscores right with work: 'empty steps' 3.237, "),
        # The reference answer 0.
        ("falsy_gold", "warning", "falsy_gold reads numbers, but refuses the right answer 0 for gold 0"),
        ("truthy_number", "warning", "'17 or 18' and 'none for gold 0'"),
        # Units and \boxed.
        (
            "plain_number_only",
            "note",
            r"18.0, $18, 18 pens, \boxed{18} and **18** for 18: refused by plain_number_only.",
        ),
        ("boxed_only", "warning", "Another format pays more than the requested one: '\\boxed{} instead' 1 over 'one"),
        # A cosine of the length: it pays for padding a wrong answer, and turns around past its limit.
        ("open_r1_like", "warning", "Padding a wrong answer pays: 886 characters of filler add 0.4264 (cosine_length"),
        (
            "open_r1_like",
            "warning",
            "right answer falls with its length and rises again: 2.993 at 78, 2.437 at 964 and",
        ),
        # Numbers joined by a decimal point.
        ("countdown_like", "warning", "accepts wrong answers: '3.6 * 5 * 1'."),
        # Further faults of the demo.
        ("gsm8k_demo", "warning", "demo_strict_format and demo_soft_format exclude each other"),
        ("gsm8k_demo", "warning", "A missing last line break is charged for the whole completion, 0.001 per character"),
        ("gsm8k_demo", "warning", "demo_int reads numbers, but refuses the right answers -5 and 1,080"),
        ("gsm8k_demo", "warning", "A bare answer in no format earns 2.5 of 3.5"),
        (
            "gsm8k_demo",
            "warning",
            "Wrong answers differ by 2.406, more than the 2 that right adds: 'wrong, then long text'",
        ),
    ],
)
def test_faults_of_well_known_rewards(audited, stack: str, level: str, text: str) -> None:
    assert any(text in finding.text for finding in audited[stack] if finding.level == level), [
        finding.text for finding in audited[stack]
    ]


@pytest.mark.parametrize(
    ("stack", "text"),
    [
        ("parsed_safely", "executes"),  # `ast.literal_eval` executes nothing
        ("open_r1_like", "exclude"),  # numbered steps are paid without a penalty
        ("plain_number_only", "Wrong outscores right"),
        ("plain_number_only", "credit for near misses"),
        ("gsm8k_demo", "accepts wrong answers"),
        ("countdown_like", "rises again"),
    ],
)
def test_no_false_alarms(audited, stack: str, text: str) -> None:
    assert not [finding.text for finding in audited[stack] if text in finding.text]


def test_a_constant_changes_no_finding() -> None:
    """-1 and +1 give the advantages of 0 and 2."""
    zero, minus = (findings("single_faults", [name]) for name in ("zero_or_two", "minus_or_plus_one"))
    assert [(f.level, f.probes) for f in zero] == [(f.level, f.probes) for f in minus]
    assert not any("below" in f.text or "falls" in f.text for f in minus)


def test_abstentions_are_counted(audited) -> None:
    texts = [finding.text for finding in audited["number_or_nothing"]]
    assert "Abstentions of number_or_nothing (12 of 75 probes); 12 have no score, so no advantage." in texts


def test_a_reward_of_values_that_probes_lack() -> None:
    (overlong,) = (finding for finding in run("+rewards.overlong=1") if "overlong" in finding.text)
    assert overlong.level == "note" and overlong.text == (
        "overlong abstains on every probe: completion_tokens of a probe is not known. completions=FILE scores sampled "
        "completions."
    )


def test_the_order_of_findings_and_the_shown_format(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    zero = [f"~rewards.{name}" for name in ("correctness", "int", "strict_format", "soft_format", "xmlcount")]
    added = [f"+rewards.{name}=1" for name in WEIGHTS["open_r1_like"]]
    result = run(f"reward_files=[{STACKS / 'open_r1_like.py'}]", "correct_by=accuracy", *zero, *added)
    levels = [finding.level for finding in result]
    assert levels == sorted(levels, reverse=True)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "these rewards pay for <think> instead of <reasoning>; set format.reasoning=think" in " ".join(said.split())
    assert "one call of a reward" in said and said.count("µs") + said.count("ms") >= 5


def run(*overrides: str) -> list[Finding]:
    with config_search_path(), translate_errors(AuditConfig):
        return audit.run(load_config(hydra_compose("audit", list(overrides)), AuditConfig))


def write(path: Path, rows: list) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


OWN = [
    {"question": "a?", "gold": {"value": [1]}, "completion": "x\n", "right": True, "name": "exact"},
    {"question": "b?", "gold": ["B", 2], "completion": "y", "right": False},
    {"question": "a?", "gold": {"value": [1]}, "completion": "xxx", "right": False, "case": 7},
]
COLUMN_REWARD = """
from grpo.rewards import reward

@reward
def by_case(completion, example):
    assert isinstance(example.columns["gold"], dict | list)
    return example.columns.get("case", 0) + len(completion)
"""


def test_probes_of_the_user(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "own.jsonl", OWN)
    (tmp_path / "mine.py").write_text(COLUMN_REWARD)
    settings = ["probes=own.jsonl", "reward_files=[mine.py]", "rewards=correctness_only", "+rewards.by_case=1"]
    result = run(*settings, "correct_by=by_case", "~rewards.correctness")
    assert [finding.text for finding in result] == [
        "Wrong outscores right in 1 of 1 pairs: 'probe 3' 10 over 'exact' 2 (by_case).",
        "by_case, which says what counts as right (correct_by), accepts wrong answers: 'probe 3' and 'probe 2'.",
    ]
    said = capsys.readouterr().out
    assert "2 warnings, no notes from 3 probes." in said and "a change of format" not in said
    with pytest.raises(UserError, match="fail_on=warning: 2 warnings"):
        run(*settings, "correct_by=by_case", "~rewards.correctness", "fail_on=warning")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"right": "yes"}, "'right' is \"yes\"; it must be true or false: whether the completion is right."),
        ({"gold": None}, "'gold' is None; it must hold text or a number."),
        ({"question": ""}, "'question' is ''; it must hold text or a number."),
        ({"name": "exact"}, "two probes have the name 'exact'; give each its own."),
    ],
)
def test_mistakes_in_probes(tmp_path, monkeypatch, row: dict, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "own.jsonl", [OWN[0], OWN[1] | row])
    with pytest.raises(UserError) as error:
        run("probes=own.jsonl")
    assert str(error.value).startswith("own.jsonl") and str(error.value).endswith(message)


def test_a_column_that_probes_lack(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(COLUMN_REWARD.replace("completion, example", "completion, level"))
    with pytest.raises(
        UserError, match=r"takes 'level', and a probe \(probes=FILE takes your own\) has no column 'level'"
    ):
        run("reward_files=[mine.py]", "+rewards.by_case=1")


def test_probes_and_completions_exclude_each_other(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^probes=a\.jsonl: completions= is scored instead of probes"):
        run("probes=a.jsonl", "completions=b.jsonl")


def test_inverted_pairs_by_hand() -> None:
    # Two questions: right 3 and 1, wrong 2 and 1; right 0, wrong 5. A tie is not inverted.
    totals, correct = np.array([3.0, 1, 2, 1, 0, 5]), np.array([True, True, False, False, True, False])
    pairs = find_inverted_pairs(totals, correct, [[0, 1, 2, 3], [4, 5]], 1e-6)
    assert (pairs.comparable, pairs.inverted, pairs.examples) == (5, 2, [(5, 4), (2, 1)])
    none = find_inverted_pairs(totals[:2], correct[:2], [[0, 1]], 1e-6)
    assert (none.comparable, none.inverted, none.examples) == (0, 0, [])


def test_inverted_pairs_of_a_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    format_only = "<reasoning>\nbecause\n</reasoning>\n<answer>\n2\n</answer>\n"
    write(
        tmp_path / "made.jsonl",
        [
            {"question": "1?", "gold": "1", "completion": "<answer>1</answer>"},
            {"question": "1?", "gold": "1", "completion": format_only},
            {"question": "1?", "gold": "1", "completion": "no"},
            {"question": "3?", "gold": {"value": [3]}, "completion": format_only},
        ],
    )
    weights = ["rewards=default", "rewards.correctness=0.5", "completions=made.jsonl"]
    result = run(*weights)
    text = (
        "Wrong outscores right in 1 of 2 pairs (50.0%) of completions of the same question; correctness says which is"
    )
    assert result[0].level == "warning" and result[0].text.startswith(text)
    said = capsys.readouterr().out
    flat = " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80
    assert "question 1? wrong 2 = int 0.5, strict_format 0.5, soft_format 0.5, xmlcount 0.5 <reasoning>" in flat
    assert "right 1.5 = correctness 1, int 0.5 <answer>1</answer>" in flat
    with pytest.raises(UserError, match="fail_on=warning"):
        run(*weights, "fail_on=warning")
