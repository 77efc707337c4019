"""The space of a search, read from the overrides, and the check that all of it can run.

Used by `search`. It runs nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext

from grpo.config.overrides import count_values
from grpo.config.schema import Config, SearchConfig
from grpo.core.errors import UserError, suggest_name
from grpo.core.metric_format import METRIC_LABELS
from grpo.core.metric_names import evaluated_score

if TYPE_CHECKING:
    import optuna


def search_space(
    context: HydraContext, arguments: Sequence[str]
) -> tuple[dict[str, "optuna.distributions.BaseDistribution"], list[str]]:
    """The distribution of each setting that is searched, and the overrides that all trials share.

    Raises:
        UserError: there is nothing to search.
    """
    overrides: dict[str, Override] = {}
    for override in OverridesParser.create(context.config_loader).parse_overrides(list(arguments)):
        overrides[override.get_key_element()] = override
    space = {key: _distribution(typed) for key, typed in overrides.items() if typed.is_sweep_override()}
    fixed = [
        f"{key}={typed.get_value_element_as_str()}" for key, typed in overrides.items() if not typed.is_sweep_override()
    ]
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
            low, high = low or 0, _last_value(values, count_values(override))
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


def _last_value(values: RangeSweep, count: int) -> float:
    """The last of the `count` values of a range; below its start if there are none."""
    start, step = values.start or 0, values.step
    if not count:
        return start - abs(step)
    # Rounded, because steps of a float add up to a little less than Optuna would count.
    last = start + (count - 1) * step
    return last if isinstance(last, int) else round(last, 9)


def edge_overrides(space: dict[str, "optuna.distributions.BaseDistribution"], fixed: Sequence[str]) -> list[list[str]]:
    """The overrides of jobs that show whether the complete space can run.

    Each setting takes its extreme values in turn, while the other settings have their first value.
    """
    edges: dict[str, list[Any]] = {
        key: list(values.choices) if hasattr(values, "choices") else sorted({values.low, values.high})  # type: ignore[attr-defined]
        for key, values in space.items()
    }
    first = {key: values[0] for key, values in edges.items()}
    settings_of_jobs = [first] + [first | {key: value} for key, values in edges.items() for value in values[1:]]
    return [[*fixed, *(f"{key}={value}" for key, value in settings.items())] for settings in settings_of_jobs]


def check_objectives(settings: SearchConfig, config: Config) -> None:
    """
    Raises:
        UserError: there is no objective, or one that is no metric of a run.
    """
    objectives = [*settings.maximize, *settings.minimize]
    if not objectives or len(set(objectives)) < len(objectives):
        raise UserError(
            f"hydra.sweeper.maximize={settings.maximize}, minimize={settings.minimize}: name one metric or several, "
            "each once."
        )
    metrics = [*METRIC_LABELS, *(evaluated_score(name) for name in config.rewards)]
    for name in objectives:
        if name not in metrics:
            raise UserError(f"hydra.sweeper: there is no metric {name}.{suggest_name(name, metrics)}")
