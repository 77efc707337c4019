"""A search for settings with Optuna: the space, the trials and their results, and ending those without promise."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from grpo.config.composition import load_sweeper
from grpo.config.overrides import count_values
from grpo.config.schema import Config, SearchConfig
from grpo.core.errors import UserError, first_line, nearest
from grpo.core.metric_format import FIGURES
from grpo.core.metric_names import evaluated_score
from grpo.runs.results import PRUNING, outcome
from grpo.sweeps.launchers import on_this_machine
from grpo.training.session import Pruning

if TYPE_CHECKING:
    import optuna

    from grpo.sweeps.jobs import Job

JOURNAL = "optuna.log"  # in the sweep's folder
TRAIN_SECONDS = "train_seconds"


def run_search(context: HydraContext, master: DictConfig, launcher: Launcher, arguments: Sequence[str]) -> None:
    """Run trials until there are `n_trials` in all.

    Raises:
        UserError: Optuna is not installed, or there is nothing to search or to search for.
    """
    from grpo.sweeps.jobs import Job, compose_jobs
    from grpo.sweeps.runner import Sweep

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
                if running and outcome(known[earlier.number].folder) is None:
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


def search_space(
    context: HydraContext, arguments: Sequence[str]
) -> tuple[dict[str, "optuna.distributions.BaseDistribution"], list[str]]:
    """What is searched, and the overrides that are the same in all trials.

    Raises:
        UserError: there is nothing to search.
    """
    given: dict[str, Override] = {}
    for override in OverridesParser.create(context.config_loader).parse_overrides(list(arguments)):
        given[override.get_key_element()] = override
    space = {key: _distribution(each) for key, each in given.items() if each.is_sweep_override()}
    fixed = [f"{key}={each.get_value_element_as_str()}" for key, each in given.items() if not each.is_sweep_override()]
    if not space:
        raise UserError(
            "hydra/sweeper=optuna: there is nothing to search; give a setting several values, or a range, "
            "'optimizer.lr=tag(log,interval(1e-5,1e-3))'."
        )
    return space, fixed


def _distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values: Any = override.value()
    if isinstance(values, IntervalSweep | RangeSweep):
        log, step = "log" in values.tags, None
        high = values.end if isinstance(values, IntervalSweep) else values.stop
        low = values.start
        if isinstance(values, RangeSweep):
            step = values.step
            low, high = low or 0, _last(values, count_values(override))
        if low is None or high is None or low > high or (step or 0) < 0 or (log and low <= 0):
            rule = "with tag(log,...) it starts above 0" if log else "it goes from the lower to the higher value"
            raise UserError(f"{override.input_line}: the range is empty; {rule}.")
        if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
            return IntDistribution(low, high, log=log, step=step or 1)
        return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))
    choices = list(override.sweep_string_iterator())
    if not choices:
        raise UserError(f"{override.input_line}: the list is empty, so there is nothing to choose from.")
    return CategoricalDistribution(choices)


def _last(values: RangeSweep, count: int) -> float:
    """The last of the `count` values of a range; below its start if there are none."""
    start, step = values.start or 0, values.step
    if not count:
        return start - abs(step)
    # Rounded, because steps of a float add up to a little less than Optuna would count.
    last = start + (count - 1) * step
    return last if isinstance(last, int) else round(last, 9)


def at_the_edges(space: dict[str, "optuna.distributions.BaseDistribution"], fixed: Sequence[str]) -> list[list[str]]:
    """Settings that show whether all of the space can run: each setting at each of its edges, the others at one."""
    edges: dict[str, list[Any]] = {
        key: list(each.choices) if hasattr(each, "choices") else sorted({each.low, each.high})  # type: ignore[attr-defined]
        for key, each in space.items()
    }
    first = {key: values[0] for key, values in edges.items()}
    chosen = [first] + [first | {key: value} for key, values in edges.items() for value in values[1:]]
    return [[*fixed, *(f"{key}={value}" for key, value in each.items())] for each in chosen]


def check(settings: SearchConfig, config: Config) -> None:
    objectives = [*settings.maximize, *settings.minimize]
    if not objectives or len(set(objectives)) < len(objectives):
        raise UserError(
            f"hydra.sweeper.maximize={settings.maximize}, minimize={settings.minimize}: give one figure or several, "
            "each once."
        )
    known = [*FIGURES, *(evaluated_score(name) for name in config.rewards)]
    for name in objectives:
        if name not in known:
            raise UserError(f"hydra.sweeper: there is no figure {name}.{nearest(name, known)}")


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

    end = outcome(job.folder)
    if isinstance(end, str):
        study.tell(number, state=TrialState.FAIL)
    elif end and end["stopped_by"] == PRUNING:
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
