"""Optional packages: the message when one that a setting needs is not installed.

Checks before a run, loading and planning call it. It does not know which settings need which packages.
"""

from importlib.util import find_spec

from grpo.core.errors import UserError


def require_package(setting: str, package: str, extra: str) -> None:
    """
    Raises:
        UserError: the package, which `pip install grpo[extra]` installs, is missing.
    """
    if find_spec(package.replace("-", "_")) is None:
        raise UserError(f"{setting}: needs the {package} package: pip install {package}, or 'grpo[{extra}]'.")
