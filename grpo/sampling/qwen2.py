"""The decode step of the Qwen2 family, for the sampler: transformers' modules fused into few, large operations.

The reference is transformers' `Qwen2ForCausalLM`, which `rollout.native=false` runs; the tests hold the two together.
Here the projections of queries, keys and values are one product, so are the gate and the up projection, and the weights
of the norms before them are multiplied into them.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grpo.policy.prefix_sharing import PackedBatch, unwrap_adapters


@dataclass
class FusedLayer:
    """Fused weights, (out, in), in the dtype of computing."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


class FusedQwen2Decoder:
    """Computes next-token logits of a Qwen2 policy."""

    @staticmethod
    def supports(policy: Any) -> bool:
        model = unwrap_adapters(policy)
        config = model.config
        return (
            config.model_type == "qwen2"
            and set(config.layer_types) == {"full_attention"}
            and config.rope_parameters["rope_type"] == "default"
            and config.hidden_act == "silu"
            and all(type(_base(module)) is nn.Linear for module in _projections(model))
        )

    def __init__(self, policy: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype = unwrap_adapters(policy), dtype
        config = self.model.config
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        device, width = self.model.device, config.hidden_size
        self.eps = torch.tensor(config.rms_norm_eps, device=device)
        self.mean = torch.full((width, 1), 1 / width, device=device)
        self.layers: list[FusedLayer] = []
        self.head = torch.empty(0)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the policy's present weights, into the same storage as before."""
        for number, layer in enumerate(self.model.model.layers):
            fused = self._fuse(layer)
            if number == len(self.layers):
                self.layers.append(fused)
            else:
                for name, new in vars(fused).items():
                    _overwrite(getattr(self.layers[number], name), new)
        head = self.model.lm_head.weight.detach()
        if len(self.head):
            _overwrite(self.head, head)
        else:
            self.head = head.to(self.dtype)

    def _fuse(self, layer: Any) -> FusedLayer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        before_attention, before_mlp = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        return FusedLayer(
            qkv=(torch.cat([_weight(module) for module in qkv]) * before_attention).to(self.dtype),
            qkv_bias=torch.cat([_base(module).bias for module in qkv]).to(self.dtype),
            out=_weight(attention.o_proj).to(self.dtype),
            gate_up=(torch.cat([_weight(mlp.gate_proj), _weight(mlp.up_proj)]) * before_mlp).to(self.dtype),
            down=_weight(mlp.down_proj).to(self.dtype),
        )

    def logits(self, batch: PackedBatch) -> Tensor:
        """(rows, vocabulary) in float32: what follows each of the rows' last tokens, `batch.ids`."""
        with torch.autocast(batch.ids.device.type, enabled=False):
            return self._logits(batch)

    def _logits(self, batch: PackedBatch) -> Tensor:
        rows, rotated = len(batch.ids), self.heads + self.key_heads
        angles = batch.positions[:, None, None] * self.model.model.rotary_emb.inv_freq
        cos, sin = angles.cos(), angles.sin()
        # rotate_half(x) * sin is x with its halves exchanged, times sin with its first half negated.
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        x = F.embedding(batch.ids, self.model.model.embed_tokens.weight)
        for number, layer in enumerate(self.layers):
            qkv = torch.addmm(layer.qkv_bias, self._norm(x), layer.qkv.T).view(rows, -1, self.head_dim)
            qk, value = qkv[:, :rotated], qkv[:, rotated:]
            qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin)
            seen = batch.attend(number, qk[:, : self.heads], qk[:, self.heads :], value, self.head_dim**-0.5)
            x = _add_product(x, seen.view(rows, -1), layer.out)
            gate, up = (self._norm(x) @ layer.gate_up.T).chunk(2, -1)
            x = _add_product(x, F.silu(gate) * up, layer.down)
        final = self._norm(x) * self.model.model.norm.weight.to(self.dtype)
        return (final @ self.head.T).float()

    def _norm(self, x: Tensor) -> Tensor:
        """RMSNorm without its weights, computed in float32."""
        x = x.float()
        # A product with a column of 1 / width is the quickest mean over rows; it starts from epsilon.
        return (x * torch.addmm(self.eps, x * x, self.mean).rsqrt_()).to(self.dtype)


def _overwrite(mine: Tensor, new: Tensor) -> None:
    if mine.data_ptr() != new.data_ptr():  # else it is the policy's own
        mine.copy_(new)


def _add_product(x: Tensor, left: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(x, left, weight.T) if x.dtype == weight.dtype else x + left @ weight.T


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
    """The weight of a projection, with the adapters that are active on it."""
    weight: Tensor = _base(linear).weight.detach()
    for adapter in linear.active_adapters if hasattr(linear, "get_delta_weight") else ():
        weight = weight + linear.get_delta_weight(adapter).detach()
    return weight
