"""Views, averaging and gathering, on a data set and a model simple enough to work by hand."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import tiny_checkpoint
from torch import nn

from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.engine import evaluate as evaluate_module
from timesformer_plus.engine.evaluate import evaluate_checkpoint
from timesformer_plus.engine.evaluation import evaluate
from timesformer_plus.engine.memory import MemoryShortageError
from timesformer_plus.engine.predictions import load_predictions
from timesformer_plus.engine.protocols import Protocol
from timesformer_plus.engine.score_tables import print_classes, print_metrics, write_confusion
from timesformer_plus.engine.views import Interrupted, predict_views


class NumberedClips(torch.utils.data.Dataset):
    """Video ``i`` has two views, all of whose pixels are ``values[i][view]``."""

    def __init__(self, values, labels, *, classes=("a", "b"), pairs=None, multi_label=False):
        pairs = pairs or [""] * len(values)
        samples = tuple(
            Sample(f"{i}.mp4", Path(f"{i}.mp4"), label, pair)
            for i, (label, pair) in enumerate(zip(labels, pairs, strict=True))
        )
        self.manifest = Manifest(samples, tuple(classes), multi_label)
        self.values = values
        self.num_views = len(values[0])
        self.asked = []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        self.asked.append(key)
        _, index, view = key
        video = torch.full((3, 2, 4, 4), float(self.values[index][view]))
        return Clip(video, torch.tensor(self.manifest.samples[index].label), index, view, index, "", "", False)


def protocol(num_views=1, average="probabilities"):
    """So many clips of one crop."""
    cut = (8, "stride", 1, None, "repeat", (4, 4), None, None, (0.5,) * 3, (0.5,) * 3)
    return Protocol("by hand", num_views, 1, average, *cut)


def as_they_are(video, dtype):
    """In the place of ``Normalize``."""
    return video.to(dtype)


class MeanPixel(nn.Module):
    """Logits ``(m, -m)`` for a clip whose pixels have the mean ``m``."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, x):
        return x.mean(dim=(1, 2, 3, 4))[:, None] * self.weight


def test_probabilities_are_the_mean_over_views_not_of_logits():
    # the mean of the first video's logits favours class a (1/3 > 0), the mean of its probabilities class b (.41)
    dataset = NumberedClips([(3.0, -1.0, -1.0), (1.0, 1.0, 1.0)], [0, 1])
    predictions = predict_views(MeanPixel(), dataset, as_they_are, protocol=protocol(3), batch_size=4)
    views = torch.tensor([[3.0, -1.0, -1.0], [1.0, 1.0, 1.0]]).double()
    expected = torch.sigmoid(2 * views).mean(dim=1)  # softmax of (m, -m)
    probabilities = predictions.probabilities()
    torch.testing.assert_close(probabilities[:, 0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2).double())
    assert expected[0] < 0.5 < expected[1]
    assert predictions.ids == ("0.mp4", "1.mp4")
    assert predictions.targets.tolist() == [0, 1]
    torch.testing.assert_close(predictions.logits[..., 0], views.float(), rtol=0, atol=1e-6)


def test_logits_are_averaged_where_the_protocol_says_so():
    dataset = NumberedClips([(3.0, -1.0, -1.0), (1.0, 1.0, 1.0)], [0, 1])
    predictions = predict_views(MeanPixel(), dataset, as_they_are, protocol=protocol(3, "logits"), batch_size=4)
    # means 1/3 and 1, and so the first video is taken for the other class than by its probabilities
    expected = torch.sigmoid(2 * torch.tensor([1 / 3, 1.0]).double())
    torch.testing.assert_close(predictions.probabilities()[:, 0], expected, rtol=0, atol=1e-7)
    scored = evaluate(MeanPixel(), dataset, as_they_are, protocol=protocol(3, "logits"), batch_size=4)
    assert scored.metrics["per_class"] == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_every_view_is_asked_for_once_whatever_the_batch(batch_size):
    values = [(0.5, -2.0), (1.0, 1.0), (-3.0, 0.1)]
    dataset = NumberedClips(values, [0, 1, 1])
    metrics = evaluate(MeanPixel(), dataset, as_they_are, protocol=protocol(2), batch_size=batch_size).metrics
    assert dataset.asked == [(0, index, view) for index in range(3) for view in range(2)]
    # mean probability of class a: .37, .88, .28
    assert metrics["top1"] == pytest.approx(1 / 3)
    assert metrics["per_class"] == {"a": 0.0, "b": 0.5}


