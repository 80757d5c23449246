"""Published checkpoints through the commands: real files, the real decoder, against transformers and hand work."""

import dataclasses
import importlib
import json

import av
import numpy as np
import pytest
import timm
import torch
from timm.models import PretrainedCfg
from timm.models._registry import _model_pretrained_cfgs
from transformers import TimesformerConfig, TimesformerForVideoClassification

import timesformer_plus.models.from_image  # noqa: F401  registers the name
from timesformer_plus.engine import evaluate as evaluate_module
from timesformer_plus.engine import predict as predict_module
from timesformer_plus.engine.convert import convert
from timesformer_plus.engine.evaluate import evaluate_checkpoint
from timesformer_plus.engine.predict import predict
from timesformer_plus.engine.predictions import load_predictions
from timesformer_plus.engine.published import class_names, load_published, numbered_classes, open_model, recipe_of
from timesformer_plus.models import timesformer
from timesformer_plus.models.registry import Published, published, published_cfg

ARCHITECTURE = "timesformer_test_patch8_32"
MEAN, STD = (0.1, 0.4, 0.7), (0.2, 0.3, 0.5)
HUB = "nobody/timesformer-of-the-tests"
# small brothers of what is published: the same recipe but for its size, and colours that are not all alike
SIZES = {"img_size": 32, "short_side": 36, "mean": MEAN, "std": STD, "hf_hub_id": HUB, "license": "cc-by-nc-4.0"}
TAGS = {
    "tiny_ssv2": Published(
        dataset="something_v2",
        num_classes=174,
        channel_order="bgr",
        sampling="segments",
        stride=1,
        average="logits",
        **SIZES,
    ),
    "tiny_k400": Published(dataset="kinetics400", num_classes=400, stride=2, average="logits", **SIZES),
    "tiny_features": Published(dataset=None, num_classes=0, **SIZES),
}
# of 24 frames: the middle one of each of 8 parts; every second one, the run of 15 in the middle
FRAMES = {"tiny_ssv2": [1, 4, 7, 10, 13, 16, 19, 22], "tiny_k400": [4, 6, 8, 10, 12, 14, 16, 18]}


@pytest.fixture
def tags(monkeypatch):
    """The tags above, beside those of the family's module and of timm's registry."""
    for tag, checkpoint in TAGS.items():
        name = f"{ARCHITECTURE}.{tag}"
        monkeypatch.setitem(timesformer.PUBLISHED, name, checkpoint)
        cfg = PretrainedCfg(**{**published_cfg(checkpoint), "tag": tag, "architecture": ARCHITECTURE})
        monkeypatch.setitem(_model_pretrained_cfgs, name, cfg)
    return {tag: f"{ARCHITECTURE}.{tag}" for tag in TAGS}


def their_model(num_classes):
    """A TimeSformer of transformers with random weights, none as initialised; its logits are apart from each other."""
    config = TimesformerConfig(
        image_size=32, patch_size=8, num_frames=8, hidden_size=64, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=256, num_labels=num_classes,
    )  # fmt: skip
    model = TimesformerForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Tag -> (transformers' model, the file that it publishes)."""
    made = {}
    for tag, checkpoint in TAGS.items():
        if checkpoint.num_classes:
            torch.manual_seed(checkpoint.num_classes)
            model = their_model(checkpoint.num_classes)
            folder = tmp_path_factory.mktemp(tag)
            model.save_pretrained(folder)
            made[tag] = model, folder / "model.safetensors"
    return made


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three films of 24 frames, 52 x 36 pixels, in colours that are far from grey, and a list of them."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(3):
        generator = np.random.default_rng(number)
        tiles = generator.integers(0, 256, (24, 9, 13, 3), dtype=np.uint8)
        tiles[..., 2] //= 8
        frames = tiles.repeat(4, axis=1).repeat(4, axis=2)
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"qp": "8", "g": "1", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = 52, 36, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    (folder / "list.csv").write_text("path,label\n0.mp4,3\n1.mp4,1\n2.mp4,170\n")
    return folder


def by_hand(tag, theirs, video):
    """Logits of the three crops by transformers' model, nothing in between but arithmetic."""
    with av.open(str(video)) as container:
        film = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert film.shape == (24, 36, 52, 3)
    clip = film[FRAMES[tag]].astype(np.float64) / 255
    clip = (clip - np.array(MEAN)) / np.array(STD)  # of red, green, blue
    if tag == "tiny_ssv2":
        clip = clip[..., [2, 1, 0]]
    crops = [clip[:, 2:34, left : left + 32] for left in (0, 10, 20)]
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 1, 4, 2, 3).float()  # (views, T, C, H, W), as theirs takes it
    with torch.no_grad():
        return theirs[tag][0](pixel_values=pixels).logits


