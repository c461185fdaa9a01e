"""`rl-optim collect`: data sets for offline learning."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.command_line.arguments import Command, count, option
from experiments.offline.presets import CollectionPlan, default_name

if TYPE_CHECKING:
    from experiments.offline.collection import Collection


@dataclasses.dataclass(frozen=True)
class Collect(Command):
    """Make data sets for offline learning with an agent that is trained here.

    Written with Minari (under $MINARI_DATASETS_PATH or ~/.minari/datasets, or --root), to be read
    by name with `rl-optim offline --dataset` or minari.load_dataset.

    Example: rl-optim collect --env Hopper-v5 --datasets medium expert --size 1e5 --steps 1e6
    """

    computes = True

    env: Annotated[str, option("ENV")]
    """Environment with continuous actions, NAME[:key=value,...]: one of Brax's, or of Gymnasium's
    MuJoCo tasks, e.g. Hopper-v5."""
    datasets: Annotated[tuple[str, ...], option("KIND", "medium")] = ("medium",)
    """random, medium, medium-replay, expert, medium-expert."""
    size: Annotated[int, count("--size"), option("TRANSITIONS", "1e5")] = 100_000
    """Transitions of each data set."""
    steps: Annotated[int, count("--steps"), option("STEPS", "1e6")] = 1_000_000
    """Environment steps of the agent's training; its best snapshot is the expert."""
    seed: Annotated[int, option("SEED", "0")] = 0
    """Of training, of the episodes and of the reference returns."""
    noise: Annotated[float | None, option("STD", "the policy's own")] = None
    """Act by the policy's mean plus Gaussian noise of this standard deviation."""
    name: Annotated[str | None, option("NAME", "rl-optim/ENV")] = None
    """First part of the data sets' names; the second is the kind."""
    root: Annotated[Path | None, option("DIR", "Minari's")] = None
    """Folder of data sets to write to."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environment's")] = ()
    """Settings of PPO, e.g. num_envs=128 widths=256x256."""
    overwrite: bool = False
    """Replace data sets of the same name."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""

    def run(self) -> None:
        """See `Command`."""
        from experiments.command_line.devices import keep_compiled_programs
        from experiments.offline.collection import Collection

        if self.cache:
            keep_compiled_programs()
        collection = Collection(
            self.env,
            self.datasets,
            self.size,
            self.steps,
            self.seed,
            self.noise,
            self.name or default_name(self.env),
            self.set,
        )
        collect_shown(collection, self.root, self.overwrite)


def collect_planned(plan: CollectionPlan, root: Path) -> None:
    """Collects what a preset needs."""
    from experiments.offline.collection import Collection

    collection = Collection(
        plan.env,
        (plan.kind,),
        plan.size,
        plan.steps,
        plan.seed,
        plan.noise,
        default_name(plan.env),
    )
    collect_shown(collection, root, overwrite=False)


def collect_shown(collection: Collection, root: Path | None, overwrite: bool) -> None:
    """Makes data sets and says what is in them.

    Raises:
        ValueError: if a data set is there already, or Minari is missing.
        OSError: if something cannot be written.
    """
    from rich.console import Console

    from experiments.offline.collection import collect

    console = Console(file=sys.stderr)

    def on_progress(done: int, steps: int, episode_return: float) -> None:
        line = (
            f"agent on {collection.env}: {done:,} of {steps:,} steps, return {episode_return:.4g}"
        )
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for one in collect(collection, root, overwrite=overwrite, on_progress=on_progress):
        print(
            f"Written: {one.dataset_id}, {one.transitions:,} transitions, {one.episodes:,} whole "
            f"episodes, mean return {one.mean_return:.4g}"
        )
