"""TensorBoard, by tensorboardX: event files in a run's directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter


class TensorBoard:
    """Writes event files, which `tensorboard --logdir` reads.

    Args:
        folder: for the files. Those of a run that is not resumed replace what is there.
        done: steps that the run had before; points after them are logged anew.
    """

    def __init__(self, folder: Path, done: int) -> None:
        if not done:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        # Names of files count in seconds; what is begun in the same one must not be overwritten.
        self._writer = SummaryWriter(
            str(folder), purge_step=done + 1 if done else None, filename_suffix=f".{done}"
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()
