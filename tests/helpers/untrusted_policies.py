"""Policies that run code when they are loaded.

Called by the tests of what an untrusted folder can do.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from grpo.policy.hub import ASSETS


def pickled(folder: Path) -> Path:
    """The embedded policy with its weights pickled."""
    shutil.copytree(ASSETS / "tiny", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def with_code(folder: Path) -> Path:
    """The embedded policy with Python code beside its weights, which leaves a file `ran` beside the folder."""
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "code_of_its_own.py").write_text(
        "from pathlib import Path\nfrom transformers import Qwen2Config, Qwen2ForCausalLM\n\n"
        f"Path({str(folder.parent / 'ran')!r}).touch()\n\n\n"
        "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n\n\n"
        "class OwnForCausalLM(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "code_of_its_own.OwnConfig",
            "AutoModelForCausalLM": "code_of_its_own.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