def test_multi_label_takes_the_mean_of_sigmoids():
    dataset = NumberedClips([(2.0, -1.0), (-1.0, -1.0)], [(1, 0), (0, 0)], pairs=["p", "p"], multi_label=True)
    predictions = predict_views(MeanPixel(), dataset, as_they_are, protocol=protocol(2), batch_size=3)
    views = torch.tensor([[2.0, -1.0], [-1.0, -1.0]]).double()
    expected = torch.stack([views.sigmoid().mean(dim=1), (-views).sigmoid().mean(dim=1)], dim=1)
    torch.testing.assert_close(predictions.probabilities(), expected, rtol=0, atol=1e-12)
    scored = evaluate(MeanPixel(), dataset, as_they_are, protocol=protocol(2), batch_size=3)
    metrics = scored.metrics
    assert scored.confusion == {}
    # a: .57 and .27, both right; b: .43 right and .73 wrong
    assert (metrics["accuracy/a"], metrics["accuracy/b"]) == (1.0, 0.5)
    assert (metrics["pair/a"], metrics["pair/b"], metrics["pair"]) == (1.0, 0.0, 0.5)


def test_model_is_scored_in_evaluation_mode_and_handed_back_as_it_was():
    class Spy(MeanPixel):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().forward(x)

    model = Spy().train()
    model.frozen = nn.Dropout().eval()
    evaluate(model, NumberedClips([(1.0,)], [0]), as_they_are, protocol=protocol(), batch_size=1)
    assert model.training
    assert not model.frozen.training

    class Broken(Spy):
        def forward(self, x):
            raise KeyError(f"forward of {x.ndim} dimensions")

    broken = Broken().train()
    with pytest.raises(KeyError, match="forward of 5"):
        evaluate(broken, NumberedClips([(1.0,)], [0]), as_they_are, protocol=protocol(), batch_size=1)
    assert broken.training


def test_clips_take_the_precision_of_the_weights():
    class Spy(MeanPixel):
        def forward(self, x):
            assert x.dtype == torch.float64
            return super().forward(x)

    dataset = NumberedClips([(0.1,)], [0])
    said = predict_views(Spy().double(), dataset, as_they_are, protocol=protocol(), batch_size=1)
    assert said.logits.dtype == torch.float64

    class Half(MeanPixel):
        def forward(self, x):
            return super().forward(x).bfloat16()

    half = predict_views(Half(), dataset, as_they_are, protocol=protocol(), batch_size=1)
    assert half.logits.dtype == torch.float32
    assert half.logits[0, 0, 0] == torch.tensor(0.1).bfloat16().float()


def test_batches_are_counted():
    counts = []
    dataset = NumberedClips([(1.0, 2.0)] * 3, [0] * 3)
    predict_views(MeanPixel(), dataset, as_they_are, protocol=protocol(2), batch_size=4, on_batch=counts.append)
    assert counts == [0, 4, 2]


def test_predictions_are_kept_and_scores_are_of_what_is_kept(tmp_path):
    dataset = NumberedClips([(3.0, -1.0), (1.0, 1.0), (-2.0, 0.5)], [0, 1, 1], pairs=["", "p", "p"])
    file = tmp_path / "predictions" / "val.npz"
    scored = evaluate(MeanPixel(), dataset, as_they_are, protocol=protocol(2), batch_size=4, predictions=file)
    said = load_predictions(file)
    assert said.ids == ("0.mp4", "1.mp4", "2.mp4")
    assert said.logits[..., 0].tolist() == [[3.0, -1.0], [1.0, 1.0], [-2.0, 0.5]]
    assert said.protocol == protocol(2)
    assert said.pairs == ("", "p", "p")
    assert scored.metrics["pair"] == 0.0
    assert scored.confusion == {"a": {"a": 1}, "b": {"a": 1, "b": 1}}
    again = evaluate(MeanPixel(), dataset, as_they_are, protocol=protocol(2), batch_size=4, predictions=file)
    assert again == scored


def test_predictions_that_cannot_be_written_are_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        evaluate(
            MeanPixel(),
            NumberedClips([(1.0,)], [0]),
            as_they_are,
            protocol=protocol(),
            batch_size=1,
            predictions=tmp_path / "file" / "val.npz",
        )


def test_memory_that_runs_out_is_told_by_what_to_change():
    class Greedy(MeanPixel):
        def forward(self, x):
            raise torch.OutOfMemoryError(f"CUDA out of memory for {len(x)} clips")

    with pytest.raises(MemoryShortageError, match="scoring 4 clips at a time needs more memory than there is; lower"):
        evaluate(Greedy(), NumberedClips([(1.0,)], [0]), as_they_are, protocol=protocol(), batch_size=4)


