"""The runner, on a trainer that trains nothing: skipping, failing, stopping, locking."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ablation_fakes import FAKE_TRAINER
from rich.console import Console

from timesformer_plus.analysis import ablation, page
from timesformer_plus.analysis import runner as runner_module
from timesformer_plus.analysis.ablation import main
from timesformer_plus.analysis.json_files import read_json
from timesformer_plus.analysis.processes import FolderBusyError, folder_lock
from timesformer_plus.analysis.runner import log_tail
from timesformer_plus.analysis.sweep import plan_runs
from timesformer_plus.analysis.time_sensitivity import ProbeError

TS = {"model.pattern": "ts", "fake.score": 0.9}


def calls(sweep):
    """Trainings that were started, as 'pattern seed threads'."""
    file = sweep.output / "calls.txt"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_run_trains_once_seed_by_seed(make_sweep, run):
    sweep = make_sweep({"s": {}, "ts": TS}, seeds=(0, 1), threads=1)
    status, text = run(sweep)
    assert status == 0
    assert calls(sweep) == ["s 0 1", "ts 0 1", "s 1 1", "ts 1 1"]
    assert all((r.folder / "log.txt").read_text() == "epoch 1 of 1\n" for r in plan_runs(sweep))
    assert all(read_json(r.folder / "sweep.json")["status"] == "finished" for r in plan_runs(sweep))
    assert {path.name for path in sweep.output.iterdir()} >= {"report.md", "results.json", "report.html"}
    lines = text.splitlines()
    assert lines[0].startswith("4 runs, 0 of them finished; 1 at a time")
    assert lines[1] == "task/s/seed=0: started"
    assert "task/ts/seed=1: finished" in text
    assert "; 4 of 4, about 0.0 s left" in text


def test_second_call_trains_and_measures_nothing(make_sweep, run, measure):
    sweep = make_sweep({"s": {}, "ts": TS})
    run(sweep)
    report = (sweep.output / "results.json").read_text()
    status, text = run(sweep)
    assert status == 0
    assert len(calls(sweep)) == 4
    assert measure.asked == [["ts", "s"]] or measure.asked == [["s", "ts"]]
    assert "4 of them finished" in text
    assert (sweep.output / "results.json").read_text() == report


def test_the_sweep_decides_on_the_threads_of_training_and_measurement(make_sweep, run, tmp_path):
    sweep = make_sweep({"s": {}}, seeds=(0,), threads=1)
    base = tmp_path / "base.yaml"
    base.write_text(base.read_text() + "threads: 1\n")
    run(sweep)
    more = replace(sweep, threads=3, on_change="rerun", time_sensitivity=False)
    _, text = run(more)
    assert calls(sweep) == ["s 0 1", "s 0 3"]
    assert plan_runs(more)[0].stored_options()["threads"] == 3
    assert "finished with other options: threads: 1 -> 3" in text
    assert read_json(sweep.output / "task" / "s" / "cost.json")["speed"]["threads"] == 3
    report = read_json(sweep.output / "results.json")
    assert report["measured"]["threads"] == 3
    assert report["suites"]["task"]["measured"]["speed_on"].startswith("test <cpu>, 3 thread(s)")


def test_a_new_variant_trains_alone_and_is_measured_beside_the_others(make_sweep, run, measure):
    run(make_sweep({"s": {}}))
    sweep = make_sweep({"s": {}, "ts": TS})
    run(sweep)
    assert calls(sweep) == ["s 0 1", "s 1 1", "ts 0 1", "ts 1 1"]
    assert [sorted(asked) for asked in measure.asked] == [["s"], ["s", "ts"]]


def test_failure_is_shown_and_stops_nothing(make_sweep, run):
    sweep = make_sweep({"s": {"fake.fail": [0]}, "ts": {**TS, "fake.silent": [1]}})
    status, text = run(sweep)
    assert status == 1
    assert len(calls(sweep)) == 4
    assert "task/s/seed=0: failed, exit status 3" in text
    assert "    | loss is nan\n    | RuntimeError: <planted> failure\n" in text
    assert "task/ts/seed=1: failed, it ended without writing result.json" in text
    assert "missing: task/s/seed=0: failed, exit status 3" in text
    assert [m["name"] for m in read_json(sweep.output / "results.json")["suites"]["task"]["missing"]] == [
        "task/s/seed=0",
        "task/ts/seed=1",
    ]


def test_what_failed_is_left_and_shown_unless_it_is_to_be_run_again(make_sweep, run):
    sweep = make_sweep({"s": {"fake.fail": [0]}, "ts": TS})
    run(sweep)
    status, text = run(sweep)
    assert status == 1
    assert len(calls(sweep)) == 4
    assert "4 runs, 3 of them finished, 1 failed; 1 at a time" in text
    assert "task/s/seed=0: has failed, exit status 3; last lines of " in text
    assert "    | loss is nan\n    | RuntimeError: <planted> failure\n" in text
    assert "missing: task/s/seed=0: failed, exit status 3" in text
    status, text = run(replace(sweep, rerun_failed=True))
    assert status == 1
    assert calls(sweep)[4:] == ["s 0 1"]
    assert "task/s/seed=0: failed, exit status 3" in text


def test_what_failed_with_other_options_is_run_and_nothing_else(make_sweep, run):
    run(make_sweep({"s": {"fake.fail": [0]}, "ts": TS}))
    sweep = make_sweep({"s": {"fake.fail": []}, "ts": TS}, on_change="rerun", seeds=(0,))
    status, _ = run(sweep)
    assert status == 0
    assert calls(sweep)[4:] == ["s 0 1"]


def test_changed_options_are_refused_unless_told_otherwise(make_sweep, run):
    run(make_sweep({"s": {}}))
    changed = {"s": {"fake.score": 0.6}}
    with pytest.raises(ValueError, match=r"2 finished runs in .* have other options"):
        run(make_sweep(changed))
    assert len(calls(make_sweep(changed))) == 2
    status, text = run(make_sweep(changed, on_change="rerun"))
    assert status == 0
    assert "task/s/seed=0 is finished with other options: fake.score: 0.5 -> 0.6" in text
    assert len(calls(make_sweep(changed))) == 4


@pytest.fixture
def data(tmp_path):
    """A folder of data as far as a sweep reads it."""
    root = tmp_path / "data"
    root.mkdir()
    for name in ("train.csv", "val.csv", "test.csv", "classes.txt", "dataset.json"):
        (root / name).write_text(f"{name} of seed 0")
    return root


def test_data_made_anew_is_refused_unless_told_otherwise(make_sweep, run, data):
    variants = {"s": {"data.root": str(data)}}
    run(make_sweep(variants))
    assert "2 of them finished" in run(make_sweep(variants))[1]
    (data / "dataset.json").write_text("dataset.json of seed 1")  # the manifests of two seeds can be the same
    with pytest.raises(ValueError, match=r"2 finished runs in .* have other data than there are now"):
        run(make_sweep(variants))
    assert len(calls(make_sweep(variants))) == 2
    status, text = run(make_sweep(variants, on_change="rerun"))
    assert status == 0
    assert "task/s/seed=0 is finished with other data: dataset.json differs" in text
    assert len(calls(make_sweep(variants))) == 4
    assert "2 of them finished" in run(make_sweep(variants))[1]


def test_figures_from_other_data_are_not_reported(make_sweep, run, data):
    variants = {"s": {"data.root": str(data)}}
    run(make_sweep(variants, seeds=(0,)))
    (data / "test.csv").write_text("other clips")
    status, text = run(make_sweep(variants, seeds=(0,), report_only=True))
    assert status == 1
    assert "missing: task/s/seed=0: finished with other data" in text


def test_finished_runs_outlive_their_data_and_say_that_they_cannot_be_checked(make_sweep, run, data):
    variants = {"s": {"data.root": str(data)}}
    run(make_sweep(variants, seeds=(0,)))
    data.rename(data.with_name("elsewhere"))
    for report_only in (False, True):
        status, text = run(make_sweep(variants, seeds=(0,), report_only=report_only))
        assert status == 0
        assert f"{data} is no folder (any more): whether the finished runs were trained on the same data is" in text
    with pytest.raises(ValueError, match=r"task/s/seed=1 cannot be trained: data\.root=.* is no folder"):
        run(make_sweep(variants, seeds=(0, 1)))


def test_missing_manifest_is_found_before_anything_trains(make_sweep, run, data):
    (data / "val.csv").unlink()
    sweep = make_sweep({"s": {"data.root": str(data)}})
    with pytest.raises(ValueError, match=r"task/s/seed=0 cannot be trained: .* has no val\.csv that can be read"):
        run(sweep)
    assert calls(sweep) == []


def test_finished_models_are_scored_on_altered_clips_unless_told_otherwise(make_sweep, run, probe):
    sweep = make_sweep({"s": {}, "ts": {**TS, "fake.fail": [1]}}, time_sensitivity=False)
    run(sweep)
    assert probe.asked == []
    _, text = run(replace(sweep, time_sensitivity=True))
    assert probe.asked == [["s seed=0", "ts seed=0", "s seed=1"]]
    assert "scoring 3 models on altered clips" in text


def test_models_that_cannot_be_scored_on_altered_clips_are_named_and_lose_nothing(make_sweep, run):
    sweep = make_sweep({"s": {}})

    def probe(folders, *, threads):
        assert threads == 1
        raise ProbeError({folders[1]: "ValueError: the videos are gone"})

    status, text = run(sweep, probe=probe)
    assert status == 1
    assert "task/s/seed=1: not scored on altered clips: ValueError: the videos are gone\n" in text
    assert "2 of 2 runs are in the figures." in text


def test_a_model_that_cannot_be_measured_loses_no_other(make_sweep, run, measure):
    def fails_for_ts(folders, threads):
        if "ts" in folders:
            raise RuntimeError("out of\nmemory")
        return measure(folders, threads)

    sweep = make_sweep({"s": {}, "ts": TS, "st": {}})
    status, text = run(sweep, measure=fails_for_ts)
    assert status == 1
    assert "task/ts: its cost could not be measured: RuntimeError: out of memory\n" in text
    assert sorted(measure.asked[-1]) == ["s", "st"]
    rows = read_json(sweep.output / "results.json")["suites"]["task"]["rows"]
    assert {row["variant"]: row["params"] for row in rows if row["params"]} == {"s": 1000, "st": 1000, "ts": 1000}
    assert {row["variant"] for row in rows if row["gflops"]} == {"s", "st"}
    assert run(sweep)[0] == 0


def test_a_page_that_cannot_be_drawn_does_not_lose_the_figures(make_sweep, run, monkeypatch):
    monkeypatch.setattr(page, "render_page", lambda report: report / 0)
    sweep = make_sweep({"s": {}})
    status, text = run(sweep)
    assert status == 1
    assert f"not all of the report could be written to {sweep.output}: TypeError: unsupported operand" in text
    assert "2 of 2 runs are in the figures." in text
    assert read_json(sweep.output / "results.json")["finished"] == 2
    assert (sweep.output / "report.md").exists()


def test_report_only_starts_nothing_and_tells_what_is_missing(make_sweep, run, measure):
    sweep = make_sweep({"s": {}}, report_only=True)
    status, text = run(sweep)
    assert status == 1
    assert calls(sweep) == []
    assert measure.asked == []
    assert "missing: task/s/seed=0: not run" in text


@pytest.mark.parametrize("more", [(), (".lock", "sweep.json")])
def test_folder_with_foreign_files_is_left_alone(make_sweep, run, more):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    mine = plan_runs(sweep)[0].folder / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    for name in more:
        (mine.parent / name).touch()
    with pytest.raises(ValueError, match="no run wrote it"):
        run(sweep)
    assert mine.read_text() == "years of work"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("no [such] trainer"), FolderBusyError("at work in")]
)
def test_a_run_that_cannot_be_started_stops_no_other(make_sweep, run, monkeypatch, error):
    sweep = make_sweep({"a": {}, "b": {}, "c": {}}, seeds=(0,), jobs=2)
    begin = runner_module.begin_training

    def begin_all_but_one(sweep, run, trainer, **options):
        if run.variant == "b":
            run.folder.mkdir(parents=True)
            raise error
        return begin(sweep, run, trainer, **options)

    with monkeypatch.context() as patched:
        patched.setattr(runner_module, "begin_training", begin_all_but_one)
        status, text = run(sweep)
    assert status == 1
    assert f"task/b/seed=0: not started, {error}\n" in text
    assert [r.state() for r in plan_runs(sweep)] == ["finished", "missing", "finished"]
    # maybe another training's: nothing is written to it, and it is tried again
    assert list((sweep.output / "task" / "b" / "seed=0").iterdir()) == []
    assert run(sweep)[0] == 0


def test_jobs_run_beside_each_other(make_sweep, run):
    sweep = make_sweep({"a": {"fake.sleep": 30}, "b": {"fake.sleep": 30}, "c": {}}, seeds=(0,), jobs=2)
    folders = {r.variant: r.folder for r in plan_runs(sweep)}
    observed = []

    def release_when_two_run():
        wait_for(lambda: (folders["a"] / "pid").exists() and (folders["b"] / "pid").exists())
        observed.append(folders["c"].exists())
        (sweep.output / "release").touch()

    watcher = threading.Thread(target=release_when_two_run)
    watcher.start()
    status, _ = run(sweep)
    watcher.join()
    assert status == 0
    assert observed == [False]


def test_two_runners_do_not_collide(make_sweep, run):
    sweep = make_sweep({"s": {}})
    with folder_lock(sweep.output), pytest.raises(FolderBusyError, match=rf"in use by process {os.getpid()} on "):
        run(sweep)
    assert calls(sweep) == []
    assert run(sweep)[0] == 0


def test_a_training_that_outlives_its_runner_keeps_the_folder(tmp_path):
    with folder_lock(tmp_path) as lock:
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(FolderBusyError), folder_lock(tmp_path):
        pass
    orphan.communicate(b"\n")
    with folder_lock(tmp_path):
        pass


RUNNER = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from ablation_fakes import FAKE_TRAINER, FakeMeasure, FakeProbe
    from timesformer_plus.analysis.ablation import run_ablation
    from timesformer_plus.analysis.sweep import Suite, Sweep

    variants = {{"done": {{}}, "a": {{"fake.sleep": 60}}, "b": {{"fake.sleep": 60}}, "later": {{}}}}
    suite = Suite(base=Path({base!r}), variants=variants, reference="done")
    sweep = Sweep(suites={{"task": suite}}, output=Path({output!r}), seeds=(0,), jobs=2)
    try:
        run_ablation(sweep, trainer=FAKE_TRAINER, measure=FakeMeasure(), probe=FakeProbe())
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupt_stops_the_trainings_and_keeps_what_is_finished(make_sweep, run, tmp_path, number):
    options = {"done": {}, "a": {"fake.sleep": 60}, "b": {"fake.sleep": 60}, "later": {}}
    sweep = make_sweep(options, seeds=(0,), jobs=2)
    folders = {r.variant: r.folder for r in plan_runs(sweep)}
    code = textwrap.dedent(RUNNER).format(
        tests=str(Path(__file__).parent), base=str(tmp_path / "base.yaml"), output=str(sweep.output)
    )
    runner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (folders["a"] / "pid").exists() and (folders["b"] / "pid").exists(), seconds=60)
    pids = [int((folders[variant] / "pid").read_text()) for variant in "ab"]
    runner.send_signal(number)
    text, _ = runner.communicate(timeout=30)
    assert runner.returncode == 130
    assert "stopping 2 trainings under way" in text
    assert not any(alive(pid) for pid in pids)
    assert [r.state() for r in plan_runs(sweep)] == ["finished", "missing", "missing", "missing"]
    report = read_json(sweep.output / "results.json")
    assert (report["finished"], len(report["suites"]["task"]["missing"])) == (1, 3)
    assert (sweep.output / "report.html").exists()
    (sweep.output / "release").touch()
    assert run(sweep)[0] == 0
    assert calls(sweep).count("s 0 1") == 6  # done, a, b; then a, b, later


def test_trainings_are_stopped_when_nobody_hears_of_it_any_more(make_sweep, run, monkeypatch):
    """``ablate | tee log``: Ctrl-C ends tee too, and what is printed then raises."""
    sweep = make_sweep({"a": {"fake.sleep": 60}}, seeds=(0,))
    (here,) = plan_runs(sweep)
    read, write = os.pipe()

    class Interrupted(runner_module.Runner):
        def _refresh(self):
            if (here.folder / "pid").exists():
                os.close(read)
                raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "Runner", Interrupted)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)  # which rich gives up when it is broken
        with pytest.raises(KeyboardInterrupt):
            run(sweep, console=Console(file=pipe, width=200, force_terminal=False))
    assert not alive(int((here.folder / "pid").read_text()))
    assert read_json(here.folder / "sweep.json")["status"] == "stopped"


def test_report_is_written_anew_while_the_sweep_runs(make_sweep, run, monkeypatch):
    monkeypatch.setattr(runner_module, "SECONDS_BETWEEN_REPORTS", 0.01)
    sweep = make_sweep({"s": {}, "ts": {**TS, "fake.sleep": 60}}, seeds=(0,))
    seen = []

    def release_when_reported():
        wait_for((sweep.output / "report.html").exists)
        seen.append(read_json(sweep.output / "results.json"))
        (sweep.output / "release").touch()

    watcher = threading.Thread(target=release_when_reported)
    watcher.start()
    assert run(sweep)[0] == 0
    watcher.join()
    assert seen[0]["finished"] == 1
    assert [missing["name"] for missing in seen[0]["suites"]["task"]["missing"]] == ["task/ts/seed=0"]
    assert read_json(sweep.output / "results.json")["finished"] == 2


def test_typo_is_found_before_anything_trains(make_sweep, run):
    sweep = make_sweep({"s": {"data.root": "x"}}, seeds=(0,))
    with pytest.raises(ValueError, match=r"task/s/seed=0 cannot be trained: .*fake"):
        run(sweep, trainer=ablation.TRAINER)
    assert not plan_runs(sweep)[0].folder.exists()


def test_main_reports_errors_without_a_traceback(make_sweep, tmp_path, capsys):
    make_sweep({"s": {}})
    file = tmp_path / "sweep.yaml"
    file.write_text(f"output: {tmp_path}/o\nsuites: {{a: {{base: base.yaml, reference: s, variants: {{s: {{}}}}}}}}\n")
    assert main(["--config", str(file)]) == 2
    assert "error: a/s/seed=0 cannot be trained" in capsys.readouterr().out


def test_log_tail_is_plain_text(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"x" * 20000 + b"\nfirst\n\n\x1b[1mbold\x1b[0m\x07 \xff\n   \n")
    assert log_tail(log, 2) == ["first", "bold �"]
    assert log_tail(tmp_path / "none", 2) == []


def test_trainer_that_is_killed_says_so(make_sweep, run, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import os, signal; print('about to die', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    status, text = run(make_sweep({"s": {}}, seeds=(0,)), trainer=(FAKE_TRAINER[0], str(script)))
    assert status == 1
    assert "failed, it was killed by SIGKILL" in text
    assert "    | about to die" in text
