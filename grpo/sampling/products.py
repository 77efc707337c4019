"""Matrix products with the fixed weights of a decoder, and the choice of the library that computes them.

`DenseProducts` calls PyTorch's own products. On some CPUs, such as AMD EPYC, their BLAS reads a large weight several
times slower than memory permits when there are 1 to 64 rows, as in a decode step. `PackedProducts` calls oneDNN, which
PyTorch contains, with weights in oneDNN's blocked layout. `choose_products` measures which is faster on this machine.
The fused decoders call this module. It does not know what the weights mean.

Shapes: S rows, I inputs, O outputs.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from grpo.core.device import cpu_name
from grpo.core.files import parse_json_object, write_json
from grpo.policy.buffer_sizes import PACKED_WEIGHT_ELEMENTS

MEASURED_ROWS = 16
ROUNDS = 15
# The results of the two differ in the last bits, so packing must be clearly faster: then every measurement on a machine
# gives the same choice, and a repeated run the same bits.
NEEDED_SPEED_UP = 1.25


class Products(Protocol):
    """Products of rows with weights that `prepare` has returned. `name` is for records."""

    name: str

    def prepare(self, weight: Tensor) -> Tensor:
        """The weight (O, I) as the other methods take it. It may share the storage of `weight`."""

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x @ weight.T + bias: (S, I), (O, I), (O,) -> (S, O)."""

    def add(self, x: Tensor, left: Tensor, weight: Tensor) -> Tensor:
        """x + left @ weight.T: (S, O), (S, I), (O, I) -> (S, O), in the dtype of `x`."""


class DenseProducts:
    """PyTorch's products with plain weights."""

    name = "dense"

    def prepare(self, weight: Tensor) -> Tensor:
        return weight

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)

    def add(self, x: Tensor, left: Tensor, weight: Tensor) -> Tensor:
        # One kernel if the dtypes are equal.
        return torch.addmm(x, left, weight.T) if x.dtype == weight.dtype else x + left @ weight.T


class PackedProducts:
    """oneDNN's products, which TorchInductor uses too, with packed weights; on a CPU.

    The packed weights serve every number of rows.

    Raises:
        AttributeError: this build of PyTorch lacks the operators.
    """

    name = "packed"

    def __init__(self) -> None:
        operators: Any = torch.ops.mkldnn
        self._pack = operators._reorder_linear_weight.default
        self._linear = operators._linear_pointwise.default
        self._linear_add = operators._linear_pointwise.binary

    def prepare(self, weight: Tensor) -> Tensor:
        packed: Tensor = self._pack(weight.contiguous(), MEASURED_ROWS)
        return packed

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        product: Tensor = self._linear(x, weight, bias, "none", [], "")
        return product

    def add(self, x: Tensor, left: Tensor, weight: Tensor) -> Tensor:
        if x.dtype != left.dtype:
            return x + self.multiply(left, weight)
        added: Tensor = self._linear_add(left, x, weight, None, "add")
        return added


def choose_products(weight: Tensor, dtype: torch.dtype) -> Products:
    """The faster products for a policy whose largest weight in a layer is `weight` (O, I), computed in `dtype`.

    Small weights and GPUs have dense products. Otherwise the choice is measured once, in less than a second, and stored
    in the user's cache folder for this CPU, number of threads, version of PyTorch, dtype and shape.
    """
    dense = DenseProducts()
    if weight.device.type != "cpu" or weight.numel() < PACKED_WEIGHT_ELEMENTS:
        return dense
    try:
        packed = PackedProducts()
    except AttributeError:
        return dense
    key = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}, {tuple(weight.shape)}"
    choices = _stored_choices()
    if key not in choices:
        choices[key] = packed.name if _is_faster(packed, dense, weight, dtype) else dense.name
        with suppress(OSError, RuntimeError):  # no home directory, or it cannot be written: measured again next time
            _cache_file().parent.mkdir(parents=True, exist_ok=True)
            write_json(_cache_file(), choices)
    return packed if choices[key] == packed.name else dense


@torch.no_grad()
def _is_faster(packed: Products, dense: Products, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether packed products are right, and faster than dense ones by `NEEDED_SPEED_UP`."""
    weight = weight.detach().to(dtype)
    x = torch.randn(MEASURED_ROWS, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    seconds: dict[str, list[float]] = {packed.name: [], dense.name: []}
    results: dict[str, Tensor] = {}
    try:
        prepared = [(products, products.prepare(weight)) for products in (packed, dense)]
        for products, prepared_weight in prepared * ROUNDS:
            began = time.perf_counter()
            results[products.name] = products.multiply(x, prepared_weight)
            seconds[products.name].append(time.perf_counter() - began)
    except RuntimeError:  # oneDNN has no such product on this CPU
        return False
    expected = results[dense.name]
    difference = float((results[packed.name] - expected).abs().max() / expected.abs().max())
    right = difference < (1e-4 if dtype == torch.float32 else 0.02)
    return right and min(seconds[packed.name]) * NEEDED_SPEED_UP < min(seconds[dense.name])


def _cache_file() -> Path:
    cache_home = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache_home) if os.path.isabs(cache_home) else Path.home() / ".cache"
    return folder / "grpo" / "matrix_products.json"


def _stored_choices() -> dict[str, Any]:
    try:
        return parse_json_object(_cache_file().read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):  # none yet, no home directory, or a damaged file
        return {}
