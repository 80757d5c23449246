"""VideoMAE against transformers' classes with random weights, and the layouts in which its weights are published."""

from __future__ import annotations

import pytest
import timm
import torch
from published_peers import TOLERANCE, assert_same_classifier, assert_same_outputs, load, perturb
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from timesformer_plus import VideoTransformer
from timesformer_plus.models.key_tables.fused import join_qkv, split_qkv
from timesformer_plus.models.videomae import PUBLISHED

CONFIG = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 8,
    "tubelet_size": 2,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "num_labels": 7,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 48,
}
# the epsilons that transformers has
EPS = {"norm_eps": 1e-12, "fc_norm_eps": 1e-5}


def ours_like(config: dict, **options: object) -> VideoTransformer:
    return timm.create_model(
        "videomae_base_patch16_224",
        **{
            "img_size": config["image_size"],
            "patch_size": config["patch_size"],
            "num_frames": config["num_frames"],
            "tubelet_size": config["tubelet_size"],
            "embed_dim": 48,
            "depth": 3,
            "num_heads": 3,
            "mlp_ratio": 2.0,
            "num_classes": 7,
            "input_format": "NCTHW",
            **EPS,
            **options,
        },
    )


def clip(config: dict) -> Tensor:
    size = config["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(2, 3, config["num_frames"], height, width)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"num_frames": 4}, {}),
        ({"num_frames": 6, "tubelet_size": 3}, {}),
        ({"num_frames": 2, "tubelet_size": 1}, {}),
        ({"image_size": 48}, {}),
        ({"image_size": (24, 40)}, {}),
        ({"patch_size": 16}, {}),
        ({"qkv_bias": False}, {"qkv_bias": False}),
        ({"hidden_act": "gelu_new"}, {"act_layer": "gelu_tanh"}),
        ({"layer_norm_eps": 1e-3}, {"norm_eps": 1e-3}),
    ],
    ids=str,
)
def test_a_classifier_equals_transformers(changes: dict, options: dict) -> None:
    config = {**CONFIG, **changes}
    theirs = perturb(VideoMAEForVideoClassification(VideoMAEConfig(**config)))
    ours = ours_like(config, **options)
    report = load(ours, theirs.state_dict())
    assert report.family == "VideoMAE (transformers)"
    assert_same_classifier(ours, theirs, clip(config))


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_classifier_without_mean_pooling_equals_transformers(qkv_bias: bool) -> None:
    """A final norm instead of ``fc_norm``; theirs has no class token and classifies the first patch."""
    theirs = perturb(
        VideoMAEForVideoClassification(VideoMAEConfig(**CONFIG, use_mean_pooling=False, qkv_bias=qkv_bias))
    )
    ours = ours_like(CONFIG, fc_norm=False, qkv_bias=qkv_bias)
    load(ours, theirs.state_dict())
    assert_same_classifier(ours, theirs, clip(CONFIG), lambda x: ours.head(ours.forward_features(x)[:, 0]))


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_the_encoder_of_pre_training_equals_transformers(mean_pooling: bool) -> None:
    theirs = perturb(VideoMAEForPreTraining(VideoMAEConfig(**CONFIG, use_mean_pooling=mean_pooling)))
    options = {"final_norm": False} if mean_pooling else {"fc_norm": False}  # theirs ends in no norm, or in one
    ours = ours_like(CONFIG, num_classes=0, **options)
    report = load(ours, theirs.state_dict())
    assert not report.left_over
    ignored = [key for key in theirs.state_dict() if not key.startswith("videomae.")]
    assert set(report.ignored) == set(ignored)
    assert all("decoder" in why for why in report.ignored.values())
    x = clip(CONFIG)
    output = theirs.videomae(x.transpose(1, 2), output_hidden_states=True)
    assert_same_outputs(ours, x, output.last_hidden_state, ours.forward_features(x), output.hidden_states)


def test_a_bare_model_loads_too() -> None:
    theirs = perturb(VideoMAEModel(VideoMAEConfig(**CONFIG, use_mean_pooling=False)))
    ours = ours_like(CONFIG, num_classes=0, fc_norm=False)
    load(ours, theirs.state_dict())
    x = clip(CONFIG)
    torch.testing.assert_close(ours.forward_features(x), theirs(x.transpose(1, 2)).last_hidden_state, **TOLERANCE)


def peer_and_ours(**options: object) -> tuple[VideoMAEForVideoClassification, VideoTransformer, Tensor, Tensor]:
    theirs = perturb(VideoMAEForVideoClassification(VideoMAEConfig(**CONFIG)))
    x = clip(CONFIG)
    return theirs, ours_like(CONFIG, **options), x, theirs(x.transpose(1, 2)).logits


def as_on_the_hub(peer: nn.Module) -> dict[str, Tensor]:
    """Files that transformers wrote up to version 4: biases beside the projections."""
    renamed = {}
    for key, tensor in peer.state_dict().items():
        renamed[key.replace("query.bias", "q_bias").replace("value.bias", "v_bias")] = tensor
    return renamed


