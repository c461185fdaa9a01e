"""Writes run directories so that a run killed at any moment can go on from its last checkpoint.

`experiments.report` reads them; the files are

- `config.json`: what was asked for, and with which versions, on what machine;
- `metrics.csv`: a row per logged point and seed. It holds no times, so that a run and its resumed
  twin write the same bytes;
- `timing.csv`: seconds of wall time since the start, per logged point;
- `evaluation.csv`: fresh episodes after training. It is written last: a run that has it is done;
- `checkpoints/`: the last two states, by orbax.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

# What may differ between the start of a run and its continuation.
_CIRCUMSTANCES = ("versions", "git_revision", "machine", "command")


class RunDirectory:
    """One run's files. Construct it with `create`."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = config
        self._checkpoints: ocp.CheckpointManager | None = None

    @classmethod
    def check(cls, path: Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Says whether `create` may go ahead, without changing anything.

        Raises:
            ValueError: if the directory is in use and neither `resume` nor `overwrite` was asked
                for, if the run to resume was started with another configuration, or if nothing
                can be written there.
        """
        existing = path / "config.json"
        if existing.exists() and resume:
            try:
                old = json.loads(existing.read_text())
            except json.JSONDecodeError:
                raise ValueError(f"{existing} is not readable as JSON; use --overwrite.") from None
            for key in sorted((old.keys() | config.keys()) - set(_CIRCUMSTANCES)):
                if old.get(key) != config.get(key):
                    raise ValueError(
                        f"cannot resume {path}: its {key} is {old.get(key)!r}, not "
                        f"{config.get(key)!r}."
                    )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())) and not overwrite:
            hint = "--resume to continue it or " if existing.exists() else ""
            raise ValueError(f"{path} exists already; use {hint}--overwrite to replace it.")
        writable = next(parent for parent in (path, *path.parents) if parent.exists())
        if not (writable.is_dir() and os.access(writable, os.W_OK)):
            raise ValueError(f"cannot write to {path}: {writable} is not a writable directory.")

    @classmethod
    def create(
        cls, path: Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> RunDirectory:
        """Makes the directory, or opens the one to resume.

        Args:
            path: the directory.
            config: what `config.json` is to hold.
            resume: continue a run with the same configuration, if there is one.
            overwrite: delete what is there first, unless it is to be resumed.

        Raises:
            ValueError: see `check`.
        """
        cls.check(path, config, resume=resume, overwrite=overwrite)
        if not (resume and (path / "config.json").exists()):
            if path.exists():
                shutil.rmtree(path)
            path.mkdir(parents=True)
            write_atomically(path / "config.json", json.dumps(config, indent=2) + "\n")
        return cls(path, config)

    @property
    def finished(self) -> bool:
        """Whether the run is complete, its evaluation included."""
        return (self.path / "evaluation.csv").exists()

    def append(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows to `metrics.csv` or `timing.csv`, after a header if the file is new."""
        path = self.path / file
        with open(path, "a", newline="") as stream:
            stream.write(_csv(rows, header=stream.tell() == 0))

    def write(self, file: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a whole file at once."""
        write_atomically(self.path / file, _csv(rows, header=True))

    def save_checkpoint(self, point: int, state: Any, seconds: float) -> None:
        """Saves the state after the logged point `point`; the two last ones are kept."""
        self._manager().save(
            point,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave({"seconds": seconds}),
            ),
        )

    def restore_checkpoint(self, like: Any) -> tuple[int, Any, float] | None:
        """Loads the last checkpoint, and forgets what was logged after it.

        Args:
            like: a state of `jax.ShapeDtypeStruct`, with shardings.

        Returns:
            `(point, state, seconds)`, or None if there is no checkpoint, in which case all that
            was logged is forgotten.
        """
        point = self._manager().latest_step()
        for file in ("metrics.csv", "timing.csv"):
            self._forget(file, after=-1 if point is None else point)
        if point is None:
            return None
        restored = self._manager().restore(
            point,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore()
            ),
        )
        return point, restored["state"], float(restored["progress"]["seconds"])

    def _forget(self, file: str, after: int) -> None:
        path = self.path / file
        if not path.exists():
            return
        header, *lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= after]
        if kept:
            write_atomically(path, header + "".join(kept))
        else:
            path.unlink()

    def _manager(self) -> ocp.CheckpointManager:
        if self._checkpoints is None:
            self._checkpoints = ocp.CheckpointManager(
                (self.path / "checkpoints").absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=2, enable_async_checkpointing=False
                ),
            )
        return self._checkpoints


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that at any moment it is the old one or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _csv(rows: Sequence[Mapping[str, Any]], header: bool) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def directory_name(text: str) -> str:
    """A name for a directory: the text with all but letters, digits and `._=,-` replaced."""
    return "".join(c if c.isalnum() or c in "._=,-" else "-" for c in text)


def unique_names(texts: Iterable[str]) -> dict[str, str]:
    """Directory names of several texts.

    Raises:
        ValueError: if a text is given twice.
    """
    names: dict[str, str] = {}
    for text in texts:
        if text in names:
            raise ValueError(f"{text!r} is given twice.")
        names[text] = directory_name(text)
    return names
