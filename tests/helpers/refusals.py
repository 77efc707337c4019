"""The messages about settings that are refused."""

import pytest

from grpo.config.composition import compose
from grpo.core.errors import UserError


def refusal_of(*overrides: str) -> str:
    """The message about these overrides of a training run; it is one line."""
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert "\n" not in str(error.value)
    return str(error.value)
