"""The baseline of a sweep: the arm that the others are compared with.

The report of a sweep and `grpo.report --baseline` call it. It compares nothing.
"""

from grpo.core.errors import UserError, suggest_name
from grpo.reports.arms import Arm, parse_number
from grpo.reports.sweep_results import SweepResults


def choose_baseline(sweep: SweepResults, name: str | None) -> Arm:
    """The baseline: the arm with the given name or part of a name, else the first arm that has runs.

    Raises:
        UserError: no arm or several arms match, or no run of the arm has finished.
    """
    if name is None:
        if not sweep.arms_with_runs:
            raise UserError(f"{sweep.folder} contains no finished run, so there is nothing to compare.")
        return sweep.arms_with_runs[0]
    wanted = name.replace(",", " ").split()
    named = [arm for arm in sweep.arms if arm.name == name]
    matching = named or [
        arm
        for arm in sweep.arms
        if wanted and all(any(_matches_level(part, *level) for level in arm.levels.items()) for part in wanted)
    ]
    if not matching:
        names = [arm.name for arm in sweep.arms]
        raise UserError(f"--baseline {name!r}: no arm of this sweep matches.{suggest_name(name, names)}")
    if len(matching) > 1:
        names = [arm.name for arm in matching]
        raise UserError(f"--baseline {name!r}: {len(names)} arms match; name one: {'; '.join(names)}.")
    if not matching[0].runs:
        raise UserError(f"--baseline {name!r}: none of its runs has finished; choose another arm.")
    return matching[0]


def _matches_level(part: str, factor: str, level: str) -> bool:
    key, _, text = part.lstrip("+").partition("=")
    return key == factor and (
        text == level or (parse_number(text) is not None and parse_number(text) == parse_number(level))
    )
