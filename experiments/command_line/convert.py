"""`rl-optim convert`: published weights of OPEN and VeLO as a file of meta-parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.command_line.arguments import FLAG, Command, count, option


@dataclasses.dataclass(frozen=True)
class Convert(Command):
    """Convert OPEN's weights, published as a flat vector, or VeLO's to a file for open@FILE.

    Example: rl-optim convert breakout_OPEN.npy open_breakout.safetensors
    """

    computes = True

    weights: Annotated[Path, tyro.conf.Positional, option("WEIGHTS.npy")]
    """File that holds the vector of float32 numbers, or VeLO's checkpoint."""
    out: Annotated[Path, tyro.conf.Positional, option("OUT.safetensors")]
    """File to write."""
    architecture: Annotated[Literal["open", "velo"], option("{open,velo}", "open")] = "open"
    """Whose weights they are. VeLO's are in a file called params, or in a *.checkpoint."""
    training_tasks: Annotated[str, option("TEXT", "unknown")] = "unknown"
    """What the weights were trained on, for the record."""
    licence: Annotated[str, option("TEXT", "unknown")] = "unknown"
    """What others may do with the weights, for the record, e.g. Apache-2.0."""
    origin: Annotated[str, option("TEXT", "unknown")] = "unknown"
    """Who made the weights and where they are published, for the record."""
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
        if self.architecture == "velo" and (self.hidden_size or self.gru_features):
            raise ValueError(
                "--hidden-size and --gru-features are of OPEN; VeLO's file tells them."
            )
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

        architecture, meta_params, options = (
            optim.load_velo_checkpoint(self.weights)
            if self.architecture == "velo"
            else self._open()
        )
        metadata = {
            "architecture": architecture,
            "training_tasks": self.training_tasks,
            "licence": self.licence,
            "origin": self.origin,
            "converted_from": self.weights.name,
            "options": options,
        }
        optim.save_meta_params(self.out, meta_params, metadata)
        print(f"Written: {self.out}; use it as {self.architecture}@{self.out}")

    def _open(self) -> tuple[Any, Any, dict[str, bool]]:
        import optim

        given = {"hidden_size": self.hidden_size, "gru_features": self.gru_features}
        sizes = {name: size for name, size in given.items() if size is not None}
        meta_params = optim.load_open_npy(self.weights, optim.OPEN(**sizes) if sizes else None)
        gru_features, hidden_size = meta_params["params"]["layers_0"]["kernel"].shape
        return optim.OPEN(hidden_size, gru_features), meta_params, {}
