"""To be told to end: at once where nothing is to be saved, else after the next point."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_directories import create

from experiments.runs import stopping
from experiments.runs.stopping import Terminated, deferred, listening, raise_if_requested

CONFIG = {"environment": "Catch", "seeds": [0]}


@pytest.fixture
def heeded() -> Iterator[None]:
    """Signals as they are in a terminal; what starts the tests may have them ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_what_has_nothing_to_save(number: int, heeded: None) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Terminated) as caught, listening():
        os.kill(os.getpid(), number)
    assert caught.value.number == number
    assert signal.getsignal(number) is before
    assert not stopping.stop_requested()


def test_signal_is_deferred_to_the_next_point(tmp_path: Path) -> None:
    import jax.numpy as jnp

    path, rows = tmp_path / "run", [{"point": 0, "step": 1, "seed": 0}]
    state = {"w": jnp.ones((1, 2))}
    with create(path, CONFIG) as directory, listening(), deferred():
        directory.begin(state)
        directory.log(0, rows, state, 1e9)
        assert not (path / "checkpoints").exists()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Terminated):
            directory.log(1, rows, state, 1e9)
        assert (path / "checkpoints" / "1").is_dir()
        raise_if_requested()  # nothing is left of the request


def test_request_after_the_last_point_is_heard() -> None:
    def end() -> None:
        with deferred():
            stopping.request_stop()

    with pytest.raises(Terminated):
        end()
    assert not stopping.stop_requested()


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_than_the_main_one_do_not_listen() -> None:
    handlers = []

    def run() -> None:
        with listening():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


BUSY = """
import hashlib, signal, sys
from experiments.runs.stopping import deferred, listening
with listening(), deferred():
    print("busy", flush=True)
    # As a compiled program does, it lets other threads run but no handler of a signal.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_second_signal_ends_a_computation_at_once() -> None:
    script = f"import sys; sys.path[:0] = {sys.path!r}\n{BUSY}"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
