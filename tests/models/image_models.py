"""Small image models of timm's, one of every kind of option, with parameters away from their initialisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import AttentionRope, Mlp, RmsNorm, SwiGLUPacked
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}
DINOV3: dict[str, Any] = {
    "dynamic_img_size": True,
    "num_reg_tokens": 4,
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "use_fc_norm": False,
    "init_values": 0.5,
}
VITS: dict[str, dict[str, Any]] = {
    "augreg": {},
    "deit3": {"no_embed_class": True, "init_values": 0.1},
    "clip": {"pre_norm": True, "norm_layer": partial(nn.LayerNorm, eps=1e-5), "act_layer": "quick_gelu"},
    "dinov2": {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.5},
    "dinov2_giant": {"init_values": 0.5, "mlp_ratio": 5.0, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU},
    "siglip": {"class_token": False, "global_pool": "map"},
    "average": {"class_token": False, "global_pool": "avg", "reg_tokens": 2},
    "no_position": {"pos_embed": "none"},
    "norms": {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "norm_layer": RmsNorm},
    "no_bias": {"qkv_bias": False, "proj_bias": False, "mlp_layer": Mlp, "fc_norm": True, "final_norm": True},
    "res_post": {"block_fn": ResPostBlock, "init_values": 0.3},
    "patch_norm": {"embed_norm_layer": nn.LayerNorm},
    "dynamic": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "rectangle": {"img_size": (16, 24), "patch_size": (8, 4)},
}
EVAS: dict[str, dict[str, Any]] = {
    "eva": {},
    "eva02": {
        "qkv_fused": False,
        "swiglu_mlp": True,
        "scale_mlp": True,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (4, 4),
    },
    "eva02_packed": {"swiglu_mlp": True, "use_rot_pos_emb": True, "rope_grid_offset": 1.0},
    "eva_norm_inside": {"scale_attn_inner": True, "use_rot_pos_emb": True, "init_values": 0.3},
    "enormous": {"use_post_norm": True, "scale_mlp": True},
    "post_norm_rope": {"use_post_norm": True, "use_rot_pos_emb": True, "global_pool": "token", "swiglu_mlp": True},
    "dinov3": DINOV3,
    "dinov3_swiglu": {**DINOV3, "swiglu_mlp": True, "swiglu_align_to": 8, "qkv_bias": False, "global_pool": "token"},
    "pe": {
        "attn_type": "rope",
        "use_rot_pos_emb": True,
        "rope_grid_offset": 1.0,
        "rope_grid_indexing": "xy",
        "use_pre_transformer_norm": True,
        "use_fc_norm": False,
    },
    "pe_class_map": {
        "attn_type": "rope",
        "num_reg_tokens": 1,
        "no_embed_class": True,
        "global_pool": "map",
        "use_rot_pos_emb": True,
        "use_pre_transformer_norm": True,
    },
    "pe_no_class_map": {
        "attn_type": "rope",
        "class_token": False,
        "global_pool": "map",
        "use_rot_pos_emb": True,
        "use_pre_transformer_norm": True,
    },
    "rope_vit_axial": {
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "rope_temperature": 100.0,
        "rope_grid_indexing": "xy",
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    },
    "rope_vit_mixed": {"use_rot_pos_emb": True, "rope_type": "mixed", "use_abs_pos_emb": False, "init_values": 0.3},
    "rope_vit_mixed_dynamic": {"use_rot_pos_emb": True, "rope_type": "mixed", "dynamic_img_size": True},
    "registers_no_class": {"class_token": False, "num_reg_tokens": 3, "no_embed_class": True, "use_rot_pos_emb": True},
    "sapiens2": {
        **DINOV3,
        "attn_type": "rope",
        "qkv_fused": False,
        "num_kv_heads": (2, 1),
        "qk_norm": True,
        "attn_only_layer_scale": True,
        "norm_layer": RmsNorm,
    },
    "mrope": {"attn_type": "rope", "use_rot_pos_emb": True, "rope_type": "mrope", "rope_mrope_section": (1, 1, 1)},
}
KINDS = [*VITS, *EVAS, "gated"]


def image_model(kind: str, *, seed: int = 0, **options: Any) -> nn.Module:
    """Make one, in evaluation mode, every parameter moved so that a mistake shows."""
    if kind == "gated":
        model = Eva(**SMALL, **options)
        for block, cls in zip(model.blocks, (EvaAttention, AttentionRope), strict=True):
            block.attn = cls(16, 2, gated=True, norm_layer=nn.LayerNorm, scale_norm=True)
    else:
        build: Callable[..., nn.Module] = Eva if kind in EVAS else VisionTransformer
        model = build(**{**SMALL, **{**VITS, **EVAS}[kind], **options})
    return moved(model, seed).eval()


def moved(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move parameters away from what they are, zeros and ones too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def picture(model: nn.Module, seed: int = 1) -> torch.Tensor:
    """Two pictures of the size that the model was built for."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, *model.patch_embed.img_size, generator=generator)


def still(pictures: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Clips in which nothing moves."""
    return pictures.unsqueeze(2).expand(-1, -1, num_frames, -1, -1)
