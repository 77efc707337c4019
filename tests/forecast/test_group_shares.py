"""Expected shares of groups: compared with all choices of K of the samples."""

from itertools import combinations

import numpy as np
import pytest

from grpo.forecast.group_shares import group_shares

TOTALS = np.array(
    [
        [0.0, 1.0, 1.0, 2.0, 2.0, 2.0],
        [3.0] * 6,
        [0.0, np.nan, 0.0, np.nan, 1.0, 1.0],  # nan: every reward abstains
        [np.nan] * 6,
    ]
)
CORRECT = np.array(
    [
        [False, False, False, True, True, True],
        [True] * 6,
        [True, False, True, False, False, False],
        [False] * 6,
    ]
)


@pytest.mark.parametrize("gate", ["off", "correctness", "none_right"])
@pytest.mark.parametrize("k", [2, 3, 6])
def test_shares_are_those_of_all_choices(gate: str, k: int) -> None:
    shares = group_shares(TOTALS, CORRECT, k, gate)
    for i, (totals, correct) in enumerate(zip(TOTALS, CORRECT, strict=True)):
        groups = [(totals[list(rows)], correct[list(rows)]) for rows in combinations(range(6), k)]
        right = np.array([int(of_group.sum()) for _, of_group in groups])
        differs = np.array([len({value for value in values if not np.isnan(value)}) > 1 for values, _ in groups])
        silenced = {"off": right < 0, "correctness": (right == 0) | (right == k), "none_right": right == 0}[gate]
        expected = [(right > 0) & (right < k), right == 0, right == k, differs, differs & ~silenced]
        found = [shares.mixed, shares.none_right, shares.all_right, shares.differing, shares.learning]
        assert [float(values[i]) for values in found] == pytest.approx([each.mean() for each in expected])


def test_totals_that_differ_by_rounding_are_equal() -> None:
    totals = np.array([[0.1 + 0.2, 0.3, 0.3, 1.0]])
    shares = group_shares(totals, np.array([[False, False, False, True]]), 2, "off")
    assert shares.differing[0] == pytest.approx(1 / 2)  # the choices with the last one: 3 of 6
