"""The file of predictions: documented, whole, the same twice, and read back as it was."""

import dataclasses
import json
import math
import re
import resource

import numpy as np
import pytest
import torch

from timesformer_plus.engine import predictions as predictions_module
from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.evaluation import summarise
from timesformer_plus.engine.predictions import Predictions, load_predictions, save_predictions

PROTOCOL = ClipRecipe(8, 1, "stride", (32, 32), (0.5,) * 3, (0.5,) * 3, multi_label=False, num_clips=2).protocol


def make(num_videos=4, num_classes=3, *, multi_label=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_videos, 2, num_classes, generator=generator, dtype=dtype)
    read = torch.ones(num_videos, 2, dtype=torch.bool)
    read[1, 1] = False
    logits[1, 1] = torch.nan
    targets = torch.arange(num_videos) % num_classes
    return Predictions(
        ids=("a/ä b.mp4", "a/\udcff.mp4", *(f"b/{i}.mp4" for i in range(num_videos - 2))),
        logits=logits,
        read=read,
        targets=torch.eye(num_classes, dtype=torch.int64)[targets] if multi_label else targets,
        pairs=("p", "p", *("" for _ in range(num_videos - 2))),
        short=torch.arange(num_videos) == 2,
        reasons=("", "is cut off", *("" for _ in range(num_videos - 2))),
        classes=tuple(f"class {k}" for k in range(num_classes)),
        protocol=PROTOCOL,
    )


