"""What a step needs: bytes on each device, and the seconds that it takes at the least. Imports no torch.

Memory is counted tensor by tensor as the code holds them, at the moments that can be the highest of a phase; what a
tensor is for is its part. Weights, gradients, optimizer and how they are sharded: Rajbhandari et al. 2020
(arXiv:1910.02054), sections 3.1 and 5; activations: the way of counting of Korthikanti et al. 2022 (arXiv:2205.05198),
section 4, for the layers of Qwen2 in the place of GPT's; adapters: Hu et al. 2021 (arXiv:2106.09685); NF4 and its
constants: Dettmers et al. 2023 (arXiv:2305.14314), section 3; 8-bit states: Dettmers et al. 2022 (arXiv:2110.02861).
Time is a roofline (Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785). docs/plan.md has all of it in
words, and how far measurements agree.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from grpo.config.batch import BatchSplit
from grpo.config.samplers import VLLM_ENGINES
from grpo.config.schema import Config, ModelConfig
from grpo.core.errors import UserError
from grpo.policy.hub import ASSETS, resolve

Parts = dict[str, float]

WEIGHTS, ADAPTERS, REFERENCE = "weights", "LoRA adapters", "reference policy"
GRADIENTS, OPTIMIZER, COMMUNICATION = "gradients", "optimizer states", "communication"
COPIES, SAMPLER = "bf16 copies of weights", "sampler's weights"
CACHE, GRAPHS = "keys and values", "CUDA graphs' memory"
LOGITS, ACTIVATIONS = "logits, log-probs", "activations"
PARTS = (
    WEIGHTS,
    ADAPTERS,
    REFERENCE,
    GRADIENTS,
    OPTIMIZER,
    COMMUNICATION,
    COPIES,
    SAMPLER,
    CACHE,
    GRAPHS,
    LOGITS,
    ACTIVATIONS,
)
SHARDINGS = ("ddp", "zero2", "zero3", "fsdp2")

# Tokens and columns of the logits that TRL's fused head holds at once (trl/kernels/chunked_logprob.py).
TILE_TOKENS, TILE_WIDTH = 4096, 32768
# What that head holds besides, in float32 tiles, where there is no Triton: forward and backward.
TILES_FORWARD, TILES_BACKWARD = 3, 7.25
# Bytes a weight: 4 bits; a constant of 8 bits for every 64 weights, and one of 32 bits for every 256 of those.
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
PLAIN_HEAD = 2**25  # grpo/training/shared_log_probs.py
GRAIN = 64  # grpo/sampling/cuda_graphs.py


@dataclass(frozen=True)
class Architecture:
    """The sizes of a decoder of Qwen2's kind, by the names of its config.json."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any], num_layers: int | None = None) -> "Architecture":
        """From what a config.json holds, cut to `num_layers`.

        Raises:
            KeyError: a size is not there.
        """
        heads, hidden = settings["num_attention_heads"], settings["hidden_size"]
        return cls(
            settings["model_type"],
            settings["vocab_size"],
            hidden,
            settings["intermediate_size"],
            num_layers or settings["num_hidden_layers"],
            heads,
            settings.get("num_key_value_heads") or heads,
            settings.get("head_dim") or hidden // heads,
            settings.get("tie_word_embeddings", False),
        )

    @property
    def queries(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def projections(self) -> list[tuple[int, int]]:
        """(in, out) of the linear modules of a layer."""
        h, i = self.hidden_size, self.intermediate_size
        return [(h, self.queries), (h, self.keys), (h, self.keys), (self.queries, h), (h, i), (h, i), (i, h)]

    @property
    def linear(self) -> int:
        """Parameters of the linear modules of all layers, which is what quantization quantizes."""
        return self.num_hidden_layers * sum(a * b for a, b in self.projections)

    @property
    def head(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def layers(self) -> int:
        """Parameters of all layers, biases and norms included."""
        bias = (self.queries + 2 * self.keys) * (self.model_type == "qwen2")
        return self.linear + self.num_hidden_layers * (2 * self.hidden_size + bias)

    @property
    def total(self) -> int:
        return self.layers + self.hidden_size + self.head * (1 if self.tie_word_embeddings else 2)

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters on every linear module of the layers."""
        return self.num_hidden_layers * rank * sum(a + b for a, b in self.projections)


def architecture(model: ModelConfig) -> tuple[Architecture, str]:
    """The sizes of the policy and where they come from: its config.json if it is on this machine, else those shipped.

    Raises:
        UserError: neither is there, or they are not those of a decoder like Qwen2.
    """
    path = resolve(model.path)
    shipped = json.loads((ASSETS / "architectures.json").read_text())
    file: Any = Path(path) / "config.json"
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(path, "config.json", revision=model.revision)
    if isinstance(file, str | Path):
        settings, origin = json.loads(Path(file).read_text()), f"config.json of {model.path}"
    elif path in shipped:
        settings, origin = shipped[path], f"as shipped, of {path}"
    else:
        raise UserError(
            f"model.path={model.path}: its config.json is not on this machine, and a plan asks no hub. Give a folder "
            f"that holds it, or take one whose sizes are shipped: {', '.join(shipped)}."
        )
    try:
        return Architecture.of(settings, model.num_layers), origin
    except KeyError as error:
        raise UserError(
            f"model.path={model.path}: its config.json has no {error.args[0]}; a plan knows decoders of Qwen2's kind."
        ) from error


@dataclass(frozen=True)
class Work:
    """What one device does in an optimizer step, all prompts and completions as long as they may be.

    Attributes:
        sampled: completions of a rollout.
        sampled_prompts: the distinct prompts of those.
        rows: completions of a micro-batch.
        prompts: the distinct prompts of those.
        micro_batches: of a step.
        prompt, completion: their tokens.
    """

    sampled: int
    sampled_prompts: int
    rows: int
    prompts: int
    micro_batches: int
    prompt: int
    completion: int

    @classmethod
    def of(cls, config: Config, batch: BatchSplit) -> "Work":
        """
        Raises:
            UserError: prompts have no limit.
        """
        if config.max_prompt_length is None:
            raise UserError("max_prompt_length=null: a plan needs the longest prompt in tokens, max_prompt_length=256.")
        k = batch.num_generations
        sampled = batch.completions * config.algorithm.steps_per_generation // batch.world_size
        rows = batch.per_device
        apart = rows % k and k % rows  # then a micro-batch may begin and end inside a group
        return cls(
            sampled,
            ceil(sampled / k),
            rows,
            min(ceil(rows / k) + bool(apart), ceil(sampled / k)),
            batch.accumulation,
            config.max_prompt_length,
            config.max_completion_length,
        )


class Costs:
    """The bytes of one device and the seconds of a step, for a composed run."""

    def __init__(self, config: Config, batch: BatchSplit, of: Architecture, sharding: str = "ddp") -> None:
        self.config, self.batch, self.of, self.sharding = config, batch, of, sharding
        self.work = Work.of(config, batch)
        model = config.model
        self.cuda = config.device == "cuda"
        self.weight = 4 if model.dtype == "float32" else 2  # bytes a parameter
        self.compute = 2 if config.bf16 else self.weight  # and of what a matrix product takes
        self.mixed = config.bf16 and self.weight == 4  # autocast, over float32 weights
        self.lora, self.quantized = bool(model.lora_rank), model.load_in_4bit
        self.adapters = of.adapters(model.lora_rank)
        self.adapter = 2 if self.quantized else 4  # PEFT makes adapters in float32, TRL casts those of QLoRA
        # What a linear module reads and gives out; bitsandbytes computes in bf16 and casts back to what came in.
        self.read = 2 if self.quantized else self.compute
        self.output = self.weight if self.quantized else self.compute
        self.fast = config.rollout.name == "fast"
        # grpo/sampling/qwen2.py decodes plain Qwen2; it does not know quantized weights
        self.native = self.fast and bool(config.rollout.native) and of.model_type == "qwen2" and not self.quantized
        self.shared = config.share_prompts and not (self.lora and model.lora_dropout)
        self.world = batch.world_size
        self.sharded = sharding in ("zero3", "fsdp2") and self.world > 1

    # Memory

    def memory(self) -> dict[str, Parts]:
        """The bytes of each part at the highest moment of sampling, training and the update."""
        phases = {"sampling": self._sampling(), "training": self._training(), "update": [self._update()]}
        highest = {name: max(moments, key=lambda parts: sum(parts.values())) for name, moments in phases.items()}
        return {name: {part: parts[part] for part in PARTS if parts.get(part)} for name, parts in highest.items()}

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return self.adapters if self.lora else self.of.total

    @property
    def trained_bytes(self) -> float:
        return self.adapters * self.adapter if self.lora else self.of.total * self.weight

    def _kept(self) -> Parts:
        """What is there all the time, once a step has been made."""
        of, split = self.of, self.world if self.sharded else 1
        weights = float(of.total * self.weight)
        if self.quantized:
            weights += of.linear * (NF4 - self.weight)
        states = self._states()
        if self.sharding.startswith("zero") and self.mixed and not self.quantized:
            # DeepSpeed keeps the weights in bfloat16, and in float32 beside the moments.
            weights, states = weights / 2, states + self.trained_bytes
        kept = {WEIGHTS: weights / split, OPTIMIZER: states / (1 if self.sharding == "ddp" else self.world)}
        if self.lora:
            kept[ADAPTERS] = self.adapters * self.adapter / split
        if self.config.algorithm.beta > 0 and not self.lora:
            kept[REFERENCE] = of.total * self.weight / split
        if self.world > 1 and self.sharding == "ddp":
            kept[COMMUNICATION] = self.trained_bytes  # DDP's buckets
        if self.native:
            kept[SAMPLER] = self._fused()
        if self.sharded and self.fast:  # grpo/policy/sharding.py: a whole copy to sample from
            kept[SAMPLER] = kept.get(SAMPLER, 0.0) + of.total * self.compute
        if self.native and self.cuda:  # CUDA graphs work on storage that stays theirs
            kept[CACHE] = self._cache(self.work.sampled) + self._prompt_cache()
            kept[GRAPHS] = sum(self._decoding().values())
        return kept

    def _states(self) -> float:
        name, of = self.config.optimizer.name, self.of
        if name == "adamw_torch":
            return 2 * self.trained_bytes
        if name == "adamw_8bit":
            # Two moments of 8 bits, a constant of 32 for every 256; transformers leaves embeddings at 32 bits.
            whole = 0 if self.lora else of.head
            return (self.trained - whole) * 2 * (1 + 4 / 256) + 8 * whole
        if name == "adafactor":
            rank = self.config.model.lora_rank
            matrices = [(a, rank) for a, _ in of.projections] + [(rank, b) for _, b in of.projections]
            factors = sum(map(sum, matrices if self.lora else of.projections)) * of.num_hidden_layers
            return 4.0 * (factors + (0 if self.lora else of.vocab_size + of.hidden_size))
        return 0.0

    def _fused(self) -> float:
        """grpo/sampling/qwen2.py; what it need not change it shares with the policy."""
        of, h, i = self.of, self.of.hidden_size, self.of.intermediate_size
        if self.compute != self.weight and not self.sharded:
            return float(self.compute * (of.linear + of.head))
        if self.lora:
            return float(self.compute * of.linear)
        return float(self.compute * of.num_hidden_layers * (h * (of.queries + 2 * of.keys) + 2 * h * i))

    def _cache(self, rows: int) -> float:
        """Keys and values of what is sampled, each in the dtype of computing."""
        return 2.0 * rows * self.work.completion * self.of.keys * self.compute * self.of.num_hidden_layers

    def _prompt_cache(self) -> float:
        width = self.work.prompt - 1
        width += -width % GRAIN if self.cuda and self.native else 0
        return 2.0 * self.work.sampled_prompts * width * self.of.keys * self.compute * self.of.num_hidden_layers

    def _sampling(self) -> list[Parts]:
        work, of, kept = self.work, self.of, self._kept()
        v, h, i, c = of.vocab_size, of.hidden_size, of.intermediate_size, self.compute
        if self.config.rollout.name in VLLM_ENGINES:  # it takes what it is told to, or is elsewhere
            return [kept]
        if self.sharded:  # the largest matrix, as it comes together to be copied
            kept[COMMUNICATION] = kept.get(COMMUNICATION, 0.0) + of.head * self.weight
        copies = self._copies()
        if not self.fast:
            # Prompts once a completion; rotary embeddings leave keys in float32, and appending copies a layer's.
            rows, width = work.sampled, work.prompt + work.completion
            token = of.keys * (2 * c + 2 * self.mixed)
            cache = rows * width * token * of.num_hidden_layers
            heads = rows * width * (of.queries * 2 * c + token)
            first = self._passing(rows * work.prompt) + rows * work.prompt**2
            return [
                kept | {COPIES: copies, CACHE: cache * work.prompt / width, ACTIVATIONS: first},
                kept | {COPIES: copies, CACHE: cache, ACTIVATIONS: heads, LOGITS: rows * v * 4.0 * 5},
            ]
        prompts = self._prompt_cache()
        prefill = kept | {COPIES: copies, ACTIVATIONS: self._passing(work.sampled_prompts * (work.prompt - 1))}
        prefill[CACHE] = kept.get(CACHE, 0.0) + prompts
        decode = kept | ({} if GRAPHS in kept else self._decoding())
        decode[CACHE] = prompts + (kept[CACHE] if CACHE in kept else prompts + self._cache(work.sampled))
        if not self.native:
            return [prefill, decode | {COPIES: copies}]
        fusing = 2 * (self.weight * 2 * h * i) + (of.linear / of.num_hidden_layers) * c
        return [kept | {SAMPLER: kept[SAMPLER] + fusing}, prefill, decode]

    def _decoding(self) -> Parts:
        """What a token of every completion takes."""
        of, work = self.of, self.work
        scores = of.num_attention_heads * (work.prompt + work.completion) * 4.0 * 3
        layer = 3 * of.intermediate_size * self.output + 2 * of.hidden_size * 4
        # Logits, their softmax, and its sums in float64, for which it is first made float64.
        return {LOGITS: work.sampled * of.vocab_size * 24.0, ACTIVATIONS: work.sampled * (scores + layer)}

    def _copies(self) -> float:
        """Weights as autocast copies them while sampling."""
        of = self.of
        if self.quantized:
            return self._dequantized() + 2.0 * of.head * self.mixed
        if not self.mixed:
            return 0.0
        if self.fast or self.lora:  # in inference mode, and of frozen weights, it remembers none
            return 2.0 * (of.hidden_size * of.intermediate_size if self.native else of.head)
        return 2.0 * (of.linear + of.head)

    def _dequantized(self) -> float:
        """The largest matrix of 4 bits as it is multiplied."""
        return float(self.of.hidden_size * self.of.intermediate_size * (self.weight + 2 * (self.weight != 2)))

    def _passing(self, tokens: int) -> float:
        """What a layer holds at the most without a gradient: gate, up, their product, and the residual stream."""
        return tokens * (3 * self.of.intermediate_size * self.output + 3 * self.of.hidden_size * 4.0)

    @property
    def tokens(self) -> int:
        """That a micro-batch forwards."""
        work = self.work
        if self.shared:
            return work.prompts * (work.prompt - 1) + work.rows * work.completion
        return work.rows * (work.prompt + work.completion)

    @property
    def predicted(self) -> int:
        return self.work.rows * self.work.completion

    @property
    def plain_head(self) -> bool:
        small = not self.cuda and self.predicted * self.of.vocab_size <= PLAIN_HEAD
        return self.shared and small

    def _layer(self) -> float:
        """Bytes that a layer keeps for its backward pass."""
        of, n = self.of, self.tokens
        h, q, i = of.hidden_size, of.queries, of.intermediate_size
        norms = 0.0
        for readers in (3, 2):
            squared = 4 * h  # in float32, whatever comes in
            scaled = 0 if self.lora else self.weight * h  # times its weight
            casts = self.mixed or (self.lora and self.adapter != self.weight)  # each reader makes its own
            norms += squared + scaled + self.read * h * (readers if casts else 1)
        rank = self.config.model.lora_rank * len(of.projections) * self.read
        # Gate, its activation, up; and their product, as the last linear module or its adapter reads it.
        return n * (norms + q * self.read + 3 * i * self.output + i * self.read + rank) + self._attention()

    def _attention(self) -> float:
        """Queries, keys, values and output as attention keeps them, and its mask."""
        of, work, c = self.of, self.work, self.compute
        q, k = of.queries, of.keys
        if self.shared:
            width = work.prompt - 1 + work.completion
            own = work.rows * (2 * work.completion * q + 2 * width * (q if self.cuda else k)) * c
            mask = work.rows * work.completion * width * c
            return own + mask + work.prompts * (work.prompt - 1) * (2 * q + 2 * k) * c
        width = work.prompt + work.completion
        return work.rows * (width * 4 * q + width * width) * c

    def _stored(self) -> float:
        """Bytes that all layers keep for the backward pass."""
        h, n = self.of.hidden_size, self.tokens
        ends = n * h * (4 + self.weight)  # the last norm and what it gives
        if self.config.activation_checkpointing:
            return self.of.num_hidden_layers * n * h * self.weight + ends
        return self.of.num_hidden_layers * self._layer() + ends

    def _training(self) -> list[Parts]:
        of, n, c, kept = self.of, self.tokens, self.compute, self._kept()
        v, h, i = of.vocab_size, of.hidden_size, of.intermediate_size
        layers, checkpointing = of.num_hidden_layers, self.config.activation_checkpointing
        if self.sharded:  # two layers at a time, and the head
            whole = (2 * of.layers / layers + of.head) * self.weight
            kept[COMMUNICATION] = whole + (0 if self.lora else of.layers / layers * self.weight)
        shard = 1 if self.sharding == "ddp" else self.world
        accumulated = self.trained_bytes / shard if self.work.micro_batches > 1 else 0.0
        stored = self._stored()
        # Cast for the forward pass, kept for the backward pass; with checkpointing again, a layer at a time.
        copies = 2.0 * of.linear if self.mixed and self.sharding == "ddp" else 0.0
        again = copies / layers if checkpointing else copies
        if self.lora and checkpointing:
            copies = again  # frozen weights are not remembered
        if self.quantized:
            copies = again = self._dequantized()
        head_gradient = 0.0 if self.lora else 4.0 * v * h
        if self.plain_head:
            logits = self.predicted * v * 4.0
            forward, backward = 3 * logits, 3 * logits + head_gradient
            copies, again = copies + 2.0 * v * h * self.mixed, again + 2.0 * v * h * self.mixed
        else:
            scored = self.predicted if self.cuda else n
            tile = min(scored, TILE_TOKENS)
            buffer, more = tile * TILE_WIDTH * c, 0 if self.cuda else tile * min(v, TILE_WIDTH) * 4.0
            forward = buffer + TILES_FORWARD * more
            backward = buffer + TILES_BACKWARD * more + head_gradient + scored * h * 4
        moment = kept | {GRADIENTS: accumulated, ACTIVATIONS: stored}
        largest = h * i
        # The layer that comes last is the first to go back: its gradients beside what all layers still keep.
        recomputed = self._layer() if checkpointing else 0.0
        returning = 0.0 if self.lora else largest * (self.weight + (c if self.mixed else 0))
        # A recomputed layer lets go of nothing while it goes back.
        gradients = 3 if checkpointing else 2
        back = stored + recomputed + n * gradients * (i * c + h * 4)
        # The last moment of all: the embedding's gradient beside the head's, where they are one matrix.
        ends = self.trained_bytes / shard
        embedding = 0.0 if self.lora else 4.0 * v * h
        # Earlier micro-batches' has its own place meanwhile; and autograd adds the two in place, but not where a plain
        # head's is a transposed product.
        apart = (self.work.micro_batches > 1) + (self.plain_head and not self.mixed)
        tied = embedding * of.tie_word_embeddings * apart
        return [
            moment | {COPIES: copies, LOGITS: forward},
            moment | {COPIES: again, LOGITS: backward},
            moment | {COPIES: again, LOGITS: head_gradient, ACTIVATIONS: back, GRADIENTS: accumulated + returning},
            kept | {GRADIENTS: ends + embedding + tied, ACTIVATIONS: n * h * 4.0},
        ]

    def _update(self) -> Parts:
        kept, shard = self._kept(), 1 if self.sharding == "ddp" else self.world
        name, of = self.config.optimizer.name, self.of
        adapter = self.config.model.lora_rank * max(map(max, of.projections)) * self.adapter
        largest = adapter if self.lora else max(of.head, of.hidden_size * of.intermediate_size) * self.weight
        if name == "adamw_torch":  # a square root of each second moment; on CUDA of all at once
            passing = self.trained_bytes / shard if self.cuda else 2.0 * largest
        else:
            passing = 2.0 * largest if name == "adafactor" else 0.0
        return kept | {GRADIENTS: self.trained_bytes / shard, OPTIMIZER: kept[OPTIMIZER] + passing}

    # Time

    def seconds(self, rates: "Rates") -> Parts:
        """The seconds that each part of an optimizer step takes at the least, by arithmetic or by memory traffic.

        With N parameters in the layers' matrices and V in the head's, R (FLOP/s) and W (B/s) of the device:

          decode    a token of each of B completions: max(2 (N + V) B / R, (bytes of N + V and of the cache) / W)
          prefill   2 N a prompt token / R
          train     6 N a token / R, of which 2 are the forward pass; 2 more with checkpointing, 2 fewer where weights
                    are frozen; and the head's 6 V a completion token, of which TRL's head computes 2 again
          others    a forward pass of the reference policy, and one of the policy where completions outlive a step
          update    weight, gradient and moments read, all but the gradient written / W
          communication  what sharding moves (Rajbhandari et al. 2020, section 7) / the link

        It counts no attention arithmetic, no activations' traffic and no launches, so it cannot be reached.
        """
        config, of, work, c = self.config, self.of, self.work, self.compute
        read: float
        flops, n, v = rates.flops_bf16 if c == 2 else rates.flops_fp32, of.linear, of.head
        # Of a rollout, shared out over the steps that it serves.
        served = config.algorithm.steps_per_generation * config.algorithm.num_iterations
        lean = self.fast or config.rollout.name in VLLM_ENGINES  # each prompt once, and weights as they are multiplied
        prompts = work.sampled_prompts if lean else work.sampled
        token = 2 * of.keys * of.num_hidden_layers * (c if lean or not self.mixed else (c + 4) / 2)
        native = self.native or config.rollout.name in VLLM_ENGINES
        read = (n + v) * (c if native or not self.mixed else 4 + 2 * c)  # cast anew for every token
        if self.quantized:  # a matrix is made anew for every token
            read = n * NF4 + 2 * self._dequantized() * n / (of.hidden_size * of.intermediate_size) + v * self.weight
        cached = token * (prompts * work.prompt + work.sampled * work.completion / 2)
        decode = work.completion * max(2 * (n + v) * work.sampled / flops, (read + cached) / rates.bandwidth)
        frozen = 2 if self.lora else 0
        passes = 6 - frozen + 2 * config.activation_checkpointing
        tokens, predicted = self.tokens * work.micro_batches, self.predicted * work.micro_batches
        head = (6 if self.plain_head else 8) - frozen
        forwards = (config.algorithm.beta > 0) / config.algorithm.num_iterations + (served > 1)
        return {
            "decode": decode / served,
            "prefill": 2 * n * prompts * work.prompt / flops / served,
            "train": (passes * n * tokens + head * v * predicted) / flops,
            "other forward passes": forwards * 2 * (n * tokens + v * predicted) / flops,
            "update": self._updated() / rates.bandwidth / (1 if self.sharding == "ddp" else self.world),
            "communication": self._exchanged(served) / rates.link if self.world > 1 else 0.0,
        }

    def _updated(self) -> float:
        """Bytes that the optimizer reads and writes."""
        states = {"adamw_torch": 2.0 * self.trained_bytes}.get(self.config.optimizer.name, self._states())
        return 3 * self.trained_bytes + 2 * states

    def _exchanged(self, served: int) -> float:
        """Bytes that a device sends in a step."""
        share, parts = (self.world - 1) / self.world, self.work.micro_batches
        if not self.sharded:
            # ddp: an all-reduce a step; zero2: a reduce-scatter of each micro-batch, an all-gather a step
            return share * self.trained_bytes * (2 if self.sharding == "ddp" else parts + 1)
        weights = float(self.of.total * self.compute)  # gathered as they are multiplied
        whole = self.of.total * self.weight / served  # the sampler's copy is made of them as they are kept
        return share * (parts * (2 * weights + self.trained_bytes) + whole)


@dataclass(frozen=True)
class Rates:
    """What a device does in a second: FLOP, bytes of its memory, bytes to another device."""

    flops_bf16: float
    flops_fp32: float
    bandwidth: float
    link: float = float("inf")
