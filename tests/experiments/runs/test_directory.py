"""Run directories: what is refused, what is kept, and what damage costs."""

import doctest
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_directories import create, cut_in_half, flip_bit

from experiments.runs import directory as run_directory
from experiments.runs import files, training
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.directory import RunDirectory
from experiments.runs.files import write_atomically
from experiments.runs.stopping import Stopped

SEEDS = [3, 5]
CONFIG = {"environment": "Catch", "seeds": SEEDS, "settings": {"clip": 0.2, "widths": [8]}}


def state_after(point: int) -> dict[str, jax.Array]:
    key = jax.random.key(point)
    return {
        "params": jax.random.normal(key, (2, 300)),
        "key": jax.random.split(key),
        "empty": jax.numpy.zeros((0, 3)),
    }


def same(state: Any, point: int) -> bool:
    def data(tree: Any) -> list[np.ndarray]:
        return [tree["params"], jax.random.key_data(tree["key"]), tree["empty"]]

    return all(map(np.array_equal, data(state), data(state_after(point))))


def rows(point: int) -> list[dict[str, Any]]:
    return [{"point": point, "step": 10 * point + 10, "seed": s, "loss": 0.5} for s in SEEDS]


def log(directory: RunDirectory, point: int) -> None:
    directory.append("metrics.csv", rows(point))
    directory.append("timing.csv", [{"point": point, "seconds": f"{point + 1}.000"}])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Points 0 to 4 are logged, 1 and 3 are checkpoints."""
    path = tmp_path_factory.mktemp("written") / "run"
    with create(path, CONFIG) as directory:
        for point in range(5):
            log(directory, point)
            if point % 2:
                directory.save_checkpoint(point, state_after(point), seconds=point + 1.5)
    return path


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "run"))


def restore(path: Path) -> tuple[int | None, list[str]]:
    """The point that a resumed run goes on from, and what was said."""
    notes: list[str] = []
    with create(path, CONFIG, resume=True, on_note=notes.append) as directory:
        restored = directory.restore_checkpoint(state_after(-1))
        if restored is None:
            assert not (path / "metrics.csv").exists()
            assert not (path / "timing.csv").exists()
            return None, notes
        point, state, seconds = restored
        assert same(state, point)
        assert seconds == point + 1.5
        assert (path / "metrics.csv").read_text().count("\n") == 1 + 2 * (point + 1)
        # What comes next can be logged and saved again.
        for new in range(point + 1, 5):
            log(directory, new)
        directory.save_checkpoint(4, state_after(4), 5.5)
    assert (path / "metrics.csv").read_bytes() == METRICS
    return point, notes


def stops(path: Path) -> str:
    """Why a run is not resumed; nothing of it is changed then."""
    before = contents(path)
    with (
        create(path, CONFIG, resume=True) as directory,
        pytest.raises(Stopped, match=f"^cannot resume {path}: ") as caught,
    ):
        directory.restore_checkpoint(state_after(-1))
    assert contents(path) == before
    return str(caught.value)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


METRICS = b"point,step,seed,loss\n" + b"".join(
    f"{point},{10 * point + 10},{seed},0.5\n".encode() for point in range(5) for seed in SEEDS
)


# Resuming


def test_last_checkpoint_is_restored_and_later_rows_forgotten(run: Path) -> None:
    assert (run / "metrics.csv").read_bytes() == METRICS
    assert restore(run) == (3, [])
    assert restore(run) == (4, [])
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["3", "4"]
    assert (run / "timing.csv").read_text() == (
        "point,seconds\n0,1.000\n1,2.000\n2,3.000\n3,4.000\n4,5.000\n"
    )


def test_clock_and_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(run_directory.time, "monotonic", lambda: now)
    path = tmp_path / "run"
    directory = create(path, CONFIG)
    following, state = directory.begin(state_after(-1))
    assert following == 0
    assert same(state, -1)
    for point in range(5):  # checkpoints are due after 3 and, counted from there, 6 seconds
        now += 1.0
        assert directory.log(point, rows(point), state_after(point), 3.0) == point + 1.0
    assert (path / "metrics.csv").read_bytes() == METRICS
    directory.close()
    now += 1000.0  # killed after point 4 and resumed later: goes on after 2, 3 seconds old
    directory = create(path, CONFIG, resume=True)
    following, state = directory.begin(state_after(-1))
    assert following == 3
    assert same(state, 2)
    now += 0.5
    assert directory.log(3, rows(3), state_after(3), 0.0) == 3.5  # now, whenever the last was
    assert sorted(folder.name for folder in (path / "checkpoints").iterdir()) == ["2", "3"]
    assert (
        path / "timing.csv"
    ).read_text() == "point,seconds\n0,1.000\n1,2.000\n2,3.000\n3,3.500\n"


def test_nothing_but_the_configuration(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert restore(run) == (None, [])


@pytest.mark.parametrize("had_some", [False, True])
def test_without_checkpoints_the_run_starts_again(run: Path, had_some: bool) -> None:
    """What it had logged is kept where it is no ordinary interruption before the first of them."""
    shutil.rmtree(run / "checkpoints")
    if not had_some:
        (run / "checkpoints.json").unlink()
    point, notes = restore(run)
    assert point is None
    assert notes == [f"{run} has no checkpoint to go on from; it starts again."]
    kept = run / "checkpoints" / "damaged-3-metrics.csv"
    assert kept.read_bytes() == METRICS if had_some else not kept.parent.exists()


def test_killed_while_a_checkpoint_was_written(run: Path) -> None:
    (run / "checkpoints" / "3").rename(run / "checkpoints" / "3.orbax-checkpoint-tmp")
    assert restore(run) == (1, [])


def test_killed_between_a_checkpoint_and_its_checksum(run: Path) -> None:
    checksums = json.loads((run / "checkpoints.json").read_text())
    del checksums["3"]
    (run / "checkpoints.json").write_text(json.dumps(checksums))
    assert restore(run) == (3, [])


def data_file(run: Path, point: int) -> Path:
    folder = run / "checkpoints" / str(point) / "state"
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", [flip_bit, cut_in_half, Path.unlink, Path.touch])
def test_damaged_checkpoint_gives_way_to_the_one_before(
    run: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    if damage is Path.touch:
        data_file(run, 3).write_bytes(b"")
    damage(data_file(run, 3))
    damaged = contents(run / "checkpoints" / "3")
    point, notes = restore(run)
    assert point == 1
    folder = run / "checkpoints" / "3"
    assert notes == [
        f"the checkpoint {folder} cannot be used: its checksum does not match; it is kept as "
        "damaged-3."
    ]
    assert contents(run / "checkpoints" / "damaged-3") == damaged
    assert (run / "checkpoints" / "damaged-3-metrics.csv").read_bytes() == METRICS
    assert capfd.readouterr().err == ""
    assert restore(run) == (4, [])  # what was put aside is in nobody's way


def test_what_is_put_aside_takes_no_other_place(run: Path) -> None:
    for number in ("", "-2"):
        flip_bit(data_file(run, 3))
        notes: list[str] = []
        with create(run, CONFIG, resume=True, on_note=notes.append) as directory:
            assert directory.begin(state_after(-1))[0] == 2
            directory.append("metrics.csv", rows(2) + rows(3))
            directory.save_checkpoint(3, state_after(3), 4.5)
        assert notes[0].endswith(f"it is kept as damaged-3{number}.")
        assert (run / "checkpoints" / f"damaged-3{number}").is_dir()


@pytest.mark.parametrize("checksums", [None, "", "{", "[1, 2]", "\0\0"])
def test_what_cannot_be_read_for_another_reason_is_left_alone(
    run: Path, checksums: str | None
) -> None:
    """Where no checksum says that it is damaged, it may be well another time."""
    (run / "checkpoints.json").unlink()
    if checksums is not None:
        (run / "checkpoints.json").write_text(checksums)
    (run / "checkpoints" / "3" / "progress" / "metadata").write_text('{"seco')
    assert "its checkpoint 3 cannot be read (" in stops(run)
    (run / "checkpoints" / "3").rename(run / "3")  # what the sentence proposes
    assert restore(run) == (1, [])


@pytest.mark.parametrize("method", ["is_whole", "progress", "read"])
def test_passing_error_costs_nothing(
    run: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, method, fail)
        assert "its checkpoint 3 cannot be read (Input/output error); nothing" in stops(run)
    assert restore(run) == (3, [])


def test_memory_that_does_not_suffice_is_no_damage(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Checkpoints, "read", fail)
    with create(run, CONFIG, resume=True) as directory, pytest.raises(MemoryError):
        directory.begin(state_after(-1))


def test_state_of_another_shape_is_not_taken(run: Path) -> None:
    before = contents(run)
    with create(run, CONFIG, resume=True) as directory:
        other = state_after(-1) | {"params": jnp.zeros((2, 299))}
        with pytest.raises(Stopped, match=r"it has the shape \(2, 300\) in the place of \(2, 299"):
            directory.begin(other)
        with pytest.raises(Stopped, match=r"its checkpoint 3 cannot be read"):
            directory.begin({"other": other})
    assert contents(run) == before


def test_two_damaged_checkpoints_start_the_run_again(run: Path) -> None:
    flip_bit(data_file(run, 1))
    cut_in_half(data_file(run, 3))
    before = contents(run / "checkpoints")
    point, notes = restore(run)
    assert point is None
    assert len(notes) == 3
    assert notes[-1] == f"{run} has no checkpoint to go on from; it starts again."
    after = contents(run / "checkpoints")
    assert {f"damaged-{name}": content for name, content in before.items()}.items() <= after.items()
    assert after["damaged-3-metrics.csv"] == METRICS


def test_rotted_checkpoint_is_not_blessed_by_a_later_one(run: Path) -> None:
    with create(run, CONFIG, resume=True) as directory:
        directory.begin(state_after(-1))
        flip_bit(data_file(run, 3))
        log(directory, 4)
        directory.save_checkpoint(4, state_after(4), 5.5)
    flip_bit(data_file(run, 4))
    assert restore(run)[0] is None


@pytest.mark.parametrize(
    ("content", "point"),
    [
        (METRICS[:-1], 3),  # of point 4, which no checkpoint needs
        (METRICS[:-40], 1),
        (METRICS.replace(b"2,30,5", b"2,30,7"), 1),
        (METRICS.replace(b"3,40,3,0.5", b"3,40,3,\0\0\0"), 1),
    ],
)
def test_damaged_metrics_cost_what_comes_after(run: Path, content: bytes, point: int) -> None:
    (run / "metrics.csv").write_bytes(content)
    restored, notes = restore(run)
    assert restored == point
    if point == 3:
        assert notes == []
        return
    after = {METRICS[:-40]: 2}.get(content, 1 if b"2,30,7" in content else 2)
    assert notes == [
        f"the checkpoint {run}/checkpoints/3 cannot be used: metrics.csv is damaged after point "
        f"{after}; it is kept as damaged-3."
    ]
    assert (run / "checkpoints" / "damaged-3-metrics.csv").read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        METRICS.replace(b"1,20,3,0.5\n", b""),
        METRICS.replace(b"0,10,3,0.5", b"0,10,3"),
        METRICS.replace(b"0,10,3,0.5", b"0,10,3,0.7"),  # digits that are flipped, not missing
        METRICS.replace(b"3,40,5,0.5", b"3,40,5,9.5"),
        METRICS.replace(b"loss", b"less"),
        METRICS[:9],
        b"",
        b"\xff\xfe" * 50,
    ],
)
def test_metrics_that_fit_no_checkpoint_are_not_believed(run: Path, content: bytes) -> None:
    (run / "metrics.csv").write_bytes(content)
    assert stops(run) == (
        f"cannot resume {run}: its metrics.csv is not as it was logged; nothing was changed: put "
        "the right file back, or use --overwrite to start again"
    )
    (run / "metrics.csv").write_bytes(METRICS)
    assert restore(run) == (3, [])


@pytest.mark.parametrize("content", ["", "poi", "point,seconds\n0,1.0\n1,so", "\0" * 9])
def test_damaged_timing_costs_nothing_else(run: Path, content: str) -> None:
    (run / "timing.csv").write_text(content)
    assert restore(run) == (3, [])


def test_finished(run: Path) -> None:
    directory = create(run, CONFIG, resume=True)
    assert not directory.is_finished(4)
    directory.begin(state_after(-1))
    log(directory, 4)
    directory.save_checkpoint(4, state_after(4), 5.5)
    assert not directory.is_finished(5)
    rows = [{"seed": seed, "episode_return": 1.0} for seed in SEEDS]
    directory.write("evaluation.csv", rows)
    assert directory.is_finished(5)
    assert not directory.is_finished(6)
    text = (run / "evaluation.csv").read_text()
    for damaged in ("", text[:-1], text[: text.rindex("5")]):
        (run / "evaluation.csv").write_text(damaged)
        assert not directory.is_finished(5)
    directory.write("evaluation.csv", rows)
    (run / "metrics.csv").write_bytes(METRICS.replace(b"0,10,3,0.5", b"0,10,3,0.6"))
    with pytest.raises(Stopped, match=r"its metrics.csv is not as it was logged"):
        directory.is_finished(5)
    shutil.rmtree(run / "checkpoints")  # nobody knows any more
    assert directory.is_finished(5)


def test_checkpoints_of_earlier_versions_are_taken(tmp_path: Path) -> None:
    """Arrays of devices, with surplus seeds, and no digest of the metrics."""
    import orbax.checkpoint as ocp

    path = tmp_path / "run"
    with create(path, CONFIG) as directory:
        log(directory, 0)
    state = {
        "params": jnp.arange(3.0),
        "key": jax.random.split(jax.random.key(7), 3),
        "empty": None,
    }
    with ocp.CheckpointManager(path / "checkpoints") as manager:
        progress = ocp.args.JsonSave({"seconds": 2.0})
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), progress=progress)
        manager.save(0, args=arguments)
    newborn = {
        "params": jnp.zeros(4),
        "key": jax.random.split(jax.random.key(0), 4),
        "empty": jnp.zeros((0, 2)),
    }
    with create(path, CONFIG, resume=True) as directory:
        following, restored = directory.begin(newborn)
    assert following == 1
    np.testing.assert_array_equal(restored["params"], [0, 1, 0, 0])
    np.testing.assert_array_equal(
        jax.random.key_data(restored["key"]),
        jax.random.key_data(state["key"])[np.array([0, 1, 0, 0])],
    )


# Refusing


def test_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    for name in (".config.json.tmp", ".lock"):
        (tmp_path / "killed" / name).write_text('{"en')
    for name in ("new/and/deep", "empty", "killed"):
        for resume in (False, True):
            RunDirectory.check(tmp_path / name, CONFIG, resume=resume, overwrite=False)
        create(tmp_path / name, CONFIG)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config.items() >= CONFIG.items()
        assert config["versions"]["jax"] == jax.__version__
        assert config["machine"]["devices"] == ["cpu", jax.device_count()]


def test_overwriting_leaves_what_is_not_the_runs(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    create(run, CONFIG | {"environment": "ant"}, overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.json", "notes.txt"]
    assert json.loads((run / "config.json").read_text())["environment"] == "ant"


def refusal(path: Path, config: dict[str, Any] = CONFIG, **how: bool) -> str:
    with pytest.raises(ValueError, match=str(path)) as caught:
        create(path, config, **how)
    return str(caught.value)


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_what_is_no_run_is_never_touched(tmp_path: Path, how: dict[str, bool]) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        assert refusal(path, **how) == (
            f"{path} exists already and is no run directory; choose another one."
        )
    below = tmp_path / "thesis.tex" / "run"
    assert refusal(below, **how).startswith(f"cannot write to {below}: ")
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_directories_without_permission_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may always write
    path = tmp_path / "a" / "b"
    assert refusal(path) == f"cannot write to {path}: {tmp_path} is not a writable directory."


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"environment": "ant"}, "environment Catch, you asked for ant"),
        ({"seeds": [3]}, "seeds 3,5, you asked for 3"),
        ({"settings": {"clip": 0.3, "widths": [8]}}, "settings.clip 0.2, you asked for 0.3"),
        ({"settings": {"widths": [8]}}, "settings.clip 0.2, you asked for none"),
        ({"new": 1}, "new none, you asked for 1"),
    ],
)
def test_another_configuration_is_not_resumed(
    run: Path, change: dict[str, Any], difference: str
) -> None:
    assert (
        refusal(run, CONFIG | change, resume=True)
        == f"cannot resume {run}: it was run with {difference}."
    )


def test_other_circumstances_are_no_obstacle(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config |= {"versions": {"jax": "0.1"}, "machine": {}, "git_revision": "abc"}
    (run / "config.json").write_text(json.dumps(config))
    assert restore(run) == (3, [])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe\0"])
def test_damaged_configuration_is_not_resumed(run: Path, content: bytes) -> None:
    (run / "config.json").write_bytes(content)
    assert refusal(run, resume=True) == (
        f"cannot resume {run}: its config.json is damaged; use --overwrite to start again."
    )
    create(run, CONFIG, overwrite=True)


# Writing


def test_full_disk_is_said_before_orbax_begins(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = create(run, CONFIG, resume=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(OSError, match="No space left on device") as caught:
        directory.save_checkpoint(4, state_after(4), 5.0)
    assert caught.value.filename == str(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "3"]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "summary.csv"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("module", [files, training])
def test_doctests(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
