"""The benchmark script: the arms take turns, and what it prints is what it writes."""

import json

from grpo.policy.hub import ASSETS


def test_the_quick_form(forked, tmp_path) -> None:
    options = ["--policy", str(ASSETS / "tiny"), "--steps", "2", "--arms", "trl", "fast", "--out", str(tmp_path)]
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
    assert all(1e8 < size < 1e10 for size in forced["peak_memory_bytes"].values())
    assert report["machine"]["trl"] and report["machine"]["threads"] >= 1
