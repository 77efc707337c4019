"""Looks up setting names of other projects, and writes the page of docs that lists them.

`grpo/config/unknown_settings.py` looks up unknown settings; `python -m grpo.config.hints > docs/coming-from.md` writes
the page. The table is in `grpo/config/other_names.py`.
"""

from grpo.config.other_names import HINTS, Hint

PAGE_HEAD = """\
# Coming from TRL, verl or the GRPO notebook: names of settings

This page lists setting names of TRL, verl, transformers and the widely copied GRPO notebook, with their names here. If
you type one of them, the message has the name here as well.

- A setting is typed as `NAME=VALUE`, and `conf/` explains each one: `GRPOConfig(learning_rate=5e-6)` is
  `optimizer.lr=5e-6` here, `GRPOTrainer(...).train()` is `python -m grpo.train`.
- For a dotted name, the last part is looked up: `lr` for `actor_rollout_ref.actor.optim.lr`.
- Equal names are not listed, also if they are in a group here: `beta` is `algorithm.beta`, `top_p` is `rollout.top_p`.
- Reward functions written for TRL run as they are, with `@reward` above them ([rewards](rewards.md)).

**From the notebook**, GRPO with five reward functions on GSM8K:

```
python -m grpo.train experiment=gsm8k_original   # its functions, prompt and arguments, on one GPU
python -m grpo.train experiment=gsm8k            # corrected, on one GPU
python -m grpo.audit rewards=verbatim            # what its functions pay for
python -m grpo.train rewards=verbatim            # its functions with the embedded policy, in under a minute
```

The comments of `conf/experiment/gsm8k.yaml` give a reason for each correction, those of
`conf/experiment/gsm8k_original.yaml` the three points in which that run still differs from the notebook.

The table is the one that the messages use; `python -m grpo.config.hints > docs/coming-from.md` generates this page.
"""


def find_hint(name: str) -> Hint | None:
    """The hint for a name of another project; for a dotted name, its last part is looked up as well."""
    normalized = name.lower().lstrip("~+").replace("-", "_")
    for candidate in (normalized, normalized.rpartition(".")[2]):
        for hints in HINTS.values():
            for hint in hints:
                if candidate in hint.names:
                    return hint
    return None


def hints_page() -> str:
    """The text of docs/coming-from.md."""
    lines = [PAGE_HEAD.rstrip()]
    for head, hints in HINTS.items():
        lines += ["", f"## {head}", "", "| there | here | difference |", "|---|---|---|"]
        for hint in hints:
            names = ", ".join(f"`{name}`" for name in hint.names)
            lines.append(f"| {names} | {f'`{hint.setting}`' if hint.setting else 'none'} | {hint.note} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(hints_page(), end="")
