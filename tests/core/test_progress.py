"""Importing libraries without garbage collection."""

import gc
import sys
import weakref
from types import ModuleType

import pytest

from grpo.core.device import free_memory
from grpo.core.progress import importing


class Node:
    """An object that only a reference cycle keeps alive, once the test forgets it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collection():
    yield
    gc.enable()
    gc.unfreeze()
    sys.modules.pop("imported_by_a_test", None)


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_off_while_importing_and_leaves_out_what_exists_then(collection, enabled: bool) -> None:
    gc.unfreeze()
    (gc.enable if enabled else gc.disable)()
    with importing("a library"):
        assert not gc.isenabled()
        sys.modules["imported_by_a_test"] = ModuleType("imported_by_a_test")
        garbage = weakref.ref(Node())
    assert gc.isenabled() == enabled and gc.get_freeze_count() > 0
    gc.collect()
    assert garbage() is not None
    free_memory()
    assert garbage() is None and gc.get_freeze_count() == 0


def test_garbage_from_before_is_collected_if_the_libraries_are_left_out(collection) -> None:
    gc.freeze()
    garbage = weakref.ref(Node())
    with importing("another library"):
        assert garbage() is None


def test_nothing_is_left_out_if_nothing_is_imported_and_an_error_is_passed_on(collection) -> None:
    gc.unfreeze()
    with pytest.raises(ImportError), importing("a library"):
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() == 0
