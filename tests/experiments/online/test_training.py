"""Training: interruptions leave no trace, programs are shared, every seed stands for itself."""

import contextlib
import csv
import dataclasses
import errno
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from compilations import compilations
from quick import quick_jit
from run_directories import ITERATION, TINY, results, small_run, tiny_run

import optim
from agents import environments
from agents.diagnostics import MEASURES
from agents.ppo import ppo
from experiments.online import run as run_module
from experiments.online import training
from experiments.online.run import RunConfig
from experiments.online.training import compiled, train
from experiments.runs import metrics
from experiments.runs.directory import RunDirectory
from experiments.runs.reading import load_runs
from experiments.runs.stopping import Stopped
from experiments.runs.training import Point
from experiments.settings import LATER, change_settings


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "uninterrupted"
    train(tiny_run(), path)
    return path


class Interruption(BaseException):
    """Stands for a signal: nothing on the way up catches it."""


# Interruptions


def interrupt(monkeypatch: pytest.MonkeyPatch, method: str, call: int, after: bool) -> None:
    """Interrupts a run directory's `call`-th call of a method, before or after its work."""
    original = getattr(RunDirectory, method)
    calls = iter(range(1, 1000))

    def interrupted(self: RunDirectory, *arguments: object) -> None:
        now = next(calls) == call
        if now and not after:
            raise Interruption
        original(self, *arguments)
        if now:
            raise Interruption

    monkeypatch.setattr(RunDirectory, method, interrupted)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize(
    ("method", "call", "after"),
    [
        ("append", 1, False),  # before anything is logged
        ("append", 1, True),  # between metrics.csv and timing.csv
        ("append", 10, True),  # between the fifth point and its checkpoint
        ("save_checkpoint", 1, False),
        ("save_checkpoint", 1, True),
        ("write", 1, False),  # after the last point, without an evaluation
        ("write", 1, True),
    ],
)
def test_interrupted_run_ends_as_if_it_had_not_been(
    method: str,
    call: int,
    after: bool,
    checkpoint_seconds: float,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, method, call, after)
        with pytest.raises(Interruption):
            train(tiny_run(), path, checkpoint_seconds=checkpoint_seconds)
    notes: list[str] = []
    train(tiny_run(), path, resume=True, on_note=notes.append)
    assert results(path) == results(uninterrupted)
    # Each is an ordinary interruption: at most it is said that the run starts again.
    assert [note for note in notes if "starts again" not in note] == []
    with (path / "timing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["point"]) for row in rows] == list(range(12))
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)


KILLED = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from run_directories import tiny_run
from experiments.online.training import train
from experiments.runs.stopping import Terminated, listening
run = tiny_run(iterations=400)
try:
    with listening():
        train(run, Path(sys.argv[1]), resume=True, on_note=print,
              checkpoint_seconds=float(sys.argv[3]))
except Terminated as end:
    print("terminated")
    sys.exit(128 + end.number)
print("finished")
"""


def start(path: Path, cache: Path, checkpoint_seconds: float = 0.05) -> subprocess.Popen[str]:
    script = f"import sys; sys.path[:0] = {sys.path!r}\n{KILLED}"
    arguments = [sys.executable, "-c", script, str(path), str(cache), str(checkpoint_seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def wait_for_rows(process: subprocess.Popen[str], path: Path, before: float = 0.0) -> None:
    """Until the run, if it goes on, has logged something new; then it takes a second or so."""
    file, deadline = path / "metrics.csv", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and file.stat().st_mtime > before:
            break
        time.sleep(0.01)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A process of its own that nothing interrupted; its compiled programs are kept beside it."""
    path = tmp_path_factory.mktemp("processes") / "straight"
    output, _ = start(path, path.parent / "cache").communicate(timeout=300)
    assert output == "finished\n"
    return path


