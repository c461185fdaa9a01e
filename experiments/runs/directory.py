"""Writes run directories so that a run killed at any moment can go on from its last checkpoint.

`experiments.runs.reading` reads them; the files are

- `config.json`: what was asked for, and with which versions, on what machine;
- `metrics.csv`: a row per logged point and seed (`meta_metrics.csv` of meta-training: a row per
  point). It holds no times, so that a run and its resumed twin write the same bytes;
- `timing.csv`: seconds of wall time since the start, per logged point;
- `agents.safetensors`: the trained policies of all seeds, see `agents.load_policy`;
- `evaluation.csv`: fresh episodes after training. It is written last: a run that has it is done;
- `weights.safetensors`, and `actor_weights.safetensors` and the like where networks have optimizers
  of their own: learned optimizers' weights, as they were when the run began;
  `start.safetensors`: where meta-training began;
- `meta_params.safetensors`, `best_meta_params.safetensors`: of meta-training, what was learned up
  to the last evaluation, and the best of what was evaluated;
- `returns_by_age.csv`: of pipeline training, what agents of each age reached, from the metrics;
- `checkpoints/`: the last two states, by orbax, and `checkpoints.json`, their checksums;
- `.lock`: locked as long as a process writes the run.

A run that is resumed forgets what it logged after the checkpoint from which it goes on, and logs it
again. Where more has to go, because something is damaged, a copy stays in `checkpoints/`; and where
it is not certain what is damaged, nothing is changed and the run is not resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from experiments.runs import identity
from experiments.runs.checkpoints import CHECKSUMS, FOLDER, Checkpoints
from experiments.runs.circumstances import circumstances, numerics
from experiments.runs.files import (
    csv_text,
    keep_rows,
    whole_rows,
    write_atomically,
    write_rows,
)
from experiments.runs.lock import LOCK, check_unlocked, lock
from experiments.runs.metrics import Metrics
from experiments.runs.stopping import Stopped, raise_if_requested, stop_requested

# No numpy, jax or orbax at import: whether a directory is free is said before they are loaded.

_FILES = (
    "metrics.csv",
    "meta_metrics.csv",
    "timing.csv",
    "evaluation.csv",
    "agents.safetensors",
    "weights.safetensors",
    "actor_weights.safetensors",
    "critic_weights.safetensors",
    "value_weights.safetensors",
    "start.safetensors",
    "meta_params.safetensors",
    "best_meta_params.safetensors",
    "returns_by_age.csv",
    CHECKSUMS,
    "config.json",
)


class RunDirectory:
    """One run's files, which are locked until it is closed. Construct it with `create`.

    Args:
        path: the directory, which exists.
        seeds: the run's seeds, in the order of the rows of `metrics`; None if it has one row for
            each point, which says nothing of a seed.
        on_note: called with a sentence when something turns out to be damaged.
        metrics: the file with the logged points.

    Raises:
        ValueError: if another process writes there.
    """

    def __init__(
        self,
        path: Path,
        seeds: Sequence[int] | None,
        on_note: Callable[[str], None],
        metrics: str = "metrics.csv",
    ) -> None:
        self.path = path
        self._unlock = weakref.finalize(self, lock(path))
        self._seeds = seeds
        self._on_note = on_note
        self._metrics = Metrics(path / metrics, seeds)
        self._checkpoints = Checkpoints(path, None if seeds is None else len(seeds))
        self._longer: dict[str, Any] | None = None  # what config.json will say, if it is prolonged
        self._start = self._saved = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes write there."""
        try:
            self._checkpoints.close()
        finally:
            self._unlock()

    @staticmethod
    def check_free(path: Path, *, resume: bool, overwrite: bool) -> None:
        """Says whether a run may be written there, whatever the run is.

        Raises:
            ValueError: if another process writes there, if the directory is in use and neither
                `resume` nor `overwrite` was asked for, if it holds something else than a run, or if
                nothing can be written there.
        """
        check_unlocked(path)
        _check_usable(path, resume=resume, overwrite=overwrite)

    @classmethod
    def check(cls, path: Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Says whether `create` may go ahead, without changing anything.

        Raises:
            ValueError: see `check_free`; or if the run to resume is another one than what is asked
                for, see `experiments.runs.identity`.
        """
        cls.check_free(path, resume=resume, overwrite=overwrite)
        if resume and (found := _found(path)) is not None:
            identity.check_same(path, _asked(config), found)

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        resume: bool,
        overwrite: bool,
        on_note: Callable[[str], None],
        metrics: str = "metrics.csv",
        files: Mapping[str, bytes] | None = None,
    ) -> RunDirectory:
        """Makes the directory, or opens the one to resume.

        Args:
            path: the directory.
            config: what was asked for; `config.json` holds the circumstances too. Its `seeds`, if
                it has any, are those of the rows of `metrics`.
            resume: continue the run that is there, if there is one; if it is shorter than what is
                asked for and may be prolonged, it is.
            overwrite: delete the run that is there first, unless it is to be resumed.
            on_note: called with a sentence when something turns out to be damaged.
            metrics: the file with the logged points.
            files: what the run was made from and the directory is to keep, by name.

        Raises:
            ValueError: see `check`.
        """
        how = {"resume": resume, "overwrite": overwrite}
        cls.check_free(path, **how)
        path.mkdir(parents=True, exist_ok=True)
        directory = cls(path, config.get("seeds"), on_note, metrics)
        try:
            _check_usable(path, **how)  # another process may have been there in between
            directory._prepare(_asked(config), files or {}, resume)
        except BaseException:
            directory.close()
            raise
        return directory

    def _prepare(self, asked: Mapping[str, Any], files: Mapping[str, bytes], resume: bool) -> None:
        """Begins the run, or makes sure that the one which is there may go on."""
        found = _found(self.path) if resume else None
        if found is None:
            _clear(self.path)
            self._write_config(dict(asked) | circumstances())
        else:
            identity.check_same(self.path, asked, found)
            if identity.is_longer(asked, found):
                self._longer = identity.prolonged(asked, found)
        for name, content in files.items():
            path = self.path / name
            if not (path.is_file() and path.read_bytes() == content):
                write_atomically(path, content)

    def _write_config(self, config: Mapping[str, Any]) -> None:
        write_atomically(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def is_finished(self, points: int) -> bool:
        """Whether the run is complete: all its points are logged, and its evaluation is.

        Raises:
            Stopped: if the metrics are not as they were logged.
        """
        rows = len(whole_rows(self.path / "evaluation.csv")[1:])
        seeds = len(self._seeds or ())
        # Twice as many where a task that changes was evaluated in its first dynamics too.
        return rows in (seeds, 2 * seeds) and self.has_logged(points)

    def has_logged(self, points: int) -> bool:
        """Whether so many points are logged, and no more.

        Raises:
            Stopped: if they are there, but not as they were logged; the checkpoint after the last
                of them knows, if there is one.
        """
        if self._metrics.points() != points:
            return False
        last = points - 1
        if last in self._checkpoints.folders():
            with self._reading(last):
                is_whole = self._checkpoints.is_whole(last)
                progress = self._checkpoints.progress(last) if is_whole else {}
            self._compare_metrics(last, progress)
        return True

    def begin(self, newborn: Any) -> tuple[int, Any]:
        """Goes on from the last checkpoint that is whole, the clock as well, if there is one.

        A run that is prolonged is so from now on.

        Args:
            newborn: the state before the first point.

        Returns:
            Number of the next point, and the state before it.

        Raises:
            Stopped: see `restore_checkpoint`.
        """
        restored = self.restore_checkpoint(newborn)
        if restored is None:
            following, state = 0, newborn
        else:
            last, state, seconds = restored
            following = last + 1
            self._start -= seconds
        if self._longer is not None:
            for file in ("evaluation.csv", "agents.safetensors"):  # of the shorter run
                (self.path / file).unlink(missing_ok=True)
            self._write_config(self._longer)
        self._saved = time.monotonic()
        return following, state

    def log(
        self, point: int, rows: Sequence[Mapping[str, Any]], state: Any, checkpoint_seconds: float
    ) -> float:
        """Appends the rows and the time of a point; every so often, saves the state after it.

        Args:
            point: its number, 0, 1, ...
            rows: of the metrics.
            state: what a checkpoint holds.
            checkpoint_seconds: least time since the last checkpoint; 0 saves the state in any case.

        Returns:
            Seconds of wall time since the run began, those before an interruption included.

        Raises:
            Terminated: once the state is saved, if the process was told to end.
        """
        seconds = time.monotonic() - self._start
        self.append(self._metrics.path.name, rows)
        self.append("timing.csv", [{"point": point, "seconds": f"{seconds:.3f}"}])
        is_last = stop_requested()
        if is_last or time.monotonic() - self._saved >= checkpoint_seconds:
            self.save_checkpoint(point, state, seconds)
            self._saved = time.monotonic()
        if is_last:
            raise_if_requested()
        return seconds

    def append(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows to the metrics or to `timing.csv`, after a header if the file is new."""
        if file == self._metrics.path.name:
            self._metrics.append(rows)
            return
        with open(self.path / file, "a", newline="") as stream:
            stream.write(csv_text(rows, header=stream.tell() == 0))

    def write(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a whole file at once."""
        write_rows(self.path / file, rows)

    def save_checkpoint(self, point: int, state: Any, seconds: float) -> None:
        """Saves the state after the logged point `point`; the two last ones are kept.

        Raises:
            OSError: if the disk is full or cannot be written to.
        """
        progress = {"seconds": seconds, "metrics_sha256": self._metrics.sha256}
        self._checkpoints.save(point, state, progress)

    def restore_checkpoint(self, newborn: Any) -> tuple[int, Any, float] | None:
        """Loads the last checkpoint that is whole, and forgets what was logged after it.

        One whose checksum does not match, or that comes after a point missing from the metrics, is
        put aside together with a copy of the metrics, and the one before it is taken.

        Args:
            newborn: the state before the first point, spread as the restored one is to be.

        Returns:
            `(point, state, seconds)`, or None if there is no checkpoint, in which case all that
            was logged is forgotten.

        Raises:
            Stopped: if a checkpoint cannot be read, or the metrics are not as they were logged.
                Nothing has been changed then.
        """
        logged, folders = self._metrics.points(), self._checkpoints.folders()
        reasons: dict[int, str] = {}  # why later checkpoints cannot be used
        is_cut = False  # whether rows are missing that one of them is for
        restored: tuple[int, Any, float] | None = None
        for point in sorted(folders, reverse=True):
            with self._reading(point):
                is_whole = self._checkpoints.is_whole(point)
            if not is_whole:
                reasons[point] = "its checksum does not match"
            elif point >= logged:
                is_cut = True
                reasons[point] = f"{self._metrics.path.name} is damaged after point {logged - 1}"
            else:
                with self._reading(point):
                    progress = self._checkpoints.progress(point)
                    seconds = float(progress["seconds"])
                self._compare_metrics(point, progress)
                with self._reading(point):
                    saved = self._checkpoints.read(point, newborn)
                restored = point, self._checkpoints.spread(saved, newborn), seconds
                break
        if restored is None and is_cut:
            raise self._other_metrics()
        self._put_aside(reasons, had_some=bool(folders))
        if restored is None and logged:
            self._on_note(f"{self.path} has no checkpoint to go on from; it starts again.")
        kept = 0 if restored is None else restored[0] + 1
        self._metrics.keep(kept)
        timing = whole_rows(self.path / "timing.csv")[1:]
        before = [row for row in timing if float(row.split(",")[0]) < kept]
        keep_rows(self.path / "timing.csv", before)
        return restored

    def _put_aside(self, reasons: Mapping[int, str], had_some: bool) -> None:
        """Keeps what cannot be used, and the metrics wherever rows go that a checkpoint was for."""
        gone = [] if had_some else [int(point) for point in self._checkpoints.checksums()]
        for point in [*reasons, *gone[-1:]]:
            aside, metrics = self._checkpoints.aside(point), self._metrics.path
            if metrics.is_file():
                aside.parent.mkdir(exist_ok=True)
                shutil.copyfile(metrics, aside.with_name(f"{aside.name}-{metrics.name}"))
            if point in reasons:
                folder = self._checkpoints.folders()[point]
                self._checkpoints.put_aside(point)
                self._on_note(
                    f"the checkpoint {folder} cannot be used: {reasons[point]}; "
                    f"it is kept as {aside.name}."
                )

    @contextlib.contextmanager
    def _reading(self, point: int) -> Iterator[None]:
        """Turns whatever goes wrong with a checkpoint into one sentence.

        Raises:
            Stopped: in the place of any other exception.
        """
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # orbax raises whatever it stumbles upon
            reason = " ".join(str(error).split())[:200].removesuffix(".")
            raise Stopped(
                f"cannot resume {self.path}: its checkpoint {point} cannot be read ({reason}); "
                "nothing was changed: try again, or move the checkpoint elsewhere to go on from "
                "the one before"
            ) from error

    def _compare_metrics(self, point: int, progress: Mapping[str, Any]) -> None:
        """Makes sure that the metrics up to a checkpoint's point are those it was saved with.

        Raises:
            Stopped: if they are not.
        """
        known = progress.get("metrics_sha256")  # checkpoints of earlier versions have none
        if known is not None and not self._metrics.are(point + 1, known):
            raise self._other_metrics()

    def _other_metrics(self) -> Stopped:
        return Stopped(
            f"cannot resume {self.path}: its {self._metrics.path.name} is not as it was logged; "
            "nothing was changed: put the right file back, or use --overwrite to start again"
        )


def clear(paths: Iterable[Path]) -> None:
    """Deletes runs that are to be replaced, all of them before the first of the new ones begins.

    Otherwise, where the new ones are interrupted and resumed, an old one would be taken for new.

    Args:
        paths: run directories, or what is to become some.

    Raises:
        ValueError: if another process writes there.
    """
    for path in paths:
        check_unlocked(path)
        _clear(path)


def _clear(path: Path) -> None:
    shutil.rmtree(path / FOLDER, ignore_errors=True)
    for file in _FILES:  # config.json last: as long as it is there, this is a run
        (path / file).unlink(missing_ok=True)


def check_free(paths: Iterable[Path], *, resume: bool, overwrite: bool) -> None:
    """Makes sure that run directories are free, or may be continued or replaced.

    Raises:
        ValueError: if not.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite cannot be used together.")
    for path in paths:
        RunDirectory.check_free(path, resume=resume, overwrite=overwrite)


def _check_usable(path: Path, *, resume: bool, overwrite: bool) -> None:
    """`RunDirectory.check_free`, whoever has locked it."""
    if path.is_dir():
        # A process killed at the very start leaves nothing, or these.
        in_use = any(file.name not in (LOCK, ".config.json.tmp") for file in path.iterdir())
    else:
        in_use = path.exists()
    if in_use and not (path / "config.json").is_file():
        raise ValueError(f"{path} exists already and is no run directory; choose another one.")
    if in_use and not (resume or overwrite):
        raise ValueError(
            f"{path} exists already; use --resume to continue it or --overwrite to replace it."
        )
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"cannot write to {path}: {there} is not a writable directory.")


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for, with the settings of jax that it is asked under."""
    return {**config, "numerics": numerics()}


def _found(path: Path) -> Any:
    """What a directory's `config.json` says; None if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return json.loads((path / "config.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise identity.damaged(path) from None