@pytest.mark.parametrize("tag", FRAMES)
def test_evaluation_gives_the_logits_of_the_model_that_was_published(tag, tags, theirs, videos, tmp_path):
    kept = tmp_path / "views.npz"
    names = numbered_classes(174) if tag == "tiny_ssv2" else class_names(TAGS[tag])
    result = evaluate_checkpoint(
        videos / "list.csv", model=tags[tag], weights=theirs[tag][1], predictions=kept, threads=1
    )
    said = load_predictions(kept)
    assert said.classes == names
    expected = torch.stack([by_hand(tag, theirs, videos / f"{number}.mp4") for number in range(3)])
    assert expected.std() > 0.3
    torch.testing.assert_close(said.logits, expected, rtol=0, atol=2e-5)
    # the order of the channels, the numbers of the colours and the choice of frames all matter
    other = "tiny_k400" if tag == "tiny_ssv2" else "tiny_ssv2"
    assert (by_hand(other, {other: theirs[tag]}, videos / "0.mp4") - expected[0]).abs().max() > 0.05
    assert result["top1"] == pytest.approx(
        (expected.mean(dim=1).argmax(dim=1) == torch.tensor([3, 1, 170])).double().mean().item()
    )
    protocol = result["protocol"]
    assert (protocol["name"], protocol["average"]) == ("paper_timesformer", "logits")
    assert (protocol["mean"], protocol["std"]) == (list(MEAN), list(STD))
    assert protocol["channel_order"] == TAGS[tag].channel_order
    assert (protocol["sampling"], protocol["stride"]) == (("segments", 1) if tag == "tiny_ssv2" else ("stride", 2))


@pytest.mark.parametrize("tag", FRAMES)
def test_prediction_is_the_softmax_of_the_mean_over_crops(tag, tags, theirs, videos, capsys):
    answer = predict(tags[tag], videos / "1.mp4", weights=theirs[tag][1], topk=3)
    expected = by_hand(tag, theirs, videos / "1.mp4").double().mean(dim=0).softmax(dim=0)
    best = expected.topk(3)
    names = class_names(TAGS[tag])
    assert [name for name, _ in answer] == [names[index] for index in best.indices]
    assert [probability for _, probability in answer] == pytest.approx(best.values.tolist(), abs=1e-5)
    notes = capsys.readouterr().err
    if tag == "tiny_ssv2":
        assert notes.count("\n") == 1
        assert "the names of the 174 classes of timesformer_test_patch8_32.tiny_ssv2 are not known here" in notes
    else:
        assert notes == ""