def kill_and_resume(straight: Path, killed: Path, kills: int) -> None:
    """Kills a run at random moments after its start; then lets it end."""
    draw = random.Random(0)
    cache = straight.parent / "cache"
    for kill in range(kills):
        process = start(killed, cache)
        wait_for_rows(process, killed, (killed / "metrics.csv").stat().st_mtime if kill else 0.0)
        time.sleep(draw.uniform(0.0, 0.6))
        process.kill()
        output, _ = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    output, _ = start(killed, cache).communicate(timeout=300)
    assert output.endswith("finished\n")
    assert results(killed) == results(straight)


def test_killed_run_ends_with_the_same_bytes(straight: Path, tmp_path: Path) -> None:
    kill_and_resume(straight, tmp_path / "killed", kills=2)


@pytest.mark.slow
def test_run_killed_many_times_ends_with_the_same_bytes(straight: Path, tmp_path: Path) -> None:
    kill_and_resume(straight, tmp_path / "killed", kills=12)


def test_run_that_is_told_to_end_loses_no_point(straight: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "run", straight.parent / "cache"
    process = start(path, cache, checkpoint_seconds=1e9)
    wait_for_rows(process, path)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("terminated\n", 128 + signal.SIGTERM)
    logged = (path / "metrics.csv").read_text().splitlines()
    assert 1 < len(logged) < 1 + 100 * 3, "it ended before it was told to"
    last = logged[-1].split(",")[0]
    assert [folder.name for folder in (path / "checkpoints").iterdir()] == [last]
    output, _ = start(path, cache).communicate(timeout=300)
    assert output == "finished\n"
    assert results(path) == results(straight)


def test_full_disk_stops_the_run_which_goes_on_later(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    rows = iter(range(1000))

    def full(*_: object, **__: object) -> str:
        if next(rows) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*_, **__)

    original = metrics.csv_text
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "csv_text", full)
        with pytest.raises(OSError, match="No space left"):
            train(tiny_run(), path, checkpoint_seconds=0.0)
    # The last row that still fitted was cut off.
    with (path / "metrics.csv").open("a") as file:
        file.write("4,320,0,17.")
    notes: list[str] = []
    train(tiny_run(), path, resume=True, on_note=notes.append)
    assert results(path) == results(uninterrupted)
    assert notes == []


def test_damaged_results_are_made_again(uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(tiny_run(), path, checkpoint_seconds=0.0)
    for name in ("metrics.csv", "evaluation.csv"):
        file = path / name
        file.write_bytes(file.read_bytes()[:-30])
        train(tiny_run(), path, resume=True, on_note=lambda note: None)
        assert results(path) == results(uninterrupted)


def test_results_that_were_changed_are_not_believed(tmp_path: Path) -> None:
    train(tiny_run(), tmp_path / "run")
    file = tmp_path / "run" / "metrics.csv"
    lines = file.read_text().splitlines()
    digit = int(lines[5][-1])
    lines[5] = lines[5][:-1] + str((digit + 1) % 10)
    file.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(Stopped, match=r"its metrics.csv is not as it was logged; nothing was"):
        train(tiny_run(), tmp_path / "run", resume=True)


def test_notes_are_warnings_where_nobody_listens(tmp_path: Path) -> None:
    train(tiny_run(), tmp_path / "run", checkpoint_seconds=0.0)
    file = tmp_path / "run" / "metrics.csv"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"cannot be used: metrics.csv is damaged"):
        train(tiny_run(), tmp_path / "run", resume=True)


# Callbacks


def test_callbacks(tmp_path: Path) -> None:
    starts: list[int] = []
    points: list[Point] = []
    notes: list[str] = []
    run, path = tiny_run(), tmp_path / "run"

    def stop_at_third(point: Point) -> None:
        points.append(point)
        if point.number == 3:
            raise Interruption

    with pytest.raises(Interruption):
        train(run, path, on_start=starts.append, on_point=stop_at_third, checkpoint_seconds=0.0)
    how = {"resume": True, "on_start": starts.append, "on_note": notes.append}
    for _ in range(2):  # to the end; and once it is finished
        train(run, path, on_point=points.append, **how)  # type: ignore[arg-type]
    assert notes == []
    assert starts == [0, 4 * ITERATION, 12 * ITERATION]
    assert [point.number for point in points] == list(range(12))
    assert [point.step for point in points] == [ITERATION * (i + 1) for i in range(12)]
    assert all(np.diff([point.seconds for point in points]) > 0)
    with (path / "metrics.csv").open(newline="") as file:
        logged = [float(row["episode_return"] or "nan") for row in csv.DictReader(file)]
    np.testing.assert_array_equal(np.ravel([p.column("episode_return") for p in points]), logged)
    assert not np.any([point.column("diverged") for point in points])


