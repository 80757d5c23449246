"""Models of ours in transformers' words: every option that has a counterpart there, every one that has none."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import timesformer_plus  # noqa: F401  registers the models with timm
from timesformer_plus.models.export_hf import ATTENTION_TYPES, export_timesformer, unsupported_by_timesformer
from timesformer_plus.models.key_tables import FAMILIES
from timesformer_plus.models.weights import fit_checkpoint

SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5, "num_frames": 4}


def create(**options):
    torch.manual_seed(0)
    model = timm.create_model("timesformer_test_patch8_32", **{**SIZE, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def reloaded(model, folder):
    from transformers import TimesformerForVideoClassification

    config, state, _ = export_timesformer(model)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    theirs, told = TimesformerForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values())
    return theirs.eval()


@pytest.mark.parametrize("pattern", ["ts", "j"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_frames": 8},
        {"qkv_bias": False},
        {"act_layer": "gelu_tanh"},
        {"act_layer": "quick_gelu"},
        {"mlp_ratio": 2.6},
        {"norm_eps": 1e-2},
        {"in_chans": 1},
        {"num_heads": 4, "depth": 3},
        {"drop_rate": 0.5, "drop_path_rate": 0.3, "attn_drop_rate": 0.1, "proj_drop_rate": 0.2},
        {"dynamic_num_frames": True, "dynamic_img_size": True},
    ],
    ids=str,
)
def test_what_has_a_counterpart_answers_the_same(pattern, options, tmp_path):
    model = create(pattern=pattern, **options)
    theirs = reloaded(model, tmp_path)
    clip = torch.randn(2, model.num_frames, model.in_chans, 16, 16)
    with torch.no_grad():
        expected = model(clip.transpose(1, 2))
        torch.testing.assert_close(theirs(clip).logits, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("options", [{}, {"num_frames": 1}])
def test_space_only_gives_the_logits_of_every_frame_there(options, tmp_path):
    model = create(pattern="s", **options)
    theirs = reloaded(model, tmp_path)
    clip = torch.randn(2, model.num_frames, 3, 16, 16)
    with torch.no_grad():
        logits = theirs(clip).logits
        assert logits.shape == (2 * model.num_frames, 5)
        for i, frame in enumerate(clip.flatten(0, 1)):
            one = create(pattern="s", num_frames=1)
            one.load_state_dict(model.state_dict())
            torch.testing.assert_close(logits[i], one(frame[None, :, None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", ATTENTION_TYPES)
def test_the_names_are_those_that_are_read(pattern):
    model = create(pattern=pattern)
    _, state, renamed = export_timesformer(model)
    assert renamed.keys() == model.state_dict().keys()
    back, report = fit_checkpoint(state, create(pattern=pattern, num_heads=4))
    assert report.family in {family.name for family in FAMILIES}
    assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pattern": "st"}, "pattern 'st' is none of"),
        ({"pattern": "ts j"}, "pattern 'ts j'"),
        ({"pattern": "s | j"}, "pattern 's | j'"),
        ({"pattern": "cs"}, "pattern 'cs'"),
        ({"pattern": "t&s"}, "pattern 't&s'"),
        ({"tubelet_size": 2}, "tubelet_size=2"),
        ({"img_size": (16, 32)}, "16x32 pixels"),
        ({"reg_tokens": 3}, "3 register tokens"),
        ({"no_embed_class": True}, "no_embed_class"),
        ({"class_token": False, "global_pool": "avg"}, "no class token"),
        ({"pos_embed": "none"}, "no learned position embedding"),
        ({"pattern": "j", "pos_embed": "joint"}, "pos_embed"),
        ({"pattern": "j", "pos_embed": "sincos"}, "no learned position embedding"),
        ({"rope_type": "vjepa2", "num_heads": 1, "embed_dim": 24}, "rope_type='vjepa2'|time_embed"),
        ({"pre_norm": True}, "pre_norm"),
        ({"init_values": 0.1}, "LayerScale"),
        ({"qk_norm": True}, "qk_norm"),
        ({"scale_attn_norm": True}, "scale_attn_norm"),
        ({"scale_mlp_norm": True}, "scale_mlp_norm"),
        ({"proj_bias": False}, "proj_bias=False"),
        ({"k_bias": False}, "k_bias=False"),
        ({"norm_layer": "rmsnorm"}, "RmsNorm"),
        ({"norm_layer": "layernorm2d"}, "LayerNorm2d"),
        ({"act_layer": "hard_swish"}, "activation"),
        ({"global_pool": "avg"}, "global_pool='avg'"),
        ({"global_pool": "map", "class_token": False}, "global_pool='map'"),
        ({"final_norm": False}, "no norm behind the last block"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
    ids=str,
)
def test_what_has_none_is_refused_with_the_reason(options, reason):
    model = timm.create_model("timesformer_test_patch8_32", **{**SIZE, **options})
    with pytest.raises(ValueError, match=f"cannot hold this model: .*({reason})"):
        export_timesformer(model)


def test_one_block_that_is_made_otherwise_is_found():
    """What no option does: nothing is taken from the first block for all of them."""
    changes = {
        "norms with different eps": lambda model: setattr(model.blocks[1].norm2, "eps", 1e-3),
        "an MLP of another kind": lambda model: setattr(model.blocks[1].mlp, "act", torch.nn.ReLU()),
        "scale blocks.1.attn": lambda model: setattr(model.blocks[1].attn, "scale", 1.0),
        "module blocks.1.extra": lambda model: model.blocks[1].add_module("extra", torch.nn.Identity()),
        "key blocks.1.mlp": lambda model: setattr(model.blocks[1].mlp, "fc1", torch.nn.Linear(16, 8)),
    }
    for reason, change in changes.items():
        model = create()
        assert unsupported_by_timesformer(model) == []
        change(model)
        assert any(reason in said for said in unsupported_by_timesformer(model)), reason
    assert unsupported_by_timesformer(timm.create_model("vit_tiny_patch16_224", depth=1)) == [
        "it is a VisionTransformer, not a VideoTransformer"
    ]


def test_class_names_are_as_many_as_classes():
    config, _, _ = export_timesformer(create(), tuple("abcde"))
    assert config["id2label"]["4"] == "e"
    assert config["label2id"]["e"] == 4
    with pytest.raises(ValueError, match="4 class names were given for a model of 5 classes"):
        export_timesformer(create(), tuple("abcd"))
