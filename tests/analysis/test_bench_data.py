"""The table of data: all contestants read the same frames, and decoding alone decodes what has to be decoded."""

import av
import pytest
from torch.utils.data import DataLoader

from timesformer_plus.analysis.bench import data, data_contestants
from timesformer_plus.analysis.bench.data_contestants import CONTESTANTS, Task, check_same_clips, clips_of, make_loader
from timesformer_plus.analysis.bench.data_files import write_video
from timesformer_plus.analysis.bench.rows import check_row


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Forty frames of 256x340 in groups of ten."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return write_video(path, height=256, width=340, frames=40, group=10)


def test_videos_are_made_as_the_table_says(video):
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert (stream.codec_context.name, stream.height, stream.width, stream.average_rate) == ("h264", 256, 340, 30)
    assert len(packets) == 40
    assert [packet.pts for packet in packets if packet.is_keyframe] == [packets[i].pts for i in range(0, 40, 10)]
    # three B-frames in a row, as x264 sets out to have
    assert any(packet.pts != packet.dts for packet in packets)


def test_all_read_the_same_clips(video):
    task = Task(((video, 0), (video, 13)), num_frames=4, stride=6)
    check_same_clips(task)
    for who in CONTESTANTS:
        if who != data.LIMIT:
            batch = clips_of(next(iter(make_loader(who, task, 0))))
            assert batch.shape == (2, 3, 4, 224, 224), who
            assert batch.max() > 100, who


def test_one_that_reads_other_frames_is_found_out(video, monkeypatch):
    task = Task(((video, 3), (video, 13)), num_frames=4, stride=6)
    late = Task(((video, 4), (video, 14)), num_frames=4, stride=6)
    decord = CONTESTANTS["decord loop"]
    monkeypatch.setitem(data_contestants.CONTESTANTS, "decord loop", lambda _: decord(late))
    with pytest.raises(ValueError, match="decord loop reads other frames than ours"):
        check_same_clips(task)


@pytest.mark.parametrize(("first", "decoded"), [(0, 19), (9, 28), (10, 19), (13, 22)])
def test_the_limit_decodes_from_the_key_frame_to_the_last_frame(first, decoded, video):
    loader = make_loader(data.LIMIT, Task(((video, first),), num_frames=4, stride=6), 0)
    assert isinstance(loader, DataLoader)
    assert [int(batch) for batch in loader] == [decoded]


def test_clips_are_drawn_within_the_files(tmp_path):
    case = data.Case("a", 256, 340, files=2, clips=50)
    task = data._draw(case, [tmp_path / "a.mp4", tmp_path / "b.mp4"], 80)
    assert task == data._draw(case, [tmp_path / "a.mp4", tmp_path / "b.mp4"], 80)
    starts = [first for _, first in task.places]
    assert (min(starts), max(starts) + task.span) >= (0, 0)
    assert max(starts) + task.span <= 80
    assert len(set(starts)) > 10


def test_the_table(capsys):
    said = []
    rows = data.measure(rounds=1, quick=True, progress=said.append)
    assert [row["name"] for row in rows] == [f"ours / {who}, 340x256, 1 worker" for who in CONTESTANTS if who != "ours"]
    for row in rows:
        check_row(row)
        ours, theirs = row["detail"]["ours_clips_per_s"], row["detail"]["theirs_clips_per_s"]
        assert row["values"] == [pytest.approx(ours / theirs)]
        assert bool(row["note"]) == (row["target"] is not None and row["median"] < row["target"])
    assert [row["target"] for row in rows] == [2.0, 2.0, None, 0.8]
    assert any("340x256" in text for text in said)
    assert not capsys.readouterr().out
