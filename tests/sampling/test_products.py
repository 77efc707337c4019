"""Products with packed weights, compared with PyTorch's own, and the choice between the two."""

import json
from pathlib import Path

import pytest
import torch

from grpo.sampling import products
from grpo.sampling.products import DenseProducts, PackedProducts, choose_products

SMALL, LARGE = (1023, 1024), (1024, 1024)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "grpo" / "matrix_products.json"


@pytest.fixture
def speeds(monkeypatch):
    """A list of the measurements; `speeds.packed` is what the next one says of packed weights."""

    class Speeds(list):
        packed = True

        def measure(self, *_) -> bool:
            self.append(self.packed)
            return self.packed

    speeds = Speeds()
    monkeypatch.setattr(products, "_is_faster", speeds.measure)
    return speeds


def choose(shape=LARGE, dtype=torch.float32) -> type:
    return type(choose_products(torch.ones(shape), dtype))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("inputs, outputs", [(128, 384), (300, 129), (896, 1152)])
def test_packed_products_equal_dense_ones(inputs: int, outputs: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    weight, bias = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype), torch.randn(outputs).to(dtype)
    x, residual = torch.randn(64, inputs).to(dtype), torch.randn(64, outputs)
    packed, dense = PackedProducts(), DenseProducts()
    stored = packed.prepare(weight)
    for rows in (1, 2, 5, 16, 64):
        left, added = x[:rows], residual[:rows]
        for mine, its in (
            (packed.multiply(left, stored), dense.multiply(left, weight)),
            (packed.multiply(left, stored, bias), dense.multiply(left, weight, bias)),
            (packed.add(added, left, stored), dense.add(added, left, weight)),
            (packed.add(added.to(dtype), left, stored), dense.add(added.to(dtype), left, weight)),
        ):
            assert mine.dtype == its.dtype
            torch.testing.assert_close(mine, its, atol=tolerance, rtol=tolerance)


def test_the_choice_is_measured_once_and_stored(cache, speeds) -> None:
    assert choose() is PackedProducts
    speeds.packed = False
    assert choose() is PackedProducts
    assert choose(dtype=torch.bfloat16) is DenseProducts
    assert choose((2048, 1024)) is DenseProducts
    speeds.packed = True
    assert choose((2048, 1024)) is DenseProducts
    assert speeds == [True, False, False]
    assert sorted(json.loads(cache.read_text()).values()) == ["dense", "dense", "packed"]


def test_small_weights_are_not_measured(cache, speeds) -> None:
    assert choose(SMALL) is DenseProducts
    assert not speeds and not cache.exists()


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": ', b"\xff"])
def test_a_damaged_file_of_choices_is_replaced(cache, speeds, content: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert choose() is choose() is PackedProducts
    assert len(speeds) == 1


def test_without_a_folder_for_the_choice_it_is_measured_each_time(tmp_path, monkeypatch, speeds) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose() is choose() is PackedProducts
    assert len(speeds) == 2


def test_wrong_products_are_never_chosen(cache, monkeypatch) -> None:
    monkeypatch.setattr(products, "NEEDED_SPEED_UP", 0.0)  # packed weights are fast enough in any case
    assert choose() is PackedProducts
    cache.unlink()
    multiply = PackedProducts.multiply
    monkeypatch.setattr(PackedProducts, "multiply", lambda *arguments: multiply(*arguments) * 1.01)
    assert choose() is DenseProducts


def test_a_build_of_pytorch_without_the_operators_has_dense_products(cache, monkeypatch) -> None:
    def fail(self) -> None:
        raise AttributeError("mkldnn")

    monkeypatch.setattr(PackedProducts, "__init__", fail)
    assert choose() is DenseProducts
