"""Notes at the start of a run about settings that are allowed and probably not meant."""

from pathlib import Path

from tests.conftest import SMALL

KNOWS = "The embedded policy knows only word problems of data=arithmetic, numbers up to 150. New to it: "


def test_what_the_embedded_policy_knows(forked, tmp_path: Path) -> None:
    rows = "".join(f'{{"question": "Wie viel ist {n} mal 7?", "answer": "{7 * n}"}}\n' for n in range(30))
    (tmp_path / "own.jsonl").write_text(rows)
    said = forked("grpo.train", *SMALL, "tracking=none", "max_steps=1", "data=jsonl", "data.path=own.jsonl").stdout
    assert f"{KNOWS}Wie, viel, ist, mal. Choose another policy with model.path=." in said
    assert KNOWS not in forked("grpo.train", *SMALL, "tracking=none", "max_steps=1").stdout


def test_a_reward_file_without_a_weight(forked, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from grpo.rewards import reward\n\n@reward\ndef short(completion):\n    return 1\n"
    )
    arguments = [*SMALL, "tracking=none", "max_steps=1", "reward_files=[mine.py]"]
    note = "reward_files: no reward of mine.py is used. Add +rewards.short=1, or another weight."
    assert note in forked("grpo.train", *arguments).stdout
    assert "is used" not in forked("grpo.train", *arguments, "+rewards.short=0").stdout
