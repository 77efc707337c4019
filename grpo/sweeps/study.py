"""The Optuna study of a search: opening it, storing the result of each trial, and deciding which trials to prune.

Used by `search`, and by `grpo.train` in a run that is a trial. Optuna is imported only where it is used, because
`grpo.train` imports this module at every start.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from grpo.config.schema import SearchConfig
from grpo.core.errors import UserError, first_line
from grpo.core.metric_names import TRAIN_SECONDS
from grpo.runs.results import STOPPED_BY_PRUNING, read_job_outcome
from grpo.training.session import ShouldPrune

if TYPE_CHECKING:
    import optuna

    from grpo.sweeps.jobs import Job


JOURNAL = "optuna.log"  # in the sweep's folder


def open_study(settings: SearchConfig, folder: Path) -> "optuna.Study":
    """The study of a search: a new one, or the stored one of an earlier process.

    Raises:
        UserError: the storage cannot be opened, or has another study of that name.
    """
    import optuna

    journal = folder / JOURNAL
    if settings.storage is None and journal.exists():
        content = journal.read_bytes()
        if not content.endswith(b"\n"):  # a process was killed while it wrote; drop its incomplete line
            journal.write_bytes(content[: content.rfind(b"\n") + 1])
    directions: Any = ["maximize" for _ in settings.maximize] + ["minimize" for _ in settings.minimize]
    try:
        study = optuna.create_study(
            storage=_storage(settings.storage, folder),
            study_name=settings.study_name,
            directions=directions,
            load_if_exists=True,
        )
    except Exception as error:  # each storage raises its own errors
        raise UserError(
            f"hydra.sweeper.storage={settings.storage}: the study cannot be opened: {first_line(error)}."
        ) from error
    if [direction.name.lower() for direction in study.directions] != directions:
        raise UserError(
            f"hydra.sweeper.study_name={settings.study_name}: the storage has a study of that name with other "
            "objectives; give this one another name."
        )
    # Another seed after each resume: with the same seed the sampler would repeat its first proposals.
    seed = settings.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=(settings.parallel or 1) > 1)
    return study


def _storage(url: str | None, folder: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return url or JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def report_trial(study: "optuna.Study", number: int, job: "Job", settings: SearchConfig) -> None:
    """Store how a trial ended. A trial without a result stays open: it is resumed with the search."""
    from optuna.trial import TrialState

    results = read_job_outcome(job.folder)
    if isinstance(results, str):
        study.tell(number, state=TrialState.FAIL)
    elif results and results["stopped_by"] == STOPPED_BY_PRUNING:
        study.tell(number, state=TrialState.PRUNED)
    elif results:
        metrics = results["after"] | {TRAIN_SECONDS: results[TRAIN_SECONDS]}
        study.tell(number, [metrics[name] for name in (*settings.maximize, *settings.minimize)])


def find_should_prune(hydra_config: DictConfig) -> ShouldPrune | None:
    """The function that decides whether this run, a trial of a search, ends early.

    None if the run is no trial, pruning is off, or there are several objectives.
    """
    sweeper = hydra_config.sweeper
    if sweeper.get("trial") is None or not sweeper.pruning or len([*sweeper.maximize, *sweeper.minimize]) > 1:
        return None
    import optuna

    objective = str([*sweeper.maximize, *sweeper.minimize][0])
    storage = _storage(sweeper.storage, Path(hydra_config.sweep.dir))
    study = optuna.load_study(storage=storage, study_name=sweeper.study_name, pruner=optuna.pruners.MedianPruner())
    trial = optuna.Trial(study, study.trials[sweeper.trial]._trial_id)

    def should_prune(metrics: dict[str, float], step: int) -> bool:
        if objective not in metrics:
            return False
        trial.report(metrics[objective], step)
        return trial.should_prune()

    return should_prune
