"""`rl-optim meta-train`: finds the weights of a learned optimizer."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.command_line.arguments import Command, count, option
from experiments.meta_training.request import MetaRequest
from experiments.runs.directory import check_free


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaTrain(Command, MetaRequest):
    """Meta-train a learned optimizer: find the weights with which agents learn best.

    With the method es, a generation tries a population of weights on whole lifetimes of agents and
    moves their mean towards those that ended with the higher returns. With the method pipeline, a
    meta-iteration descends the loss that agents of all ages have after a few iterations, through
    which it is differentiated. With the method imitation, an iteration descends the difference of
    its updates from another optimizer's. Ends with the last weights in meta_params.safetensors
    and the best evaluated ones in best_meta_params.safetensors.

    Example: rl-optim meta-train --optimizer optim4rl --tasks Catch-bsuite --out runs/catch
    """

    resumes = True
    computes = True

    optimizer: Annotated[str, option("OPTIMIZER")]
    """Learned optimizer, NAME[@WEIGHTS][:key=value,...], e.g. optim4rl:learning_rate=1e-3; training
    starts from the weights, if there are any."""
    out: Annotated[Path, option("DIR")]
    """The run directory."""
    tasks: Annotated[tuple[str, ...], option("ENV", "the preset's")] = ()
    """Environments to train it on, NAME[:key=value,...]; see `rl-optim list envs`."""
    method: Annotated[str, option("METHOD", "es")] = "es"
    """How: es (evolution), pipeline (pipeline training) or imitation (of another optimizer, as a
    warm start for the others)."""
    preset: Annotated[str | None, option("PRESET")] = None
    """Fills in whatever is not given, for the method pipeline: small, with which optim4rl@small was
    trained, or with the settings of Optim4RL's authors catch, gridworlds, small_dense_long,
    big_dense_long, ant or humanoid."""
    strategy: Annotated[str, option("STRATEGY", "openai_es")] = "openai_es"
    """openai_es, snes, pgpe or sep_cma_es, or for lifetimes cut into stretches persistent_es or
    noise_reuse_es; with options sigma, sigma_decay, learning_rate and learning_rate_decay, e.g.
    openai_es:sigma=0.03,learning_rate=0.03."""
    pipeline: Annotated[tuple[str, ...], option("KEY=VALUE", "see README")] = ()
    """Settings of pipeline training: agents, agents_at_once, window, reset_interval, meta_steps,
    schedule, optimizer, task_norm, max_norm, max_entry, first_order, rematerialise, age_bins,
    most_skipped, e.g. agents=128 window=4 optimizer=adam:learning_rate=1e-3."""
    target: Annotated[str | None, option("OPTIMIZER")] = None
    """What imitation follows, NAME[:key=value,...], e.g. adam:learning_rate=1e-2."""
    imitation: Annotated[tuple[str, ...], option("KEY=VALUE", "see README")] = ()
    """Settings of imitation: agents, learning_rate, learning_rate_decay, and anneal: whether the
    target's learning rate falls linearly to 0 over a lifetime (true)."""
    learner: Annotated[str | None, option("LEARNER", "the preset's, or ppo")] = None
    """ppo or a2c."""
    learning_rates: Annotated[tuple[str, ...], option("RATE", "the optimizer's")] = ()
    """Learning rates that the learned optimizer is used with: one number, or one for each task."""
    reward_scales: Annotated[tuple[str, ...], option("SCALE", "1")] = ()
    """What the learner's rewards are multiplied by: one number, or one for each task."""
    steps: Annotated[tuple[str, ...], option("STEPS", "1e5")] = ()
    """Environment steps of a lifetime, rounded up to whole iterations: one number, or one for each
    task."""
    normalisers: Annotated[tuple[str, ...], option("RETURN", "published returns, or 1")] = ()
    """Returns are divided by these before they are averaged over tasks: one number, or one for each
    task."""
    population: Annotated[int, count("--population"), option("MEMBERS", "64")] = 64
    """Members of a generation."""
    generations: Annotated[
        int | None, count("--generations"), option("GENERATIONS", "the preset's, or 500")
    ] = None
    """How many generations, or meta-iterations."""
    lives: Annotated[int, count("--lives"), option("LIVES", "1")] = 1
    """Lifetimes of each member on each task, in each generation."""
    sampling: Annotated[str, option("SAMPLING", "all")] = "all"
    """all: every member plays every task. pairs: every antithetic pair plays one task, with seeds
    of its own, and its two members are only compared with each other."""
    stretches: Annotated[
        int | None, count("--stretches"), option("STRETCHES", "10 where they are cut")
    ] = None
    """Generations that a lifetime is spread over, for the strategies that cut them."""
    at_once: Annotated[int | None, count("--at-once"), option("MEMBERS", "all")] = None
    """Members that a device computes side by side; fewer need less memory."""
    evaluate_every: Annotated[int, count("--evaluate-every"), option("GENERATIONS", "20")] = 20
    """Generations between two evaluations of the mean, on seeds of their own."""
    evaluation_seeds: Annotated[int, count("--evaluation-seeds"), option("SEEDS", "4")] = 4
    """Lifetimes of an evaluation, on each task."""
    seed: Annotated[int, option("SEED", "0")] = 0
    """Seed of the first mean, the perturbations and the lifetimes."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environments'")] = ()
    """Settings of the learner, e.g. num_envs=128 widths=256x256."""
    resume: bool = False
    """Continue an interrupted run."""
    overwrite: bool = False
    """Replace the run in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""

    def check(self) -> None:
        """See `Command`."""
        check_free([self.out], resume=self.resume, overwrite=self.overwrite)

    def run(self) -> None:
        """Meta-trains, and says where the weights are.

        Raises:
            Stopped: if too many meta-gradients in a row were not finite.
        """
        from rich.console import Console

        from experiments.command_line.devices import keep_compiled_programs, memory_for
        from experiments.command_line.display import Display
        from experiments.command_line.progress import EvolutionProgress, MetaGradientProgress
        from experiments.meta_training.methods import meta_run
        from experiments.meta_training.training import BEST, WEIGHTS, meta_train

        run = meta_run(self)
        if self.cache:
            keep_compiled_programs()
        common: dict[str, Any] = {"optimizer": run.optimizer, "steps": run.generations}
        progress = (
            EvolutionProgress(strategy=self.strategy, **common)
            if self.method == "es"
            else MetaGradientProgress(method=self.method, **common)
        )
        lower = "agents_at_once" if self.method == "pipeline" else "--at-once, --population"
        with (
            Display([progress], Console(file=sys.stderr)) as display,
            memory_for("a generation", f"{lower} or num_envs"),
            display.shown(progress) as show,
        ):
            meta_train(
                run,
                self.out,
                resume=self.resume,
                overwrite=self.overwrite,
                on_start=show.start,
                on_generation=show.point,
                on_note=display.note,
            )
        print(f"Written: {self.out / WEIGHTS} (last), {BEST} (best evaluated)")
