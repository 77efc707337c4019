"""A composed run as one device sees it: its workload, its dtypes and its features, derived once from the settings.

The memory formulas and the roofline both start from a `PlannedRun`. It imports no torch.
"""

from dataclasses import dataclass
from math import ceil

from grpo.config.batch import BatchSplit
from grpo.config.schema import Config
from grpo.core.errors import UserError
from grpo.planning.architecture import Architecture
from grpo.policy.buffer_sizes import PLAIN_HEAD_LOGITS

SHARDINGS = ("ddp", "zero2", "zero3", "fsdp2")


@dataclass(frozen=True)
class Workload:
    """The work of one device in an optimizer step, with all prompts and completions at their limits.

    Attributes:
        sampled: completions of a rollout.
        sampled_prompts: the distinct prompts of a rollout.
        rows: completions of a micro-batch.
        prompts: the distinct prompts of a micro-batch.
        micro_batches: micro-batches of a step.
        prompt_tokens, completion_tokens: the limits, in tokens.
    """

    sampled: int
    sampled_prompts: int
    rows: int
    prompts: int
    micro_batches: int
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def from_config(cls, config: Config, batch: BatchSplit) -> "Workload":
        """
        Raises:
            UserError: prompts have no limit.
        """
        if config.max_prompt_length is None:
            raise UserError("max_prompt_length=null: a plan needs the longest prompt in tokens, max_prompt_length=256.")
        k = batch.num_generations
        sampled = batch.completions * config.algorithm.steps_per_generation // batch.world_size
        rows = batch.per_device
        # If neither K nor the micro-batch divides the other, a micro-batch may begin and end inside a group.
        unaligned = rows % k and k % rows
        return cls(
            sampled,
            ceil(sampled / k),
            rows,
            min(ceil(rows / k) + bool(unaligned), ceil(sampled / k)),
            batch.accumulation,
            config.max_prompt_length,
            config.max_completion_length,
        )


class PlannedRun:
    """The sizes that the memory formulas and the roofline share.

    Attributes:
        weight_bytes: bytes of a stored parameter.
        compute_bytes: bytes of an operand of a matrix product.
        adapter_bytes: bytes of an adapter's parameter.
        linear_input_bytes, linear_output_bytes: bytes of a value that a linear module reads or returns.
        autocast: whether float32 weights are cast to bfloat16 for matrix products.
        shares_prompts: whether training forwards each distinct prompt once.
        prefix_sampler: whether the project's own sampler is used (`rollout=fast`).
        fused_decoder: whether it decodes with `grpo/sampling/qwen2.py`, for Qwen2 without quantization.
        weights_sharded: whether each device stores a part of the weights.
        shards: the number of parts that gradients and optimizer states are divided into.
    """

    def __init__(self, config: Config, batch: BatchSplit, architecture: Architecture, sharding: str = "ddp") -> None:
        """`sharding`: any of `SHARDINGS`.

        Raises:
            UserError: prompts have no limit.
        """
        self.config, self.batch, self.architecture, self.sharding = config, batch, architecture, sharding
        self.workload = Workload.from_config(config, batch)
        model = config.model
        self.on_cuda = config.device == "cuda"
        self.weight_bytes = 4 if model.dtype == "float32" else 2
        self.compute_bytes = 2 if config.bf16 else self.weight_bytes
        self.autocast = config.bf16 and self.weight_bytes == 4
        self.lora, self.quantized = bool(model.lora_rank), model.load_in_4bit
        self.adapter_parameters = architecture.adapter_parameters(model.lora_rank)
        self.adapter_bytes = 2 if self.quantized else 4  # PEFT creates adapters in float32, TRL casts those of QLoRA
        # bitsandbytes computes in bfloat16 and casts back to the dtype of its input.
        self.linear_input_bytes = 2 if self.quantized else self.compute_bytes
        self.linear_output_bytes = self.weight_bytes if self.quantized else self.compute_bytes
        self.prefix_sampler = config.rollout.name == "fast"
        plain_qwen2 = architecture.model_type == "qwen2" and not self.quantized
        self.fused_decoder = self.prefix_sampler and bool(config.rollout.native) and plain_qwen2
        self.shares_prompts = config.share_prompts and not (self.lora and model.lora_dropout)
        self.world_size = batch.world_size
        self.weights_sharded = sharding in ("zero3", "fsdp2") and self.world_size > 1
        self.shards = 1 if sharding == "ddp" else self.world_size

    @property
    def trained_parameters(self) -> int:
        return self.adapter_parameters if self.lora else self.architecture.parameters

    @property
    def trained_bytes(self) -> float:
        """Bytes of the trained parameters; their gradients take as many."""
        if self.lora:
            return self.adapter_parameters * self.adapter_bytes
        return self.architecture.parameters * self.weight_bytes

    @property
    def forward_tokens(self) -> int:
        """Tokens that a forward pass of a micro-batch processes."""
        work = self.workload
        if self.shares_prompts:
            return work.prompts * (work.prompt_tokens - 1) + work.rows * work.completion_tokens
        return work.rows * (work.prompt_tokens + work.completion_tokens)

    @property
    def predicted_tokens(self) -> int:
        """Completion tokens of a micro-batch."""
        return self.workload.rows * self.workload.completion_tokens

    @property
    def plain_head(self) -> bool:
        """Whether log-probabilities come from plain logits instead of TRL's fused head."""
        small = not self.on_cuda and self.predicted_tokens * self.architecture.vocab_size <= PLAIN_HEAD_LOGITS
        return self.shares_prompts and small

    @property
    def optimizer_state_bytes(self) -> float:
        """Bytes of the optimizer's states between two steps, of all shards together."""
        name, arch = self.config.optimizer.name, self.architecture
        if name == "adamw_torch":
            return 2 * self.trained_bytes
        if name == "adamw_8bit":
            # Two moments of 8 bits and a constant of 32 bits for every 256; transformers leaves embeddings at 32 bits
            # (Dettmers et al. 2022, arXiv:2110.02861).
            unquantized = 0 if self.lora else arch.head_parameters
            return (self.trained_parameters - unquantized) * 2 * (1 + 4 / 256) + 8 * unquantized
        if name == "adafactor":
            rank = self.config.model.lora_rank
            matrices = [(a, rank) for a, _ in arch.projections] + [(rank, b) for _, b in arch.projections]
            factors = sum(map(sum, matrices if self.lora else arch.projections)) * arch.num_hidden_layers
            return 4.0 * (factors + (0 if self.lora else arch.vocab_size + arch.hidden_size))
        return 0.0

    @property
    def dequantized_bytes(self) -> float:
        """Bytes of the largest 4-bit matrix while it is multiplied."""
        arch = self.architecture
        extra_copy = 2 * (self.weight_bytes != 2)
        return float(arch.hidden_size * arch.intermediate_size * (self.weight_bytes + extra_copy))
