"""What a run imports before its first evaluation: only what it uses."""

from tests.conftest import SMALL

NOT_USED_YET = {"bitsandbytes", "datasets", "matplotlib", "pandas", "peft", "trackio", "trl", "wandb"}

REWARD = f"""import sys

from grpo.rewards import reward


@reward
def imports(completion):
    raise RuntimeError(f"torch: {{'torch' in sys.modules}}, not used yet: {{sorted({NOT_USED_YET} & {{*sys.modules}})}}")
"""


def test_the_first_evaluation_waits_only_for_what_it_uses(command, tmp_path) -> None:
    (tmp_path / "imports.py").write_text(REWARD)
    done = command("grpo.train", *SMALL, "tracking=none", "reward_files=[imports.py]", "+rewards.imports=1")
    assert "RuntimeError: torch: True, not used yet: []" in done.stderr
