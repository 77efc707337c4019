"""The header of a GGUF file: its metadata, its tensors, and whether transformers can load it.

Loading, planning and the checks before a run call it. It reads the header in a fraction of a second, whereas
`gguf.GGUFReader` and transformers build an object for each token of the vocabulary, which takes seconds. It imports no
torch, and does not know how the tensors become a policy. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil, prod
from pathlib import Path
from typing import Any

from grpo.core.errors import UserError
from grpo.core.packages import require_package

# struct formats of the fixed-size value types; 8 is a string, 9 an array.
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
# Relative to the norm, two quantizations of one matrix differ by a few percent with 8 to 4 bits, and by less than half
# with 2 bits; two unrelated matrices of equal norm differ by 140%.
LARGEST_DISTANCE_OF_COPIES = 0.5
COMPARED_ROWS = 64


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file: its shape in torch's order, the name of its quantization, and where its bytes are."""

    shape: tuple[int, ...]
    quantization: str
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file, without the arrays of its metadata."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as qwen2 or llama."""
        return str(self.metadata["general.architecture"])

    def size_of(self, name: str) -> Any:
        """A size of the architecture, such as `embedding_length`; None if the file does not state it as a number."""
        return self.metadata.get(f"{self.architecture}.{name}")

    def tied_copy(self) -> str | None:
        """The more precise copy of the embeddings, if the file stores the embeddings also as the head; else None.

        llama.cpp writes no head if the architecture ties it to the embeddings, but some files contain both, quantized
        differently, and nothing else in a file says that they are one matrix.
        """
        embedding, head = self.tensors.get(EMBEDDING), self.tensors.get(HEAD)
        if embedding is None or head is None or embedding.shape != head.shape:
            return None
        import numpy as np

        first, second = self._some_rows(embedding), self._some_rows(head)
        if np.linalg.norm(first - second) > LARGEST_DISTANCE_OF_COPIES * np.linalg.norm(second):
            return None
        return EMBEDDING if embedding.size > head.size else HEAD

    def _some_rows(self, tensor: StoredTensor) -> Any:
        """Evenly spaced rows, dequantized: an array (rows, columns)."""
        import numpy as np
        from gguf import GGMLQuantizationType, dequantize

        stored = np.memmap(self.path, np.uint8, "r", tensor.start, (tensor.shape[0], tensor.size // tensor.shape[0]))
        rows = np.array(stored[:: max(1, tensor.shape[0] // COMPARED_ROWS)])
        return dequantize(rows, GGMLQuantizationType[tensor.quantization])


class _Header:
    """Reads the values of a header one after another."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.position = data, 0

    def numbers(self, form: str, count: int = 1) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{count}{form}", self.data, self.position)
        self.position += struct.calcsize(f"<{count}{form}")
        return values

    def number(self, form: str) -> Any:
        return self.numbers(form)[0]

    def text(self) -> str:
        length = self.number("Q")
        self.position += length
        if self.position > len(self.data):
            raise struct.error("the file ends inside a text")
        return self.data[self.position - length : self.position].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        return self.text() if kind == STRING else self.number(FORMATS[kind])

    def skip_array(self) -> None:
        kind, length = self.number("I"), self.number("Q")
        if kind in FORMATS:
            self.position += struct.calcsize(f"<{FORMATS[kind]}") * length
        elif kind == STRING:
            for _ in range(length):
                self.position += 8 + struct.unpack_from("<Q", self.data, self.position)[0]
        else:
            raise KeyError(kind)


def read_gguf(path: Path, setting: str) -> GgufFile:
    """The header of `path`, checked. `setting` is the setting that names the file, for messages.

    Raises:
        UserError: the `gguf` package is missing, or the file is not a GGUF file, one of several parts, truncated, or
            has an unknown quantization.
    """
    require_package(setting, "gguf", "gguf")
    if path.stat().st_size < 24:
        raise UserError(f"{setting}: the file is truncated, with {path.stat().st_size} bytes; download it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise UserError(
                f"{setting}: this is not a GGUF file, because it does not begin with the letters GGUF; a folder with "
                "*.safetensors is given as model.path=FOLDER."
            )
        header = _Header(data)
        header.position = 4
        try:
            return _parse(path, setting, header)
        except struct.error as error:
            raise UserError(
                f"{setting}: the file is truncated, with {len(data):,} bytes; download it again."
            ) from error
        except KeyError as error:
            raise UserError(
                f"{setting}: the header is damaged, or of an unknown version of GGUF: {error}; download the file again."
            ) from error


def _parse(path: Path, setting: str, header: _Header) -> GgufFile:
    if (file_version := header.number("I")) not in (2, 3):
        raise UserError(
            f"{setting}: the file has version {file_version} of GGUF; use one of version 2 or 3, which can be read."
        )
    tensor_count, value_count = header.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        name, kind = header.text(), header.number("I")
        if kind == ARRAY:
            header.skip_array()
        else:
            metadata[name] = header.value(kind)
    if (parts := metadata.get("split.count", 0)) > 1:
        raise UserError(
            f"{setting}: this is part {metadata.get('split.no', 0) + 1} of {parts} of a split GGUF, and transformers "
            "reads one file; join the parts with llama.cpp: llama-gguf-split --merge FIRST_PART OUT.gguf"
        )
    metadata["general.architecture"]  # without it, nothing can read the file: a KeyError
    entries = []
    for _ in range(tensor_count):
        name, dimension_count = header.text(), header.number("I")
        entries.append((name, header.numbers("Q", dimension_count), header.number("I"), header.number("Q")))
    alignment = metadata.get("general.alignment", 32)
    data_start = ceil(header.position / alignment) * alignment
    tensors = {}
    for name, dimensions, kind, offset in entries:
        quantization, size = _quantization(kind, prod(dimensions), name, setting)
        tensors[name] = StoredTensor(tuple(reversed(dimensions)), quantization, data_start + offset, size)
    end = max((tensor.start + tensor.size for tensor in tensors.values()), default=0)
    if end > len(header.data):
        raise UserError(
            f"{setting}: the file is truncated: it has {len(header.data):,} bytes, and its tensors need {end:,}; "
            "download it again."
        )
    return GgufFile(path, metadata, tensors)


def _quantization(kind: int, values: int, tensor: str, setting: str) -> tuple[str, int]:
    """The name of the quantization with the number `kind`, and the bytes that `values` numbers take in it.

    Raises:
        UserError: the installed `gguf` package cannot dequantize it.
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    try:
        quantization = GGMLQuantizationType(kind)
        block_values, block_bytes = GGML_QUANT_SIZES[quantization]
        dequantize(np.zeros((1, block_bytes), np.uint8), quantization)
    except (ValueError, KeyError, NotImplementedError) as error:
        name = quantization.name if kind in list(GGMLQuantizationType) else f"number {kind}"
        raise UserError(
            f"{setting}: {tensor} has the quantization {name}, which gguf {version('gguf')} cannot dequantize; use a "
            "file in F16, Q8_0 or Q4_K_M, or a newer gguf package."
        ) from error
    return quantization.name, values // block_values * block_bytes
