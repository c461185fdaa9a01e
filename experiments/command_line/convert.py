"""`rl-optim convert`: OPEN's published weights as a file of meta-parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command_line.arguments import FLAG, Command, count, option


@dataclasses.dataclass(frozen=True)
class Convert(Command):
    """Convert OPEN's weights, published as a flat vector, to a file for open@FILE.

    Example: rl-optim convert breakout_OPEN.npy open_breakout.safetensors
    """

    computes = True

    weights: Annotated[Path, tyro.conf.Positional, option("WEIGHTS.npy")]
    """File that holds the vector of float32 numbers."""
    out: Annotated[Path, tyro.conf.Positional, option("OUT.safetensors")]
    """File to write."""
    training_tasks: Annotated[str, option("TEXT", "unknown")] = "unknown"
    """What the weights were trained on, for the record."""
    hidden_size: Annotated[
        int | None, count("--hidden-size"), option("UNITS", "whichever of 16 and 32 fits")
    ] = None
    """Units of the perceptron's hidden layers."""
    gru_features: Annotated[
        int | None, count("--gru-features"), option("UNITS", "whichever of 8 and 16 fits")
    ] = None
    """Units of the GRU."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace a file that is already there."""

    def check(self) -> None:
        """See `Command`."""
        if self.out.suffix != ".safetensors":
            raise ValueError(
                f"OUT.safetensors must be a name that ends in .safetensors; got {str(self.out)!r}."
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
