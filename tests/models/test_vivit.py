"""ViViT's model 1 against transformers' class with random weights, in every layout that it is published in."""

from __future__ import annotations

import pytest
import timm
import torch
from published_peers import TOLERANCE, assert_same_classifier, load, perturb
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import VivitConfig, VivitForVideoClassification, VivitModel

from timesformer_plus import VideoTransformer
from timesformer_plus.models.vivit import PUBLISHED

CONFIG = {
    "image_size": 32,
    "num_frames": 8,
    "tubelet_size": (2, 8, 8),
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "num_labels": 7,
}


def ours_like(config: dict, **options: object) -> VideoTransformer:
    return timm.create_model(
        "vivit_base_patch16_224",
        **{
            "img_size": config["image_size"],
            "patch_size": config["tubelet_size"][1:],
            "num_frames": config["num_frames"],
            "tubelet_size": config["tubelet_size"][0],
            "embed_dim": 48,
            "depth": 3,
            "num_heads": 3,
            "mlp_ratio": 2.0,
            "num_classes": 7,
            "input_format": "NCTHW",
            **options,
        },
    )


def clip(config: dict) -> Tensor:
    return torch.randn(2, 3, config["num_frames"], config["image_size"], config["image_size"])


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"num_frames": 4}, {}),
        ({"num_frames": 6, "tubelet_size": (3, 8, 8)}, {}),
        ({"image_size": 48}, {}),
        ({"tubelet_size": (2, 8, 16)}, {}),  # another number of tokens along h and w
        ({"tubelet_size": (4, 16, 16)}, {}),
        ({"qkv_bias": False}, {"qkv_bias": False}),
        ({"hidden_act": "gelu"}, {"act_layer": "gelu"}),
        ({"layer_norm_eps": 1e-3}, {"norm_eps": 1e-3}),
    ],
    ids=str,
)
def test_a_classifier_equals_transformers(changes: dict, options: dict) -> None:
    config = {**CONFIG, **changes}
    theirs = perturb(VivitForVideoClassification(VivitConfig(**config)))
    ours = ours_like(config, **options)
    report = load(ours, theirs.state_dict())
    assert report.family == "ViViT (transformers)"
    assert_same_classifier(ours, theirs, clip(config))


def as_on_the_hub(peer: nn.Module) -> dict[str, Tensor]:
    """Files that transformers wrote up to version 4: the names of its ViT of then."""
    names = {
        ".attention.q_proj.": ".attention.attention.query.",
        ".attention.k_proj.": ".attention.attention.key.",
        ".attention.v_proj.": ".attention.attention.value.",
        ".attention.o_proj.": ".attention.output.dense.",
        ".mlp.fc1.": ".intermediate.dense.",
        ".mlp.fc2.": ".output.dense.",
    }
    renamed = {}
    for key, tensor in peer.state_dict().items():
        for new, old in names.items():
            key = key.replace(new, old)
        key = key.replace("layers.", "encoder.layer.")
        renamed[key] = tensor
    return renamed


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("layout", [as_on_the_hub, nn.Module.state_dict])
def test_names_of_both_versions_of_transformers(layout, bare: bool) -> None:
    config = VivitConfig(**CONFIG)
    theirs = perturb(VivitModel(config) if bare else VivitForVideoClassification(config))
    ours = ours_like(CONFIG, **({"num_classes": 0, "global_pool": ""} if bare else {}))
    state = layout(theirs)
    report = load(ours, state)
    assert report.family == "ViViT (transformers)"
    assert set(report.ignored) == ({"pooler.dense.weight", "pooler.dense.bias"} if bare else set())
    x = clip(CONFIG)
    output = theirs(x.transpose(1, 2))
    torch.testing.assert_close(ours(x), output.last_hidden_state if bare else output.logits, **TOLERANCE)


def test_through_timms_door_from_a_file_in_the_published_format(tmp_path) -> None:
    theirs = perturb(VivitForVideoClassification(VivitConfig(**CONFIG)))
    save_file(as_on_the_hub(theirs), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 7, "input_size": (3, 32, 32)}
    door = {"pretrained": True, "pretrained_cfg": "google_k400", "pretrained_cfg_overlay": overlay}
    ours = ours_like(CONFIG, **door).eval()
    x = clip(CONFIG)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).logits, **TOLERANCE)
    # into another size: as the model itself is resized
    larger = ours_like({**CONFIG, "image_size": 48, "num_frames": 12}, **door).eval()
    ours.set_input_size(img_size=48, num_frames=12)
    x = torch.randn(1, 3, 12, 48, 48)
    torch.testing.assert_close(larger(x), ours(x), **TOLERANCE)


def test_the_tag_says_what_its_weights_need() -> None:
    (name,) = PUBLISHED
    with torch.device("meta"):
        model = timm.create_model(name)
    assert (model.num_classes, model.num_frames, tuple(model.grid)) == (400, 32, (16, 14, 14))
    assert model.pos_embed.shape == (1, 1 + 16 * 14 * 14, 768)
    assert model.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
