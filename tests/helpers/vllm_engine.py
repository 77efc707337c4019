"""An `Engine` and a `Client` that take the place of vLLM's classes behind TRL's own code, where vLLM needs a GPU.

They sample with a copy of the policy that only TRL's weight sync changes. Used by the tests of `rollout=vllm` and
`rollout=vllm_server`; `tests/sampling/conftest.py` installs them.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from grpo.config.composition import compose
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler

VLLM = ["rollout=vllm", "device=cuda"]


SERVER = ["rollout=vllm_server", "device=cuda"]


RATIO = "sampling/importance_sampling_ratio"


BOUNDS = ["rollout.correction_min=0.9", "rollout.correction_max=1.1"]


def log_probabilities(policy: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> Tensor:
    """(T,) log-probabilities of a completion's tokens, by a plain forward pass."""
    with torch.no_grad():
        logits = policy(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]


class Engine:
    """Takes the place of `vllm.LLM`."""

    made: ClassVar[list["Engine"]] = []
    # A distortion of its log-probabilities, and whether it ignores the weights that it gets.
    distort: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(lambda logps: logps)
    ignores_weights: ClassVar[bool] = False

    def __init__(self, model: str, **settings: Any) -> None:
        self.model, self.settings, self.calls = model, settings, []
        self.policy = AutoModelForCausalLM.from_pretrained(model).eval()
        self.tokenizer = build_tokenizer(compose().model)
        self.sampled: list[tuple[list[int], list[int]]] = []
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
        torch.manual_seed(settings.get("seed", 0))  # as vLLM leaves the process that it runs in
        Engine.made.append(self)

    def load_weights(self, weights: list[tuple[str, Tensor]]) -> None:
        for name, value in weights:
            self.calls.append(name)
            if not Engine.ignores_weights:
                self.policy.get_parameter(name).data.copy_(value)

    def reset_prefix_cache(self) -> None:
        self.calls.append("synced")

    def sleep(self, level: int) -> None:
        self.calls.append("asleep")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"awake {tags[0]}")

    def complete(self, prompts: list[list[int]], limit: int, temperature: float) -> list[tuple[list[int], list[float]]]:
        completions = PrefixSharingSampler(self.policy, self.tokenizer, False, fused=True).complete(
            prompts, limit, temperature
        )
        self.sampled += zip(prompts, completions, strict=True)
        self.policy.set_attn_implementation("sdpa")
        logps = [
            Engine.distort(log_probabilities(self.policy, prompt, completion, temperature)).tolist()
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return list(zip(completions, logps, strict=True))

    def generate(self, prompts: list[dict[str, Any]], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append("generated")
        self.asked = sampling_params
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        answered = self.complete(rows, sampling_params.max_tokens, sampling_params.temperature)
        return [
            SimpleNamespace(
                prompt_token_ids=row,
                outputs=[
                    SimpleNamespace(
                        token_ids=ids,
                        logprobs=[
                            {token: SimpleNamespace(logprob=logp, rank=1)}
                            for token, logp in zip(ids, logps, strict=True)
                        ],
                    )
                ],
            )
            for row, (ids, logps) in zip(rows, answered, strict=True)
        ]


class Client(Engine):
    """Takes the place of TRL's `VLLMClient` and the server behind it."""

    fails_at: ClassVar[int | None] = None

    def __init__(self, base_url: str, group_port: int, connection_timeout: float) -> None:
        super().__init__(build_policy(compose().model, 0).name_or_path)
        self.where = (base_url, group_port, connection_timeout)

    def init_communicator(self, device: Any) -> None:
        self.calls.append("joined")

    def close_communicator(self) -> None:
        self.calls.append("left")

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata: list[tuple[str, str, list[int]]], named: Any) -> None:
        sent = list(named)
        assert [(name, str(value.dtype), list(value.shape)) for name, value in sent] == [
            (name, f"torch.{dtype}", shape) for name, dtype, shape in metadata
        ]
        self.load_weights(sent)

    def generate(self, prompts: list[list[int]], features: Any, n: int, **settings: Any) -> dict[str, Any]:  # type: ignore[override]
        self.calls.append("generated")
        if Client.fails_at == self.calls.count("generated"):
            raise ConnectionError("HTTPConnectionPool(host='localhost', port=8000): Max retries exceeded")
        self.asked, self.n = prompts, n
        rows = [prompt for prompt in prompts for _ in range(n)]
        answered = self.complete(rows, settings["max_tokens"], settings["temperature"])
        return {
            "prompt_ids": prompts,
            "completion_ids": [ids for ids, _ in answered],
            "logprobs": [[[logp] for logp in logps] for _, logps in answered],
        }
