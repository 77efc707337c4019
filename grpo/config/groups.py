"""The folder `conf/` and the names of the options in its groups."""

from pathlib import Path

# A checkout has conf/ beside the package; a wheel carries it inside.
CONF = next(
    folder for folder in (Path(__file__).parents[2] / "conf", Path(__file__).parents[1] / "conf") if folder.is_dir()
)


def option_names(group: str) -> list[str]:
    """The files of a group of `conf/`."""
    return [file.stem for file in (CONF / group).glob("*.yaml")]
