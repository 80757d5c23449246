"""Checkpoints of other projects, written by their own code, through the conversion and back."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from timesformer_plus.engine import convert as convert_module
from timesformer_plus.engine.atomic_folder import damage
from timesformer_plus.engine.build_data import build_normalize
from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.convert import MisfitError, convert

KINDS = {"ts": "divided_space_time", "j": "joint_space_time", "s": "space_only"}
CLIP = (2, 4, 3, 32, 32)  # transformers' order: B, T, C, H, W


def perturb(model):
    """Away from initialisation, where zeros would hide what is mixed up."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def peer_timesformer(folder, pattern="ts", **options):
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    names = ["run", "jump", "sit", "lie", "swim"]
    given = {
        "image_size": 32,
        "patch_size": 8,
        "num_frames": 4,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 100,  # no multiple of the width
        "attention_type": KINDS[pattern],
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        **options,
    }
    torch.manual_seed(0)
    model = perturb(TimesformerForVideoClassification(TimesformerConfig(**given)))
    model.save_pretrained(folder)
    return model


def of_clip(peer, clip):
    """Logits of clips: theirs, and what theirs becomes if frames are averaged before the last norm."""
    with torch.no_grad():
        if peer.config.attention_type != "space_only":
            return peer(clip).logits
        tokens = peer.timesformer(clip, output_hidden_states=True).hidden_states[-1][:, 0]
        mean = tokens.unflatten(0, clip.shape[:2]).mean(dim=1)
        return peer.classifier(peer.timesformer.layernorm(mean))


