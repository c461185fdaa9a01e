"""Writes run directories so that a run killed at any moment can go on from its last checkpoint.

`experiments.runs.reading` reads them; the files are

- `config.json`: what was asked for, and with which versions, on what machine;
- `metrics.csv`: a row per logged point and seed (`meta_metrics.csv` of meta-training: a row per
  point). It holds no times, so that a run and its resumed twin write the same bytes;
- `timing.csv`: seconds of wall time since the start, per logged point;
- `evaluation.csv`: fresh episodes after training. It is written last: a run that has it is done;
- `meta_params.safetensors`, `best_meta_params.safetensors`: of meta-training, what was learned up
  to the last evaluation, and the best of what was evaluated;
- `returns_by_age.csv`: of pipeline training, what agents of each age reached, from the metrics;
- `checkpoints/`: the last two states, by orbax, and `checkpoints.json`, their checksums.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import logging
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# Neither jax nor orbax at import: whether a directory is free is said before they are loaded.

_CIRCUMSTANCES = ("versions", "git_revision", "machine")  # keys of config.json, see `circumstances`
_FILES = (
    "metrics.csv",
    "meta_metrics.csv",
    "timing.csv",
    "evaluation.csv",
    "meta_params.safetensors",
    "best_meta_params.safetensors",
    "returns_by_age.csv",
    "checkpoints.json",
    "config.json",
)
_KEPT = 2  # checkpoints
_SPARE_BYTES = 2**20  # on top of a checkpoint's arrays


class RunDirectory:
    """One run's files. Construct it with `create`.

    Args:
        path: the directory.
        seeds: the run's seeds, in the order of the rows of `metrics`; None if it has one row for
            each point, which says nothing of a seed.
        on_note: called with a sentence when something turns out to be damaged.
        metrics: the file with the logged points.
    """

    def __init__(
        self,
        path: Path,
        seeds: Sequence[int] | None,
        on_note: Callable[[str], None],
        metrics: str = "metrics.csv",
    ) -> None:
        self.path = path
        self._seeds = seeds
        self._on_note = on_note
        self._metrics = metrics
        self._manager_if_open: Any = None  # orbax's CheckpointManager
        self._start = self._saved = time.monotonic()

    @staticmethod
    def check_free(path: Path, *, resume: bool, overwrite: bool) -> None:
        """Says whether a run may be written there, whatever the run is.

        Raises:
            ValueError: if the directory is in use and neither `resume` nor `overwrite` was asked
                for, if it holds something else than a run, or if nothing can be written there.
        """
        if path.is_dir():
            # A process killed at the very start leaves nothing, or this.
            in_use = any(file.name != ".config.json.tmp" for file in path.iterdir())
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

    @classmethod
    def check(cls, path: Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Says whether `create` may go ahead, without changing anything.

        Raises:
            ValueError: see `check_free`; or if the run to resume was started with another
                configuration.
        """
        cls.check_free(path, resume=resume, overwrite=overwrite)
        if not (resume and (path / "config.json").exists()):
            return
        try:
            old = json.loads((path / "config.json").read_text())
            given, found = _flat(config), _flat(old)
        except (ValueError, AttributeError):
            raise ValueError(
                f"cannot resume {path}: its config.json is damaged; use --overwrite to start again."
            ) from None
        for key in [*given, *found]:
            if key.split(".")[0] not in _CIRCUMSTANCES and given.get(key) != found.get(key):
                difference = f"{key} is {found.get(key)!r}, not {given.get(key)!r}"
                raise ValueError(f"cannot resume {path}: its {difference}.")

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
    ) -> RunDirectory:
        """Makes the directory, or opens the one to resume.

        Args:
            path: the directory.
            config: what was asked for; `config.json` holds the circumstances too. Its `seeds`, if
                it has any, are those of the rows of `metrics`.
            resume: continue a run with the same configuration, if there is one.
            overwrite: delete the run that is there first, unless it is to be resumed.
            on_note: called with a sentence when something turns out to be damaged.
            metrics: the file with the logged points.

        Raises:
            ValueError: see `check`.
        """
        cls.check(path, config, resume=resume, overwrite=overwrite)
        if not (resume and (path / "config.json").exists()):
            shutil.rmtree(path / "checkpoints", ignore_errors=True)
            for file in _FILES:  # config.json last: as long as it is there, this is a run
                (path / file).unlink(missing_ok=True)
            path.mkdir(parents=True, exist_ok=True)
            text = json.dumps(dict(config) | circumstances(), indent=2)
            write_atomically(path / "config.json", text + "\n")
        return cls(path, config.get("seeds"), on_note, metrics)

    def is_finished(self, points: int) -> bool:
        """Whether the run is complete: all its points are logged, and its evaluation is."""
        rows = _whole_rows(self.path / "evaluation.csv")[1:]
        return len(rows) == len(self._seeds or ()) and self.points_logged() == points

    def points_logged(self) -> int:
        """How many points are logged as they should be, from the first on."""
        return len(self._logged())

    def begin(self, newborn: Any) -> tuple[int, Any]:
        """Goes on from the last checkpoint that is whole, the clock as well, if there is one.

        Args:
            newborn: the state before the first point.

        Returns:
            Number of the next point, and the state before it.
        """
        import jax

        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), newborn
        )
        restored = self.restore_checkpoint(like)
        if restored is None:
            following, state = 0, newborn
        else:
            last, state, seconds = restored
            following = last + 1
            self._start -= seconds
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
        """
        seconds = time.monotonic() - self._start
        self.append(self._metrics, rows)
        self.append("timing.csv", [{"point": point, "seconds": f"{seconds:.3f}"}])
        if time.monotonic() - self._saved >= checkpoint_seconds:
            self.save_checkpoint(point, state, seconds)
            self._saved = time.monotonic()
        return seconds

    def append(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows to the metrics or to `timing.csv`, after a header if the file is new."""
        with open(self.path / file, "a", newline="") as stream:
            stream.write(_csv(rows, header=stream.tell() == 0))

    def write(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a whole file at once."""
        write_rows(self.path / file, rows)

    def save_checkpoint(self, point: int, state: Any, seconds: float) -> None:
        """Saves the state after the logged point `point`; the two last ones are kept.

        Raises:
            OSError: if the disk is full or cannot be written to.
        """
        import jax
        import orbax.checkpoint as ocp

        # A disk that fills up while orbax writes makes its threads print pages of traceback.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SPARE_BYTES
        if shutil.disk_usage(self.path).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        with _quiet():
            self._manager().save(
                point,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_without_empty(state)),
                    progress=ocp.args.JsonSave({"seconds": seconds}),
                ),
            )
        checksums = {str(kept): _checksum(folder) for kept, folder in self._checkpoints().items()}
        write_atomically(self.path / "checkpoints.json", json.dumps(checksums) + "\n")

    def restore_checkpoint(self, like: Any) -> tuple[int, Any, float] | None:
        """Loads the last checkpoint that is whole, and forgets what was logged after it.

        One that is damaged, or that comes after a point missing from the metrics, is deleted and
        the one before it is taken.

        Args:
            like: a state of `jax.ShapeDtypeStruct`, with shardings.

        Returns:
            `(point, state, seconds)`, or None if there is no checkpoint, in which case all that
            was logged is forgotten.
        """
        logged, checksums = self._logged(), self._checksums()
        restored: tuple[int, Any, float] | None = None
        for point, folder in sorted(self._checkpoints().items(), reverse=True):
            try:
                if point >= len(logged):
                    raise ValueError(f"{self._metrics} is damaged after point {len(logged) - 1}")
                if checksums.get(str(point), checksum := _checksum(folder)) != checksum:
                    raise ValueError("its checksum does not match")
                restored = (point, *self._load(point, like))
                break
            except Exception as error:  # orbax raises whatever it stumbles upon
                reason = " ".join(str(error).split())[:200]
                self._on_note(f"the checkpoint {folder} cannot be used: {reason}.")
                shutil.rmtree(folder)
                self._manager_if_open = None
        if restored is None and logged:
            self._on_note(f"{self.path} has no checkpoint to go on from; it starts again.")
        kept = 0 if restored is None else restored[0] + 1
        self._keep(self._metrics, [line for lines in logged[:kept] for line in lines])
        timing = _whole_rows(self.path / "timing.csv")[1:]
        self._keep("timing.csv", [row for row in timing if float(row.split(",")[0]) < kept])
        return restored

    def _logged(self) -> list[list[str]]:
        """The rows of the metrics, point by point, up to the first that is not as written."""
        points: list[list[str]] = []
        point: list[str] = []
        for row in _whole_rows(self.path / self._metrics)[1:]:
            cells = row.split(",")
            seed = cells[2:3] if self._seeds is None else [str(self._seeds[len(point)])]
            if (cells[0], cells[2:3]) != (str(len(points)), seed):
                break
            point.append(row)
            if len(point) == (1 if self._seeds is None else len(self._seeds)):
                points.append(point)
                point = []
        return points

    def _keep(self, file: str, rows: Sequence[str]) -> None:
        """Leaves a CSV file with its header and these rows, or no file if there are none."""
        path = self.path / file
        if rows:
            write_atomically(path, "".join([_whole_rows(path)[0], *rows]))
        else:
            path.unlink(missing_ok=True)

    def _checkpoints(self) -> dict[int, Path]:
        """The folders of complete checkpoints, by point; orbax renames them when complete."""
        folder = self.path / "checkpoints"
        found = folder.iterdir() if folder.is_dir() else ()
        return {int(path.name): path for path in found if path.name.isdecimal()}

    def _checksums(self) -> dict[str, str]:
        """The checksums by point. One may be missing: it is written after its checkpoint."""
        try:
            return dict(json.loads((self.path / "checkpoints.json").read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def _load(self, point: int, like: Any) -> tuple[Any, float]:
        import jax
        import jax.numpy as jnp
        import orbax.checkpoint as ocp

        with _quiet():
            restored = self._manager().restore(
                point,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_without_empty(like)),
                    progress=ocp.args.JsonRestore(),
                ),
            )
        state = jax.tree.map(
            lambda x, saved: jnp.zeros(x.shape, x.dtype) if saved is None else saved,
            like,
            restored["state"],
        )
        return state, float(restored["progress"]["seconds"])

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        if self._manager_if_open is None:
            self._manager_if_open = ocp.CheckpointManager(
                (self.path / "checkpoints").absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=_KEPT, enable_async_checkpointing=False
                ),
            )
        return self._manager_if_open


def check_free(paths: Iterable[Path], *, resume: bool, overwrite: bool) -> None:
    """Makes sure that run directories are free, or may be continued or replaced.

    Raises:
        ValueError: if not.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other.")
    for path in paths:
        RunDirectory.check_free(path, resume=resume, overwrite=overwrite)


def circumstances() -> dict[str, Any]:
    """What `config.json` says about where a run was started, and with what."""
    import jax

    packages = ["rl-optim", "jax", "jaxlib", "flax", "optax", "evosax", "gymnax", "brax", "numpy"]
    packages += ["gymnasium", "mujoco"]  # of data sets' environments
    devices = jax.devices()
    return {
        "versions": {"python": platform.python_version()}
        | {package: package_version(package) for package in packages},
        "git_revision": _git_revision(),
        "machine": {
            "platform": platform.platform(terse=True),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "devices": [devices[0].device_kind, len(devices)],
        },
    }


def package_version(package: str) -> str:
    """Version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str | None:
    """The revision of the checkout that this file belongs to, or None outside of one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not installed within another's
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that at any moment it is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a CSV file, whole."""
    write_atomically(path, _csv(rows, header=True))


class Stopped(RuntimeError):  # noqa: N818 (it says how a run ended)
    """A run that makes no sense to go on with; what was reached before is saved."""


def run_paths(
    out: Path, environments: Iterable[str], optimizers: Iterable[str]
) -> dict[tuple[str, str], Path]:
    """Where a comparison trains each environment under each optimizer.

    Raises:
        ValueError: if a text is given twice, or two differ only in what no directory name holds.

    Examples:
        >>> run_paths(Path("runs"), ["ant:backend=spring"], ["adam"])
        {('ant:backend=spring', 'adam'): PosixPath('runs/ant-backend=spring/adam')}
    """
    names = [_unique_names(texts) for texts in (environments, optimizers)]
    return {
        (environment, optimizer): out / names[0][environment] / names[1][optimizer]
        for environment in names[0]
        for optimizer in names[1]
    }


def _unique_names(texts: Iterable[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for text in texts:
        name = "".join(c if c.isalnum() or c in "._=,-" else "-" for c in text)
        if text in names:
            raise ValueError(f"{text!r} is given twice.")
        if name in names.values():
            raise ValueError(f"{text!r} and another would share the directory {name!r}.")
        names[text] = name
    return names


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with the keys of mappings within it joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        is_mapping = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if is_mapping else {f"{prefix}{key}": value}
    return flat


def _csv(rows: Sequence[Mapping[str, Any]], header: bool) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _whole_rows(path: Path) -> list[str]:
    """The header of a file and its rows up to the first that is cut off or holds no numbers."""
    if not path.is_file():
        return []
    header, *rows = path.read_bytes().decode(errors="replace").splitlines(keepends=True) or [""]
    whole = [header]
    for row in rows:
        cells = row.removesuffix("\n").split(",")
        if not row.endswith("\n") or len(cells) != header.count(",") + 1:
            break
        if not all(cell == "" or _is_number(cell) for cell in cells):
            break
        whole.append(row)
    return whole


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _without_empty(state: Any) -> Any:
    """None in the place of arrays without numbers, which orbax does not save."""
    import jax

    return jax.tree.map(lambda x: x if math.prod(x.shape) else None, state)


def _checksum(folder: Path) -> str:
    """Of the files at any depth, with their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax from logging tracebacks of errors that it raises as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
