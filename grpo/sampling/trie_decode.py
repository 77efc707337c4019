"""Decoding over a trie: completions of a prompt share a slot of the cache for as long as their tokens are equal.

Called by the prefix-sharing sampler on a CPU, and on a GPU where there are no CUDA graphs.
"""

import torch
from torch import Tensor

from grpo.sampling.kv_cache import Cache, Prefill
from grpo.sampling.token_sampler import EOS_CHECK_INTERVAL, TokenSampler


def decode_trie(
    sampler: TokenSampler, prefill: Prefill, group: list[int], uniforms: Tensor | None, limit: int
) -> list[list[int]]:
    """The completions of the prompts `group` (B,), with uniforms (B, limit).

    Completions that are alike so far share a slot, which splits where they part; the slots of ended ones are dropped.
    """
    cache, device = Cache(prefill, 1, limit), prefill.last.device
    completions: list[list[int]] = [[] for _ in group]
    slot_of, alive = list(group), list(range(len(group)))
    slot = torch.tensor(slot_of, device=device)
    ends = set(sampler.is_eos.nonzero()[:, 0].tolist())
    if uniforms is not None:
        uniforms = uniforms.T.contiguous().to(device)
    for done in range(1, limit + 1):
        cache.width = done
        tokens = sampler.next(cache, None if uniforms is None else uniforms[done - 1], slot).tolist()
        for row in alive:
            completions[row].append(tokens[row])
        alive = [row for row in alive if tokens[row] not in ends]
        if not alive:
            break
        children: dict[tuple[int, int], list[int]] = {}
        for row in alive:
            children.setdefault((slot_of[row], tokens[row]), []).append(row)
        parted = len(children) > len({parent for parent, _ in children})
        if parted or (done % EOS_CHECK_INTERVAL == 0 and len(children) < len(cache.ids)):
            places = _rearrange(cache, list(children), done)
            slot_of = [0] * len(group)  # ended completions look on where they do no harm
            for place, rows in zip(places, children.values(), strict=True):
                for row in rows:
                    slot_of[row] = place
            slot = torch.tensor(slot_of, device=device)
        following = [0] * len(cache.ids)
        for row in alive:
            following[slot_of[row]] = tokens[row]
        cache.append(torch.tensor(following, device=device))
    return completions


def _rearrange(cache: Cache, children: list[tuple[int, int]], done: int) -> list[int]:
    """Give each of the children (slot, token) a slot of its own; returns which."""
    old = cache.slots
    of_prompt: dict[int, list[int]] = {}
    for child, (parent, _) in enumerate(children):
        of_prompt.setdefault(parent // old, []).append(child)
    most = max(map(len, of_prompt.values()))
    places, parents = [0] * len(children), []
    for place, members in enumerate(of_prompt.values()):
        for i, child in enumerate(members):
            places[child] = place * most + i
        # A prompt with fewer than the most has idle slots.
        parents.append([children[child][0] % old for child in members] + [0] * (most - len(members)))
    device = cache.ids.device
    cache.select(torch.tensor(list(of_prompt), device=device), torch.tensor(parents, device=device), done)
    return places
