"""Every architecture that is read, by a model of its own project with random weights, through the conversion."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_convert import perturb

from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.convert import convert
from timesformer_plus.engine.targets import describe_tensors
from timesformer_plus.models.transformers_config import read_preprocessor_config, read_transformers_config

SMALL = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "tubelet_size": 2,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "hidden_act": "gelu",
    "num_labels": 5,
}
VJEPA2 = {
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 4,
    "tubelet_size": 2,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2.0,
    "num_pooler_layers": 2,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
    "pred_num_attention_heads": 2,
    "num_labels": 5,
}


def peer(kind, **options):
    import transformers as hf

    made = {
        "videomae": lambda: hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**{**SMALL, **options})),
        "videomae pretraining": lambda: hf.VideoMAEForPreTraining(
            hf.VideoMAEConfig(
                **{**SMALL, "decoder_num_hidden_layers": 1, "decoder_hidden_size": 24, "decoder_intermediate_size": 24},
                **options,
            )
        ),
        "vivit": lambda: hf.VivitForVideoClassification(
            hf.VivitConfig(
                **{
                    **{key: value for key, value in SMALL.items() if key != "patch_size"},
                    "tubelet_size": [2, 8, 8],
                    "hidden_act": "gelu_fast",
                    **options,
                }
            )
        ),
        "vjepa2": lambda: hf.VJEPA2ForVideoClassification(hf.VJEPA2Config(**{**VJEPA2, **options})),
        "vjepa2 encoder": lambda: hf.VJEPA2Model(hf.VJEPA2Config(**{**VJEPA2, **options})),
    }
    torch.manual_seed(0)
    return perturb(made[kind]())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("videomae", {}),
        ("videomae", {"qkv_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
        ("vivit", {}),
        ("vivit", {"qkv_bias": False, "hidden_act": "relu"}),
        ("vjepa2", {}),
    ],
    ids=["videomae", "videomae without bias", "vivit", "vivit without bias", "vjepa2"],
)
def test_a_classifier_of_transformers_answers_the_same_here(kind, options, tmp_path):
    theirs = peer(kind, **options)
    theirs.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours, classes, _ = load_checkpoint(tmp_path / "ours")
    assert classes == ("0", "1", "2", "3", "4")
    clip = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(clip).logits
        torch.testing.assert_close(ours.eval()(clip.transpose(1, 2)), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("videomae pretraining", {"use_mean_pooling": False}),
        ("videomae pretraining", {"use_mean_pooling": True}),
        ("vjepa2 encoder", {}),
    ],
)
def test_an_encoder_gives_the_same_tokens_and_its_other_half_is_ignored_by_name(kind, options, tmp_path):
    theirs = peer(kind, **options)
    theirs.save_pretrained(tmp_path / "theirs")
    done = convert(tmp_path / "theirs", tmp_path / "ours")
    assert "ignored (" in done.table
    ours = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert ours.num_classes == 0
    clip = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        encoder = theirs.videomae if kind.startswith("videomae") else theirs
        more = {} if kind.startswith("videomae") else {"skip_predictor": True}
        expected = encoder(clip, **more).last_hidden_state
        torch.testing.assert_close(ours.forward_features(clip.transpose(1, 2)), expected, rtol=1e-5, atol=1e-5)


def official(model):
    """The names of the official repository, with what its files have around them."""
    state = {}
    for key, value in model.state_dict().items():
        for ours, theirs in (
            (".added.t.norm.", ".temporal_norm1."),
            (".added.t.attn.fc.", ".temporal_fc."),
            (".added.t.attn.", ".temporal_attn."),
        ):
            key = key.replace(ours, theirs)
        state[f"model.{key}"] = value
    return {"epoch": 14, "model_state": state, "optimizer_state": {}}


def test_the_official_files_need_a_name_and_nothing_else(tmp_path):
    args = {"num_classes": 5, "num_frames": 4}
    model = perturb(timm.create_model("timesformer_test_patch8_32", **args))
    torch.save(official(model), tmp_path / "official.pyth")
    convert(tmp_path / "official.pyth", tmp_path / "ours", model="timesformer_test_patch8_32", args=args)
    ours = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in model.state_dict().items())
    names = json.loads((tmp_path / "ours" / "config.json").read_text())["origin"]["names"]
    assert names.startswith("TimeSformer")


def test_a_published_tag_says_how_clips_are_cut_and_what_its_licence_is(tmp_path):
    """A small model under the name of a large one: its tag knows the rest."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 400}
    model = timm.create_model("timesformer_base_patch16_224", **sizes)
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    done = convert(
        tmp_path / "ours.safetensors", tmp_path / "ours", model="timesformer_base_patch16_224.fb_k400", args=sizes
    )
    assert done.notes == ()
    _, classes, recipe = load_checkpoint(tmp_path / "ours")
    assert (recipe.stride, recipe.sampling, recipe.num_crops, recipe.img_size) == (32, "stride", 3, (32, 32))
    assert "eating spaghetti" in classes
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["pretrained_cfg"]["license"] == "cc-by-nc-4.0"


def test_shapes_tell_which_names_are_possible():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2}
    told = describe_tensors(timm.create_model("timesformer_test_patch8_32", **sizes).state_dict())
    assert "timesformer_test_patch8_32" in told
    assert "embed_dim 64, depth 4, patch 8x8, tubelet_size 1, num_frames 8" in told
    assert "nothing of its shapes is familiar" in describe_tensors({"a": torch.ones(3)})


def test_options_that_no_model_of_ours_has():
    with pytest.raises(ValueError, match="attention_type 'axial' is none of"):
        read_transformers_config({"model_type": "timesformer", "attention_type": "axial"})
    with pytest.raises(ValueError, match="use_mean_pooling"):
        read_transformers_config({"model_type": "videomae", "use_mean_pooling": False})
    with pytest.raises(ValueError, match="numbers its 2 classes from 1 to 2"):
        read_transformers_config({"model_type": "vivit", "id2label": {"1": "a", "2": "b"}})


@pytest.mark.parametrize("name", ["VideoMAEImageProcessor", "VivitImageProcessor"])
@pytest.mark.parametrize(
    "options", [{}, {"do_normalize": False}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}]
)
def test_pixels_are_what_the_processor_of_transformers_makes_of_them(name, options, tmp_path):
    import transformers

    processor = getattr(transformers, name)(**options)
    processor.save_pretrained(tmp_path)
    said = read_preprocessor_config(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    frame = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
    theirs = processor([frame.numpy()], do_resize=False, return_tensors="pt")["pixel_values"][0, 0]
    mean, std = (torch.tensor(said[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close((frame / 255 - mean) / std, theirs.float(), rtol=1e-5, atol=1e-5)
