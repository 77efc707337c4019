"""`grpo.report --power`: the number of seeds that a difference needs."""

import re
import sys
from statistics import stdev

import numpy as np
import pytest
from scipy.stats import chi2
from statsmodels.stats.power import TTestPower

from grpo.core.statistics import sd_factors
from grpo.report import main
from tests.helpers.made_up import made_up_sweep, plan

SHARES = {
    "num_generations=4": [0.90, 0.91, 0.92, 0.90],
    "num_generations=8": [0.95, 0.96, 0.98, 0.97],
    "num_generations=16": [0.70, 0.80, 0.60, 0.75],
}


def printed(monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["grpo.report", *map(str, arguments)])
    main()
    return capsys.readouterr().out


def seeds_by_difference(said: str) -> dict[str, list[str]]:
    """difference -> the cells of its row."""
    rows = [line.split() for line in said.splitlines() if re.fullmatch(r"\s*[\d.]+(\s+[\d–]+)+\s*", line)]
    return {row[0]: row[1:] for row in rows}


def test_the_power_of_a_sweep_follows_from_its_own_spread(tmp_path, monkeypatch, capsys) -> None:
    folder = made_up_sweep(tmp_path, SHARES)
    for job in range(12):  # without the problems the spread over seeds is all there is
        (folder / str(job) / "evaluations" / "after.parquet").unlink()
    said = printed(monkeypatch, capsys, "--power", folder)
    base, *arms = SHARES.values()
    spreads = sorted(stdev(np.subtract(arm, base)) * 100 for arm in arms)
    expected = [TTestPower().solve_power(20 / spread, alpha=0.05 / 2, power=0.8) for spread in spreads]
    rows = seeds_by_difference(said)
    assert rows["20"][1] == f"{np.ceil(expected[1]):.0f}" and rows["2"][0] == "5" and rows["40"] == ["2", "4"]
    assert (
        "with 2 comparisons" in " ".join(said.split())
        and f"SD {spreads[1]:.2g}" in said
        and "num_generations=16" in said
    )
    assert not (folder / "report.html").exists()
    assert "num_generations=4;" in printed(monkeypatch, capsys, "--power", folder, "--baseline", "num_generations=8")


def test_problems_limit_what_more_seeds_can_find(tmp_path, monkeypatch, capsys) -> None:
    rows = seeds_by_difference(printed(monkeypatch, capsys, "--power", made_up_sweep(tmp_path, SHARES)))
    assert rows["1"] == ["–", "–"]


def test_without_a_sweep_the_spreads_are_measured_ones(monkeypatch, capsys) -> None:
    said = printed(monkeypatch, capsys, "--power")
    rows = seeds_by_difference(said)
    assert "experiment=ablate_rewards, measured" in said and max(map(len, said.splitlines())) <= 80
    counts = [[int(cell) for cell in cells if cell != "–"] for cells in rows.values()]
    assert counts == [[], [], [11], [6], [4], [3, 54], [3, 12], [3, 6]]


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_factors_of_a_standard_deviation_are_its_chi_squared_interval(count: int) -> None:
    low, high = sd_factors(count)
    assert [(count - 1) / factor**2 for factor in (low, high)] == pytest.approx(chi2.interval(0.95, count - 1)[::-1])


def test_a_spread_that_is_unknown_ends_in_one_message(tmp_path, monkeypatch, capsys) -> None:
    single = made_up_sweep(tmp_path / "single", {"num_generations=4": [0.5], "num_generations=8": [0.6]})
    with pytest.raises(SystemExit, match=r"no arm of .*single has a difference from num_generations=4 that varies"):
        printed(monkeypatch, capsys, "--power", single)
    plan(single, "num_generations=4", "num_generations=8", maximize=["accuracy_strict"])
    with pytest.raises(SystemExit, match="is a search, whose trials have one seed each"):
        printed(monkeypatch, capsys, "--power", single)
    with pytest.raises(SystemExit):
        printed(monkeypatch, capsys, "--power", "--figures")
    assert "--power writes no files" in capsys.readouterr().err