# Programs


def test_learning_rates_and_lengths_share_one_program(uninterrupted: Path, tmp_path: Path) -> None:
    """Nor does anything compile again from one stretch to the next."""
    grid = [tiny_run(f"adam:learning_rate={rate}", iterations=n)
            for rate, n in ((1e-2, 5), (1e-3, 12), (1.0, 104))]  # fmt: skip
    train(grid[0], tmp_path / "first")
    with compilations() as events:
        for index, run in enumerate(grid):
            train(run, tmp_path / f"{index}", checkpoint_seconds=0.0)
    assert events == []
    programs = {id(compiled(run)[0]) for run in grid}
    assert len(programs) == 1
    assert len({(tmp_path / f"{index}" / "metrics.csv").read_bytes() for index in range(3)}) == 3
    with compilations() as events:
        jax.jit(lambda x: x + 1)(np.float32(1))
    assert len(events) == 1  # or the count above would mean nothing


def test_an_iteration_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []

    def counted(*arguments: Any) -> Any:
        learner = ppo(*arguments)

        def iterate(state: Any) -> Any:
            traced.append(state)
            return learner.iterate(state)

        return learner._replace(iterate=iterate)

    monkeypatch.setattr(training, "ppo", counted)
    run = dataclasses.replace(
        tiny_run(), optimizer="adam:b1=0.87"
    )  # whose program is not there yet
    program, numbers, keys = compiled(run)
    state = jax.eval_shape(program.init, numbers, keys)
    program.advance.trace(numbers, state, jax.ShapeDtypeStruct((), np.int32))
    assert len(traced) == 1


def test_shared_program_trains_each_learning_rate_as_its_own(tmp_path: Path) -> None:
    run = tiny_run("adam:learning_rate=0.03", iterations=4)
    train(tiny_run("adam:learning_rate=0.5", iterations=9), tmp_path / "before")
    train(run, tmp_path / "shared")
    training._compiled.cache_clear()
    train(run, tmp_path / "own")
    assert results(tmp_path / "shared") == results(tmp_path / "own")


def test_annealing_reaches_zero_after_the_last_iteration() -> None:
    run = tiny_run(iterations=10)
    config = training.ppo_config(run.settings, run.iterations)
    optimizer = training.chain(
        dataclasses.replace(run.spec, name="sgd", options=()), run.settings, config, 1.0
    )
    params = {"actor": np.ones(1, np.float32), "critic": np.ones(1, np.float32)}
    gradients = {"actor": np.full(1, 0.5, np.float32), "critic": np.full(1, 1.0, np.float32)}

    def step(state: object, _: object) -> tuple[object, object]:
        updates, state = optimizer.update(gradients, state, params)
        return state, updates

    count = 10 * config.updates_per_iteration
    with jax.numpy_rank_promotion("allow"):
        _, updates = jax.lax.scan(step, optimizer.init(params), length=count)
    rates = np.repeat(1.0 - np.arange(10) / 10, config.updates_per_iteration)
    for name in ("actor", "critic"):  # each is clipped to a norm of 0.5 on its own
        np.testing.assert_allclose(updates[name][:, 0], -0.5 * rates, rtol=1e-5)


# Seeds


