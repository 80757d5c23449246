"""Requests to stop, and what becomes of a second one."""

import os
import signal
import threading
import time

import pytest

from timesformer_plus.engine.interrupt import SIGNALS, Interrupt, exit_code, interrupts


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # a handler runs between two instructions of Python


def let_time_pass(interrupt):
    interrupt._since -= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_a_request_and_said_so_once(number, capfd):
    assert number in SIGNALS
    before = signal.getsignal(number)
    with interrupts() as interrupt:
        assert (interrupt.requested, interrupt.signal) == (False, 0)
        send(number)
        send(number)  # a launcher passes on what the terminal has sent already
    assert (interrupt.requested, interrupt.signal) == (True, number)
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count(f"interrupted by {number.name}") == 1


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_person_who_insists_stops_at_once(first):
    with interrupts() as interrupt:
        send(first)
        let_time_pass(interrupt)
        with pytest.raises(KeyboardInterrupt) as stop:
            send(signal.SIGINT)
    assert exit_code(stop.value) == 130


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR1])
def test_a_cluster_is_not_impatient(first, second):
    with interrupts() as interrupt:
        send(first)
        let_time_pass(interrupt)
        send(second)
    assert interrupt.signal == first


def test_the_last_checkpoint_is_not_cut_short():
    with interrupts() as interrupt:
        send(signal.SIGINT)
        let_time_pass(interrupt)
        with interrupt.finishing():
            send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_other_threads_leave_signals_alone():
    found = []

    def look():
        with interrupts() as interrupt:
            found.append((interrupt.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_a_terminal_that_is_gone_is_no_reason_to_fail(monkeypatch):
    def gone(*_):
        raise OSError(5, "Input/output error")

    interrupt = Interrupt()
    monkeypatch.setattr(os, "write", gone)
    interrupt.request(signal.SIGTERM, "the launcher has ended")
    assert interrupt.requested


def test_exit_codes():
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(KeyboardInterrupt(signal.SIGTERM)) == 143
