"""Asking a run's policy."""

from tests.conftest import SMALL


def test_before_and_after_side_by_side(forked, tmp_path) -> None:
    assert forked("grpo.train", *SMALL, "tracking=none", "hydra.run.dir=run").returncode == 0
    question = "Tom has 3 boxes of 4 pens. How many pens? [bold]"
    done = forked("grpo.sample", "run", question, "How much is 3 and 4?", "--max-tokens", "5")
    assert done.returncode == 0 and done.stderr == ""
    assert question in done.stdout and "How much is 3 and 4?" in done.stdout
    assert done.stdout.count("before") == done.stdout.count("after") == 2
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Joy can read" in forked("grpo.sample", "run=run").stdout  # as grpo.evaluate takes it


def test_what_cannot_be_asked(forked, tmp_path) -> None:
    (tmp_path / "unfinished" / ".hydra").mkdir(parents=True)
    (tmp_path / "unfinished" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    for folder, message in (
        ("nowhere", "nowhere is not a run directory: it does not exist"),
        ("sweep", "sweep is the folder of a sweep; give that of one of its runs, such as sweep/0."),
        ("unfinished", "was not finished"),
    ):
        done = forked("grpo.sample", folder)
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert "--max-tokens 0: must be at least 1" in forked("grpo.sample", "nowhere", "--max-tokens", "0").stderr
