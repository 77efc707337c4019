"""The sentences about controls: a table of situations and their sentences."""

from math import nan

import pytest

from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.reports.control_findings import caveat, elicited_sentence, format_sentence, placebo_sentence, verdict_of
from grpo.reports.control_statistics import Change

LABELS = {ACCURACY_STRICT: "right inside", ACCURACY_FLEXIBLE: "right anywhere"}


UP, DOWN = Change(0.2, 0.9, 0.6, 0.8), Change(0.9, 0.7, -0.3, -0.1)
SAME = Change(0.5, 0.51, -0.02, 0.04)


@pytest.mark.parametrize(
    ("strict", "flexible", "words"),
    [
        (UP, UP, "The gain comes from what the rewards say."),
        (UP, SAME, "What the rewards say taught the format; that it made more answers right is not shown."),
        (SAME, UP, "What the rewards say made more answers right, but not in the format."),
        (SAME, SAME, "Nothing shows that it matters what the rewards say: random ones may have done the same."),
        (UP, DOWN, "The same totals given at random did better in one of them."),
        (Change(0.2, 0.9, nan, nan), Change(0.2, 0.9, nan, nan), "With a single seed this allows no conclusion."),
    ],
)
def test_the_gain_over_a_placebo(strict: Change, flexible: Change, words: str) -> None:
    said = placebo_sentence("rewards=mine", {ACCURACY_STRICT: strict, ACCURACY_FLEXIBLE: flexible}, LABELS)
    assert said.startswith("With rewards=mine against a placebo: right inside, ") and said.endswith(words)


def test_the_figures_of_the_gain_over_a_placebo() -> None:
    gains = {ACCURACY_STRICT: UP, ACCURACY_FLEXIBLE: Change(0.2, 0.9, 0.5, 0.85)}
    assert placebo_sentence("rewards=mine", gains, LABELS) == (
        "With rewards=mine against a placebo: right inside, 90.0% against 20.0% (+70.0 points, +60.0 to +80.0); right "
        "anywhere, 90.0% against 20.0% (+70.0 points, +50.0 to +85.0). The gain comes from what the rewards say."
    )


@pytest.mark.parametrize(
    ("one", "most", "crossing", "verdict", "words"),
    [
        (
            UP,
            DOWN,
            (4, 8),
            "elicited, and narrowed",
            "With rewards=mine, pass@1 rose from 20.0% to 90.0% (+70.0 points, +60.0 to +80.0), and pass@32 fell from "
            "90.0% to 70.0% (-20.0 points, -30.0 to -10.0). The mean curves cross between k = 4 and 8. Elicited, not new: 32 "
            "samples of the policy before training solved more problems. Training made some of the answers more likely, "
            "and others less.",
        ),
        (
            UP,
            SAME,
            None,
            "elicited",
            "With rewards=mine, pass@1 rose from 20.0% to 90.0% (+70.0 points, +60.0 to +80.0), and pass@32 went from "
            "50.0% to 51.0% (+1.0 points, -2.0 to +4.0). Elicited, as far as 32 samples show: the policy before training had "
            "the answers, and training made them more likely. A gain of up to 4.0 points at k = 32 is not ruled out.",
        ),
        # No more can be gained than what is left.
        (
            UP,
            Change(0.99, 0.99, -0.03, 0.03),
            None,
            "elicited",
            "A gain of up to 1.0 points at k = 32 is not ruled out. So little was left to gain that these problems could",
        ),
        (
            UP,
            Change(1.0, 1.0, 0.0, 0.0),
            None,
            "elicited",
            "and pass@32 went from 100.0% to 100.0% (+0.0 points, no spread). Elicited, as far as 32 samples show: the policy "
            "before training had the answers, and training made them more likely. Nothing was left to gain at k = 32, so "
            "these problems could not show anything new.",
        ),
        (UP, Change(0.5, 0.5, 0.0, 0.0), None, "elicited", "and training made them more likely."),
        (
            UP,
            UP,
            None,
            "new to 32 samples",
            "Training solves problems that 32 samples of the policy before training did not; whether more samples would "
            "have, these do not say.",
        ),
        (SAME, UP, None, "wider", "That training made right answers more likely is not shown."),
        (
            SAME,
            SAME,
            None,
            "no clear change",
            "That training made right answers more likely is not shown.",
        ),
        (SAME, DOWN, None, "narrowed", "That training made right answers more likely is not shown."),
        (DOWN, DOWN, None, "lost", "Training made right answers less likely."),
        (DOWN, UP, None, "wider, and less sure", "Training made right answers less likely."),
        (DOWN, SAME, None, "less sure", "pass@1 fell from 90.0% to 70.0%"),
    ],
)
def test_elicited_or_new(one: Change, most: Change, crossing, verdict: str, words: str) -> None:
    said = elicited_sentence("rewards=mine", one, most, 32, crossing)
    assert said == words if words.startswith("With ") else words in said
    assert verdict_of(one, most, 32) == verdict


def test_the_other_sentences() -> None:
    assert format_sentence(0.0, {"rewards=a": 1.0, "rewards=b": 0.125}) == (
        "Exact format, 0.0% before training: 100.0% with rewards=a, 12.5% with rewards=b."
    )
    assert caveat(32, 3) == (
        "Not shown: whether more than 32 samples would have solved what 32 did not, and whether other policies and other "
        "problems give the same."
    )
    assert caveat(None, 1) == (
        "Not shown: whether other policies and other problems give the same. Nor what another seed gives: each arm has one."
    )
