"""The registered name: image weights through timm's doors, and folders that give the same model again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import load_model_config_from_hf, save_for_hf
from torch import Tensor, nn

from timesformer_plus.models.inflate import inflate

NAME = "timesformer_from_image"
TINY = {"image_model": "vit_tiny_patch16_224", "depth": 2, "img_size": 32}
CLIP = "vit_base_patch16_clip_224.openai"
NARROW = {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 32}
KINDS = {
    "augreg": TINY,
    "clip": {"image_model": CLIP, **NARROW},
    "siglip": {"image_model": "vit_base_patch16_siglip_224.webli", **NARROW},
    "dinov3": {"image_model": "vit_small_patch16_dinov3", "depth": 2, "img_size": 32},
    "eva02": {"image_model": "eva02_tiny_patch14_224", "depth": 2, "img_size": 28},
}


def create(**options: Any) -> Any:
    return timm.create_model(NAME, **{"num_frames": 4, "input_format": "NCTHW", **options})


def perturb(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model.eval()


def image_file(folder: Path, kind: str, **options: Any) -> tuple[Any, str]:
    """An image model with weights of its own, and the file that holds them."""
    given = {**KINDS[kind], **options}
    image = perturb(timm.create_model(given.pop("image_model"), **given))
    file = folder / "image.safetensors"
    save_file(image.state_dict(), file)
    return image, str(file)


def clip_for(model: Any, batch: int = 2) -> Tensor:
    return torch.randn(batch, model.in_chans, model.num_frames, *model.patch_embed.img_size)


def assert_equal_models(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert repr(one) == repr(other)
    x = clip_for(one)
    assert torch.equal(one.eval()(x), other.eval()(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_image_checkpoint_is_inflated(kind: str, tmp_path: Path) -> None:
    image, file = image_file(tmp_path, kind)
    model = create(**KINDS[kind], pattern="ts", pretrained=True, pretrained_cfg_overlay={"file": file}).eval()
    x = torch.randn(2, 3, *model.patch_embed.img_size)
    torch.testing.assert_close(model(x[:, :, None].expand(-1, -1, 4, -1, -1)), image(x), rtol=1e-5, atol=1e-5)
    named = inflate(
        KINDS[kind]["image_model"],
        "ts",
        4,
        pretrained_cfg_overlay={"file": file},
        **{key: value for key, value in KINDS[kind].items() if key != "image_model"},
    )
    assert type(named) is type(model)
    own = image.state_dict()
    assert all(torch.equal(named.state_dict()[key], own[key]) for key in own)


def test_the_pretrained_cfg_is_the_image_models() -> None:
    with torch.device("meta"):
        model = create(image_model=CLIP, pattern="s*3 j")
        image = timm.create_model(CLIP)
    cfg = model.pretrained_cfg
    assert cfg["architecture"] == NAME
    kept = ("mean", "std", "hf_hub_id", "input_size", "num_classes", "license", "crop_pct", "classifier", "first_conv")
    for key in kept:
        assert cfg.get(key) == image.pretrained_cfg.get(key), key
    assert cfg["hf_hub_id"] == "timm/vit_base_patch16_clip_224.openai"
    assert timm.data.resolve_model_data_config(model)["mean"] == (0.48145466, 0.4578275, 0.40821073)
    assert model.num_classes == 512
    assert model.pattern == "s*3 j"
    assert len(model.blocks) == 12


@pytest.mark.parametrize("layout", ["visual.trunk.", "module"])
@pytest.mark.parametrize("kind", ["clip", "eva02"])
def test_files_in_other_layouts_go_through_the_image_models_own_filter(kind: str, layout: str, tmp_path: Path) -> None:
    image, _ = image_file(tmp_path, kind, num_classes=0)
    weights = image.state_dict()
    wrapped = {"module": weights} if layout == "module" else {layout + key: value for key, value in weights.items()}
    file = tmp_path / "other.pt"
    torch.save(wrapped, file)
    overlay = {"file": str(file), "num_classes": 0}
    model = create(**KINDS[kind], pattern="ts", pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in weights.items())


def npz_of(image: Any) -> dict[str, np.ndarray]:
    """The layout in which augreg's weights were published."""
    sd = {key: tensor.numpy() for key, tensor in image.state_dict().items()}
    dim, heads = image.embed_dim, image.blocks[0].attn.num_heads
    w = {
        "embedding/kernel": sd["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": sd["patch_embed.proj.bias"],
        "cls": sd["cls_token"],
        "Transformer/posembed_input/pos_embedding": sd["pos_embed"],
        "Transformer/encoder_norm/scale": sd["norm.weight"],
        "Transformer/encoder_norm/bias": sd["norm.bias"],
        "head/kernel": sd["head.weight"].T,
        "head/bias": sd["head.bias"],
    }
    for i in range(len(image.blocks)):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, index in (("norm1", 0), ("norm2", 2)):
            w[f"{theirs}LayerNorm_{index}/scale"] = sd[f"{ours}{norm}.weight"]
            w[f"{theirs}LayerNorm_{index}/bias"] = sd[f"{ours}{norm}.bias"]
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        weights = np.split(sd[f"{ours}attn.qkv.weight"], 3)
        biases = np.split(sd[f"{ours}attn.qkv.bias"], 3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            w[f"{attention}{name}/kernel"] = weight.T.reshape(dim, heads, dim // heads)
            w[f"{attention}{name}/bias"] = bias.reshape(heads, dim // heads)
        w[f"{attention}out/kernel"] = sd[f"{ours}attn.proj.weight"].T.reshape(heads, dim // heads, dim)
        w[f"{attention}out/bias"] = sd[f"{ours}attn.proj.bias"]
        for name, index in (("fc1", 0), ("fc2", 1)):
            w[f"{theirs}MlpBlock_3/Dense_{index}/kernel"] = sd[f"{ours}mlp.{name}.weight"].T
            w[f"{theirs}MlpBlock_3/Dense_{index}/bias"] = sd[f"{ours}mlp.{name}.bias"]
    return w


@pytest.mark.parametrize("tubelet_size", [1, 2])
def test_the_original_npz_files(tubelet_size: int, tmp_path: Path) -> None:
    image, _ = image_file(tmp_path, "augreg")
    np.savez(tmp_path / "augreg.npz", **npz_of(image))
    overlay = {"file": str(tmp_path / "augreg.npz")}
    model = create(**TINY, pattern="ts", pretrained=True, pretrained_cfg_overlay=overlay, tubelet_size=tubelet_size)
    own = model.state_dict()
    if tubelet_size > 1:
        own["patch_embed.proj.weight"] = own["patch_embed.proj.weight"][:, :, 1]
    for key, tensor in image.state_dict().items():
        torch.testing.assert_close(own[key], tensor)


VARIANTS = {
    "plain": {},
    "classes": {"num_classes": 5},
    "pattern": {"pattern": "s*1 | j*1"},
    "scheme": {"pattern": "factorised_heads", "image_model": CLIP, **NARROW},
    "frames": {"num_frames": 6, "tubelet_size": 2, "tubelet_init": "average"},
    "size": {"img_size": (32, 64), "init": "copy"},
    "random": {"init": "random", "pattern": "t+s"},
    "pooled": {"global_pool": "avg", "num_classes": 3},
    "features": {"num_classes": 0, "in_chans": 1},
    "dropped": {"drop_path_rate": 0.1},
    "any_size": {"dynamic_img_size": True, "dynamic_num_frames": True},
    "time_rope": {"image_model": "vit_small_patch16_dinov3", "time_rope": True},
}


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("augreg", v) for v in VARIANTS] + [(k, v) for k in KINDS for v in ("plain", "frames", "pooled")],
)
def test_a_saved_model_comes_back_as_it_was(kind: str, variant: str, tmp_path: Path) -> None:
    model = perturb(create(**{**KINDS[kind], **VARIANTS[variant]}))
    folder = tmp_path / "saved"
    save_for_hf(model, folder, safe_serialization=True)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    if variant == "dropped":  # timm writes no rates into a config
        model = create(**KINDS[kind]).eval()
        model.load_state_dict(again.state_dict())
    assert_equal_models(again, model)
    assert again.pretrained_cfg["architecture"] == NAME
    assert again.pretrained_cfg["mean"] == list(model.pretrained_cfg["mean"][: model.in_chans])

    # what engine and older versions of timm write
    save_for_hf(again, tmp_path / "twice", safe_serialization=True, model_args=again.model_args)
    assert_equal_models(timm.create_model(f"local-dir:{tmp_path / 'twice'}", pretrained=True), model)


def test_the_same_config_serves_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hf-hub:` differs from `local-dir:` in where the two files come from."""
    model = perturb(create(**TINY, pattern="s*1 j", num_classes=5))
    save_for_hf(model, tmp_path, safe_serialization=True)

    def download(repo_id: str, filename: str, **_: object) -> str:
        assert repo_id == "someone/video"
        if not (tmp_path / filename).is_file():
            raise FileNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    assert load_model_config_from_hf("someone/video")[1] == NAME
    assert_equal_models(timm.create_model("hf-hub:someone/video", pretrained=True), model)


def test_a_saved_model_changes_as_it_did_before(tmp_path: Path) -> None:
    model = create(**TINY, pattern="ts", num_classes=5)
    model.set_input_size(img_size=64, num_frames=8)
    model.reset_classifier(7, "avg")
    perturb(model)
    save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert_equal_models(again, model)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_args"]["num_frames"] == 8
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3, num_frames=4)
    assert torch.equal(other.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)
    assert other.time_embed.shape[1] == 4
    assert other.head.weight.shape[0] == 3


@pytest.mark.parametrize("pattern", ["ts", "s"])
def test_a_local_file_may_hold_the_video_model(pattern: str, tmp_path: Path) -> None:
    model = perturb(create(**TINY, pattern=pattern, tubelet_size=2))
    file = tmp_path / "video.safetensors"
    save_file(model.state_dict(), file)
    overlay = {"file": str(file)}
    again = create(**TINY, pattern=pattern, tubelet_size=2, pretrained=True, pretrained_cfg_overlay=overlay)
    assert_equal_models(again, model)


@pytest.mark.parametrize("kind", ["clip", "dinov3"])
def test_an_object_that_timm_made_can_be_saved(kind: str, tmp_path: Path) -> None:
    given = dict(KINDS[kind])
    image = perturb(timm.create_model(given.pop("image_model"), **given))
    image.set_input_size(img_size=(64, 64))
    model = perturb(inflate(image, "ts", 4, num_classes=5, tubelet_size=2, input_format="NCTHW"))
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert_equal_models(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model)
    assert model.pretrained_cfg["mean"] == image.pretrained_cfg["mean"]
    assert model.pretrained_cfg["tag"] == image.pretrained_cfg["tag"]

    image.pretrained_cfg["tag"] = "of_my_own"
    inflated_again = inflate(f"local-dir:{save_image(image, tmp_path / 'image')}", "ts", 4, num_classes=5)
    assert inflated_again.model_args["image_model"] == KINDS[kind]["image_model"].split(".")[0]
    assert torch.equal(inflated_again.blocks[1].mlp.fc1.weight, image.blocks[1].mlp.fc1.weight)


def save_image(image: nn.Module, folder: Path) -> Path:
    save_for_hf(image, folder, safe_serialization=True)
    return folder


def changed_object() -> Any:
    image = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32)
    image.blocks[1].mlp.act = nn.ReLU()
    return image


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            lambda: timm.models.VisionTransformer(depth=2, img_size=32, embed_dim=32, num_heads=2),
            "did not make the object",
        ),
        (changed_object, "has other layers or options"),
    ],
)
def test_an_object_without_a_name_says_so_when_it_is_saved(image: Any, reason: str, tmp_path: Path) -> None:
    model = inflate(image(), "ts", 4)
    model.set_input_size(num_frames=8)
    with pytest.raises(ValueError, match="image_model") as caught:
        save_for_hf(model, tmp_path / "a", safe_serialization=True)
    assert reason in f"{caught.value} {caught.value.__cause__}"
    with pytest.raises(ValueError, match="inflate a name of timm's instead"):
        json.dumps(model.model_args)
    assert not (tmp_path / "a" / "config.json").exists()


def test_an_object_without_a_name_can_still_be_copied_and_pickled(tmp_path: Path) -> None:
    import copy

    model = inflate(changed_object(), "ts", 4)
    x = torch.randn(1, 3, 4, 32, 32)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))


@pytest.mark.parametrize("kind", ["augreg", "dinov3"])
def test_timms_contract(kind: str, tmp_path: Path) -> None:
    _, file = image_file(tmp_path, kind)
    given = {**KINDS[kind], "pretrained": True, "pretrained_cfg_overlay": {"file": file}}
    model = create(**given, pattern="ts").eval()
    x = clip_for(model)
    features = create(**given, pattern="ts", features_only=True, out_indices=[0, 1]).eval()
    maps = features(x)
    assert [tuple(m.shape) for m in maps] == [(2, model.embed_dim, 4, *model.patch_embed.grid_size)] * 2
    torch.testing.assert_close(maps[0], model.forward_intermediates(x, indices=[0], intermediates_only=True)[0])
    assert features.feature_info.channels() == [model.embed_dim] * 2
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.model_args["num_classes"] == 3
    model.set_input_size(num_frames=2)
    assert model.model_args["num_frames"] == 2
    assert model(clip_for(model)).shape == (2, 3)
    headless = create(**given, num_classes=0)
    assert headless(x).shape == (2, model.embed_dim)


@pytest.mark.parametrize("tubelet_size", [1, 2])
@pytest.mark.parametrize("in_chans", [1, 4, 6])
def test_channels_and_classes_of_a_name(in_chans: int, tubelet_size: int, tmp_path: Path) -> None:
    image, file = image_file(tmp_path, "augreg")
    overlay = {"file": file}
    model = create(
        **TINY,
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        tubelet_size=tubelet_size,
        in_chans=in_chans,
        num_classes=5,
    )
    adapted = timm.models.adapt_input_conv(in_chans, image.patch_embed.proj.weight.detach())
    found = model.patch_embed.proj.weight
    assert torch.equal(found if tubelet_size == 1 else found[:, :, 1], adapted)
    assert model.head.weight.shape == (5, 192)
    assert 0 < model.head.weight.std() < 0.03
    assert torch.equal(model.norm.weight, image.norm.weight)


def damaged(weights: dict[str, Tensor], damage: str) -> dict[str, Tensor]:
    weights = dict(weights)
    if damage == "missing":
        del weights["blocks.1.mlp.fc1.weight"]
    elif damage == "extra":
        weights["blocks.2.norm1.weight"] = torch.ones(192)
    elif damage == "renamed":
        weights["blocks.1.mlp.first.weight"] = weights.pop("blocks.1.mlp.fc1.weight")
    else:
        weights["blocks.0.attn.proj.bias"] = torch.ones(7)
    return weights


@pytest.mark.parametrize("num_classes", [None, 5])
@pytest.mark.parametrize(
    ("damage", "names"),
    [
        ("missing", ["blocks.1.mlp.fc1.weight"]),
        ("extra", ["blocks.2.norm1.weight"]),
        ("renamed", ["blocks.1.mlp.fc1.weight", "blocks.1.mlp.first.weight"]),
        ("shape", ["blocks.0.attn.proj.bias", "7", "192"]),
    ],
)
@pytest.mark.parametrize("kind", ["augreg", "siglip_gap"])
def test_a_damaged_image_checkpoint_is_refused(
    kind: str, damage: str, names: list[str], num_classes: int | None, tmp_path: Path
) -> None:
    """Also with another number of classes, and with SigLIP without its pooling, where timm alone is lenient."""
    given = dict(TINY)
    if kind == "siglip_gap":
        given = {**NARROW, "image_model": "vit_base_patch16_siglip_gap_224", "embed_dim": 192, "num_heads": 3}
    image = timm.create_model(given["image_model"], **{k: v for k, v in given.items() if k != "image_model"})
    file = tmp_path / "image.safetensors"
    save_file(damaged(image.state_dict(), damage), file)
    with pytest.raises(ValueError, match="do not fit it") as caught:
        create(**given, num_classes=num_classes, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"state_dict": {"cls_token": torch.zeros(1)}, "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap\.pth"):
        create(**TINY, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "trap.pth")})
    assert not (tmp_path / "ran").exists()


def test_a_name_alone_loads_what_timm_has_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hub's client replaced by a folder: the repository and file asked for are the image model's."""
    image, file = image_file(tmp_path, "clip")
    asked = []

    def download(repo_id: str, filename: str, **_: object) -> str:
        asked.append((repo_id, filename))
        return file

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    model = inflate(CLIP, "ts", 4, num_classes=5, input_format="NCTHW", **{**NARROW, "img_size": (32, 48)})
    assert asked == [("timm/vit_base_patch16_clip_224.openai", "model.safetensors")]
    own = model.state_dict()
    assert torch.equal(own["blocks.1.attn.qkv.weight"], image.blocks[1].attn.qkv.weight)
    image.set_input_size(img_size=(32, 48))
    torch.testing.assert_close(own["pos_embed"], image.pos_embed.detach())
    assert model.head.weight.shape == (5, 64)
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    assert_equal_models(timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True), model)
    assert len(asked) == 1  # the image weights are not asked for again


def test_without_a_network_the_error_names_the_file() -> None:
    with pytest.raises((ValueError, OSError), match=r"timm/vit_tiny_patch16_224\.augreg_in21k_ft_in1k") as caught:
        inflate("vit_tiny_patch16_224")
    assert "pretrained_cfg_overlay" in str(caught.value)
    assert "ft_in1k.augreg" not in str(caught.value), "the tag once"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs image_model"),
        ({"image_model": "vit_tiny_patch16_244"}, "did you mean vit_tiny_patch16_224"),
        ({"image_model": "vit_tiny_patch16_224.nobody"}, "no weights 'nobody' of vit_tiny_patch16_224; it has"),
        ({"image_model": "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"}, "is no name of timm's; inflate a folder's"),
        ({"image_model": "resnet10t"}, "a ResNet is neither"),
        ({"image_model": "vit_small_patch16_18x2_224", "depth": 1}, "ParallelThingsBlock"),
        ({"image_model": "vit_tiny_patch16_224", "use_naflex": True}, "sequences of any length"),
        ({"image_model": "vit_tiny_patch16_224", "pattern": "s*3 j", "depth": 3}, "does not divide"),
        ({"image_model": "vit_tiny_patch16_224", "init": "noise", "depth": 1}, "'zero', 'copy', 'random'"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model(NAME, **options)


def test_the_tag_and_objects_have_their_place() -> None:
    with pytest.raises(ValueError, match="the tag belongs to the image model"):
        timm.create_model(f"{NAME}.openai", image_model="vit_base_patch16_clip_224")
    with pytest.raises(ValueError, match="inflate takes objects"):
        timm.create_model(NAME, image_model=nn.Identity())
    with pytest.raises(TypeError, match="nun_heads"):
        timm.create_model(NAME, image_model="vit_tiny_patch16_224", nun_heads=3)
