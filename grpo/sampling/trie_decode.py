"""Decoding over a trie: completions of a prompt share a slot of the cache for as long as their tokens are equal.

Called by the prefix-sharing sampler on a CPU, and on a GPU without CUDA graphs.
"""

import torch
from torch import Tensor

from grpo.sampling.kv_cache import PromptPrefill
from grpo.sampling.slot_cache import SlotCache
from grpo.sampling.token_sampler import END_CHECK_INTERVAL, TokenSampler


def decode_trie(
    token_sampler: TokenSampler,
    prefill: PromptPrefill,
    prompt_of_row: list[int],
    uniforms: Tensor | None,
    max_new_tokens: int,
) -> list[list[int]]:
    """The completions of B rows, as lists of token ids.

    Rows with the same prompt and the same tokens so far share a slot, which splits when their tokens diverge. Slots in
    which every completion has ended are dropped.

    Args:
        prompt_of_row: for each of the B rows, the index of its prompt in `prefill`.
        uniforms: (B, C) in [0, 1), or None for greedy decoding.
    """
    cache, device = SlotCache(prefill, max_new_tokens, len(prompt_of_row)), prefill.last_ids.device
    completions: list[list[int]] = [[] for _ in prompt_of_row]
    slot_of_row, unfinished = list(prompt_of_row), list(range(len(prompt_of_row)))
    slot = torch.tensor(slot_of_row, device=device)
    end_token_ids = set(token_sampler.is_end_token.nonzero()[:, 0].tolist())
    if uniforms is not None:
        uniforms = uniforms.T.contiguous().to(device)  # (C, B)
    for length in range(1, max_new_tokens + 1):
        tokens = token_sampler.next(cache, None if uniforms is None else uniforms[length - 1], slot).tolist()
        for row in unfinished:
            completions[row].append(tokens[row])
        unfinished = [row for row in unfinished if tokens[row] not in end_token_ids]
        if not unfinished:
            break
        # The children of the trie's current leaves: (slot, token) -> rows.
        children: dict[tuple[int, int], list[int]] = {}
        for row in unfinished:
            children.setdefault((slot_of_row[row], tokens[row]), []).append(row)
        copied = _assign_slots(slot_of_row, children, len(cache.ids))
        if copied:
            cache.add_copies(torch.tensor(copied, device=device))
        drop = length % END_CHECK_INTERVAL == 0 and len(children) < len(cache.ids)
        if drop:
            used = sorted({slot_of_row[row] for row in unfinished})
            cache.select(torch.tensor(used, device=device))
            renumbered = {slot: number for number, slot in enumerate(used)}
            slot_of_row = [renumbered.get(slot, 0) for slot in slot_of_row]  # the tokens of ended rows are ignored
        if copied or drop:
            slot = torch.tensor(slot_of_row, device=device)
        next_ids = [0] * len(cache.ids)
        for row in unfinished:
            next_ids[slot_of_row[row]] = tokens[row]
        cache.append(torch.tensor(next_ids, device=device))
    return completions


def _assign_slots(slot_of_row: list[int], children: dict[tuple[int, int], list[int]], slots: int) -> list[int]:
    """Change `slot_of_row` so that each child (slot, token) has its own slot; returns the slots to copy, in order.

    The first child of a slot continues in it. Every other child gets a copy of the slot, numbered from `slots`.
    """
    continued: set[int] = set()
    copied: list[int] = []
    for (parent, _), rows in children.items():
        if parent in continued:
            for row in rows:
                slot_of_row[row] = slots + len(copied)
            copied.append(parent)
        continued.add(parent)
    return copied