def test_waiting_is_told_before_the_others_are_waited_for():
    told = []
    evaluate(
        MeanPixel(),
        NumberedClips([(1.0,)] * 3, [0] * 3),
        as_they_are,
        protocol=protocol(),
        batch_size=2,
        on_batch=told.append,
        on_wait=lambda: told.append("waits"),
    )
    assert told == [0, 2, 1, "waits"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_score(bad):
    class Spoilt(MeanPixel):
        def forward(self, x):
            return torch.where(super().forward(x) > 1.5, bad, super().forward(x))

    dataset = NumberedClips([(1.0, 1.0), (1.0, 2.0)], [0, 1])
    with pytest.raises(ValueError, match=r"not finite for 1 videos \(1\.mp4, \.\.\.\)"):
        evaluate(Spoilt(), dataset, as_they_are, protocol=protocol(2), batch_size=4)


def test_evaluation_that_is_to_stop_reads_no_more():
    asked = []

    def requested():
        asked.append(None)
        return len(asked) > 1

    dataset = NumberedClips([(1.0,)] * 9, [0] * 9)
    with pytest.raises(Interrupted):
        evaluate(MeanPixel(), dataset, as_they_are, protocol=protocol(), batch_size=2, requested=requested)
    assert len(dataset.asked) == 4


def test_brackets_in_names_are_printed(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    names = ["Putting [something] into [something]", "x [/foo] y"]
    print_metrics("runs/[a]/best on [/b].csv", {"top1": 0.5, "per_class": dict.fromkeys(names, 0.25)})
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"per_class: {name}" in text for name in names)
    assert "runs/[a]/best on [/b].csv" in text
    print_classes({names[0]: {names[1]: 3, names[0]: 1}, names[1]: {names[1]: 2}})
    text = capsys.readouterr().out
    assert " 25.00 % " in text
    assert f"{names[1]} (3)" in text
    assert "100.00 %" in text


def test_of_many_classes_the_worst_are_shown(capsys):
    many = {f"c{i:02}": 0.5 for i in range(51)}
    print_metrics("title", {"top1": 0.5, "per_class": many})
    print_classes({name: {name: 99 - i, "another": i} for i, name in enumerate(many)})
    text = capsys.readouterr().out
    assert "top1" in text
    assert "per_class" not in text
    assert "the 10 worst of 51 classes; --output has all" in text
    rows = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│ c")]
    assert rows == [f"c{i}" for i in range(50, 40, -1)]


def test_confusion_matrix_is_whole_in_its_file(tmp_path):
    write_confusion(
        tmp_path / "new" / "c.csv", {"a, b": {"a, b": 1, "(unreadable)": 2}, "c": {"a, b": 3}}, ["a, b", "c", "d"]
    )
    assert (tmp_path / "new" / "c.csv").read_text().splitlines() == [
        'class,"a, b",c,d,(unreadable)',
        '"a, b",1,0,0,2',
        "c,3,0,0,0",
        "d,0,0,0,0",
    ]


def test_metrics_that_cannot_be_written_are_an_error_of_one_line(
    checkpoint, five_videos, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "metrics.json"
    words = [five_videos, "--model", checkpoint, "--output", output, "--threads", 1]
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        evaluate_module.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert str(tmp_path / "file") in error


def test_the_model_computes_in_the_precision_of_the_protocol():
    class Linear(MeanPixel):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3, 4))[:, None] @ self.weight[None]

    dataset = NumberedClips([(0.1,)], [0])
    exact = predict_views(Linear(), dataset, as_they_are, protocol=protocol(), batch_size=1)
    half = dataclasses.replace(protocol(), precision="bf16")
    said = predict_views(Linear(), dataset, as_they_are, protocol=half, batch_size=1)
    assert said.logits[0, 0, 0] == torch.tensor(0.1).bfloat16().float() != exact.logits[0, 0, 0]
    assert said.protocol.precision == "bf16"


def test_a_checkpoint_is_scored_in_its_own_precision_unless_another_is_given(direction, tmp_path):
    model = tiny_checkpoint(tmp_path / "best", direction, precision="bf16")
    said = {}
    for precision in (None, "bf16", "fp32", "fp64"):
        file = tmp_path / f"{precision}.npz"
        result = evaluate_checkpoint(direction / "test.csv", model=model, precision=precision, predictions=file)
        assert result["protocol"]["precision"] == (precision or "bf16")
        said[precision] = load_predictions(file).logits
    assert torch.equal(said[None], said["bf16"])
    assert not torch.equal(said[None], said["fp32"])
    assert said["fp64"].dtype == torch.float64