def test_seeds_that_do_not_fill_the_devices(tmp_path: Path) -> None:
    """Ten seeds fill five of eight devices; nine leave room for one that is dropped."""
    assert jax.device_count() == 8
    for seeds in (9, 10):
        train(tiny_run(iterations=3, seeds=seeds), tmp_path / f"{seeds}")
        assert compiled(tiny_run(iterations=3, seeds=seeds))[2].shape == (10,)
    for name in ("metrics.csv", "evaluation.csv"):
        nine, ten = ((tmp_path / n / name).read_text().splitlines() for n in ("9", "10"))
        column = nine[0].split(",").index("seed")
        assert nine == [line for line in ten if line.split(",")[column] != "9"]
        assert len(ten) > len(nine)


def test_seeds_do_not_depend_on_each_other(uninterrupted: Path, tmp_path: Path) -> None:
    run = tiny_run()
    train(dataclasses.replace(run, seeds=(2, 7, 0)), tmp_path / "run")
    for name in ("metrics.csv", "evaluation.csv"):
        rows, expected = (
            {tuple(row.values()) for row in csv.DictReader((path / name).open(newline=""))}
            for path in (tmp_path / "run", uninterrupted)
        )
        assert len(rows & expected) == len(rows) * 2 // 3


def test_seeds_may_be_any_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, up to the largest, and more of them than fill the devices."""
    monkeypatch.setattr(jax, "jit", quick_jit)
    with devices(monkeypatch, 2):
        run = dataclasses.replace(small_run(4), seeds=(2**32 - 1, 0, 2**31 + 5))
        train(run, tmp_path / "whole")
        cut(run, tmp_path / "run", 2)
        train(run, tmp_path / "run", resume=True, on_note=pytest.fail)
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    (read,) = load_runs([tmp_path / "run"])
    assert read.config["seeds"] == list(run.seeds)
    assert (read.finished, read.returns.shape) == (True, (3, 4))
    assert len({tuple(row) for row in np.nan_to_num(read.curves())}) == 3
    assert np.isfinite(read.evaluation_returns()).all()


# Devices


@contextlib.contextmanager
def devices(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[None]:
    """Leaves so many of them."""
    some = jax.devices()[:count]
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: some)
        yield


def cut(run: RunConfig, path: Path, after: int) -> None:
    """Leaves a run that was interrupted after so many points."""

    def stop(point: Point) -> None:
        if point.number + 1 == after:
            raise Interruption

    with pytest.raises(Interruption):
        train(run, path, on_point=stop, checkpoint_seconds=0.0)


def test_run_goes_on_with_any_number_of_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds take up two of two devices, with one that is dropped, or three of four."""
    monkeypatch.setattr(jax, "jit", quick_jit)
    run = small_run(4)
    with devices(monkeypatch, 2):
        train(run, tmp_path / "whole")
        cut(run, tmp_path / "cut", 3)
    whole = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()
    for count in (1, 4):
        path = Path(shutil.copytree(tmp_path / "cut", tmp_path / f"{count}"))
        with devices(monkeypatch, count):
            train(run, path, resume=True, on_note=pytest.fail)
        logged = (path / "metrics.csv").read_text().splitlines()
        assert logged[:10] == whole[:10]
        for ours, theirs in zip(logged[10:], whole[10:], strict=True):  # but for rounding
            one, two = ([float(x or "nan") for x in row.split(",")] for row in (ours, theirs))
            np.testing.assert_allclose(one, two, rtol=1e-3)
        assert (path / "evaluation.csv").read_text().count("\n") == 4


# Longer runs


