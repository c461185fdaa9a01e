"""One process at a time writes a run; a lock ends with whoever holds it."""

import subprocess
import sys
from pathlib import Path

import pytest
from run_directories import create

from experiments.runs import lock as locking
from experiments.runs.directory import RunDirectory, check_free

CONFIG = {"environment": "Catch", "seeds": [0]}
HELD = "{} is being written by another process; wait for it, or choose another --out."
WAYS = [{}, {"resume": True}, {"overwrite": True}]

HOLD = """
import sys
from pathlib import Path
from run_directories import create
directory = create(Path(sys.argv[1]), {"environment": "Catch", "seeds": [0]}, resume=True)
print("locked", flush=True)
sys.stdin.read()
"""


def refusal(path: Path, **how: bool) -> str:
    with pytest.raises(ValueError, match="another process") as caught:
        create(path, CONFIG, **how)
    return str(caught.value)


@pytest.mark.parametrize("how", WAYS)
def test_what_is_being_written_is_refused(tmp_path: Path, how: dict[str, bool]) -> None:
    path = tmp_path / "run"
    with create(path, CONFIG) as directory:
        directory.append("metrics.csv", [{"point": 0, "step": 1, "seed": 0}])
        before = {p: p.read_bytes() for p in path.iterdir()}
        assert refusal(path, **how) == HELD.format(path)
        asked = {"resume": False, "overwrite": False} | how
        for look in (
            lambda: RunDirectory.check(path, CONFIG, **asked),
            lambda: check_free([tmp_path / "other", path], **asked),
        ):
            with pytest.raises(ValueError, match=f"^{HELD.format(path)}$"):
                look()
        assert {p: p.read_bytes() for p in path.iterdir()} == before
    RunDirectory.check(path, CONFIG, resume=True, overwrite=False)
    create(path, CONFIG, resume=True)


def test_locked_directory_without_a_configuration_is_refused(tmp_path: Path) -> None:
    """Another process has just begun, and has written nothing yet."""
    unlock = locking.lock(tmp_path)
    assert refusal(tmp_path) == HELD.format(tmp_path)
    unlock()
    create(tmp_path, CONFIG)


def test_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    directory = create(path, CONFIG)
    del directory
    with pytest.raises(ValueError, match="environment Catch, you asked for ant"):
        create(path, CONFIG | {"environment": "ant"}, resume=True)
    script = f"import sys; sys.path[:0] = {sys.path!r}\n{HOLD}"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "locked\n"
    assert refusal(path, resume=True) == HELD.format(path)
    process.kill()
    process.wait()
    create(path, CONFIG, resume=True)


def test_those_who_look_are_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody looks just when the lock is taken: it is taken a moment later."""
    unlock = locking.lock(tmp_path)
    monkeypatch.setattr(locking.time, "sleep", lambda seconds: unlock())
    locking.lock(tmp_path)()
    unlock_again = locking.lock(tmp_path)
    monkeypatch.setattr(locking.time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError, match="another process"):
        locking.lock(tmp_path)
    unlock_again()


def test_where_there_are_no_locks_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with create(tmp_path / "run", CONFIG):
        monkeypatch.setattr(locking, "fcntl", None)
        create(tmp_path / "run", CONFIG, resume=True)


def test_lock_is_noticed_before_jax_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys, experiments.command_line.main as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print(sorted({'jax', 'orbax', 'brax'} & set(sys.modules)))"
    )
    command = "train --env CartPole-v1 --optimizer adam --resume --out"
    with create(tmp_path, CONFIG):
        done = subprocess.run(
            [sys.executable, "-c", script, *command.split(), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr == f"rl-optim: {HELD.format(tmp_path)}\n"