def test_classes_are_named_by_a_file(tags, theirs, videos, tmp_path, capsys):
    tag, model, weights = "tiny_ssv2", tags["tiny_ssv2"], theirs["tiny_ssv2"][1]
    numbers = [name for name, _ in predict(model, videos / "0.mp4", weights=weights)]
    capsys.readouterr()
    (tmp_path / "labels.json").write_text(json.dumps({f"Doing {i}": str(i) for i in reversed(range(174))}))
    (tmp_path / "classes.txt").write_text("".join(f"Doing {i}\n" for i in range(174)))
    for file in ("labels.json", "classes.txt"):
        answer = predict(model, videos / "0.mp4", weights=weights, classes=tmp_path / file)
        assert [name for name, _ in answer] == [f"Doing {number}" for number in numbers]
    assert capsys.readouterr().err == ""
    (tmp_path / "named.csv").write_text("path,label\n0.mp4,Doing 3\n1.mp4,Doing 1\n2.mp4,Doing 170\n")
    result = evaluate_checkpoint(
        tmp_path / "named.csv", model=model, weights=weights, classes=tmp_path / "labels.json", root=videos, threads=1
    )
    assert result["confusion"].keys() == {"Doing 3", "Doing 1", "Doing 170"}
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"few\.txt names 2 classes, and .*tiny_ssv2 has 174"):
        open_model(model, weights=weights, classes=tmp_path / "few.txt")
    with pytest.raises(ValueError, match=r"no\.txt: there is no such file; it should have the names"):
        open_model(model, weights=weights, classes=tmp_path / "no.txt")
    with pytest.raises(ValueError, match=r"the classes of .*tiny_k400 have names; leave it out"):
        open_model(tags["tiny_k400"], weights=theirs["tiny_k400"][1], classes=tmp_path / "few.txt")
    assert recipe_of(model, TAGS[tag]) == open_model(model, weights=weights)[0].recipe


def test_kinetics_classes_are_torchvisions_in_alphabetical_order():
    names = class_names(TAGS["tiny_k400"])
    assert len(names) == 400
    assert list(names) == sorted(names)
    # what the published labels are numbered by: transformers prints LABEL_116 for its video of just this
    module = importlib.import_module("transformers.models.vivit.modeling_vivit")
    example = module.VivitForVideoClassification.forward.__doc__
    assert "eating_spaghetti" in example
    assert f"LABEL_{names.index('eating spaghetti')}" in example
    other = dataclasses.replace(TAGS["tiny_k400"], dataset="kinetics600", num_classes=600)
    assert class_names(other) == tuple(map(str, range(600)))


