"""Weights & Biases. Whether anything is sent, its own variable WANDB_MODE says, e.g. offline."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

_ID = "wandb_run.txt"


class WeightsAndBiases:
    """Logs to a run of the project that WANDB_PROJECT names, or of `rl-optim`.

    Args:
        path: the run's directory, in which wandb keeps its files.
        title: what the run is called.
        config: what its `config.json` says.
        done: steps that the run had before; the run at Weights & Biases then goes on.

    Raises:
        ValueError: if wandb cannot begin, for example as it knows no key.
    """

    def __init__(self, path: Path, title: str, config: Mapping[str, Any], done: int) -> None:
        file = path / _ID
        if not (done and file.is_file()):
            file.write_text(uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "rl-optim"),
                id=file.read_text(),
                resume="allow",
                name=title,
                config=dict(config),
                dir=str(path),
            )
        except wandb.Error as error:
            raise ValueError(
                f"--log wandb cannot begin ({error}); with WANDB_MODE=offline it needs no network."
            ) from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()