def ours_of(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def score(model, clip):
    with torch.no_grad():
        return model(clip.transpose(1, 2))


@pytest.fixture
def peer_folder(tmp_path):
    peer_timesformer(tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.mark.parametrize("pattern", KINDS)
def test_a_timesformer_there_and_back_is_the_same_to_the_bit(pattern, tmp_path):
    from transformers import TimesformerForVideoClassification

    peer = peer_timesformer(tmp_path / "theirs", pattern)
    done = convert(tmp_path / "theirs", tmp_path / "ours")
    assert "timesformer.encoder.layer.1.attention.output.dense.bias -> blocks.1.attn.proj.bias" in done.table
    clip = torch.randn(CLIP)
    model = ours_of(tmp_path / "ours")
    assert model.pattern == pattern
    torch.testing.assert_close(score(model, clip), of_clip(peer, clip), rtol=1e-5, atol=1e-5)

    back = convert(tmp_path / "ours", tmp_path / "back", to="hf")
    assert ("logits of every frame" in "".join(back.notes)) == (pattern == "s")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again, told = TimesformerForVideoClassification.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(told.values())
    assert again.config.id2label == peer.config.id2label
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(clip).logits, peer(clip).logits, rtol=0, atol=0)


def test_the_folder_says_what_is_needed_to_use_it(peer_folder, tmp_path):
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (peer_folder / "preprocessor_config.json").write_text(json.dumps(processor))
    options = {"clips": {"sampling": "stride", "stride": 8}, "license": "cc-by-nc-4.0"}
    convert(peer_folder, tmp_path / "ours", **options)
    assert damage(tmp_path / "ours") is None
    _, classes, recipe = load_checkpoint(tmp_path / "ours")
    assert classes == ("run", "jump", "sit", "lie", "swim")
    assert (recipe.num_frames, recipe.img_size, recipe.stride, recipe.sampling) == (4, (32, 32), 8, "stride")
    assert (recipe.mean, recipe.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    assert config["origin"]["names"] == "TimeSformer (transformers)"
    assert set(config["origin"]["files"]) == {"model.safetensors"}
    # what was said goes on to the next folder
    convert(tmp_path / "ours", tmp_path / "again")
    assert load_checkpoint(tmp_path / "again").recipe == recipe
    # also under a name that is given, with the sizes that are
    sizes = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_frames": 4, "num_classes": 5, "mlp_ratio": 100.5 / 48}
    convert(tmp_path / "ours", tmp_path / "named", model="timesformer_test_patch8_32", args=sizes)
    assert load_checkpoint(tmp_path / "named")[1:] == (classes, recipe)
    named = json.loads((tmp_path / "named" / "config.json").read_text())
    assert named["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    convert(tmp_path / "ours", tmp_path / "back", to="hf")
    written = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert {key: written[key] for key in processor} == processor


def test_a_model_that_takes_blue_first_is_exported_as_one_that_takes_red_first(peer_folder, tmp_path):
    from transformers import TimesformerForVideoClassification

    pixels = {"channel_order": "bgr", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    convert(peer_folder, tmp_path / "ours", clips=pixels)
    done = convert(tmp_path / "ours", tmp_path / "back", to="hf")
    assert any("reversed" in note for note in done.notes)
    clip = torch.randn(CLIP)
    exported = TimesformerForVideoClassification.from_pretrained(tmp_path / "back").eval()
    torch.testing.assert_close(
        score(ours_of(tmp_path / "ours"), clip.flip(2)), of_clip(exported, clip), rtol=1e-5, atol=1e-5
    )
    # from pixels on: ours in its order, theirs as their processor makes them of red, green, blue
    processor = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    model, _, recipe = load_checkpoint(tmp_path / "ours")
    batch, frames, channels, height, width = CLIP
    pixels = torch.randint(0, 256, (batch, channels, frames, height, width), dtype=torch.uint8)
    mean, std = (torch.tensor(processor[f"image_{key}"]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        said = model.eval()(build_normalize(recipe)(pixels))
    theirs = of_clip(exported, (pixels.transpose(1, 2) / 255 - mean) / std)
    torch.testing.assert_close(said, theirs, rtol=1e-5, atol=1e-5)


def test_weights_in_parts_and_pickles_are_read_too(peer_folder, tmp_path):
    tensors = load_file(peer_folder / "model.safetensors")
    whole = tmp_path / "whole"
    convert(peer_folder, whole)
    parts = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for i, (key, value) in enumerate(sorted(tensors.items())):
        parts[f"model-{i % 2 + 1}.safetensors"][key] = value
    for name, part in parts.items():
        save_file(part, peer_folder / name)
    index = {key: name for name, part in parts.items() for key in part}
    (peer_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (peer_folder / "model.safetensors").unlink()
    convert(peer_folder, tmp_path / "of_parts")
    with pytest.raises(ValueError, match="comes in 2 files"):
        convert(peer_folder, tmp_path / "no", sha256="0" * 64)
    (peer_folder / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 parts; model-2\.safetensors is missing"):
        convert(peer_folder, tmp_path / "no")
    (peer_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ValueError, match="does not lie beside it"):
        convert(peer_folder, tmp_path / "no")
    (peer_folder / "model.safetensors.index.json").unlink()
    torch.save(tensors, peer_folder / "pytorch_model.bin")
    convert(peer_folder, tmp_path / "of_pickle")
    expected = load_file(whole / "model.safetensors")
    for name in ("of_parts", "of_pickle"):
        found = load_file(tmp_path / name / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_a_file_alone_needs_a_name_and_says_which_are_possible(peer_folder, tmp_path):
    file = peer_folder / "model.safetensors"
    with pytest.raises(ValueError, match=r"--model.*TimeSformer \(transformers\).*embed_dim 48, depth 2, patch 8x8"):
        convert(file, tmp_path / "ours")
    base = {
        "timesformer.embeddings.patch_embeddings.projection.weight": torch.empty(768, 3, 16, 16),
        "timesformer.embeddings.time_embeddings": torch.empty(1, 8, 768),
        "timesformer.encoder.layer.11.attention.attention.qkv.bias": torch.empty(3 * 768),
    }
    save_file(base, tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match=r"candidates: .*timesformer_base_patch16_224\b") as caught:
        convert(tmp_path / "base.safetensors", tmp_path / "ours")
    assert "large" not in str(caught.value)
    with pytest.raises(ValueError, match=r"is no video model; choose among"):
        convert(file, tmp_path / "ours", model="resnet50")
    with pytest.raises(ValueError, match=r"cannot be built with .*embd_dim"):
        convert(file, tmp_path / "ours", model="timesformer_test_patch8_32", args={"embd_dim": 48})
    sizes = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_frames": 4, "num_classes": 5, "mlp_ratio": 100.5 / 48}
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\n")
    convert(file, tmp_path / "ours", model="timesformer_test_patch8_32", args=sizes, classes=names)
    assert load_checkpoint(tmp_path / "ours").classes == tuple("abcde")
    assert not list(tmp_path.glob(".*"))


def test_another_size_is_resampled_and_said(peer_folder, tmp_path):
    done = convert(peer_folder, tmp_path / "ours", args={"num_frames": 8, "img_size": 48})
    assert "time_embed: 1x4x48 -> 1x8x48" in done.table
    assert "pos_embed: 1x17x48 -> 1x37x48" in done.table
    model, _, recipe = load_checkpoint(tmp_path / "ours")
    assert (model.num_frames, recipe.num_frames, recipe.img_size) == (8, 8, (48, 48))


def damaged(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


NORM = "timesformer.layernorm.bias"


@pytest.mark.parametrize(
    ("change", "said", "regex"),
    [
        (lambda t: t.pop(NORM), r"missing in the file \(1\): norm\.bias", r"^norm\.bias$"),
        (lambda t: t.update(extra=torch.ones(2)), r"left over in the file \(1\): extra", "^extra$"),
        (
            lambda t: t.update({NORM: torch.ones(7)}),
            r"norm\.bias \(7 in the file, 48 in the model\)",
            r"layernorm\.bias",
        ),
        (lambda t: t.update({NORM: torch.ones(48).int()}), r"norm\.bias \(torch\.int32 in the file", r"norm\.bias"),
    ],
    ids=["missing", "left over", "shape", "dtype"],
)
def test_what_does_not_fit_is_an_error_unless_it_is_allowed_by_name(change, said, regex, peer_folder, tmp_path):
    damaged(peer_folder, change)
    with pytest.raises(MisfitError, match=said) as caught:
        convert(peer_folder, tmp_path / "ours")
    assert "tensors matched" in caught.value.table
    assert {path.name for path in tmp_path.iterdir()} == {"theirs"}
    done = convert(peer_folder, tmp_path / "ours", allow=(regex,))
    assert f"allowed by {regex!r}" in done.table


def test_an_allowance_that_excuses_nothing_is_an_error(peer_folder, tmp_path):
    with pytest.raises(MisfitError, match=r"--allow hed excuses nothing"):
        convert(peer_folder, tmp_path / "ours", allow=("hed",))
    damaged(peer_folder, lambda t: t.pop(NORM))
    with pytest.raises(MisfitError, match=r"--allow \^nrom excuses nothing"):
        convert(peer_folder, tmp_path / "ours", allow=(r"^norm\.bias$", "^nrom"))
    with pytest.raises(ValueError, match="no regular expression"):
        convert(peer_folder, tmp_path / "ours", allow=("(",))
    assert {path.name for path in tmp_path.iterdir()} == {"theirs"}


def test_foreign_and_damaged_sources(peer_folder, tmp_path):
    def refused(source, said, **options):
        with pytest.raises(ValueError, match=said):
            convert(source, tmp_path / "ours", **options)
        assert not (tmp_path / "ours").exists()

    refused(tmp_path / "nowhere", "there is no")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, r"holds no config\.json")
    for text, said in (("{", "no JSON"), ("[]", "a list instead"), ("{}", "neither 'model_type'")):
        (empty / "config.json").write_text(text)
        refused(empty, said)
    (empty / "config.json").write_text('{"model_type": "bert"}')
    refused(empty, "holds none of model.safetensors")
    file = peer_folder / "model.safetensors"
    shutil.copy(file, empty)
    refused(empty, "model_type 'bert' is none of")
    refused(peer_folder, "has sha256", sha256="12345678")
    config = json.loads((peer_folder / "config.json").read_text())
    (peer_folder / "config.json").write_text(json.dumps({**config, "hidden_act": "mish"}))
    refused(peer_folder, "hidden_act 'mish' is none of")
    (peer_folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused(peer_folder, r"missing in the file \(\d+\): blocks\.2")
    (peer_folder / "config.json").write_text(json.dumps(config))
    file.write_bytes(file.read_bytes()[:-10])
    refused(peer_folder, "damaged or truncated")
    image = tmp_path / "image"
    image.mkdir()
    (image / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
    shutil.copy(empty / "model.safetensors", image)
    refused(image, "timm's vit_tiny_patch16_224, not a video model; say with --model")


def test_clips_that_cannot_be(peer_folder, tmp_path):
    with pytest.raises(ValueError, match="clips have no strid"):
        convert(peer_folder, tmp_path / "ours", clips={"strid": 4})
    with pytest.raises(ValueError, match=r"--args\.num_frames"):
        convert(peer_folder, tmp_path / "ours", clips={"num_frames": 16})


def test_what_is_there_stays(peer_folder, tmp_path):
    (tmp_path / "ours").mkdir()
    with pytest.raises(ValueError, match="exists and will not be replaced"):
        convert(peer_folder, tmp_path / "ours")
    assert not list((tmp_path / "ours").iterdir())


def test_nothing_is_left_of_a_conversion_that_cannot_be_written(peer_folder, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    convert(peer_folder, tmp_path / "ours")
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr("timesformer_plus.engine.checkpoint.save_file", full)
    monkeypatch.setattr(convert_module, "save_file", full)
    for to in ("timm", "hf"):
        with pytest.raises(OSError, match="No space left"):
            convert(tmp_path / "ours", tmp_path / "more", to=to)
    assert {path.name for path in tmp_path.iterdir()} == before


class Touch:
    """A pickle that runs something when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_other_objects_gives_its_tensors_and_runs_nothing(zipped, peer_folder, tmp_path):
    tensors = load_file(peer_folder / "model.safetensors")
    file = peer_folder / "pytorch_model.bin"
    ran = tmp_path / "ran"
    content = {"model_state": tensors, "epoch": 3, "touch": Touch(ran), "list": [Touch(ran), {1, 2}]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    (peer_folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="--tensors_only true"):
        convert(peer_folder, tmp_path / "ours")
    with pytest.raises(ValueError, match="has sha256"):
        convert(peer_folder, tmp_path / "ours", tensors_only=True, sha256="12345678")
    convert(peer_folder, tmp_path / "ours", tensors_only=True)
    assert not ran.exists()
    assert torch.equal(load_file(tmp_path / "ours" / "model.safetensors")["norm.bias"], tensors[NORM])
    torch.load(file, weights_only=False)
    assert ran.exists()  # so it is such a file
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no tensors can be taken out"):
        convert(peer_folder, tmp_path / "more", tensors_only=True)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match="holds no dictionary of tensors"):
        convert(peer_folder, tmp_path / "more", tensors_only=True)


def test_a_run_of_ours_becomes_one_of_transformers(checkpoint, tmp_path):
    from transformers import TimesformerForVideoClassification

    ours, classes, recipe = load_checkpoint(checkpoint)
    convert(checkpoint, tmp_path / "theirs", to="hf")
    theirs = TimesformerForVideoClassification.from_pretrained(tmp_path / "theirs").eval()
    assert tuple(theirs.config.id2label.values()) == classes
    clip = torch.randn(2, recipe.num_frames, 3, *recipe.img_size)
    torch.testing.assert_close(of_clip(theirs, clip), score(ours.eval(), clip), rtol=1e-5, atol=1e-5)


def test_an_image_model_of_timms_inflates(tmp_path):
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2, "num_classes": 5}
    image = perturb(timm.create_model("vit_tiny_patch16_224", **size))
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    args = {"num_classes": 5, "num_frames": 3, "input_format": "NCTHW"}
    options = {"model": "timesformer_test_patch8_32", "args": args}
    done = convert(tmp_path / "image.safetensors", tmp_path / "ours", **options)
    assert "time_embed: an image model has none" in done.table
    still = torch.randn(2, 3, 32, 32)
    clip = still[:, None].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(score(ours_of(tmp_path / "ours"), clip), image(still), rtol=1e-5, atol=1e-5)


def test_what_transformers_cannot_hold_is_refused_with_every_reason(tmp_path):
    options = {"pattern": "s*2 j*2", "reg_tokens": 2, "init_values": 0.1, "num_classes": 5}
    model = timm.create_model("timesformer_test_patch8_32", **options)
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match=r"pattern 's\*2 j\*2' is none.*2 register tokens.*LayerScale"):
        convert(
            tmp_path / "ours.safetensors",
            tmp_path / "theirs",
            model="timesformer_test_patch8_32",
            args=options,
            to="hf",
        )
    assert {path.name for path in tmp_path.iterdir()} == {"ours.safetensors"}


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["convert", *map(str, words)])
    code = 0
    try:
        convert_module.main()
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_prints_the_table_and_says_what_to_do(peer_folder, tmp_path, monkeypatch, capsys):
    words = ("--args.num_frames", 8, "--clips.sampling", "stride", "--clips.stride", 2, "--license", "mit")
    code, out, err = run(monkeypatch, capsys, peer_folder, tmp_path / "ours", *words)
    assert (code, err) == (0, "")
    assert "renamed (" in out
    assert "time_embed: 1x4x48 -> 1x8x48" in out
    assert f'timm.create_model("local-dir:{tmp_path / "ours"}", pretrained=True)' in out
    assert load_checkpoint(tmp_path / "ours").recipe.stride == 2

    damaged(peer_folder, lambda t: t.pop(NORM))
    code, out, err = run(monkeypatch, capsys, peer_folder, tmp_path / "more")
    assert code == 1
    assert "missing in the file (1)\n  norm.bias" in out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    code, out, _ = run(monkeypatch, capsys, peer_folder, tmp_path / "more", "--allow", "^norm", "extra")
    assert code == 1
    code, out, _ = run(monkeypatch, capsys, peer_folder, tmp_path / "more", "--allow", "^norm")
    assert code == 0
    assert "norm.bias: allowed by '^norm'" in out
    code, out, err = run(monkeypatch, capsys, peer_folder, tmp_path / "other", "--modle", "x")
    assert code == 2
    assert "did you mean model?" in err
    assert not (tmp_path / "other").exists()
