"""Sweeps that were stopped, killed or begun by an earlier version: what was trained is not trained again."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ablation_fakes import FAKE_TRAINER, FakeMeasure, FakeProbe

from timesformer_plus.analysis import ablation
from timesformer_plus.analysis import runner as runner_module
from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.json_files import read_json
from timesformer_plus.analysis.processes import FolderBusyError
from timesformer_plus.analysis.runner import Runner
from timesformer_plus.analysis.sweep import plan_runs
from timesformer_plus.analysis.unfinished import clear
from timesformer_plus.engine.run_folder import RunFolder
from timesformer_plus.engine.training_state import save_state

STEPS = {"fake.steps": 6}
RUNNER = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from ablation_fakes import FAKE_TRAINER, FakeMeasure, FakeProbe
    from timesformer_plus.analysis import ablation
    from timesformer_plus.analysis.sweep import Suite, Sweep

    sweep = Sweep(suites={{"task": Suite(base={base!r}, variants={variants!r}, reference={reference!r})}},
                  output=Path({output!r}), seeds=(0,), jobs=2)
    trainer = {{"trainer": FAKE_TRAINER, "measure": FakeMeasure(), "probe": FakeProbe()}} if {fake!r} else {{}}
    try:
        ablation.run_ablation(sweep, **trainer)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def start_runner(sweep, *, fake=True):
    """The sweep by a runner of its own, so that it can be killed."""
    suite = sweep.suites["task"]
    code = textwrap.dedent(RUNNER).format(
        tests=str(Path(__file__).parent),
        base=os.fspath(suite.base),
        variants=suite.variants,
        reference=suite.reference,
        output=str(sweep.output),
        fake=fake,
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steps(sweep):
    return (sweep.output / "steps.txt").read_text().splitlines()


def unfinished(run, *, step=2, total=0.1):
    """The folder of a run that was begun with its options of now."""
    run.folder.mkdir(parents=True)
    run.write_inputs()
    save_state(run.folder / "checkpoints", step, {}, {"total": total}, keep=2)
    (run.folder / "status.json").write_text(json.dumps({"status": "running", "step": step}))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_an_interrupted_sweep_goes_on_and_ends_with_the_same_numbers(make_sweep, run, number):
    variants = {"a": STEPS, "b": {**STEPS, "fake.pause": 4}, "c": {**STEPS, "fake.pause": 3}}
    sweep = make_sweep(variants, seeds=(0,), jobs=2)
    whole = replace(sweep, output=sweep.output.with_name("whole"))
    whole.output.mkdir()
    (whole.output / "release").touch()
    assert run(whole)[0] == 0

    folders = {r.variant: r.folder for r in plan_runs(sweep)}
    runner = start_runner(sweep)
    wait_for(lambda: all((folders[variant] / "paused").exists() for variant in "bc"))
    runner.send_signal(number)
    text, _ = runner.communicate(timeout=60)
    (sweep.output / "release").touch()
    if number == signal.SIGTERM:
        assert runner.returncode == 130
        assert "stopping 2 trainings under way; each ends its update and writes a checkpoint" in text
        assert read_json(folders["b"] / "sweep.json")["status"] == "stopped"
        why = {m.name: m.why for m in collect(sweep, plan_runs(sweep)).suites[0].missing}
        assert why["task/b/seed=0"] == "stopped, after update 4, which the same command goes on from"
        assert plan_runs(sweep)[1].state() == "missing"
        expected = ["b 5", "b 6", "c 4", "c 5", "c 6"]
        done = len(steps(sweep))
    else:
        # its trainings outlive it, and end by themselves: without the words of a runner
        wait_for(lambda: all((folders[variant] / "result.json").exists() for variant in "bc"))
        wait_for(lambda: not any(_alive(int((folders[variant] / "pid").read_text())) for variant in "bc"))
        assert not (folders["b"] / "sweep.json").exists()
        expected, done = [], len(steps(sweep))

    status, text = run(sweep)
    assert status == 0
    assert sorted(steps(sweep)[done:]) == expected
    assert len(steps(sweep)) == len(set(steps(sweep))) == 18
    for here, there in zip(plan_runs(sweep), plan_runs(whole), strict=True):
        assert here.result() == there.result()
    if expected:
        assert "task/b/seed=0: goes on from step-00000004" in text
        assert (
            "going on after update 0\nepoch 1 of 1\ngoing on after update 4" in (folders["b"] / "log.txt").read_text()
        )
        assert read_json(folders["b"] / "sweep.json")["status"] == "finished"


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_training_goes_on_and_its_seconds_add_up(make_sweep, run):
    sweep = make_sweep({"s": STEPS}, seeds=(0,))
    (here,) = plan_runs(sweep)
    unfinished(here)
    (here.folder / "sweep.json").write_text('{"status": "failed", "reason": "exit status 1", "seconds": 1000.0}')
    assert here.state() == "failed"
    status, _ = run(replace(sweep, rerun_failed=True))
    assert status == 0
    assert steps(sweep) == ["s 3", "s 4", "s 5", "s 6"]
    assert read_json(here.folder / "sweep.json")["seconds"] > 1000


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for name in ("train.csv", "val.csv", "test.csv"):
        (root / name).write_text(name)
    return root


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("options", "its checkpoints are not used: they are of other options: fake.steps: 6 -> 4"),
        ("data", "its checkpoints are not used: they are of other data: train.csv differs"),
        ("damage", "state.json"),
        ("resume", "its checkpoints are not used: the recipe's resume and overwrite say so"),
        ("none", "task/s/seed=0: started\n"),
    ],
)
def test_what_cannot_be_gone_on_from_is_begun_anew(make_sweep, run, data, change, why):
    options = {**STEPS, "data.root": str(data), **({"resume": False} if change == "resume" else {})}
    (here,) = plan_runs(make_sweep({"s": options}, seeds=(0,)))
    unfinished(here, total=100.0)
    (here.folder / "best").mkdir()
    if change == "options":
        options["fake.steps"] = 4
    elif change == "data":
        (data / "train.csv").write_text("other clips")
    elif change == "damage":
        (here.folder / "checkpoints" / "step-00000002" / "state.json").write_text("{}")
    elif change == "none":
        shutil.rmtree(here.folder / "checkpoints")
    sweep = make_sweep({"s": options}, seeds=(0,))
    status, text = run(sweep)
    assert status == 0
    assert why in text
    assert steps(sweep) == [f"s {step}" for step in range(1, options["fake.steps"] + 1)]
    assert plan_runs(sweep)[0].result()["test"]["top1"] < 1


@pytest.mark.parametrize("killed", ["before run.yaml", "while run.yaml was written"])
def test_a_runner_that_was_killed_before_it_began_a_run_does_not_stand_in_its_own_way(make_sweep, run, killed):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    (here,) = plan_runs(sweep)
    clear(here)
    if killed == "while run.yaml was written":
        here.write_inputs()
        (here.folder / "data.json").unlink()
        here.config.rename(here.folder / ".run.yaml.1234")
    assert list(here.folder.iterdir())
    assert run(sweep)[0] == 0
    assert not (here.folder / ".run.yaml.1234").exists()


def test_a_training_that_somebody_else_stops_is_not_failed(make_sweep, run):
    sweep = make_sweep({"a": {**STEPS, "fake.pause": 2}, "b": {}}, seeds=(0,))
    folder = plan_runs(sweep)[0].folder

    def stop():
        wait_for((folder / "paused").exists)
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    status, text = run(sweep)
    thread.join()
    assert status == 1
    assert "task/a/seed=0: stopped by somebody else, after update 2, which the same command goes on from" in text
    assert "failed" not in text
    assert [r.state() for r in plan_runs(sweep)] == ["missing", "finished"]


def test_a_training_that_fails_again_where_it_went_on_says_what_to_remove(make_sweep, run):
    sweep = make_sweep({"s": {**STEPS, "fake.fail": [0]}}, seeds=(0,))
    (here,) = plan_runs(sweep)
    unfinished(here)
    _, text = run(sweep)
    assert f"it had gone on from a checkpoint; to have it begin anew, remove {here.folder}" in text


@pytest.mark.parametrize(
    "status",
    [{"status": "finished", "step": 3}, {"status": "finished", "reason": "", "seconds": 500.0}],
    ids=["runner killed before it wrote", "sweep of before"],
)
def test_finished_runs_without_a_sweep_json_count(make_sweep, run, status):
    first = plan_runs(make_sweep({"s": {}}, seeds=(0,)))[0]
    run(make_sweep({"s": {}}, seeds=(0,)))
    (first.folder / "sweep.json").unlink()
    (first.folder / "status.json").write_text(json.dumps(status))
    sweep = make_sweep({"s": {}, "ts": {"model.pattern": "ts"}}, seeds=(0,))
    code, text = run(sweep)
    assert code == 0
    assert "2 runs, 1 of them finished" in text
    runner = Runner(sweep, (), ablation.Console(), 0)
    runner._learn_durations()
    assert len(runner.seconds["task"]) == 1 + ("seconds" in status)
    assert (500.0 in runner.seconds["task"]) == ("seconds" in status)


def test_a_run_of_before_that_failed_is_failed(make_sweep):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    (here,) = plan_runs(sweep)
    here.folder.mkdir(parents=True)
    (here.folder / "status.json").write_text('{"status": "failed", "reason": "exit status 3", "seconds": 2.0}')
    assert here.state() == "failed"
    assert collect(sweep, [here]).suites[0].missing[0].why == f"failed, exit status 3; see {here.log}"


def test_a_training_started_by_hand_is_left_alone(make_sweep, run):
    sweep = make_sweep({"a": {}, "s": STEPS}, seeds=(0,))
    here = plan_runs(sweep)[1]
    unfinished(here)
    by_hand = RunFolder(here.folder)
    by_hand.hold()
    with pytest.raises(FolderBusyError, match=r"another training is at work in .*s/seed=0"):
        run(sweep)
    assert not (sweep.output / "calls.txt").exists()
    assert (here.folder / "checkpoints" / "step-00000002").is_dir()
    by_hand.let_go()
    assert run(sweep)[0] == 0


def test_a_training_started_by_hand_while_others_run_is_left_alone(make_sweep, run, monkeypatch):
    sweep = make_sweep({"a": {}, "s": STEPS, "c": {}}, seeds=(0,))
    here = plan_runs(sweep)[1]
    unfinished(here)
    by_hand = RunFolder(here.folder)
    by_hand.hold()
    files = sorted(path.name for path in here.folder.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(ablation, "refuse_busy", lambda _: None)  # it was not there yet
        status, text = run(sweep)
    assert status == 1
    assert "task/s/seed=0: not started, another training is at work in " in text
    assert sorted(path.name for path in here.folder.iterdir()) == files
    assert [r.state() for r in plan_runs(sweep)] == ["finished", "missing", "finished"]
    by_hand.let_go()
    assert run(sweep)[0] == 0
    assert steps(sweep) == ["s 3", "s 4", "s 5", "s 6"]


def test_a_training_has_time_to_end_its_update_and_save(make_sweep, monkeypatch):
    monkeypatch.setattr(runner_module, "SECONDS_BETWEEN_WORDS", 0.3)
    assert runner_module.SECONDS_TO_STOP >= 30
    for limit, outcome in ((20.0, "after update 2"), (0.8, "without a checkpoint")):
        monkeypatch.setattr(runner_module, "SECONDS_TO_STOP", limit)
        sweep = make_sweep({"s": {**STEPS, "fake.pause": 2, "fake.slow_to_save": 2}}, seeds=(0,))
        shutil.rmtree(sweep.output, ignore_errors=True)
        text = _stopped_at_pause(sweep)
        stopped = read_json(plan_runs(sweep)[0].folder / "sweep.json")
        assert stopped["status"] == "stopped"
        assert stopped["reason"].startswith(outcome), (text, (sweep.output / "task/s/seed=0/log.txt").read_text())
        assert "waiting for task/s/seed=0; " in text, (
            text,
            limit,
            stopped,
            (sweep.output / "task/s/seed=0/log.txt").read_text(),
        )
        assert ("killed, it had not ended after 1 s" in text) == (limit < 1)


def _stopped_at_pause(sweep):
    """Run a sweep in this process until its training pauses; then it is told to stop. Gives what was printed."""

    class Stopping(Runner):
        def _refresh(self):
            if (plan_runs(sweep)[0].folder / "paused").exists():
                raise KeyboardInterrupt

    text = io.StringIO()
    original = ablation.Runner
    ablation.Runner = Stopping
    try:
        with pytest.raises(KeyboardInterrupt):
            ablation.run_ablation(
                sweep,
                trainer=FAKE_TRAINER,
                measure=FakeMeasure(),
                probe=FakeProbe(),
                console=ablation.Console(file=text, width=200, force_terminal=False),
            )
    finally:
        ablation.Runner = original
    return text.getvalue()
