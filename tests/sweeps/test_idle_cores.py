"""The hint at the start of a sweep that jobs can run in parallel: only where that is quicker."""

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher

from grpo.config.composition import compose
from grpo.sweeps import launchers
from grpo.sweeps.launchers import idle_cores_hint
from tests.conftest import SMALL

# Six jobs under the basic launcher: cores of the machine, OMP_NUM_THREADS, settings -> the jobs that could run at once.
TABLE = [
    (2, None, ["threads=1"], 2),
    (4, None, ["threads=2"], 2),
    (64, None, ["threads=1"], 6),
    (8, "8", ["threads=1"], 6),  # the setting has precedence
    (2, None, [], 2),  # a small policy gains more from a second job than from a second thread
    (2, "1", [], 2),
    (2, "2", [], 0),  # each job would have two threads
    (2, None, ["threads=2"], 0),
    (4, None, ["threads=3"], 0),
    (1, None, ["threads=1"], 0),
    (2, None, ["model=qwen2.5-0.5b"], 0),  # its matrices use all cores
    (2, None, ["model=qwen2.5-0.5b", "threads=1"], 2),
    (2, None, ["threads=1", "device=cuda"], 0),
]


@pytest.mark.parametrize(("cores", "omp", "settings", "parallel"), TABLE)
def test_which_sweeps_get_the_hint(
    monkeypatch, cores: int, omp: str | None, settings: list[str], parallel: int
) -> None:
    monkeypatch.setattr(launchers, "usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    hint = idle_cores_hint(BasicLauncher(), 6, compose([*SMALL, *settings]))
    expected = f"hydra/launcher=joblib runs {parallel} jobs in parallel on the {cores} cores"
    assert (hint or "").removesuffix(" (pip install hydra-joblib-launcher)") == (expected if parallel else "")


def test_a_single_job_and_other_launchers_get_no_hint() -> None:
    class JoblibLauncher:
        pass

    config = compose([*SMALL, "threads=1"])
    assert idle_cores_hint(BasicLauncher(), 1, config) is None
    assert idle_cores_hint(JoblibLauncher(), 6, config) is None  # type: ignore[arg-type]
