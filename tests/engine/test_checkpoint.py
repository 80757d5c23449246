"""The folder of a trained model: timm loads it, other weights can be put into it, damage to any file is named."""

import copy
import json
import os
import resource
import shutil
import sys

import pytest
import timm
import torch
from killed_writers import die_at, run
from safetensors.torch import load_file

from timesformer_plus.engine.atomic_folder import recover
from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.checkpoint import load_checkpoint, load_weights, save_checkpoint

CLASSES = ("left", "right")
RECIPE = ClipRecipe(
    num_frames=4, stride=2, sampling="stride", img_size=(32, 32), mean=(0.4,) * 3, std=(0.2,) * 3, multi_label=False
)
FILES = ["config.json", "model.safetensors", "manifest.json"]


def make(**options):
    arguments = {"depth": 1, "embed_dim": 16, "num_heads": 2, "num_frames": 4, "num_classes": 2, **options}
    return timm.create_model("timesformer_test_patch8_32", **arguments).eval()


def save(folder, model, **options):
    save_checkpoint(folder, model, classes=CLASSES, recipe=RECIPE, **options)


def same(model, weights):
    state = model.state_dict()
    return state.keys() == weights.keys() and all(torch.equal(tensor, weights[name]) for name, tensor in state.items())


@pytest.fixture
def saved(tmp_path):
    model = make()
    save(tmp_path / "best", model)
    return tmp_path / "best", model


def test_timm_and_we_load_the_same_model(saved):
    folder, model = saved
    assert {path.name for path in folder.iterdir()} == set(FILES)
    loaded = load_checkpoint(folder)
    assert (loaded.classes, loaded.recipe) == (CLASSES, RECIPE)
    with_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        logits = model(clip)
        assert torch.equal(loaded.model.eval()(clip), logits)
        assert torch.equal(with_timm(clip), logits)
    assert with_timm.pretrained_cfg["label_names"] == list(CLASSES)


def test_weights_that_are_not_the_models(tmp_path):
    model = make()
    average = {name: tensor / 2 for name, tensor in model.state_dict().items()}
    before = copy.deepcopy(model.state_dict())
    save(tmp_path / "best", model, weights=average)
    assert same(load_checkpoint(tmp_path / "best").model, average)
    assert same(model, before)
    other = make()
    load_weights(tmp_path / "best", other)
    assert same(other, average)


def test_a_model_without_weights_of_its_own(tmp_path):
    """A sharded model's process has a part of it only: the structure is the model's, the weights are those given."""
    weights = make().state_dict()
    with torch.device("meta"):
        empty = make()
    save(tmp_path / "best", empty, weights=weights)
    assert same(timm.create_model(f"local-dir:{tmp_path / 'best'}", pretrained=True), weights)


def test_weights_of_another_model_are_refused_before_anything_is_written(tmp_path):
    model = make()
    lacking = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    with pytest.raises(ValueError, match=r"not of this model: head\.bias, head\.weight differ; pass the model's whole"):
        save(tmp_path / "best", model, weights=lacking)
    with pytest.raises(ValueError, match=r"not of this model: .* and others differ"):
        save(tmp_path / "best", model, weights=make(embed_dim=32).state_dict())
    assert list(tmp_path.iterdir()) == []


def test_shared_and_transposed_weights(tmp_path):
    model = make()
    weights = model.state_dict()
    weights["head.weight"] = torch.randn(16, 2).t()
    weights["norm.bias"] = weights["norm.weight"]
    save(tmp_path / "best", model, weights=weights)
    assert same(load_checkpoint(tmp_path / "best").model, weights)


