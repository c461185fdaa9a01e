"""`rl-optim convert`: OPEN's published weights as a file of meta-parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command_line.arguments import Command, count, option


@dataclasses.dataclass(frozen=True)
class Convert(Command):
    """Convert OPEN's weights from a flat vector, as its authors publish them, for open@OUT.

    Example: rl-optim convert breakout_OPEN.npy open_breakout.safetensors
    """

    weights: Annotated[Path, tyro.conf.Positional, option("WEIGHTS.npy")]
    """The vector, of float32 numbers."""
    out: Annotated[Path, tyro.conf.Positional, option("OUT.safetensors")]
    """File to write."""
    training_tasks: Annotated[str, option("TEXT", "unknown")] = "unknown"
    """What they were trained on."""
    hidden_size: Annotated[
        int | None, count("--hidden-size"), option("UNITS", "the authors' that fits: 16 or 32")
    ] = None
    """Units of the perceptron's hidden layers."""
    gru_features: Annotated[
        int | None, count("--gru-features"), option("UNITS", "the authors' that fits: 8 or 16")
    ] = None
    """Units of the GRU."""
    overwrite: bool = False
    """Replace the file if there is one."""

    def check(self) -> None:
        """See `Command`."""
        if self.out.suffix != ".safetensors":
            raise ValueError(
                f"the file to write must be called *.safetensors; got {str(self.out)!r}."
            )
        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists already; use --overwrite to replace it.")
        if not self.out.parent.is_dir():
            raise ValueError(f"cannot write to {self.out}: {self.out.parent} is not a directory.")

    def run(self) -> None:
        """See `Command`."""
        import optim

        given = {"hidden_size": self.hidden_size, "gru_features": self.gru_features}
        sizes = {name: size for name, size in given.items() if size is not None}
        meta_params = optim.load_open_npy(self.weights, optim.OPEN(**sizes) if sizes else None)
        gru_features, hidden_size = meta_params["params"]["layers_0"]["kernel"].shape
        metadata = {
            "architecture": optim.OPEN(hidden_size, gru_features),
            "training_tasks": self.training_tasks,
            "converted_from": self.weights.name,
        }
        optim.save_meta_params(self.out, meta_params, metadata)
        print(f"Written: {self.out}; use it as open@{self.out}")
