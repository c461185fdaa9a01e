"""Readers that go away and full disks: what is printed never decides about a run."""

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.command_line import main as cli
from experiments.command_line.streams import lasting_streams

TRAIN = (
    "train --env CartPole-v1 --optimizer adam --steps 1200 --seeds 3 --set num_envs=4 num_steps=16 "
    "minibatches=2 epochs=2 widths=8x8 --no-cache --out"
)
FULL = Path("/dev/full")


@pytest.fixture
def no_reader() -> Iterator[Callable[[], int]]:
    """Makes pipes that nobody reads, by the number of their file."""
    opened = []

    def pipe() -> int:
        reader, writer = os.pipe()
        os.close(reader)
        opened.append(writer)
        return writer

    yield pipe
    for writer in opened:
        os.close(writer)


def run(arguments: str, stdout: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.command_line.main", *shlex.split(arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments", ["--help", "compare --help", "list presets", "report {comparison} --out {out}"]
)
def test_a_reader_who_leaves_is_no_fault(
    arguments: str, comparison: Path, tmp_path: Path, no_reader: Callable[[], int]
) -> None:
    arguments = arguments.format(comparison=comparison, out=tmp_path)
    assert run(arguments, no_reader()) == (0, "")
    if "report" in arguments:
        files = {"summary.csv", "summary.md", "summary.tex"}
        files |= {f"curves.{kind}" for kind in ("png", "svg", "pdf")}
        assert {path.name for path in tmp_path.iterdir()} == files


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "list presets", "report {comparison} --out {out}"])
def test_a_full_disk_is_one_line(arguments: str, comparison: Path, tmp_path: Path) -> None:
    with FULL.open("w") as full:
        code, err = run(arguments.format(comparison=comparison, out=tmp_path), full.fileno())
    assert (code, err) == (1, "rl-optim: No space left on device: standard output.\n")
    if "report" in arguments:
        assert (tmp_path / "summary.csv").is_file()


def test_a_run_goes_on_without_readers(
    comparison: Path,
    tmp_path: Path,
    no_reader: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("stdout", "stderr"):
        stream = os.fdopen(no_reader(), "w", buffering=1, closefd=False)
        monkeypatch.setattr(sys, name, stream)
    out = tmp_path / "run"
    cli.main([*shlex.split(TRAIN), str(out)])
    expected = (comparison / "CartPole-v1" / "adam" / "metrics.csv").read_bytes()
    assert (out / "metrics.csv").read_bytes() == expected
    assert (out / "summary.md").is_file()


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_run_whose_table_cannot_be_printed_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            cli.main([*shlex.split(TRAIN), str(tmp_path / "run")])
    assert stop.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "rl-optim: No space left on device: standard output."
    assert (tmp_path / "run" / "evaluation.csv").is_file()
    assert (tmp_path / "run" / "summary.md").is_file()


def test_streams(no_reader: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (os.fdopen(no_reader(), "w", closefd=False) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with lasting_streams():
        for stream in (sys.stdout, sys.stderr):
            assert stream.encoding == out.encoding
            assert not stream.isatty()
            for _ in range(2):
                print("word", file=stream, flush=True)
    assert (sys.stdout, sys.stderr) == (out, err)
    out.close()  # what was left in their buffers harms nobody
    err.close()


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_only_standard_output_must_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w") as out, FULL.open("w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with lasting_streams():
            print("word", file=sys.stderr, flush=True)
            with pytest.raises(OSError, match="No space left on device: 'standard output'"):
                print("word", flush=True)


def test_streams_that_are_closed_or_lack_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    with lasting_streams():
        print("1 \N{EN DASH} 2")
        print("word", file=sys.stderr)
    assert written.getvalue() == b"1 ? 2\n"
