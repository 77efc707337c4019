"""The Optuna study of a search: opened or resumed, told the result of each trial, asked which trials to prune.

Used by `search`, and by `grpo.train` in a run that is a trial. Optuna is imported only where it is used, because
`grpo.train` imports this module at every start.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from grpo.config.schema import SearchConfig
from grpo.core.errors import UserError, first_line
from grpo.runs.results import STOPPED_BY_PRUNING, read_job_outcome
from grpo.training.session import Pruning

if TYPE_CHECKING:
    import optuna

    from grpo.sweeps.jobs import Job


JOURNAL = "optuna.log"  # in the sweep's folder
TRAIN_SECONDS = "train_seconds"


def open_study(settings: SearchConfig, folder: Path) -> "optuna.Study":
    """The study of a search, a new one or that of an earlier start."""
    import optuna

    journal = folder / JOURNAL
    if settings.storage is None and journal.exists():
        whole = journal.read_bytes()
        if not whole.endswith(b"\n"):  # a process was killed while it wrote; what is written next must not join it
            journal.write_bytes(whole[: whole.rfind(b"\n") + 1])
    directions: Any = ["maximize" for _ in settings.maximize] + ["minimize" for _ in settings.minimize]
    try:
        study = optuna.create_study(
            storage=_storage(settings.storage, folder),
            study_name=settings.study_name,
            directions=directions,
            load_if_exists=True,
        )
    except Exception as error:  # whatever its storage raises
        raise UserError(
            f"hydra.sweeper.storage={settings.storage}: the study cannot be opened: {first_line(error)}."
        ) from error
    if [each.name.lower() for each in study.directions] != directions:
        raise UserError(
            f"hydra.sweeper.study_name={settings.study_name}: the storage has a study of that name with other "
            "objectives; give this one another name."
        )
    # Seeded anew at each start: from the same seed it would propose once more what it did at the first.
    seed = settings.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=(settings.parallel or 1) > 1)
    return study


def _storage(url: str | None, folder: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return url or JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def tell(study: "optuna.Study", number: int, job: "Job", settings: SearchConfig) -> None:
    """The study how a trial ended. One without an end stays open: it goes on when the search is started again."""
    from optuna.trial import TrialState

    end = read_job_outcome(job.folder)
    if isinstance(end, str):
        study.tell(number, state=TrialState.FAIL)
    elif end and end["stopped_by"] == STOPPED_BY_PRUNING:
        study.tell(number, state=TrialState.PRUNED)
    elif end:
        figures = end["after"] | {TRAIN_SECONDS: end["train_seconds"]}
        study.tell(number, [figures[name] for name in (*settings.maximize, *settings.minimize)])


def pruning(settings: DictConfig) -> Pruning | None:
    """What tells whether this run, a trial of a search, is to end early; None where it is not, or never."""
    sweeper = settings.sweeper
    if sweeper.get("trial") is None or not sweeper.pruning or len([*sweeper.maximize, *sweeper.minimize]) > 1:
        return None
    import optuna

    objective = str([*sweeper.maximize, *sweeper.minimize][0])
    storage = _storage(sweeper.storage, Path(settings.sweep.dir))
    study = optuna.load_study(storage=storage, study_name=sweeper.study_name, pruner=optuna.pruners.MedianPruner())
    trial = optuna.Trial(study, study.trials[sweeper.trial]._trial_id)

    def prune(figures: dict[str, float], step: int) -> bool:
        if objective not in figures:
            return False
        trial.report(figures[objective], step)
        return trial.should_prune()

    return prune
