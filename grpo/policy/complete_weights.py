"""Loads a policy and refuses files that lack some of its tensors, because transformers would make these random.

Loading calls it, for GGUF files and others. It does not know where the files come from.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from grpo.config.schema import ModelConfig
from grpo.core.errors import UserError


def load_complete(config: ModelConfig, options: Mapping[str, Any]) -> PreTrainedModel:
    """The policy that `from_pretrained` loads with these arguments.

    Raises:
        UserError: a parameter is not in the files, and no parameter that is tied to it.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(**options, output_loading_info=True)
    policy, info = loaded
    names = defaultdict(list)
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    absent = set(info["missing_keys"])
    if missing := [tied[0] for tied in names.values() if absent.issuperset(tied)]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{config.setting}: {len(missing)} of {len(names)} tensors are not in its files, and would be random: "
            f"{', '.join(missing[:3])}{more}. The download or the conversion is incomplete; repeat it."
        )
    return policy