def test_prolonged_run_is_the_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished or not, and once more."""
    monkeypatch.setattr(jax, "jit", quick_jit)
    train(small_run(20), tmp_path / "longer")
    train(small_run(10), tmp_path / "finished")
    cut(small_run(10), tmp_path / "cut", 6)
    before = (tmp_path / "finished" / "evaluation.csv").read_bytes()
    for name in ("finished", "cut"):
        path, starts = tmp_path / name, list[int]()
        for _ in range(2):
            train(small_run(20), path, resume=True, on_note=pytest.fail, on_start=starts.append)
        assert starts == [{"finished": 10, "cut": 6}[name] * ITERATION, 20 * ITERATION]
        assert results(path) == results(tmp_path / "longer")
        assert (path / "evaluation.csv").read_bytes() != before
        config = json.loads((path / "config.json").read_text())
        longer = json.loads((tmp_path / "longer" / "config.json").read_text())
        assert config == longer | {"prolonged_at": [10 * ITERATION]}
    with pytest.raises(ValueError, match=r"run with steps 1280, you asked for 640\.$"):
        train(small_run(10), tmp_path / "finished", resume=True)
    (read,) = load_runs([tmp_path / "finished"])
    assert (read.finished, read.planned_points) == (True, 20)


# Diagnostics


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diagnosed") / "run"
    train(diagnosed_run(), path)
    return path


def diagnosed_run() -> RunConfig:
    return dataclasses.replace(tiny_run(), diagnostics_every=5)


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_diagnostics_leave_training_as_it_is(diagnosed: Path, uninterrupted: Path) -> None:
    """Bit for bit, with more columns; those are empty where nothing is diagnosed."""
    plain, more = rows(uninterrupted), rows(diagnosed)
    common = list(plain[0])
    assert list(more[0]) == [*common, *MEASURES]
    assert [{name: row[name] for name in common} for row in more] == plain
    for name in ("evaluation.csv", "agents.safetensors"):
        assert (diagnosed / name).read_bytes() == (uninterrupted / name).read_bytes()
    filled = [row for row in more if any(row[name] for name in MEASURES)]
    assert [(row["point"], row["seed"]) for row in filled] == list(
        itertools.product(("4", "9"), "012")
    )
    for row in filled:
        found = {name: float(row[name]) for name in MEASURES}
        for network in ("actor", "critic"):
            assert 0.0 <= found[f"{network}_dormant"] <= 1.0
            assert 1.0 <= found[f"{network}_rank"] <= 8.0
            assert 0.0 < found[f"{network}_distance"] < found[f"{network}_weight_norm"]
            assert found[f"{network}_update_norm"] > 0.0
    assert len({row["actor_weight_norm"] for row in filled}) == 6
    config = json.loads((diagnosed / "config.json").read_text())
    assert config["diagnostics_every"] == 5
    assert json.loads((uninterrupted / "config.json").read_text())["diagnostics_every"] is None


def test_distance_is_from_the_start_of_each_seed(diagnosed: Path) -> None:
    run = diagnosed_run()
    program, numbers, keys = compiled(run)
    state = program.init(numbers, keys)
    found = jax.device_get(program.diagnose(numbers, state, state.params))
    for network in ("actor", "critic"):
        np.testing.assert_allclose(found[f"{network}_distance"], 0.0, atol=1e-7)
    start = jax.device_get(state.params)
    state, _ = program.advance(numbers, state, np.int32(5))
    for network in ("actor", "critic"):
        leaves = [
            np.reshape(after - before, (len(keys), -1))
            for after, before in zip(
                jax.tree.leaves(jax.device_get(state.params[network])),
                jax.tree.leaves(start[network]),
                strict=True,
            )
        ]
        expected = np.sqrt(np.mean(np.square(np.concatenate(leaves, axis=1)), axis=1))
        logged = [float(row[f"{network}_distance"]) for row in rows(diagnosed)[12:15]]
        np.testing.assert_allclose(logged, expected[:3], rtol=1e-4)


def test_diagnoses_draw_no_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at the start are drawn once more for all of them: a decomposition for every kernel."""
    run = dataclasses.replace(diagnosed_run(), diagnostics_every=3)  # four diagnoses
    program, numbers, keys = compiled(run)
    state = program.init(numbers, keys)
    drawn = "geqrf"  # of what draws orthogonal kernels
    assert drawn in program.init.lower(numbers, keys).as_text()
    assert drawn not in program.diagnose.lower(numbers, state, state.params).as_text()

    draws = []

    def init(numbers: Any, keys: Any) -> Any:
        draws.append(keys)
        return program.init(numbers, keys)

    counted = program._replace(init=init)
    monkeypatch.setattr(training, "compiled", lambda run: (counted, numbers, keys))
    train(run, tmp_path / "run")
    assert sum(row["actor_rank"] != "" for row in rows(tmp_path / "run")) == 4 * len(run.seeds)
    assert len(draws) == 2  # the other is for the training


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize("after", [3, 5, 6])
def test_interrupted_run_with_diagnostics_ends_as_if_it_had_not_been(
    after: int, checkpoint_seconds: float, diagnosed: Path, tmp_path: Path
) -> None:
    def stop(point: Point) -> None:
        if point.number + 1 == after:
            raise Interruption

    how = {"checkpoint_seconds": checkpoint_seconds}
    with pytest.raises(Interruption):
        train(diagnosed_run(), tmp_path / "run", on_point=stop, **how)
    train(diagnosed_run(), tmp_path / "run", resume=True, on_note=lambda note: None)
    assert results(tmp_path / "run") == results(diagnosed)


