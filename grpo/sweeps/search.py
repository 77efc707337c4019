"""A search for settings with Optuna: trials are run as jobs of a sweep, and their results guide the next ones.

Called by the sweeper `hydra/sweeper=optuna`. The space is in `search_space`, the stored study in `study`.
"""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from grpo.config.composition import load_sweeper
from grpo.config.schema import SearchConfig
from grpo.core.errors import UserError
from grpo.runs.results import read_job_outcome
from grpo.sweeps.jobs import Job, compose_jobs
from grpo.sweeps.launchers import on_this_machine
from grpo.sweeps.runner import Sweep
from grpo.sweeps.search_space import at_the_edges, check, search_space
from grpo.sweeps.study import open_study, tell


def run_search(context: HydraContext, master: DictConfig, launcher: Launcher, arguments: Sequence[str]) -> None:
    """Run trials until there are `n_trials` in all.

    Raises:
        UserError: Optuna is not installed, or there is nothing to search or to search for.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna: Optuna is not installed: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = load_sweeper(master.hydra.sweeper, SearchConfig)
    # One at a time where nothing else is said, because each result guides the next choice.
    settings.parallel = settings.parallel or 1
    space, fixed = search_space(context, arguments)
    edges = at_the_edges(space, fixed)
    examples = compose_jobs(context, master, edges, list(space), here=on_this_machine(launcher))
    check(settings, examples[0].config)
    record: dict[str, Any] = {
        "maximize": settings.maximize,
        "minimize": settings.minimize,
        "space": {key: str(each) for key, each in space.items()},
        "fixed": fixed,
    }

    def job(trial: optuna.trial.BaseTrial) -> Job:
        chosen = [f"{key}={trial.params[key]}" for key in space]
        overrides = [*fixed, *chosen, f"hydra.sweeper.trial={trial.number}"]
        (composed,) = compose_jobs(context, master, [overrides], list(space), first=trial.number)
        return composed

    with Sweep(master, launcher, settings, list(space), [], examples[0], settings.n_trials, **record) as sweep:
        study = open_study(settings, sweep.folder)
        known: dict[int, Job] = {}

        def add(trial: optuna.trial.BaseTrial) -> int:
            known[trial.number] = job(trial)
            sweep.add(known[trial.number])
            return trial.number

        going_on: list[int] = []
        for earlier in study.trials:
            running = earlier.state == optuna.trial.TrialState.RUNNING
            if earlier.params.keys() >= space.keys():
                add(earlier)
                if running and read_job_outcome(known[earlier.number].folder) is None:
                    going_on.append(earlier.number)
                elif running:  # it ended, and the search before that could be told
                    tell(study, earlier.number, known[earlier.number], settings)
            elif running:  # the search was killed before anything was chosen for it
                study.tell(earlier.number, state=optuna.trial.TrialState.FAIL)
        left = len(going_on) + max(0, settings.n_trials - len(known))
        sweep.announce(
            "trial", len(known) - len(going_on), [examples[0]] * left, ", ".join(key.lstrip("+") for key in space)
        )
        while going_on or len(known) < settings.n_trials:
            numbers, going_on = going_on[: sweep.parallel], going_on[sweep.parallel :]
            while len(numbers) < sweep.parallel and len(known) < settings.n_trials:
                numbers.append(add(study.ask(space)))
            sweep.launch([known[number] for number in numbers])
            for number in numbers:
                tell(study, number, known[number], settings)
    sweep.conclude()
