"""What a run shows."""

import io
import re

import pytest
from rich.console import Console

from timesformer_plus.engine.display import Display


def shown(display):
    text = display.console.file.getvalue()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def on(*, terminal, steps=10, enabled=True):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, highlight=False, soft_wrap=True)
    return Display(enabled=enabled, steps=steps, console=console)


def update(display, count=1, epoch=0, seconds=2.0):
    for _ in range(count):
        display.step(epoch, loss=1.25, lr=3e-4, clips=16, seconds=seconds, waited=0.5)


def report(display, **changes):
    numbers = {
        "loss": 0.5,
        "clips_per_second": 8.0,
        "data_wait": 0.25,
        "val": {"top1": 0.75},
        "bad_videos": 0,
        "short_videos": 0,
    }
    display.epoch(0, **{**numbers, **changes})


def test_a_terminal_shows_speed_waiting_memory_and_time_left():
    with on(terminal=True) as display:
        update(display, 4)
    text = shown(display)
    assert "4/10" in text
    assert "epoch 1  loss 1.2500  lr 3.00e-04  8.0 clips/s  data wait 25 %" in text
    assert re.search(r"\d\.\d GB", text)
    assert "0:00:12 left" in text  # 6 updates of 2 s


def test_elsewhere_there_is_a_line_an_epoch():
    with on(terminal=False) as display:
        update(display, 5)
        report(display)
        update(display, 5, epoch=1)
        report(display, val=None, bad_videos=2, short_videos=3)
    first, second = shown(display).splitlines()
    assert re.fullmatch(
        r"epoch   1  loss 0\.5000      8\.0 clips/s  data wait 25 %  \d+\.\d GB( GPU)?  "
        r"val top1 75\.00 %  0:00:10 left",
        first,
    )
    assert second.endswith("2 unreadable  3 too short")  # the end: nothing is left


def test_a_resumed_run_goes_on_counting():
    with on(terminal=True) as display:
        display.resume(6)
        update(display, 1)
    text = shown(display)
    assert "7/10" in text
    assert "0:00:06 left" in text  # updates of the part before do not count as free


def test_time_left_follows_the_recent_updates():
    display = on(terminal=False, steps=200)
    update(display, 60, seconds=100.0)
    update(display, 50, seconds=1.0)
    report(display)
    assert "0:01:30 left" in shown(display)


def test_nothing_is_shown_when_told_so():
    for terminal in (True, False):
        with on(terminal=terminal, enabled=False) as display:
            display.say("a line")
            update(display)
            report(display)
            with display.evaluating("val"):
                pass
        assert shown(display) == ""


def test_scoring_is_said_and_taken_back_even_after_an_error():
    told = []
    with on(terminal=True) as display:

        def score():
            with display.evaluating("val"):
                told.append(display._bar.tasks[0].description)
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            score()
        told.append(display._bar.tasks[0].description)
    assert told == ["scoring val", "training"]


def test_brackets_in_names_are_no_markup():
    display = on(terminal=False)
    display.say("videos [bold]x[/] of a[0].mp4")
    assert shown(display) == "videos [bold]x[/] of a[0].mp4\n"


def test_the_outcome():
    display = on(terminal=False)
    display.result({"test": {"top1": 0.5}, "val": {"top1": 0.6}, "train_seconds": 12.3, "best_epoch": 2})
    assert shown(display) == "done in 12 s of training: best epoch 3  val top1 60.00 %  test top1 50.00 %\n"
