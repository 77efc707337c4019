"""What the page of a sweep shows of each arm beside its figures: a page for each job, advantage shares, answers.

`sweep_report` calls it. The answers are those to the same held-out problems for all arms. It compares nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from grpo.config.composition import compose
from grpo.config.keys import flatten
from grpo.core.metric_names import PHANTOM, advantage_share
from grpo.reports.arms import Arm
from grpo.reports.example_answers import SavedAnswer, saved_answers
from grpo.reports.page import relative_link
from grpo.reports.run_report import write_job_page
from grpo.reports.sweep_results import SweepResults
from grpo.runs.run_dir import RunDir
from grpo.runs.saved_run import SavedRun

SHOWN_PROBLEMS = 3
MAX_CHARACTERS = 3_000  # of an answer


@dataclass(frozen=True)
class ArmDetails:
    """What is shown of an arm.

    Attributes:
        shares: a cell for each reward of the sweep, then the phantom share.
        answers: of the run with `seed`, to the first held-out problems.
    """

    arm: Arm
    shares: list[str]
    seed: int
    answers: list[SavedAnswer]
    tags: tuple[str, ...]


def write_job_pages(runs: Sequence[SavedRun], sweep_page: Path) -> None:
    """Write `report.html`, without figures, into the folder of each run that has none; `sweep_page` links to them."""
    if missing := [run for run in runs if not RunDir(run.folder).report_html.is_file()]:
        defaults = flatten(asdict(compose()))
        for run in missing:
            write_job_page(run, defaults, sweep_page)


def job_links(sweep: SweepResults, folder: Path) -> dict[str, str]:
    """Folder of a job, relative to the sweep's -> the address of its page, relative to `folder`, if it has one."""
    links = {}
    for _, run in sweep.finished_runs:
        page = RunDir(run.folder).report_html
        if page.is_file():
            links[sweep.relative_name(run.folder)] = relative_link(page, folder)
    return links


def arm_details(arms: Sequence[Arm]) -> tuple[list[str], list[ArmDetails]]:
    """The rewards of the arms, none if no shares are logged, and the details of each arm.

    The answers are those of the lowest seed that all arms have; of an arm's own lowest seed if there is none.
    """
    rewards = list(dict.fromkeys(name for arm in arms for run in arm.runs.values() for name in run.weights))
    common = set.intersection(*(set(arm.runs) for arm in arms)) if arms else set()
    details = []
    for arm in arms:
        seed = min(common or arm.runs)
        run = arm.runs[seed]
        shares = [_share(arm, name) for name in rewards]
        details.append(
            ArmDetails(arm, [*shares, _mean_over_runs(arm, PHANTOM)], seed, _first_answers(run), run.answer_format.tags)
        )
    has_shares = any("%" in cell for each in details for cell in each.shares)
    return rewards if has_shares else [], details


def _share(arm: Arm, reward: str) -> str:
    """The share of a reward in the advantages of an arm; `off` if it has no weight."""
    if not any(run.weights.get(reward) for run in arm.runs.values()):
        return "off"
    return _mean_over_runs(arm, advantage_share(reward))


def _mean_over_runs(arm: Arm, metric: str) -> str:
    """The mean over seeds of the mean over logged steps, in percent."""
    logged = [run.history[metric] for run in arm.runs.values() if metric in run.history]
    means = [float(values.mean()) for values in logged if not values.isna().all()]
    return f"{fmean(means):.1%}" if means else "–"


def _first_answers(run: SavedRun) -> list[SavedAnswer]:
    """The answers to the first held-out problems after training; none if they were deleted."""
    first = saved_answers(run, "after")[:SHOWN_PROBLEMS]
    return [answer._replace(completion=answer.completion[:MAX_CHARACTERS]) for answer in first]
