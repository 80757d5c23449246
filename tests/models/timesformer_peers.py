"""transformers' TimeSformer with random weights, and the same weights in the layouts of other projects.

The renamings are written out here once more, from the peer's modules, so that a slip in a key table is not repeated.
"""

import torch
from torch import Tensor, nn

PATTERNS = {"divided_space_time": "ts", "joint_space_time": "j", "space_only": "s"}
CLASSES = 7


def randomise(model: nn.Module) -> None:
    """Move every parameter away from where initialisation leaves it, zeros and ones included."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)


def options(size: int = 32, patch: int = 8, width: int = 48, depth: int = 3, heads: int = 3) -> dict:
    """Arguments of our model for a peer of this size."""
    return {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": 2.0,
        "num_classes": CLASSES,
        "input_format": "NCTHW",
    }


def make_peer(attention_type: str, frames: int = 4, size: int = 32, patch: int = 8, width: int = 48, depth: int = 3):
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    config = TimesformerConfig(
        image_size=size,
        patch_size=patch,
        num_frames=frames,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=3,
        intermediate_size=2 * width,
        attention_type=attention_type,
        num_labels=CLASSES,
    )
    peer = TimesformerForVideoClassification(config).eval()
    randomise(peer)
    return peer


def run_peer(peer: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Logits, and behind every block (prefix tokens, patch tokens time-major), of clips (B, C, T, H, W)."""
    B, T = x.shape[0], x.shape[2]
    output = peer(x.transpose(1, 2), output_hidden_states=True)
    blocks = []
    for y in output.hidden_states[1:]:
        if peer.config.attention_type == "space_only":  # a frame is a sample
            y = y.unflatten(0, (B, T))
            blocks.append((y[:, :, :1].mean(dim=1), y[:, :, 1:].flatten(1, 2)))
        else:  # time runs fastest
            blocks.append((y[:, :1], y[:, 1:].unflatten(1, (-1, T)).transpose(1, 2).flatten(1, 2)))
    logits = output.logits
    if peer.config.attention_type == "space_only":
        # theirs are logits a frame; the released weights were trained with the class token averaged over the frames in
        # front of the final norm
        logits = peer.classifier(peer.timesformer.layernorm(blocks[-1][0][:, 0]))
    return logits, blocks


def as_official(peer: nn.Module) -> dict[str, Tensor]:
    """The peer's weights by the names of the official release."""
    body, state = peer.timesformer, {}
    embed = body.embeddings
    state["model.cls_token"], state["model.pos_embed"] = embed.cls_token, embed.position_embeddings
    if hasattr(embed, "time_embeddings"):
        state["model.time_embed"] = embed.time_embeddings
    pairs = {"model.patch_embed.proj": embed.patch_embeddings.projection}
    for i, layer in enumerate(body.encoder.layer):
        pairs |= {
            f"model.blocks.{i}.norm1": layer.layernorm_before,
            f"model.blocks.{i}.attn.qkv": layer.attention.attention.qkv,
            f"model.blocks.{i}.attn.proj": layer.attention.output.dense,
            f"model.blocks.{i}.norm2": layer.layernorm_after,
            f"model.blocks.{i}.mlp.fc1": layer.intermediate.dense,
            f"model.blocks.{i}.mlp.fc2": layer.output.dense,
        }
        if hasattr(layer, "temporal_dense"):
            pairs |= {
                f"model.blocks.{i}.temporal_norm1": layer.temporal_layernorm,
                f"model.blocks.{i}.temporal_attn.qkv": layer.temporal_attention.attention.qkv,
                f"model.blocks.{i}.temporal_attn.proj": layer.temporal_attention.output.dense,
                f"model.blocks.{i}.temporal_fc": layer.temporal_dense,
            }
    pairs |= {"model.norm": body.layernorm, "model.head": peer.classifier}
    return _detached(state, pairs)


def as_mmaction2(peer: nn.Module) -> dict[str, Tensor]:
    """The peer's weights by the names of mmaction2, whose attentions are ``nn.MultiheadAttention``."""
    body, state = peer.timesformer, {}
    embed = body.embeddings
    state["backbone.cls_token"], state["backbone.pos_embed"] = embed.cls_token, embed.position_embeddings
    if hasattr(embed, "time_embeddings"):
        state["backbone.time_embed"] = embed.time_embeddings
    pairs = {"backbone.patch_embed.projection": embed.patch_embeddings.projection, "backbone.norm": body.layernorm}
    for i, layer in enumerate(body.encoder.layer):
        place = f"backbone.transformer_layers.layers.{i}."
        attentions = [layer.attention]
        if hasattr(layer, "temporal_dense"):
            attentions.insert(0, layer.temporal_attention)
            pairs[place + "attentions.0.norm"] = layer.temporal_layernorm
            pairs[place + "attentions.0.temporal_fc"] = layer.temporal_dense
            pairs[place + "attentions.1.norm"] = layer.layernorm_before
            pairs[place + "ffns.0.norm"] = layer.layernorm_after
        else:
            pairs[place + "norms.0"], pairs[place + "norms.1"] = layer.layernorm_before, layer.layernorm_after
        for n, attention in enumerate(attentions):
            qkv, width = attention.attention.qkv, peer.config.hidden_size
            theirs = nn.MultiheadAttention(width, peer.config.num_attention_heads, batch_first=True)
            with torch.no_grad():  # what nn.MultiheadAttention calls q, k and v
                theirs.in_proj_weight.copy_(torch.cat(qkv.weight.split(width)))
                theirs.in_proj_bias.copy_(torch.cat(qkv.bias.split(width)))
                theirs.out_proj.load_state_dict(attention.output.dense.state_dict())
            check_multihead(theirs, attention)
            state |= {f"{place}attentions.{n}.attn.{key}": value for key, value in theirs.state_dict().items()}
        pairs[place + "ffns.0.layers.0.0"] = layer.intermediate.dense
        pairs[place + "ffns.0.layers.1"] = layer.output.dense
    pairs["cls_head.fc_cls"] = peer.classifier
    return _detached(state, pairs)


def check_multihead(theirs: nn.MultiheadAttention, attention: nn.Module) -> None:
    """The stacked weights really are those with which ``nn.MultiheadAttention`` attends as the peer does."""
    x = torch.randn(2, 5, theirs.embed_dim)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x, x, x, need_weights=False)[0], attention(x)[0], rtol=1e-5, atol=1e-5)


def _detached(state: dict[str, Tensor], pairs: dict[str, nn.Module]) -> dict[str, Tensor]:
    for name, module in pairs.items():
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return {key: value.detach().clone() for key, value in state.items()}
