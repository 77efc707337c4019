"""The source of a policy: embedded in the package, a local folder, or the model hub.

Loading, data sets and commands call it. If the hub does not answer within seconds, its libraries are set to use their
cache. This module does not import torch or transformers.
"""

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
    """`model.path` as a folder or hub id, the forms that transformers accepts.

    Raises:
        UserError: the embedded policy or the folder does not exist, or the folder contains no model.
    """
    if path.startswith(EMBEDDED_PREFIX):
        name = path.removeprefix(EMBEDDED_PREFIX)
        embedded = [folder.name for folder in ASSETS.iterdir() if folder.is_dir()]
        if name not in embedded:
            raise UserError(f"model.path={path}: there is no embedded policy '{name}'.{suggest_name(name, embedded)}")
        return str(ASSETS / name)
    folder = Path(path).expanduser()
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path={path}: the folder has no config.json, so it is not a model.")
        return str(folder)
    if not is_hub_id(path):
        raise UserError(f"model.path={path}: there is no such folder, and it is not a hub id (owner/name).")
    return path


def is_hub_id(path: str) -> bool:
    """Whether `path` has the form of a hub id, `name` or `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path) is not None


def is_on_hub(path: str) -> bool:
    """Whether `path` names a repository of the hub: it has the form of a hub id, and there is no such local path."""
    return is_hub_id(path) and not Path(path).exists()


@functools.cache
def prepare_hub() -> None:
    """Test once whether the hub answers; if it does not, set `HF_HUB_OFFLINE`, so that libraries use only their cache.

    Call it before transformers or datasets is imported: they read the variable at import, and without it they wait far
    longer for the hub.
    """
    if "HF_HUB_OFFLINE" not in os.environ and not _hub_answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        os.environ["HF_HUB_OFFLINE"] = "1"
        # An earlier job of this process may have imported the libraries already.
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

    # In a thread, because the look-up of the host's name has no timeout.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_SECONDS)
    return bool(answered)


def hub_error(name: str, key: str, error: Exception) -> UserError:
    """The error for the model or dataset `name`, which is not cached and cannot be loaded from the hub."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        reason = "is not on this machine, and the hub cannot be reached"
    else:
        reason = f"cannot be loaded from the hub ({first_line(error)})"
    return UserError(
        f"{name} {reason}. Either give a local folder, {key}=FOLDER, or use the "
        "embedded default, which needs no hub: python -m grpo.train."
    )
