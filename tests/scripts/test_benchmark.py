"""The benchmark script: the arms take turns, what it prints is what it writes, and a grid continues where it ended."""

import json

import pytest

from grpo.policy.hub import ASSETS
from scripts.benchmark import parse_arguments
from scripts.benchmark_arms import Case
from scripts.benchmark_grid import GRIDS, Grid, draw_grid, fit, grid_tables, measure_grid

TINY = str(ASSETS / "tiny")


def test_the_quick_form(forked, tmp_path) -> None:
    options = ["--policy", TINY, "--steps", "2", "--arms", "trl", "fast", "--out", str(tmp_path)]
    done = forked("scripts.benchmark", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "benchmark.json").read_text())
    natural, forced = report["cases"]
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    for case in (natural, forced):
        assert case["arms"].keys() == {"trl", "fast"}
        for arm in case["arms"].values():
            parts = arm["generation"] + arm["training"] + arm["other"]
            assert arm["generation"] > 0 and arm["training"] > 0
            assert 0.5 * arm["step"] < parts < 1.5 * arm["step"]
            low, high = arm["quartiles"]
            assert low <= arm["step"] <= high and len(arm["steps"]) == 2
            assert f" {arm['step'] * 1e3:.0f} (" in done.stdout
    assert natural["arms"]["fast"]["mean_tokens"] < 64 * 64
    assert {arm["mean_tokens"] for arm in forced["arms"].values()} == {64 * 64}
    assert {key.split(",")[0] for key in forced["peak_memory_bytes"]} == {"trl", "fast"}
    trl, fast = forced["peak_memory_bytes"].values()
    assert 1e8 < trl < 1e10 and 1e8 < fast < 1e10
    assert trl != fast  # equal sizes would be those of the process that started both
    assert report["machine"]["trl"] and report["machine"]["threads"] >= 1
    assert "Alarm" not in done.stdout


def test_a_grid_continues_where_it_ended(tmp_path, monkeypatch, capsys) -> None:
    grid = Grid(Case(num_generations=2, prompts=1, limit=4, forced=True, policy=TINY), (2, 4), (4, 8), 2, 0.1, 1e-3)
    monkeypatch.setitem(GRIDS, "tiny", grid)
    cases, file, names = grid.cases(), tmp_path / "grid.json", ["trl, micro-batch 16", "fast"]
    assert [(case.num_generations, case.limit) for case in cases] == [(2, 4), (4, 4), (2, 8)]
    (first,) = measure_grid(cases[:1], names, None, False, file)
    assert "Case 1 of 1" in capsys.readouterr().out

    entries = measure_grid(cases, names, None, False, file)
    said = " ".join(capsys.readouterr().out.split())
    assert "has 1 of 3 cases" in said and "Case 2 of 3" in said and "Case 1 of" not in said
    assert entries[0] == first and json.loads(file.read_text())["cases"] == entries
    for case, entry in zip(cases, entries, strict=True):
        assert entry["arms"].keys() == {"trl", "fast"}
        for arm in entry["arms"].values():
            assert arm["mean_tokens"] == case.completions * case.limit and len(arm["steps"]) == 2
    times, slopes = grid_tables("tiny", entries)
    assert times.row_count == 3 and slopes.row_count == 2
    draw_grid(entries, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 10_000

    with pytest.raises(SystemExit, match=r"steps=None, and this is steps=3.*--out"):
        measure_grid(cases, names, 3, False, file)


def test_the_fitted_line() -> None:
    line = [(x, {"arms": {"fast": {"step": (5 + 2 * x) / 1e3}}}) for x in (1, 4, 16)]
    assert fit(line, "fast") == pytest.approx((2, 5, 1))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model", "real"], "--policy FOLDER"),
        (["--model", "real", "--policy", TINY, "--grid"], "--model real has no grid"),
        (["--model", "real", "tiny", "--policy", TINY], "one after the other"),
        (["--policy", "nowhere"], "--policy nowhere: must be a folder with config.json"),
        (["--steps", "1"], "--steps 1: quartiles need at least 2"),
    ],
)
def test_options_that_do_not_go_together(options, message, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark.py", *options])
    with pytest.raises(SystemExit) as ended:
        parse_arguments()
    assert ended.value.code == 2 and message in capsys.readouterr().err
