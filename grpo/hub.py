"""Reaching the model hub, or saying quickly that it cannot be reached."""

import functools
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread

from grpo.errors import UserError

SECONDS = 6.0


def is_hub_id(path: str) -> bool:
    """Whether `path` has the form of a hub id, `name` or `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path) is not None


def on_hub(path: str) -> bool:
    """Whether `path` means a repository of the hub: a hub id that is not a folder here."""
    return is_hub_id(path) and not Path(path).exists()


@functools.cache
def prepare_hub() -> None:
    """Find out once whether the hub answers; where it does not, have its libraries use their cache alone.

    Call it before transformers or datasets is imported: they read `HF_HUB_OFFLINE` then, and wait far longer.
    """
    if "HF_HUB_OFFLINE" not in os.environ and not _answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        os.environ["HF_HUB_OFFLINE"] = "1"


def _answers(url: str) -> bool:
    answered = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS)
        except urllib.error.HTTPError:
            pass
        except OSError:
            return
        answered.append(True)

    # In a thread, because looking up the host's name obeys no timeout.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return bool(answered)


def unreachable(what: str, key: str) -> UserError:
    """The error for something that is neither cached nor to be had from the hub."""
    why = "the hub cannot be reached" if os.environ.get("HF_HUB_OFFLINE") == "1" else "the hub does not have it"
    return UserError(
        f"{what} is not on this machine, and {why}. Two ways out: give a local folder, {key}=FOLDER; or use the "
        "embedded default, which needs no hub: python -m grpo.train."
    )
