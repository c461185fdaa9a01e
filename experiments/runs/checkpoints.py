"""Checkpoints of a run: the last two states, by orbax, with a checksum of each.

A state is saved as arrays of the host, of a run's seeds without those that only fill up devices. So
it can be taken up on any number of devices. Nothing that was saved is deleted, but for what a newer
checkpoint takes the place of: what cannot be used is put aside.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.runs.files import write_atomically

if TYPE_CHECKING:
    import numpy as np

# No numpy, jax or orbax at import, see `experiments.runs.directory`.

CHECKSUMS = "checkpoints.json"
FOLDER = "checkpoints"
_KEPT = 2
_SPARE_BYTES = 2**20  # on top of a checkpoint's arrays


class Checkpoints:
    """The checkpoints of one run, by the point after which each was saved.

    Args:
        path: the run directory.
        seeds: how many seeds there are along the first axis of a state's arrays, before those that
            fill up devices; None if states are no batch of seeds.
    """

    def __init__(self, path: Path, seeds: int | None) -> None:
        self._path = path
        self._seeds = seeds
        self._manager_if_open: Any = None  # orbax's CheckpointManager

    def folders(self) -> dict[int, Path]:
        """The folders of complete checkpoints, by point; orbax renames them when complete."""
        folder = self._path / FOLDER
        found = folder.iterdir() if folder.is_dir() else ()
        return {int(path.name): path for path in found if path.name.isdecimal()}

    def checksums(self) -> dict[str, str]:
        """The checksums by point. One may be missing: it is written after its checkpoint."""
        try:
            return dict(json.loads((self._path / CHECKSUMS).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return {}

    def save(self, point: int, state: Any, progress: Mapping[str, Any]) -> None:
        """Saves the state after a logged point; the two last ones are kept.

        Args:
            point: its number, greater than those of all other checkpoints.
            state: a pytree of arrays.
            progress: what else is kept, as JSON.

        Raises:
            OSError: if the disk is full or cannot be written to.
        """
        import jax
        import orbax.checkpoint as ocp

        host = jax.tree.map(self._saved, jax.device_get(jax.tree.map(_data, state)))
        # A disk that fills up while orbax writes makes its threads print pages of traceback.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(host)) + _SPARE_BYTES
        if shutil.disk_usage(self._path).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        if str(point) in self.checksums():  # of one that is not there any more
            self._write_checksums({})
        with _quiet():
            self._manager().save(
                point,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host),
                    progress=ocp.args.JsonSave(dict(progress)),
                ),
            )
        # Of the others the checksum from when they were written: they may have rotted since.
        self._write_checksums({str(point): _checksum(self.folders()[point])})

    def is_whole(self, point: int) -> bool:
        """Whether a checkpoint matches its checksum, if it has one.

        Raises:
            OSError: if it cannot be read.
        """
        checksum = _checksum(self.folders()[point])
        return self.checksums().get(str(point), checksum) == checksum

    def progress(self, point: int) -> dict[str, Any]:
        """What was saved beside the state.

        Raises:
            OSError: if it cannot be read.
            ValueError: likewise.
        """
        return dict(json.loads((self.folders()[point] / "progress" / "metadata").read_text()))

    def read(self, point: int, newborn: Any) -> Any:
        """Reads a state, as arrays of the host.

        Args:
            point: which.
            newborn: a state of the same shapes and dtypes, but perhaps of other surplus seeds.

        Raises:
            Exception: whatever orbax stumbles upon.
        """
        import jax
        import numpy as np
        import orbax.checkpoint as ocp

        def like(leaf: Any) -> np.ndarray | None:
            data = _data(leaf) if leaf.size else None
            return None if data is None else np.broadcast_to(np.zeros((), data.dtype), data.shape)

        with _quiet():
            restored = self._manager().restore(
                point,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(jax.tree.map(like, newborn))
                ),
            )
        return jax.tree.map(self._fitted, newborn, restored["state"])

    def spread(self, saved: Any, newborn: Any) -> Any:
        """Puts a state that was read where a newborn one is: on the same devices."""
        import jax
        import jax.numpy as jnp

        def put(leaf: Any, array: np.ndarray) -> jax.Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                key = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
                return jax.device_put(key, leaf.sharding)
            return jax.device_put(array, leaf.sharding)

        return jax.tree.map(put, newborn, saved)

    def put_aside(self, point: int) -> None:
        """Moves a checkpoint that cannot be used to where `aside` says."""
        self.folders()[point].rename(self.aside(point))
        self.close()  # orbax has made a list of them
        self._write_checksums({})

    def aside(self, point: int) -> Path:
        """Where a checkpoint would be put that cannot be used, or what belonged to it."""
        first = self._path / FOLDER / f"damaged-{point}"
        others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
        return next(path for path in itertools.chain([first], others) if not path.exists())

    def close(self) -> None:
        """Ends what orbax has open."""
        if self._manager_if_open is not None:
            self._manager_if_open.close()
            self._manager_if_open = None

    def _write_checksums(self, new: Mapping[str, str]) -> None:
        """Keeps the checksums of the checkpoints that are there, and adds new ones."""
        there = {str(point) for point in self.folders()}
        kept = {point: value for point, value in self.checksums().items() if point in there}
        write_atomically(self._path / CHECKSUMS, json.dumps(kept | dict(new)) + "\n")

    def _saved(self, array: np.ndarray) -> np.ndarray | None:
        """An array as it is saved; None in the place of those without numbers: orbax saves none."""
        if not array.size:
            return None
        return array if self._seeds is None else array[: self._seeds]

    def _fitted(self, leaf: Any, saved: np.ndarray | None) -> np.ndarray:
        """An array of the shape that it has in a newborn state."""
        import numpy as np

        expected = _data(leaf)
        if saved is None:
            return np.zeros(expected.shape, expected.dtype)
        if self._seeds is not None:  # the first seed fills up, as in `seed_keys`
            surplus = [0] * (len(expected) - self._seeds)
            saved = saved[[*range(self._seeds), *surplus]]
        if saved.shape != expected.shape:
            raise ValueError(f"it has the shape {saved.shape} in the place of {expected.shape}")
        return saved

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        if self._manager_if_open is None:
            self._manager_if_open = ocp.CheckpointManager(
                (self._path / FOLDER).absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=_KEPT, enable_async_checkpointing=False
                ),
            )
        return self._manager_if_open


def _data(leaf: Any) -> Any:
    """An array's numbers: of typed keys the raw ones."""
    import jax
    import jax.numpy as jnp

    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


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
