"""V-JEPA 2's attentive pooling: blocks of self-attention, then one token that asks all others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, Mlp, use_fused_attn
from timm.models.vision_transformer import Block
from torch import Tensor, nn

__all__ = ["AttentivePool"]


class AttentivePool(nn.Module):
    """Tokens to one vector: ``depth`` of timm's blocks, then cross-attention by a learned query.

    The probe of V-JEPA 2 (arXiv 2506.09985, section 5): three blocks, and a cross-attention whose query goes in as it
    is, without a norm, and comes back without an output projection.

    Args:
        dim: Channels C.
        num_heads: Heads of every attention.
        depth: Blocks in front of the query.
        mlp_ratio: Width of the MLPs over ``dim``.
        norm_layer: Norm.
        act_layer: Activation of the MLPs.
        device: Where to create parameters.
        dtype: Their type.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        depth: int = 3,
        mlp_ratio: float = 4.0,
        norm_layer: Callable[..., nn.Module] = LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = use_fused_attn()
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim,
                    num_heads,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=True,
                    norm_layer=norm_layer,
                    act_layer=act_layer,
                    device=device,
                    dtype=dtype,
                )
                for _ in range(depth)
            )
        )
        self.query = nn.Parameter(torch.empty(1, 1, dim, device=device, dtype=dtype))
        self.norm1 = norm_layer(dim, device=device, dtype=dtype)
        self.q = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.kv = nn.Linear(dim, 2 * dim, device=device, dtype=dtype)
        self.norm2 = norm_layer(dim, device=device, dtype=dtype)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise: 0.02 for every weight, and the last layer of every residual smaller with depth."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.query, std=0.02)
        blocks: list[Any] = list(self.blocks)
        for i, block in enumerate(blocks, 1):
            nn.init.trunc_normal_(block.attn.proj.weight, std=0.02 / math.sqrt(i))
            nn.init.trunc_normal_(block.mlp.fc2.weight, std=0.02 / math.sqrt(i))
        nn.init.trunc_normal_(self.mlp.fc2.weight, std=0.02 / math.sqrt(len(self.blocks) + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Pool.

        Args:
            x: (B, N, C).

        Returns:
            (B, C).
        """
        x = self.norm1(self.blocks(x))
        query = self.query.expand(x.shape[0], -1, -1)
        q = self.q(query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        query = query + y.transpose(1, 2).flatten(2)
        query = query + self.mlp(self.norm2(query))
        pooled: Tensor = query[:, 0]
        return pooled