def as_original(peer: nn.Module) -> dict[str, Tensor]:
    """The peer's weights by the names of the original repositories, written out from its modules."""
    body, state = peer.videomae, {}
    pairs = {"patch_embed.proj": body.embeddings.patch_embeddings.projection}
    for i, layer in enumerate(body.encoder.layer):
        at, attention = f"blocks.{i}", layer.attention.attention
        state[f"{at}.attn.q_bias"], state[f"{at}.attn.v_bias"] = attention.query.bias, attention.value.bias
        parts = [attention.query.weight, attention.key.weight, attention.value.weight]
        state[f"{at}.attn.qkv.weight"] = torch.cat(parts)
        pairs[f"{at}.attn.proj"] = layer.attention.output.dense
        pairs[f"{at}.norm1"], pairs[f"{at}.norm2"] = layer.layernorm_before, layer.layernorm_after
        pairs[f"{at}.mlp.fc1"], pairs[f"{at}.mlp.fc2"] = layer.intermediate.dense, layer.output.dense
    pairs["fc_norm"], pairs["head"] = peer.fc_norm, peer.classifier
    for name, module in pairs.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias
    return {key: tensor.detach() for key, tensor in state.items()}


def test_files_of_the_hub_have_their_biases_apart() -> None:
    theirs, ours, x, logits = peer_and_ours()
    load(ours, as_on_the_hub(theirs))
    torch.testing.assert_close(ours(x), logits, **TOLERANCE)


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.", "module."])
def test_original_names_with_and_without_a_wrapper(prefix: str) -> None:
    theirs, ours, x, logits = peer_and_ours()
    state = {prefix + key: tensor for key, tensor in as_original(theirs).items()}
    if prefix == "encoder.":
        state |= {"mask_token": torch.zeros(1, 1, 24), "encoder_to_decoder.weight": torch.zeros(24, 48)}
        state |= {"decoder.blocks.0.attn.q_bias": torch.zeros(24), "decoder.head.weight": torch.zeros(5, 24)}
    report = load(ours, state)
    assert len(report.ignored) == (4 if prefix == "encoder." else 0)
    torch.testing.assert_close(ours(x), logits, **TOLERANCE)


def test_a_model_whose_keys_have_a_bias_takes_zeros_for_it() -> None:
    theirs, ours, x, logits = peer_and_ours(k_bias=True)
    load(ours, theirs.state_dict())
    assert not ours.blocks[1].attn.qkv.bias[48:96].any()
    torch.testing.assert_close(ours(x), logits, **TOLERANCE)


def test_a_bias_of_keys_that_is_not_zero_is_not_dropped() -> None:
    theirs, ours, x, logits = peer_and_ours()
    name = "videomae.encoder.layer.1.attention.attention.key.bias"
    state = theirs.state_dict()
    biases = {name.replace("1", str(i), 1): torch.zeros(48) for i in range(3)}
    load(ours, {**state, **biases})
    torch.testing.assert_close(ours(x), logits, **TOLERANCE)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn"):
        load(ours, {**state, **biases, name: torch.ones(48)})


@pytest.mark.parametrize("layout", [as_on_the_hub, as_original])
@pytest.mark.parametrize("pos_embed", ["learn", "joint", "none"])
def test_a_model_with_other_positions_is_refused(pos_embed: str, layout) -> None:
    """The file has no table of positions that could be missed."""
    theirs, ours, _, _ = peer_and_ours(pos_embed=pos_embed)
    state = layout(theirs)
    if layout is as_original:
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    with pytest.raises(ValueError, match=f"pos_embed='sincos', the model pos_embed='{pos_embed}'"):
        load(ours, state)


def test_through_timms_door_from_a_file_in_the_published_format(tmp_path) -> None:
    theirs, _, x, logits = peer_and_ours()
    save_file(as_on_the_hub(theirs), tmp_path / "model.safetensors")
    ours = ours_like(
        CONFIG,
        pretrained=True,
        pretrained_cfg="mcg_k400",
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors"), "num_classes": 7},
    ).eval()
    torch.testing.assert_close(ours(x), logits, **TOLERANCE)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tag_says_what_its_weights_need(name: str) -> None:
    checkpoint = PUBLISHED[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    assert model.num_classes == checkpoint.num_classes
    assert model.num_frames == checkpoint.num_frames
    assert tuple(model.patch_embed.img_size) == (checkpoint.img_size, checkpoint.img_size)
    assert model.pretrained_cfg["hf_hub_id"] == checkpoint.hf_hub_id
    assert model.pretrained_cfg["mean"] == checkpoint.mean
    in_transformers_format = checkpoint.hf_hub_id.startswith("MCG-NJU/")
    assert model.blocks[0].norm1.eps == (1e-12 if in_transformers_format else 1e-6)


@pytest.mark.parametrize("k_bias", [False, True])
def test_the_way_back_takes_queries_keys_and_values_apart(k_bias: bool) -> None:
    theirs, ours, _, _ = peer_and_ours(k_bias=k_bias)
    load(ours, theirs.state_dict())
    apart = split_qkv(ours.state_dict())
    for i, layer in enumerate(theirs.videomae.encoder.layer):
        for name in ("query", "key", "value"):
            for kind, tensor in getattr(layer.attention.attention, name).named_parameters():
                assert torch.equal(apart.pop(f"blocks.{i}.attn.{name[0]}.{kind}"), tensor)
    left = [key for key in apart if "attn" in key and ".proj." not in key]
    assert left == ([f"blocks.{i}.attn.k.bias" for i in range(3)] if k_bias else [])
    assert join_qkv(split_qkv(ours.state_dict()), ours).keys() == ours.state_dict().keys()
