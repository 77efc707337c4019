"""The section on controls in the report of a sweep: of runs that were made up, and of a real sweep."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from grpo.core.metric_names import ACCURACY_FLEXIBLE, ACCURACY_STRICT
from grpo.reports.control_statistics import gains_over, is_placebo, pass_at_k_of
from grpo.reports.run_report import write_run_report
from grpo.reports.sweep_report import write_sweep_report
from grpo.reports.sweep_results import read_sweep
from tests.helpers.made_up import made_up_sweep


def sampled(folder: Path, when: str, right: list[int], samples: int = 4) -> None:
    """Write the samples of a run: of problem i, `right[i]` are right."""
    rows = [(i, sample, sample < count) for i, count in enumerate(right) for sample in range(samples)]
    table = pd.DataFrame(rows, columns=["problem", "sample", ACCURACY_STRICT])
    table = table.assign(**{ACCURACY_FLEXIBLE: table[ACCURACY_STRICT]}, gold="1")
    table = table.assign(question=[f"Q{i}" for i in table["problem"]])
    table.to_parquet(folder / "evaluations" / f"{when}_samples.parquet")


def controlled(folder: Path, right: dict[str, list[float]], before: list[int], after: dict[str, list[int]]) -> Path:
    """A sweep whose runs have samples, the same ones for each seed."""
    made_up_sweep(folder, right, "eval_samples=4")
    names = [name for name, shares in right.items() for _ in shares]
    for number, name in enumerate(names):
        sampled(folder / str(number), "before", before)
        sampled(folder / str(number), "after", after[name])
    return folder


def test_pass_at_k_by_hand(tmp_path) -> None:
    """Of two problems with 4 samples, 1 and 2 are right before; 4 and 0 after."""
    controlled(tmp_path, {"rewards=default": [0.5, 0.6]}, [1, 2], {"rewards=default": [4, 0]})
    (arm,) = read_sweep(tmp_path).arms
    curve = pass_at_k_of(arm)[ACCURACY_FLEXIBLE]
    assert curve.ks == [1, 2, 4]
    assert curve.before.tolist() == [[pytest.approx([1 / 4, 1 / 2, 1]), pytest.approx([1 / 2, 1 - 1 / 6, 1])]] * 2
    assert curve.after.tolist() == [[[1, 1, 1], [0, 0, 0]]] * 2
    one, most = curve.changes[1], curve.changes[4]
    assert (one.before, one.after, most.before, most.after) == pytest.approx((3 / 8, 1 / 2, 1, 1 / 2))
    assert curve.crossing == (1, 2) and one.direction == "unclear"  # two problems


def test_curves_that_touch_do_not_cross(tmp_path) -> None:
    """Of one more sample each is right; in 4 samples both problems are solved before and after."""
    controlled(tmp_path, {"rewards=default": [0.5, 0.6]}, [1, 1], {"rewards=default": [2, 2]})
    curve = pass_at_k_of(read_sweep(tmp_path).arms[0])[ACCURACY_FLEXIBLE]
    assert [curve.changes[k].difference for k in curve.ks] == pytest.approx([1 / 4, 1 / 3, 0])
    assert curve.crossing is None


@pytest.mark.parametrize("harm", ["missing", "other problems", "damaged"])
def test_samples_that_cannot_be_compared(tmp_path, harm: str) -> None:
    controlled(tmp_path, {"rewards=default": [0.5, 0.6]}, [1, 2], {"rewards=default": [4, 0]})
    table = tmp_path / "1" / "evaluations" / "after_samples.parquet"
    if harm == "missing":
        table.unlink()
    elif harm == "damaged":
        table.write_bytes(b"?")
    else:
        sampled(tmp_path / "1", "after", [1, 2, 3])
    assert pass_at_k_of(read_sweep(tmp_path).arms[0]) == {}
    assert "What did RL do?" not in write_sweep_report(read_sweep(tmp_path)).read_text()


def test_the_section_of_a_sweep(tmp_path) -> None:
    """Training makes the solved half certain; the placebo changes nothing."""
    right = {"rewards=default": [0.9, 0.92, 0.91], "rewards=placebo": [0.3, 0.31, 0.33]}
    before = [1] * 90 + [0] * 10
    after = {"rewards=default": [4] * 80 + [0] * 20, "rewards=placebo": before}
    sweep = read_sweep(controlled(tmp_path / "sweep", right, before, after))
    placebo = sweep.arms[1]
    assert is_placebo(placebo) and not is_placebo(sweep.arms[0])
    gain = gains_over(sweep, placebo)["rewards=default"][ACCURACY_STRICT]
    assert (gain.before, gain.after) == pytest.approx((0.94 / 3, 0.91)) and gain.direction == "up"
    page = write_sweep_report(sweep, figures=tmp_path / "figures").read_text()
    said = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "With rewards=default against a placebo: right inside &lt;answer&gt;, 91.0% against 31.3% (+59.7" in said
    assert "and pass@4 fell from 90.0% to 80.0%" in said and "Elicited, not new: 4 samples of the policy before" in said
    assert "Exact format, 100.0% before training: 100.0% with rewards=default, 100.0% with rewards=placebo." in said
    assert 'id="pass_at_k"' in page and 'id="pass_at_k_strict"' in page
    assert "before training 91.0% 91.0% 100.0% – – 22.5% 90.0% – rewards=default 91.0% 91.0% 100.0% +59.7 +" in said
    assert "elicited, and narrowed rewards=placebo 31.3% 31.3% 100.0% – – 22.5% +0.0 (no spread) 90.0%" in said
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {"pass_at_k", "pass_at_k_strict"}


def test_a_placebo_as_baseline_without_samples(tmp_path) -> None:
    right = {"rewards=placebo": [0.3, 0.31, 0.33], "rewards=default": [0.9, 0.92, 0.91]}
    page = write_sweep_report(read_sweep(made_up_sweep(tmp_path, right))).read_text()
    assert "With rewards=default against a placebo:" in page and "The gain comes from what the rewards say." in page
    assert 'id="pass_at_k"' not in page and "pass@1" not in page


def test_samples_of_a_run(train, forked, capsys) -> None:
    """They are those of grpo.evaluate with the same settings, before and after."""
    out, results = train("eval_samples=3", "temperature=1.5")
    assert "pass@2, right as last number" in capsys.readouterr().out
    assert "<td>pass@1, right inside &lt;answer&gt;</td>" in write_run_report(out).read_text()
    tables = {when: pd.read_parquet(out / "evaluations" / f"{when}_samples.parquet") for when in ("before", "after")}
    assert all(len(table) == 12 for table in tables.values())
    assert {"pass@1", "pass@2", "pass@2/flexible", "maj@1"} <= results["difference"].keys()
    for when, table in tables.items():
        assert results[when]["pass@1/flexible"] == pytest.approx(table["accuracy_flexible"].mean())
        low, high = results[when]["intervals"]["pass@1/flexible"]
        assert low <= results[when]["pass@1/flexible"] <= high
    done = forked("grpo.evaluate", "run=run", "samples=3", "temperature=1.5", "name=again")
    assert done.returncode == 0, done.stderr
    again = pd.read_parquet(out / "evaluations" / "again.parquet")
    assert again["completion"].tolist() == tables["after"]["completion"].tolist()
    protocols = [json.loads((out / "evaluations" / f"{name}.json").read_text()) for name in ("again", "after_samples")]
    assert protocols[0]["protocol"]["decoding"] == protocols[1]["protocol"]["decoding"]