def test_run_from_before_diagnostics_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    """Its configuration says nothing of diagnostics: it had none."""
    path = tmp_path / "run"
    cut(tiny_run(), path, 4)
    file = path / "config.json"
    config = json.loads(file.read_text())
    del config["diagnostics_every"]
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"run with diagnostics_every none, you asked for 5\.$"):
        train(diagnosed_run(), path, resume=True)
    train(tiny_run(), path, resume=True, on_note=pytest.fail)
    assert results(path) == results(uninterrupted)
    (read,) = load_runs([path])
    assert read.config["diagnostics_every"] is None


def test_diagnostics_of_a_run_stay_as_they_are(diagnosed: Path) -> None:
    for every, asked in ((None, "none"), (4, "4")):
        run = dataclasses.replace(tiny_run(), diagnostics_every=every)
        message = rf"run with diagnostics_every 5, you asked for {asked}\.$"
        with pytest.raises(ValueError, match=message):
            train(run, diagnosed, resume=True)


def test_seed_that_diverges_has_empty_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "jit", quick_jit)
    run = tiny_run("sgd:learning_rate=1e30", iterations=3, seeds=1)
    train(dataclasses.replace(run, diagnostics_every=1), tmp_path / "run")
    *_, last = rows(tmp_path / "run")
    assert last["diverged"] == "1"
    assert {last[name] for name in MEASURES} == {""}


def test_after_the_last_iteration_of_an_annealed_run_nothing_is_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "jit", quick_jit)
    run = tiny_run("sgd:learning_rate=0.1", iterations=2, seeds=1)
    train(dataclasses.replace(run, diagnostics_every=1), tmp_path / "run")
    first, last = rows(tmp_path / "run")
    assert (float(first["actor_update_norm"]) > 0.0, bool(first["actor_cosine"])) == (True, True)
    assert (last["actor_update_norm"], last["actor_cosine"]) == ("0.0", "")


# Weights