def run(module, monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["tool", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        module.main()
    return stop.value.code, capsys.readouterr()


def test_without_a_network_the_error_names_the_file_and_the_option(tags, videos, monkeypatch, capsys):
    for module, words in (
        (predict_module, [videos / "0.mp4"]),
        (evaluate_module, [videos / "list.csv", "--threads", 1]),
    ):
        code, said = run(module, monkeypatch, capsys, *words, "--model", tags["tiny_k400"])
        assert code == 1
        assert said.err.startswith(f"error: {tags['tiny_k400']} cannot be loaded: ")
        assert said.err.count("\n") == 1
        for part in (HUB, "model.safetensors", "--weights FILE"):
            assert part in said.err, part


def test_the_command_line_takes_a_local_copy(tags, theirs, videos, tmp_path, monkeypatch, capsys):
    model = ["--model", tags["tiny_k400"], "--weights", theirs["tiny_k400"][1]]
    code, said = run(
        evaluate_module, monkeypatch, capsys, videos / "list.csv", *model, "--threads", 1, "--output", tmp_path / "o"
    )
    assert (code, said.err) == (0, "")
    assert "paper_timesformer: 1 clips x 3 crops of 8 frames 2 apart, 32x32; logits averaged" in " ".join(
        said.out.split()
    )
    monkeypatch.setattr("sys.argv", ["predict", *map(str, [videos / "0.mp4", *model, "--topk", 2])])
    predict_module.main()
    name, _ = predict(tags["tiny_k400"], videos / "0.mp4", weights=theirs["tiny_k400"][1], topk=1)[0]
    assert name in capsys.readouterr().out


def test_what_has_no_recipe_is_refused(tags, theirs, direction):
    def error(model, **options):
        with pytest.raises(ValueError, match=r".") as raised:
            open_model(model, **options)
        return str(raised.value)

    file = theirs["tiny_k400"][1]
    assert "has no published recipe: nobody says what clips it was trained on; published are " in error(
        "timesformer_base_patch16_224.untrained"
    )
    assert "timesformer_base_patch16_224.fb_k400" in error("timesformer_base_patch16_224.untrained")
    assert "train it, and give the run's best/ folder" in error("timesformer_tiny_patch16_224", weights=file)
    assert "(an image model has seen none)" in error("timesformer_from_image")
    assert "has no published recipe" in error("vit_tiny_patch16_224.augreg_in21k", weights=file)
    assert "gives features, not classes; train a head on it" in error(tags["tiny_features"], weights=file)
    assert "is neither a folder nor a model that timm knows" in error("timesformer_bass_patch16_224.fb_k400")
    assert "such as timesformer_base_patch16_224.fb_k400" in error("timesformer_bass_patch16_224.fb_k400")
    assert "has no published recipe" in error("timesformer_base_patch16_224.fb_k401")
    assert "no/where holds no config.json; give the best/ or last/ folder" in error("no/where")
    assert "weights=x is for a registered name" in error(direction, weights="x")
    assert error(tags["tiny_k400"], weights=file.with_name("no")) == (
        f"there is no file {file.with_name('no')} with the weights of {tags['tiny_k400']}"
    )


@pytest.mark.parametrize("tag", FRAMES)
def test_a_converted_folder_is_used_as_the_published_name_is(tag, tags, theirs, videos, tmp_path, capsys):
    folder = tmp_path / "converted"
    convert(theirs[tag][1], folder, model=tags[tag])
    video, weights = videos / "2.mp4", theirs[tag][1]
    assert predict(folder, video) == predict(tags[tag], video, weights=weights)
    assert capsys.readouterr().err.count("not known here") == (2 if tag == "tiny_ssv2" else 0)
    results = [
        evaluate_checkpoint(videos / "list.csv", threads=1, **model)
        for model in ({"model": folder}, {"model": tags[tag], "weights": weights})
    ]
    assert results[0] == results[1]


def test_a_file_of_another_model_is_refused(tags, theirs):
    with pytest.raises(ValueError, match=r"tiny_k400 cannot be loaded: .*model\.safetensors"):
        load_published(tags["tiny_k400"], theirs["tiny_ssv2"][1])


def published_names():
    families = [f"timesformer_plus.models.{name}" for name in ("timesformer", "videomae", "vivit", "vjepa2")]
    found = [importlib.import_module(name) for name in families]
    return sorted(name for family in found for name in family.PUBLISHED)


@pytest.mark.parametrize("name", published_names())
def test_every_published_model_fits_the_recipe_that_is_published_with_it(name):
    checkpoint = published(name)
    with torch.device("meta"):
        model = timm.create_model(name)
    recipe = recipe_of(name, checkpoint)
    assert recipe.channel_order == checkpoint.channel_order
    assert (recipe.num_frames, recipe.img_size) == (model.num_frames, tuple(model.patch_embed.img_size))
    assert (recipe.mean, recipe.std) == (model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    assert model.num_classes == checkpoint.num_classes
    assert len(class_names(checkpoint)) == checkpoint.num_classes
    assert recipe.short_side >= max(recipe.img_size)
    expected = {
        ("timesformer", "fb"): ("paper_timesformer", "paper_timesformer"),
        ("timesformer", "mm"): ("1x3 probabilities", None),
        ("videomae", "mcg"): ("videomae", "videomae_ssv2"),
        ("videomaev2", "opengvlab"): ("videomae", None),
        ("vivit", "google"): ("vivit", None),
        ("vjepa2", "fb"): (None, "2x3 probabilities"),
    }[name.partition("_")[0], name.partition(".")[2].partition("_")[0]]
    is_ssv2 = checkpoint.dataset == "something_v2"
    if checkpoint.dataset in ("kinetics400", "something_v2"):
        assert recipe.protocol.name == expected[is_ssv2]
    assert (recipe.sampling == "segments") == (is_ssv2 and not name.startswith("vjepa2"))
    assert (recipe.channel_order == "bgr") == (is_ssv2 and name.startswith("timesformer"))
