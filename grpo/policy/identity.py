"""What identifies a policy in a protocol and in the provenance of a run: the content of its files.

Evaluation and provenance call it. For files on this machine it imports no torch and no transformers, so that stored
completions can be scored without them.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

from grpo.config.schema import ModelConfig
from grpo.core.files import file_sha256
from grpo.policy.hub import resolve_gguf, resolve_model_path


def policy_identity(config: ModelConfig, seed: int) -> dict[str, Any]:
    """What identifies the policy: digests of its files or commits of the hub, and the seed of random weights.

    Raises:
        UserError: the policy cannot be found.
    """
    identity: dict[str, Any] = {"path": config.name}
    if config.gguf is not None:
        folder, name = resolve_gguf(config)
        file = Path(folder, name)
        identity |= {"sha256": file_sha256(file)} if file.is_file() else _commit(config, folder, name)
    else:
        path = resolve_model_path(config.path)
        identity |= {"sha256": _digest(path)} if Path(path).is_dir() else _commit(config, path, "config.json")
    if config.tokenizer is not None:
        identity["tokenizer"] = {"path": config.tokenizer}
        if Path(config.tokenizer).is_dir():
            identity["tokenizer"]["sha256"] = _digest(config.tokenizer)
    if config.adapter is not None:
        adapter = {"path": config.adapter, "sha256": _digest(config.adapter)}
        identity["adapter"] = adapter | {"merged": config.merge_adapter}
    if config.init == "random":
        identity |= {"num_layers": config.num_layers, "seed": seed}
    return identity | ({"load_in_4bit": True} if config.load_in_4bit else {})


def _digest(folder: str) -> str:
    """A digest of the names and contents of the files in a folder."""
    digest = sha256()
    for file in sorted(file for file in Path(folder).expanduser().iterdir() if file.is_file()):
        digest.update(file.name.encode() + bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()


def _commit(config: ModelConfig, path: str, file: str) -> dict[str, Any]:
    """The commit of a file on the hub."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    from grpo.policy.loading import loading_error

    try:
        return {"commit": extract_commit_hash(cached_file(path, file, revision=config.revision), None)}
    except (OSError, ValueError) as error:
        raise loading_error(config, error) from error
