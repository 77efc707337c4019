"""Where a policy comes from: shipped, a folder, or the model hub, which is reached or said not to be, quickly."""

import functools
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread

from grpo.core.errors import UserError, first_line, suggest_name

HUB_TIMEOUT_SECONDS = 6.0
ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED_PREFIX = "embedded:"


def resolve_model_path(path: str) -> str:
    """`model.path` as transformers takes it.

    Raises:
        UserError: an unknown embedded policy, or a folder that does not exist.
    """
    if path.startswith(EMBEDDED_PREFIX):
        name = path.removeprefix(EMBEDDED_PREFIX)
        shipped = [folder.name for folder in ASSETS.iterdir() if folder.is_dir()]
        if name not in shipped:
            raise UserError(f"model.path={path}: there is no embedded policy '{name}'.{suggest_name(name, shipped)}")
        return str(ASSETS / name)
    folder = Path(path).expanduser()
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path={path}: the folder has no config.json; it does not hold a model.")
        return str(folder)
    if not is_hub_id(path):
        raise UserError(f"model.path={path}: there is no such folder, and it is not a hub id (owner/name).")
    return path


def is_hub_id(path: str) -> bool:
    """Whether `path` has the form of a hub id, `name` or `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path) is not None


def is_on_hub(path: str) -> bool:
    """Whether `path` means a repository of the hub: a hub id that is not a folder here."""
    return is_hub_id(path) and not Path(path).exists()


@functools.cache
def prepare_hub() -> None:
    """Find out once whether the hub answers; where it does not, have its libraries use their cache alone.

    Call it before transformers or datasets is imported: they read `HF_HUB_OFFLINE` then, and wait far longer.
    """
    if "HF_HUB_OFFLINE" not in os.environ and not _hub_answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        os.environ["HF_HUB_OFFLINE"] = "1"
        # An earlier job of this process may have imported them already.
        for module in ("huggingface_hub.constants", "datasets.config"):
            if module in sys.modules:
                vars(sys.modules[module])["HF_HUB_OFFLINE"] = True


def _hub_answers(url: str) -> bool:
    answered = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT_SECONDS)
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.append(True)

    # In a thread, because looking up the host's name obeys no timeout.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_TIMEOUT_SECONDS)
    return bool(answered)


def hub_error(what: str, key: str, error: Exception) -> UserError:
    """The error for something that is neither cached nor to be had from the hub."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        why = "is not on this machine, and the hub cannot be reached"
    else:
        why = f"cannot be loaded from the hub ({first_line(error)})"
    return UserError(
        f"{what} {why}. Two ways out: give a local folder, {key}=FOLDER; or use the "
        "embedded default, which needs no hub: python -m grpo.train."
    )
