"""CUDA graphs without CUDA."""

from typing import Any

from grpo.sampling.cuda_graphs import CudaGraphs
from grpo.sampling.token_sampler import TokenSampler


class EagerGraphs(CudaGraphs):
    """Runs each step instead of capturing it; everything else is as on CUDA."""

    def capture(self, slots: Any, token_sampler: TokenSampler) -> Any:
        class Graph:
            @staticmethod
            def replay() -> None:
                slots.step(token_sampler)

        return Graph