def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may go while the run goes on; what it held stays with the run."""
    monkeypatch.setattr(jax, "jit", quick_jit)
    file, path = tmp_path / "w.safetensors", tmp_path / "run"
    architecture = optim.LinearOptim()
    metadata = {"architecture": architecture, "training_tasks": "none"}
    optim.save_meta_params(file, architecture.init(jax.random.key(0)), metadata)
    content = file.read_bytes()
    run = dataclasses.replace(tiny_run(f"linear_optim@{file}", iterations=2), seeds=(0,))
    file.unlink()
    train(run, path)
    assert (path / "weights.safetensors").read_bytes() == content
    assert len((path / "evaluation.csv").read_text().splitlines()) == 2
    # Under another name they are the same.
    again = dataclasses.replace(run, optimizer=f"linear_optim@{path / 'weights.safetensors'}")
    before = {p: p.stat().st_mtime_ns for p in path.iterdir()}
    train(again, path, resume=True)
    assert {p: p.stat().st_mtime_ns for p in path.iterdir()} == before
    # Nor are they lost when a run takes their place that is made of them.
    train(again, path, overwrite=True)
    assert (path / "weights.safetensors").read_bytes() == content


# Earlier versions


def test_run_of_an_earlier_version_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    """It says less, and is what a run is by default."""
    path = tmp_path / "run"
    shutil.copytree(uninterrupted, path)
    (path / "evaluation.csv").unlink()
    config = json.loads((path / "config.json").read_text())
    del config["label"]
    for name in LATER:
        del config["settings"][name]
    (path / "config.json").write_text(json.dumps(config))
    train(tiny_run(), path, resume=True, on_note=pytest.fail)
    assert results(path) == results(uninterrupted)
    (old,) = load_runs([path])
    assert old.config["settings"] == load_runs([uninterrupted])[0].config["settings"]
    for text in ("value_clip=0.5", "restart=true", "reward_scale=2", "learner=a2c"):
        settings = change_settings(dataclasses.replace(TINY, epochs=1, minibatches=1), [text])
        changed = {**tiny_run().config(), "settings": settings.config()}
        changed["algorithm"] = settings.learner
        with pytest.raises(ValueError, match="cannot resume"):
            RunDirectory.check(path, changed, resume=True, overwrite=False)


# Restarts

PHASE = 4  # iterations


def restarting_run(monkeypatch: pytest.MonkeyPatch, iterations: int = 11) -> RunConfig:
    """On a CartPole that says that it changes."""
    environment = environments.make("CartPole-v1")
    vars(environment)["phase_steps"] = PHASE * ITERATION  # compiled programs keep it
    for module in (run_module, training):
        monkeypatch.setattr(module, "make_environment", lambda text: environment)
    settings = change_settings(TINY, ["restart=true"])
    run = tiny_run("sgd:learning_rate=0.1", iterations=iterations)
    return dataclasses.replace(run, settings=settings)


def test_restarted_phase_is_a_run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its learning rate falls over the phase, as it does over a run of that length."""
    run = restarting_run(monkeypatch)
    assert run.settings.anneal
    program, numbers, keys = compiled(run)
    state = program.init(numbers, keys)
    first = jax.tree.map(lambda leaf: leaf[:2], state)
    state, _ = program.advance(numbers, state, jax.numpy.int32(PHASE))
    before = jax.tree.map(lambda leaf: leaf[:2], state)
    state, _ = program.advance(numbers, state, jax.numpy.int32(PHASE))
    assert (np.asarray(state.iteration) == 2 * PHASE).all()

    config = training.ppo_config(TINY, PHASE)
    spec = training.without_learning_rate(run.spec)
    optimizer = training.chain(spec, TINY, config, run.spec.learning_rate)
    learner = ppo(environments.make("CartPole-v1"), config, optimizer)

    def life(state: Any) -> Any:
        return jax.lax.fori_loop(0, PHASE, lambda _, state: learner.iterate(state)[0], state)

    def second(state: Any) -> Any:
        return life(learner.init(jax.random.fold_in(state.key, 1), state.iteration))

    born = quick_jit(jax.vmap(learner.init))(keys[:2])
    for ours, theirs in (
        (first.params, born.params),
        (before.params, quick_jit(jax.vmap(life))(born).params),
        (
            jax.tree.map(lambda leaf: leaf[:2], state.params),
            quick_jit(jax.vmap(second))(before).params,
        ),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, theirs
        )


def test_restarting_run_is_resumed_and_prolonged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Though its learning rate is annealed: nothing in it lasts longer than a phase."""
    run = restarting_run(monkeypatch)
    train(run, tmp_path / "straight")
    path = tmp_path / "prolonged"
    train(dataclasses.replace(run, steps=6 * ITERATION), path)
    train(run, path, resume=True)
    assert results(path) == results(tmp_path / "straight")
    config = json.loads((path / "config.json").read_text())
    assert (config["annealed"], config["settings"]["restart"]) == (True, True)