def test_where_in_its_training_a_model_was_taken(tmp_path):
    model = make()
    extra = {"epoch": 3, "step": 120, "ema": True, "val": {"top1": 0.75}}
    save(tmp_path / "best", model, extra=extra)
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["training"] == extra
    assert config["label_names"] == list(CLASSES)
    assert same(load_checkpoint(tmp_path / "best").model, model.state_dict())
    save(tmp_path / "best", model)
    assert "training" not in json.loads((tmp_path / "best" / "config.json").read_text())


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda _: b"",
    "zeroed": lambda content: bytes(len(content)),
    "a bit flipped in front": lambda content: content[:1] + bytes([content[1] ^ 1]) + content[2:],
    "a bit flipped": lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
    "a bit flipped at the end": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_of_any_file_is_named(saved, name, kind):
    folder, _ = saved
    file = folder / name
    file.write_bytes(DAMAGES[kind](file.read_bytes()))
    with pytest.raises(ValueError, match=r"; copy (it|or train it) again") as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value)
    assert name in str(error.value) or name == "manifest.json"
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"; copy or train it again, or delete its manifest\.json if it was"):
        load_weights(folder, make())
    # a training that runs replaces what was damaged meanwhile
    model = make()
    save(folder, model)
    assert same(load_checkpoint(folder).model, model.state_dict())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_was_deleted_is_named(saved, name):
    folder, model = saved
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as error:
        load_checkpoint(folder)
    assert str(folder) in str(error.value)
    with pytest.raises(ValueError, match=f"{name} is missing".replace(".", r"\.")):
        load_weights(folder, make())
    save(folder, model)
    assert load_checkpoint(folder).classes == CLASSES


def test_without_a_manifest_as_older_versions_wrote_it(saved):
    """And as it is on purpose changed: the weights are read all the same, strictly."""
    folder, model = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "label_names": ["L", "R"]}))
    with pytest.raises(ValueError, match=r"config\.json has .*; copy or train it again, or delete its manifest\.json"):
        load_checkpoint(folder)
    (folder / "manifest.json").unlink()
    loaded = load_checkpoint(folder)
    assert loaded.classes == ("L", "R")
    assert same(loaded.model, model.state_dict())
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"the model in .* cannot be loaded"):
        load_checkpoint(folder)


def test_something_else_in_the_place(tmp_path):
    photos = tmp_path / "best"
    photos.mkdir()
    (photos / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="best is not a checkpoint and will not be replaced; move it away"):
        save(photos, make())
    (tmp_path / "last").touch()
    with pytest.raises(ValueError, match="last is not a checkpoint and will not be replaced; move it away"):
        save(tmp_path / "last", make())
    assert [path.name for path in photos.iterdir()] == ["holiday.jpg"]
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", make())


def test_readable_for_everybody_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        save(tmp_path / "best", make())
    finally:
        os.umask(before)
    assert (tmp_path / "best").stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "best").iterdir()} == {0o644}


def test_disk_full_while_the_weights_are_written(saved):
    folder, model = saved
    weights = load_file(folder / "model.safetensors")
    assert run(save_where_files_are_small, folder) == 3
    assert same(load_checkpoint(folder).model, weights)
    assert same(model, weights)
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def save_where_files_are_small(folder):
    """Exits with 3 if the error says what it should."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    try:
        save(folder, make())
    except OSError as error:
        said = str(error)
        right = said.startswith(f"{folder} cannot be written (") and "File too large" in said
        sys.exit(3 if right and "what was there before is untouched" in said else said)


def save_and_die(folder, number):
    """Write a model's folder and die on the way."""
    torch.manual_seed(1)
    model = make()
    die_at(number, folder.parent)
    save(folder, model)


def test_kill_while_best_is_replaced(tmp_path):
    """At every fifth touch of the file system: afterwards it is the old model or the new one, whole."""
    old = make()
    torch.manual_seed(1)
    new = make().state_dict()
    counts = {"old": 0, "new": 0}
    for number in range(1, 200, 5):
        shutil.rmtree(tmp_path / "best", ignore_errors=True)
        save(tmp_path / "best", old)
        code = run(save_and_die, tmp_path / "best", number)
        recover(tmp_path / "best")
        loaded = load_checkpoint(tmp_path / "best").model
        which = "new" if same(loaded, new) else "old"
        assert same(loaded, new if which == "new" else old.state_dict())
        counts[which] += 1
        assert {path.name for path in tmp_path.iterdir()} == {"best"}
        if code == 0:
            break
    assert code == 0
    assert counts["old"] > 3
    assert counts["new"] > 0
