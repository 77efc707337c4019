"""Asking a run's policy."""

from tests.conftest import SMALL


def test_before_and_after_side_by_side(forked, tmp_path) -> None:
    assert forked("grpo.train", *SMALL, "tracking=none", "hydra.run.dir=run").returncode == 0
    question = "Tom has 3 boxes of 4 pens. How many pens? [bold]"
    done = forked("grpo.sample", "run", question, "How much is 3 and 4?", "--max-tokens", "5")
    assert done.returncode == 0 and done.stderr == ""
    assert question in done.stdout and "How much is 3 and 4?" in done.stdout
    assert done.stdout.count("before") == done.stdout.count("after") == 2
    note, *table = done.stdout.splitlines()
    known = "The embedded policy knows only word problems of data=arithmetic, numbers up to 150. New to it:"
    assert note == f"{known} bold" and max(map(len, table)) <= 80
    asked = forked(
        "grpo.sample", "run", "What is the capital of France? Tom has 5000 pens.", "--max-tokens", "5"
    ).stdout
    assert asked.splitlines()[0] == f"{known} What, capital, France, 5000"
    asked = forked("grpo.sample", "run=run").stdout  # as grpo.evaluate takes it
    assert "Joy can read" in asked and "embedded policy" not in asked


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
