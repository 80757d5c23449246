"""Views, averaging and gathering, on a data set and a model simple enough to work by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.engine import evaluate as evaluate_module
from timesformer_plus.engine.evaluate import evaluate, predict_views, print_metrics


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
    predictions = predict_views(MeanPixel(), dataset, as_they_are, batch_size=4)
    views = torch.tensor([[3.0, -1.0, -1.0], [1.0, 1.0, 1.0]]).double()
    expected = torch.sigmoid(2 * views).mean(dim=1)  # softmax of (m, -m)
    torch.testing.assert_close(predictions.probabilities[:, 0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(predictions.probabilities.sum(dim=1), torch.ones(2).double())
    assert expected[0] < 0.5 < expected[1]
    assert predictions.ids == ("0.mp4", "1.mp4")
    assert predictions.targets.tolist() == [0, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_every_view_is_asked_for_once_whatever_the_batch(batch_size):
    values = [(0.5, -2.0), (1.0, 1.0), (-3.0, 0.1)]
    dataset = NumberedClips(values, [0, 1, 1])
    metrics = evaluate(MeanPixel(), dataset, as_they_are, batch_size=batch_size).metrics
    assert dataset.asked == [(0, index, view) for index in range(3) for view in range(2)]
    # mean probability of class a: .37, .88, .28
    assert metrics["top1"] == pytest.approx(1 / 3)
    assert metrics["per_class"] == {"a": 0.0, "b": 0.5}


def test_multi_label_takes_the_mean_of_sigmoids():
    dataset = NumberedClips([(2.0, -1.0), (-1.0, -1.0)], [(1, 0), (0, 0)], pairs=["p", "p"], multi_label=True)
    predictions = predict_views(MeanPixel(), dataset, as_they_are, batch_size=3)
    views = torch.tensor([[2.0, -1.0], [-1.0, -1.0]]).double()
    expected = torch.stack([views.sigmoid().mean(dim=1), (-views).sigmoid().mean(dim=1)], dim=1)
    torch.testing.assert_close(predictions.probabilities, expected, rtol=0, atol=1e-12)
    metrics = evaluate(MeanPixel(), dataset, as_they_are, batch_size=3).metrics
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
    evaluate(model, NumberedClips([(1.0,)], [0]), as_they_are, batch_size=1)
    assert model.training


def test_clips_take_the_precision_of_the_weights():
    class Spy(MeanPixel):
        def forward(self, x):
            assert x.dtype == torch.float64
            return super().forward(x)

    evaluate(Spy().double(), NumberedClips([(1.0,)], [0]), as_they_are, batch_size=1)


def test_batches_are_counted():
    counts = []
    predict_views(
        MeanPixel(), NumberedClips([(1.0, 2.0)] * 3, [0] * 3), as_they_are, batch_size=4, on_batch=counts.append
    )
    assert counts == [4, 2]


def test_brackets_in_names_are_printed(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    names = ["Putting [something] into [something]", "x [/foo] y"]
    print_metrics("runs/[a]/best on [/b].csv", {"top1": 0.5, "per_class": dict.fromkeys(names, 0.25)})
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"per_class: {name}" in text for name in names)
    assert "runs/[a]/best on [/b].csv" in text


def test_metrics_that_cannot_be_written_are_an_error_of_one_line(
    finished_run, five_videos, tmp_path, monkeypatch, capsys
):
    folder, _ = finished_run
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "metrics.json"
    words = [five_videos, "--model", folder / "best", "--output", output, "--threads", 1]
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        evaluate_module.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert str(tmp_path / "file") in error
