"""A search for settings with Optuna: its trials are the jobs of a sweep, and their results guide the next trials.

Called by the sweeper `hydra/sweeper=optuna`. The space is in `search_space`, the stored study in `study`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from grpo.config.composition import load_sweeper
from grpo.config.schema import SearchConfig
from grpo.core.errors import UserError
from grpo.runs.results import read_job_outcome
from grpo.sweeps.jobs import Job, compose_jobs
from grpo.sweeps.launchers import runs_on_this_machine
from grpo.sweeps.runner import SweepRunner
from grpo.sweeps.search_space import check_objectives, edge_overrides, search_space
from grpo.sweeps.study import open_study, report_trial

if TYPE_CHECKING:
    import optuna


def run_search(context: HydraContext, master: DictConfig, launcher: Launcher, arguments: Sequence[str]) -> None:
    """Run trials until there are `n_trials` in all.

    Raises:
        UserError: Optuna is not installed, or there is nothing to search or no objective.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna: Optuna is not installed: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = load_sweeper(master.hydra.sweeper, SearchConfig)
    settings.parallel = settings.parallel or 1  # because each result guides the next choice
    space, fixed = search_space(context, arguments)
    examples = compose_jobs(
        context,
        master,
        edge_overrides(space, fixed),
        list(space),
        on_this_machine=runs_on_this_machine(launcher),
    )
    check_objectives(settings, examples[0].config)
    identity: dict[str, Any] = {
        "maximize": settings.maximize,
        "minimize": settings.minimize,
        "space": {key: str(distribution) for key, distribution in space.items()},
        "fixed": fixed,
    }
    with SweepRunner(master, launcher, settings, list(space), [], examples[0], settings.n_trials, **identity) as sweep:
        study = open_study(settings, sweep.folder.path)
        trials = _Trials(context, master, settings, space, fixed, sweep, study)
        unfinished = trials.load()
        jobs = trials.jobs
        remaining = len(unfinished) + max(0, settings.n_trials - len(jobs))
        names = ", ".join(key.lstrip("+") for key in space)
        sweep.print_header("trial", len(jobs) - len(unfinished), [examples[0]] * remaining, names)
        while unfinished or len(jobs) < settings.n_trials:
            batch, unfinished = unfinished[: sweep.parallel], unfinished[sweep.parallel :]
            while len(batch) < sweep.parallel and len(jobs) < settings.n_trials:
                batch.append(trials.add(study.ask(space)))
            sweep.run_jobs([jobs[number] for number in batch])
            for number in batch:
                report_trial(study, number, jobs[number], settings)
    sweep.report()


@dataclass
class _Trials:
    """The trials of a study as jobs of a sweep, by their number."""

    context: HydraContext
    master: DictConfig
    settings: SearchConfig
    space: dict[str, "optuna.distributions.BaseDistribution"]
    fixed: list[str]
    sweep: SweepRunner
    study: "optuna.Study"
    jobs: dict[int, Job] = field(default_factory=dict)

    def add(self, trial: "optuna.trial.BaseTrial | optuna.trial.FrozenTrial") -> int:
        """Compose the job of a trial and add it to the sweep; returns the number of the trial."""
        overrides = [*self.fixed, *(f"{key}={trial.params[key]}" for key in self.space)]
        overrides.append(f"hydra.sweeper.trial={trial.number}")
        (job,) = compose_jobs(self.context, self.master, [overrides], list(self.space), first=trial.number)
        self.jobs[trial.number] = job
        self.sweep.folder.add(job)
        return trial.number

    def load(self) -> list[int]:
        """Add the trials of an earlier process of this search; returns the numbers of those to resume."""
        from optuna.trial import TrialState

        unfinished = []
        for trial in self.study.trials:
            running = trial.state == TrialState.RUNNING
            if trial.params.keys() >= self.space.keys():
                self.add(trial)
                if running and read_job_outcome(self.jobs[trial.number].folder) is None:
                    unfinished.append(trial.number)
                elif running:  # it ended after the search was killed, so the study lacks its result
                    report_trial(self.study, trial.number, self.jobs[trial.number], self.settings)
            elif running:  # the search was killed before it chose the trial's settings
                self.study.tell(trial.number, state=TrialState.FAIL)
        return unfinished
