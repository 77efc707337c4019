"""The split of an optimizer step into micro-batches and over processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo.config.batch import derive_batch
from grpo.core.errors import UserError

sizes = st.integers(1, 200)


@given(st.integers(2, 64), sizes, sizes, st.integers(1, 8))
def test_a_step_is_split_exactly_or_the_nearest_settings_are_named(
    k: int, prompts: int, micro: int, world: int
) -> None:
    try:
        batch = derive_batch(k, prompts, micro, world)
    except UserError as error:
        assert k * prompts % world
        message = str(error)
        offered = [int(n) for n in message.split("prompts_per_step=")[2].split(",")[0].split(" or ")]
        assert all(derive_batch(k, n, micro, world) for n in offered)
        return
    assert batch.per_device * batch.accumulation * batch.world_size == k * prompts == batch.completions
    assert batch.per_device <= micro


def test_any_k_can_be_split() -> None:
    for k in range(2, 130):
        assert derive_batch(k, prompts_per_step=4, micro_batch_size=64).completions == 4 * k


def test_the_error_names_the_rule_and_the_nearest_settings() -> None:
    with pytest.raises(UserError) as error:
        derive_batch(num_generations=3, prompts_per_step=5, micro_batch_size=8, world_size=4)
    assert str(error.value) == (
        "prompts_per_step=5 x num_generations=3 = 15 completions per step cannot be divided evenly among 4 processes. "
        "Nearest that can: prompts_per_step=4 or 8, or num_generations=4."
    )


def test_a_batch_in_words() -> None:
    assert str(derive_batch(16, 4, 24)) == "4 prompts x 16 completions = 64 per step, 4 x 16"
