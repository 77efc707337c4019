"""The source of a policy: embedded in the package, a local folder, or the model hub.

Loading, data sets and commands call it. If the hub does not answer within seconds, its libraries are set to use their
cache. This module does not import torch or transformers.
"""

import functools
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread

from grpo.config.schema import ModelConfig
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
            raise UserError(f"model.path={path}: {_no_model(folder, path)}")
        return str(folder)
    if not is_hub_id(path):
        raise UserError(f"model.path={path}: there is no such folder, and it is not a hub id (owner/name).")
    return path


def _no_model(folder: Path, path: str) -> str:
    """Why a folder without config.json is no model, and what to type if it holds weights in another form."""
    if folder.is_file():
        advice = f": give a GGUF file as model.gguf={path}" if folder.suffix == ".gguf" else "; give its folder"
        return f"this is a file, not the folder of a model{advice}."
    if (folder / "adapter_config.json").is_file():
        try:
            base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            base = None
        return (
            "the folder holds only an adapter, not the weights that it adapts; type "
            f"model.path={base or 'BASE'} model.adapter={path}"
        )
    if files := sorted(file.name for file in folder.glob("*.gguf")):
        return f"the folder has no config.json, and a GGUF file is selected by name; add model.gguf={files[0]}"
    return "the folder has no config.json, so it is not a model."


def resolve_gguf(model: ModelConfig) -> tuple[str, str]:
    """The folder or hub id of `model.gguf`, and the name of the file in it.

    The file is in the folder `model.path`, or `model.gguf` is its path, or it is in the hub's repository `model.path`.

    Raises:
        UserError: there is no such file.
    """
    assert model.gguf is not None
    for file in (Path(model.path).expanduser() / model.gguf, Path(model.gguf).expanduser()):
        if file.is_file():
            return str(file.parent), file.name
    if is_on_hub(model.path) and not os.path.isabs(model.gguf):
        return model.path, model.gguf
    raise UserError(
        f"model.gguf={model.gguf}: there is no such file, neither here nor in model.path={model.path}; give its path."
    )


def resolve_tokenizer(tokenizer: str) -> str:
    """`model.tokenizer` as a folder or hub id.

    Raises:
        UserError: the folder does not exist, or contains no tokenizer.
    """
    folder = Path(tokenizer).expanduser()
    if not folder.exists() and is_hub_id(tokenizer):
        return tokenizer
    if not folder.is_dir():
        raise UserError(f"model.tokenizer={tokenizer}: there is no such folder, and it is not a hub id (owner/name).")
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise UserError(f"model.tokenizer={tokenizer}: the folder has no tokenizer.json or tokenizer_config.json.")
    return str(folder)


def is_loaded_from_hub(model: ModelConfig) -> bool:
    """Whether any file of the policy comes from the hub, or from its cache."""
    if model.tokenizer is not None and is_on_hub(model.tokenizer):
        return True
    return is_on_hub(model.path) if model.gguf is None else not Path(model.name).expanduser().is_file()


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
