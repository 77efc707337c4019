"""The folder `conf/`, and the names of the options in its groups, as in `model=tiny`.

Called where settings are composed and described. It knows no setting.
"""

from pathlib import Path

# A checkout has conf/ next to the package; a wheel has it inside the package.
CONF = next(
    folder for folder in (Path(__file__).parents[2] / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)


def option_names(group: str) -> list[str]:
    """The options of a group: the names of its files, without suffix."""
    return [file.stem for file in (CONF / group).glob("*.yaml")]
