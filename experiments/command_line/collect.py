"""`rl-optim collect`: data sets for offline learning."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from experiments.command_line.arguments import FLAG, Command, count, option
from experiments.offline.presets import CollectionPlan, default_name

if TYPE_CHECKING:
    from experiments.offline.collection import Collected, Collection


@dataclasses.dataclass(frozen=True)
class Collect(Command):
    """Make data sets for offline learning with an agent that is trained for it.

    They are written with Minari, to $MINARI_DATASETS_PATH or ~/.minari/datasets, or to --root. Read
    them by name, with `rl-optim offline --dataset` or minari.load_dataset.

    Example: rl-optim collect --env Hopper-v5 --datasets medium expert --size 1e5 --steps 1e6
    """

    computes = True

    env: Annotated[str, option("ENV")]
    """Environment with continuous actions, NAME[:key=value,...]. Brax's and Gymnasium's MuJoCo
    tasks have them, e.g. Hopper-v5."""
    datasets: Annotated[tuple[str, ...], option("KIND", "medium")] = ("medium",)
    """Which data sets to make: random, medium, medium-replay, expert, medium-expert."""
    size: Annotated[int, count("--size"), option("TRANSITIONS", "1e5")] = 100_000
    """Transitions in each data set."""
    steps: Annotated[int, count("--steps"), option("STEPS", "1e6")] = 1_000_000
    """Environment steps for training the agent. Its best snapshot is the expert."""
    seed: Annotated[int, option("SEED", "0")] = 0
    """Seed of the training, of the episodes and of the reference returns."""
    noise: Annotated[float | None, option("STD", "the policy's own")] = None
    """Act with the policy's mean action plus Gaussian noise. STD is relative to half the range of
    actions."""
    name: Annotated[str | None, option("NAME", "rl-optim/ENV")] = None
    """First part of the data sets' names. The second part is the kind."""
    root: Annotated[Path | None, option("DIR", "Minari's")] = None
    """Folder to write the data sets to."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environment's")] = ()
    """Settings of PPO, which trains the agent, e.g. num_envs=128 widths=256x256."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace data sets of the same name."""
    cache: Annotated[bool, FLAG] = True
    """Do not cache compiled programs on disk."""

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
    """Makes data sets and says what is in them, also where that is less than the name promises.

    Raises:
        ValueError: if a data set is there already.
        ImportError: if Minari is missing.
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

    written = collect(collection, root, overwrite=overwrite, on_progress=on_progress)
    for one in written:
        print(
            f"Written: {one.dataset_id}, {one.transitions:,} transitions, {one.episodes:,} whole "
            f"episodes, mean return {one.mean_return:.4g}"
        )
    if short := [one for one in written if one.mean_return < one.promised_return]:
        found = "; ".join(map(_shortfall, short))
        line = (
            f"Note: {found}. Snapshots are chosen by their mean actions, but the data also contain "
            "the policy's noise. More --steps or a small --noise may help."
        )
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _shortfall(one: Collected) -> str:
    """In what a data set is less than its name promises."""
    found = (
        f"{one.dataset_id} has a mean return of {one.mean_return:.4g}, but its name promises at "
        f"least {one.promised_return:.4g}"
    )
    if one.mean_return < one.random_return:
        found += f": it is worse than random actions, which have {one.random_return:.4g}"
    return found