def same(one, other):
    tensors = ("logits", "read", "targets", "short")
    for name in tensors:
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype, name
        assert torch.equal(first.nan_to_num(-77.0), second.nan_to_num(-77.0)), name
    nothing = dict.fromkeys(tensors)
    assert dataclasses.replace(one, **nothing) == dataclasses.replace(other, **nothing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("multi_label", [False, True])
def test_predictions_come_back_as_they_were(tmp_path, multi_label, dtype):
    said = make(multi_label=multi_label, dtype=dtype)
    save_predictions(tmp_path / "new" / "val.npz", said)
    again = load_predictions(tmp_path / "new" / "val.npz")
    same(again, said)
    assert again.multi_label == multi_label
    assert again.scored.tolist() == [True, False, True, True]
    assert again.unreadable == {"a/\udcff.mp4": "is cut off"}
    # the same predictions are the same file, and nothing else is left behind
    save_predictions(tmp_path / "new" / "again.npz", again)
    assert (tmp_path / "new" / "again.npz").read_bytes() == (tmp_path / "new" / "val.npz").read_bytes()
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["again.npz", "val.npz"]


def test_the_file_is_as_documented(tmp_path):
    said = make(dtype=torch.float32)
    save_predictions(tmp_path / "val.npz", said)
    rows = re.findall(r"^(\w+) +\(([\w, ]*)\) (\w+)", predictions_module.__doc__, flags=re.MULTILINE)
    sizes = {"N": 4, "R": 8, "K": 3}
    with np.load(tmp_path / "val.npz", allow_pickle=False) as file:
        assert [name for name, *_ in rows] == file.files
        for name, shape, kind in rows:
            assert file[name].shape == tuple(sizes[s.strip()] for s in shape.split(",") if s.strip()), name
            assert {"str": "U", "float": "f"}.get(kind, kind) in (file[name].dtype.kind, file[name].dtype.name), name
        assert file["video"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert file["view"].tolist() == [0, 1] * 4
        assert file["status"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
        assert np.isnan(file["logits"]).any(axis=1).tolist() == [status == 1 for status in file["status"]]
        assert np.array_equal(file["logits"][5], said.logits[2, 1].numpy())
        assert json.loads(str(file["protocol"]))["average"] == "probabilities"
    # nothing in it is pickled: what could be would be an array of objects
    assert b"pickle" not in (tmp_path / "val.npz").read_bytes()


def test_averages_by_hand():
    said = make()
    views = said.logits.double()
    probabilities = said.probabilities()
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities[0], views[0].softmax(dim=-1).mean(dim=0), rtol=0, atol=1e-15)
    assert probabilities[1].isnan().all()
    logits = dataclasses.replace(said, protocol=dataclasses.replace(PROTOCOL, average="logits"))
    torch.testing.assert_close(logits.probabilities()[0], views[0].mean(dim=0).softmax(dim=-1), rtol=0, atol=1e-15)
    several = dataclasses.replace(make(multi_label=True), protocol=logits.protocol)
    torch.testing.assert_close(several.probabilities()[0], views[0].mean(dim=0).sigmoid(), rtol=0, atol=1e-15)


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "val.npz"
    save_predictions(path, make())
    whole = path.read_bytes()
    half = whole[: len(whole) // 2]
    flipped = bytearray(whole)
    flipped[whole.index("class 1".encode("utf-32-le"))] ^= 1
    for content in (b"", b"dear reader", half, bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"val\.npz is no file of predictions, or a damaged one"):
            load_predictions(path)
    np.savez(path, logits=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="is not a file of predictions of format 1"):
        load_predictions(path)
    with pytest.raises(FileNotFoundError):
        load_predictions(tmp_path / "no.npz")


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "val.npz"
    save_predictions(path, make())
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_predictions(path, make(2000, 50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["val.npz"]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_a_very_wrong_answer_costs_what_it_costs(average):
    said = dataclasses.replace(
        make(2, 2),
        logits=torch.tensor([[[60.0, 0.0]] * 2, [[0.0, 60.0]] * 2]),
        read=torch.ones(2, 2, dtype=torch.bool),
        targets=torch.tensor([1, 1]),
        protocol=dataclasses.replace(PROTOCOL, average=average),
    )
    assert summarise(said).metrics["loss"] == pytest.approx(30.0, abs=1e-9)
    several = dataclasses.replace(said, targets=torch.tensor([[0, 1], [1, 1]]))
    # a yes that is wrong, one that is right, and twice a logit of 0
    assert summarise(several).metrics["loss"] == pytest.approx((60 + 0 + 2 * math.log(2)) / 4, abs=1e-9)
    views = dataclasses.replace(said, logits=torch.tensor([[[60.0, 0.0], [0.0, 0.0]], [[0.0, 60.0]] * 2]))
    first = math.log(2) + math.log(2) if average == "probabilities" else 30.0
    assert summarise(views).metrics["loss"] == pytest.approx(first / 2, abs=1e-9)


def test_nats_are_those_of_the_probabilities():
    for multi_label in (False, True):
        for average in ("probabilities", "logits"):
            said = dataclasses.replace(
                make(multi_label=multi_label), protocol=dataclasses.replace(PROTOCOL, average=average)
            )
            p = said.probabilities()
            chance = (
                torch.where(said.targets > 0, p, 1 - p) if multi_label else p.gather(1, said.targets[:, None])[:, 0]
            )
            torch.testing.assert_close(said.nats(), -chance.log(), rtol=0, atol=1e-12, equal_nan=True)


def test_infinite_logits_leave_a_finite_loss():
    logits = torch.tensor([[[0.0, -math.inf]] * 2, [[0.0, 0.0]] * 2])
    read = torch.ones(2, 2, dtype=torch.bool)
    said = dataclasses.replace(make(2, 2), logits=logits, read=read, targets=torch.tensor([1, 1]))
    assert math.isfinite(summarise(said).metrics["loss"])


@pytest.mark.parametrize(
    ("change", "wrong"), [("drop", "it has no view"), ("cut", "its arrays are of different lengths")]
)
def test_file_without_an_array_or_with_half_of_one_is_damaged(change, wrong, tmp_path):
    save_predictions(tmp_path / "whole.npz", make())
    with np.load(tmp_path / "whole.npz") as file:
        arrays = dict(file)
    view = arrays.pop("view")
    np.savez(tmp_path / "half.npz", **arrays, **({} if change == "drop" else {"view": view[:-1]}))
    with pytest.raises(ValueError, match=rf"half.npz is a damaged file of predictions \({wrong}\); evaluate again"):
        load_predictions(tmp_path / "half.npz")
