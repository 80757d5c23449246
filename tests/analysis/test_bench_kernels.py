"""The benchmark's table of attention kernels."""

import pytest
import torch

from timesformer_plus.analysis.bench import kernels
from timesformer_plus.analysis.bench.rows import check_row


class Told:
    def __init__(self):
        self.steps, self.said = [], []

    def __call__(self, text):
        self.steps.append(text)

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def _few_places(monkeypatch):
    monkeypatch.setattr(kernels, "PLACES", 4)
    monkeypatch.setattr(kernels, "CLIPS", {"cpu": 2, "cuda": 2})


def test_copies_and_views_are_the_same_attention():
    q, k, v = (torch.randn(2, 3, 4 * kernels.HEADS, kernels.WIDTH) for _ in range(3))
    y = kernels._by_copies(q, k, v)
    assert y.shape == (2, 3, 4 * kernels.HEADS * kernels.WIDTH)
    torch.testing.assert_close(y, kernels._by_views("sdpa", q, k, v))


def test_on_a_cpu_sdpa_alone_has_rows():
    told = Told()
    rows = kernels.measure(rounds=2, progress=told, device="cpu")
    assert [row["name"] for row in map(check_row, rows)] == [
        f"T={frames} {what}: sdpa over SDPA on copies" for frames in (4, 8, 16, 32) for what in ("forward", "training")
    ]
    assert all(row["table"] == "kernels" and len(row["values"]) == 2 and row["target"] is None for row in rows)
    assert "flex and triton get no rows" in told.said[0]
    assert len(kernels.measure(rounds=1, quick=True, progress=told, device="cpu")) == 2


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_on_a_gpu_every_kernel_has_rows():
    told = Told()
    rows = [check_row(row) for row in kernels.measure(rounds=1, quick=True, progress=told, device="cuda")]
    assert len(rows) == 6
    assert not told.said
    assert [row["target"] for row in rows if row["target"]] == [kernels.TARGET]
