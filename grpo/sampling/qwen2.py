"""The fused decode step of Qwen2 policies: fewer and larger matrix products than in transformers' modules.

One product gives queries, keys and values, another gives the gate and up projections; the weights of the norms before
them are multiplied into their weights. The prefix-sharing sampler uses it. The reference is transformers'
`Qwen2ForCausalLM`, which `rollout.native=false` runs; tests compare the two.

Shapes: S slots, D head size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grpo.policy.prefix_sharing import PackedBatch, unwrap_adapters
from grpo.sampling.products import Products, choose_products


@dataclass
class FusedLayer:
    """The fused weights (out, in) of one layer, in the dtype of matrix products, as `Products.prepare` returns them."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


class FusedQwen2Decoder:
    """A `Decoder` for policies of the Qwen2 architecture."""

    @staticmethod
    def supports(policy: Any) -> bool:
        """Whether the policy is a Qwen2 with full attention, default RoPE and SiLU, without quantized projections, and
        its adapters, if any, add products of two matrices to the weights, as DoRA does not."""
        model = unwrap_adapters(policy)
        config = model.config
        return (
            config.model_type == "qwen2"
            and set(config.layer_types) == {"full_attention"}
            and config.rope_parameters["rope_type"] == "default"
            and config.hidden_act == "silu"
            and all(type(_base(module)) is nn.Linear for module in _projections(model))
            and not any(getattr(module, "lora_variant", None) for module in _projections(model))
        )

    def __init__(self, policy: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype = unwrap_adapters(policy), dtype
        config = self.model.config
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        device, width = self.model.device, config.hidden_size
        self.epsilon = torch.tensor(config.rms_norm_eps, device=device)
        self.mean_column = torch.full((width, 1), 1 / width, device=device)
        self.products: Products = choose_products(_base(self.model.model.layers[0].mlp.gate_proj).weight, dtype)
        self.layers: list[FusedLayer] = []
        self.head: Tensor | None = None

    @torch.no_grad()
    def update_weights(self) -> None:
        """Read the policy's current weights; on a GPU the storage stays the same, because CUDA graphs refer to it."""
        in_place = self.model.device.type == "cuda"
        for index, layer in enumerate(self.model.model.layers):
            fused = self._fuse(layer)
            if index == len(self.layers):
                self.layers.append(fused)
            elif in_place:
                for name, weight in vars(fused).items():
                    _overwrite(getattr(self.layers[index], name), weight)
            else:
                self.layers[index] = fused
        head = self.model.lm_head.weight.detach()
        if self.head is not None and in_place:
            _overwrite(self.head, head)
        else:
            self.head = None  # frees its storage
            self.head = self._prepare(head)

    def _fuse(self, layer: Any) -> FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        before_attention, before_mlp = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        return FusedLayer(
            qkv=self._prepare(torch.cat([_weight(module) for module in qkv]).mul_(before_attention)),
            qkv_bias=torch.cat([_base(module).bias for module in qkv]).to(self.dtype),
            out=self._prepare(_weight(attention.o_proj)),
            gate_up=self._prepare(torch.cat([_weight(mlp.gate_proj), _weight(mlp.up_proj)]).mul_(before_mlp)),
            down=self._prepare(_weight(mlp.down_proj)),
        )

    def _prepare(self, weight: Tensor) -> Tensor:
        return self.products.prepare(weight.to(self.dtype))

    def logits(self, batch: PackedBatch) -> Tensor:
        """(S, V) in float32: the logits after the last token of each of the S slots, `batch.ids`."""
        with torch.autocast(batch.ids.device.type, enabled=False):
            return self._logits(batch)

    def _logits(self, batch: PackedBatch) -> Tensor:
        slots, rotated_heads, products = len(batch.ids), self.heads + self.key_heads, self.products
        cos, sin = self._rotary_tables(batch.positions)
        x = F.embedding(batch.ids, self.model.model.embed_tokens.weight)
        for index, layer in enumerate(self.layers):
            qkv = products.multiply(self._norm(x), layer.qkv, layer.qkv_bias).view(slots, -1, self.head_dim)
            qk, value = qkv[:, :rotated_heads], qkv[:, rotated_heads:]
            qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin)
            attended = batch.attend(index, qk[:, : self.heads], qk[:, self.heads :], value, self.head_dim**-0.5)
            x = products.add(x, attended.view(slots, -1), layer.out)
            gate, up = products.multiply(self._norm(x), layer.gate_up).chunk(2, -1)
            x = products.add(x, F.silu(gate) * up, layer.down)
        return self._head(self._norm(x))

    def _rotary_tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (S, 1, D) for x * cos + (x with its halves exchanged) * sin.

        This is transformers' rotate_half: the first half of the sines is negated instead of that of x.
        """
        angles = positions[:, None, None] * self.model.model.rotary_emb.inv_freq
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def _head(self, normed: Tensor) -> Tensor:
        """Logits (S, V) from the last layer's output (S, hidden), normalized without weights."""
        assert self.head is not None
        return self.products.multiply(normed * self.model.model.norm.weight.to(self.dtype), self.head).float()

    def _norm(self, x: Tensor) -> Tensor:
        """RMSNorm of (S, hidden) without its weights, computed in float32."""
        x = x.float()
        # The mean over the hidden dimension is fastest as a product with a column of 1 / width; epsilon is its bias.
        return (x * torch.addmm(self.epsilon, x * x, self.mean_column).rsqrt_()).to(self.dtype)


def _overwrite(target: Tensor, source: Tensor) -> None:
    if target.data_ptr() != source.data_ptr():  # equal if the weight is not fused: both are the policy's own tensor
        target.copy_(source)


def _projections(model: Any) -> list[Any]:
    return [
        module
        for layer in model.model.layers
        for module in (*layer.self_attn.children(), *layer.mlp.children())
        if hasattr(module, "weight")
    ]


def _base(linear: Any) -> Any:
    return linear.get_base_layer() if hasattr(linear, "get_base_layer") else linear


def _weight(linear: Any) -> Tensor:
    """The weight (out, in) of a projection, including its active adapters."""
    weight: Tensor = _base(linear).weight.detach()
    for adapter in linear.active_adapters if hasattr(linear, "get_delta_weight") else ():
        weight = weight + linear.get_delta_weight(adapter).detach()
    return weight
