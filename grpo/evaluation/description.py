"""Descriptions of protocols in text, and the differences between two of them.

Called when an evaluation is printed, and when its name belongs to another one. It prints nothing itself.
"""

from pathlib import Path
from typing import Any

from grpo.config.weights import format_weights
from grpo.core.paths import display_path


def describe_protocol(protocol: dict[str, Any]) -> dict[str, str]:
    """The description of a protocol, one text per heading."""
    if "completions" in protocol:
        lines = {
            "completions": f"{protocol['completions']['n']:,} in {protocol['completions']['path']}",
            "problems": f"{protocol['problems']['n']:,} of that file",
        }
    else:
        policy, data, decoding, computing = (protocol[name] for name in ("policy", "data", "decoding", "computing"))
        details = [f"{name} {policy[name][:8]}" for name in ("sha256", "commit") if policy.get(name)]
        details += [f"random weights of seed {policy['seed']}"] if "seed" in policy else []
        if adapter := policy.get("adapter"):
            details += [f"{'merged ' * adapter['merged']}adapter {display_path(Path(adapter['path']))}"]
            details[-1] += f" {adapter['sha256'][:8]}" if "sha256" in adapter else ""
        location = f" in {display_path(Path(data['path']))}" if "path" in data else ""
        prompt = " ".join(protocol["system_prompt"].split())
        settings = ", ".join(f"{name} {'none' if value is None else value}" for name, value in decoding.items())
        penalty = decoding.get("repetition_penalty")
        end_tokens = " or ".join(protocol.get("stop", []))
        autocast = f", computing in {computing['autocast']}" if computing["autocast"] else ""
        lines = {
            "policy": display_path(Path(policy["path"])) + (f" ({', '.join(details)})" if details else ""),
            "problems": f"{protocol['problems']['n']:,} {protocol['split']} problems of {data['name']}{location}",
            "prompt": (f"{prompt!r}, then the question" if prompt else "the question alone") + _template_line(protocol),
            "sampling": settings
            if decoding["temperature"]
            else "greedy" + (f", repetition_penalty {penalty}" if penalty else ""),
            "length": f"at most {protocol['max_completion_length']} tokens, ended by {end_tokens}",
            "weights": f"{computing['weights']}{autocast} on {computing['device']}, rollout={computing['rollout']}",
        }
    if "format" in protocol:
        lines["format"] = protocol["format"]
    return lines | protocol["extraction"] | {"rewards": format_weights(protocol["rewards"])}


def _template_line(protocol: dict[str, Any]) -> str:
    """What is special about the prompts of a protocol."""
    own, values = protocol.get("own_system_prompts", 0), protocol.get("chat_template_kwargs", {})
    parts = [" in the same turn"] if not protocol.get("system_role", True) else []
    parts += [f"; {own:,} with a system prompt of their own instead"] if own else []
    parts += [f"; {name}={value} in the chat template" for name, value in values.items()]
    parts += [f"; the prompt ends with {protocol['opened']!r}, which is scored"] if "opened" in protocol else []
    return "".join(parts)


def protocol_differences(other: dict[str, Any], protocol: dict[str, Any]) -> dict[str, str]:
    """The lines that describe `other` and not `protocol`."""
    lines = describe_protocol(protocol)
    return {name: line for name, line in describe_protocol(other).items() if line != lines.get(name)}
