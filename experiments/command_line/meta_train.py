"""`rl-optim meta-train`: finds the weights of a learned optimizer."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from experiments.command_line.arguments import FLAG, LARGEST_SEED, Command, count, option
from experiments.command_line.loggers import Loggers, both, check_loggers
from experiments.meta_training.request import MetaRequest
from experiments.runs.directory import check_free, clear
from experiments.runs.stopping import Stopped

if TYPE_CHECKING:
    from experiments.command_line.progress import MetaProgress
    from experiments.meta_training.training import MetaRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaOptions(Command):
    """What the commands that meta-train have in common: all of a request but seed and patience."""

    computes = True
    spoken: ClassVar[Mapping[str, str]] = {
        "task_sampling": "--sampling",
        "members_at_once": "--at-once",
        "normaliser": "--normalisers",
        "a learning rate": "--learning-rates",
        "a reward scale": "--reward-scales",
        "the steps of a lifetime": "--steps",
        "the stretches of a lifetime": "--stretches",
    }

    optimizer: Annotated[str, option("OPTIMIZER")]
    """Learned optimizer, NAME[@WEIGHTS][:key=value,...], e.g. optim4rl:learning_rate=1e-3. If
    weights are given, training starts from them."""
    out: Annotated[Path, option("DIR")]
    """Directory to write to."""
    tasks: Annotated[tuple[str, ...], option("ENV", "the preset's")] = ()
    """Environments to train on, NAME[:key=value,...]; see `rl-optim list envs`."""
    method: Annotated[str, option("METHOD", "es")] = "es"
    """es (evolution), pipeline (pipeline training) or imitation (of another optimizer, as a warm
    start for the other two)."""
    preset: Annotated[str | None, option("PRESET")] = None
    """Supplies every option that is not given, with --method pipeline: small (how optim4rl@small
    was trained), flip (a CartPole that changes), or the settings of Optim4RL's authors: catch,
    gridworlds, small_dense_long, big_dense_long, ant or humanoid."""
    strategy: Annotated[str, option("STRATEGY", "openai_es")] = "openai_es"
    """Of --method es: openai_es, snes, pgpe or sep_cma_es; or persistent_es, noise_reuse_es or
    es_single, which cut lifetimes into stretches. Its options are sigma, sigma_decay,
    learning_rate, learning_rate_decay and shaping: ranks of members, seed_ranks (within each life)
    or values (the fitness itself), e.g. openai_es:sigma=0.03,learning_rate=0.03."""
    pipeline: Annotated[tuple[str, ...], option("KEY=VALUE", "see docs/meta_training.md")] = ()
    """Settings of --method pipeline: agents, agents_at_once, window, reset_interval, meta_steps,
    schedule, optimizer, task_norm, max_norm, max_entry, first_order, rematerialise, age_bins and
    most_skipped, e.g. agents=128 window=4 optimizer=adam:learning_rate=1e-3. With window=4,8,16 the
    meta-gradient is the mean over windows of these lengths."""
    target: Annotated[str | None, option("OPTIMIZER")] = None
    """Optimizer to imitate, NAME[:key=value,...], e.g. adam:learning_rate=1e-2."""
    imitation: Annotated[tuple[str, ...], option("KEY=VALUE", "see docs/meta_training.md")] = ()
    """Settings of --method imitation: agents, learning_rate, learning_rate_decay and anneal, which
    lets the target's learning rate fall linearly to 0 over a lifetime unless it is false."""
    learner: Annotated[str | None, option("LEARNER", "the preset's, or ppo")] = None
    """ppo or a2c."""
    learning_rates: Annotated[tuple[str, ...], option("RATE", "the optimizer's")] = ()
    """Learning rate of the learned optimizer: one for all tasks, or one per task."""
    reward_scales: Annotated[tuple[str, ...], option("SCALE", "1")] = ()
    """Factor of the rewards that the learner sees: one for all tasks, or one per task."""
    steps: Annotated[tuple[str, ...], option("STEPS", "1e5")] = ()
    """Environment steps of a lifetime, rounded up to whole iterations: one number for all tasks, or
    one per task."""
    normalisers: Annotated[tuple[str, ...], option("RETURN", "published returns, or 1")] = ()
    """Returns are divided by this before they are averaged over tasks: one number for all tasks, or
    one per task."""
    population: Annotated[int, count("--population"), option("MEMBERS", "64")] = 64
    """Members of a generation."""
    generations: Annotated[
        int | None, count("--generations"), option("GENERATIONS", "the preset's, or 500")
    ] = None
    """How many generations, or meta-iterations."""
    curriculum: Annotated[tuple[str, ...], option("GENERATIONS", "all tasks at a time")] = ()
    """Of es and pipeline: train on one task at a time, and take the next of --tasks after so many
    generations: one number, rising, for each task but the first. Evaluations are on all tasks."""
    lives: Annotated[int, count("--lives"), option("LIVES", "1")] = 1
    """Lifetimes that each member lives on each task in a generation."""
    fitness: Annotated[str, option("FITNESS", "final")] = "final"
    """Of --method es, what a lifetime is judged by: final (the return at its end), area (the mean
    return over all of it, the area under its learning curve) or mean (of the two). Evaluations are
    of the final return."""
    randomise: Annotated[tuple[str, ...], option("KEY=LOW..HIGH")] = ()
    """Of --method es, settings that are drawn for each lifetime, evenly in their logarithm, from
    learning_rate (the optimizer's), reward_scale, entropy_weight, value_weight and clip, e.g.
    learning_rate=3e-3..3e-2. Members that share a seed share them; evaluations have the tasks'."""
    sampling: Annotated[str, option("SAMPLING", "all")] = "all"
    """all: every member lives on every task. pairs: each antithetic pair lives on one task, with
    seeds of its own, and its two members are compared only with each other."""
    stretches: Annotated[
        int | None, count("--stretches"), option("STRETCHES", "10 where they are cut")
    ] = None
    """Generations that a lifetime is spread over, for strategies that cut lifetimes."""
    at_once: Annotated[int | None, count("--at-once"), option("MEMBERS", "all")] = None
    """Members that a device runs in parallel; fewer need less memory."""
    evaluate_every: Annotated[int, count("--evaluate-every"), option("GENERATIONS", "20")] = 20
    """Generations from one evaluation of the mean weights to the next."""
    evaluation_seeds: Annotated[int, count("--evaluation-seeds"), option("SEEDS", "4")] = 4
    """Lifetimes per task in an evaluation; their seeds are used for nothing else."""
    evaluation_steps: Annotated[tuple[str, ...], option("STEPS", "those of a lifetime")] = ()
    """Environment steps of a lifetime in an evaluation, rounded up to whole iterations: one number
    for all tasks, or one per task."""
    set: Annotated[tuple[str, ...], option("KEY=VALUE", "the environments'")] = ()
    """Settings of the learner, e.g. num_envs=128 widths=256x256."""
    log: Annotated[tuple[str, ...], option("LOGGER", "none")] = ()
    """Log to tensorboard or wandb as well (extras of these names). WANDB_MODE=offline sends
    nothing."""
    resume: Annotated[bool, FLAG] = False
    """Continue what was interrupted; what is finished is left as it is."""
    overwrite: Annotated[bool, FLAG] = False
    """Replace what is already in the directory."""
    cache: Annotated[bool, FLAG] = True
    """Do not cache compiled programs on disk."""

    def train_in_turn(self, runs: dict[Path, MetaRun], *, until_the_last: bool) -> None:
        """Meta-trains one run after the other, and shows how they get on.

        Args:
            runs: by run directory; each is forgotten once it is done, with its programs.
            until_the_last: whether the others go on where one is stopped, because its meta-gradient
                was not finite; and then one that was stopped before is not resumed.

        Raises:
            ValueError: if a run cannot begin.
            OSError: if something cannot be written.
            MemoryError: if a run does not fit into memory.
            Stopped: if a run is stopped, or something in its directory cannot be used.
        """
        from rich.console import Console

        from experiments.command_line.devices import memory_for
        from experiments.command_line.display import Display
        from experiments.command_line.progress import EvolutionProgress, MetaGradientProgress
        from experiments.meta_training.training import has_stopped, meta_train
        from experiments.runs.compiled import forget_if_many

        what, lower = {
            "es": ("a generation", "--at-once, --population or num_envs"),
            "pipeline": ("a meta-iteration", "agents_at_once, window or num_envs"),
            "imitation": ("an iteration", "agents or num_envs"),
        }[self.method]

        def progress(path: Path, run: MetaRun) -> MetaProgress:
            name = run.optimizer if path == self.out else str(path.relative_to(self.out))
            common: dict[str, Any] = {"optimizer": name, "steps": run.generations}
            if self.method == "es":
                return EvolutionProgress(strategy=self.strategy, **common)
            return MetaGradientProgress(method=self.method, **common)

        if self.overwrite:
            clear(runs)
        shown = {path: progress(path, run) for path, run in runs.items()}
        with Display(list(shown.values()), Console(file=sys.stderr)) as display:
            for path in list(runs):
                run = runs.pop(path)
                if until_the_last and has_stopped(run, path):
                    shown[path].state = "stopped"
                    display.update(shown[path])
                    continue
                forget_if_many()
                try:
                    with (
                        memory_for(what, lower),
                        display.shown(shown[path]) as show,
                        Loggers(self.log, path, run.optimizer, run.config()) as loggers,
                    ):
                        meta_train(
                            run,
                            path,
                            resume=self.resume,
                            overwrite=self.overwrite,
                            on_start=both(show.start, loggers.begin),
                            on_generation=both(show.point, loggers.generation),
                            on_note=display.note,
                        )
                except Stopped as reason:
                    if not (until_the_last and has_stopped(run, path)):
                        raise
                    display.note(f"{reason}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaTrain(MetaOptions, MetaRequest):
    """Meta-train a learned optimizer: find weights with which agents learn well.

    With --method es, each generation tries a population of weights on whole lifetimes of agents and
    moves their mean towards those with the higher returns. With --method pipeline, each
    meta-iteration differentiates through a few learner iterations of agents of all ages and
    descends their loss. With --method imitation, each iteration reduces the difference between the
    updates and those of another optimizer. The last weights are written to meta_params.safetensors,
    those with the best evaluation to best_meta_params.safetensors.

    Example: rl-optim meta-train --optimizer optim4rl --tasks Catch-bsuite --out runs/catch
    """

    seed: Annotated[int, count("--seed", LARGEST_SEED, least=0), option("SEED", "0")] = 0
    """Seed of the first weights, the perturbations and the lifetimes."""
    patience: Annotated[int | None, count("--patience"), option("EVALUATIONS", "never")] = None
    """After how many evaluations in a row that are no better than the best before them training
    ends."""

    def check(self) -> None:
        """See `Command`."""
        check_loggers(self.log)
        check_free([self.out], resume=self.resume, overwrite=self.overwrite)

    def logs(self) -> list[Path]:
        """See `Command`."""
        return [self.out / "meta_metrics.csv"]

    def run(self) -> None:
        """Meta-trains, and says where the weights are.

        Raises:
            Stopped: if too many meta-gradients in a row were not finite.
        """
        from experiments.command_line.devices import keep_compiled_programs
        from experiments.meta_training.methods import meta_run
        from experiments.meta_training.training import BEST, WEIGHTS

        run = meta_run(self)
        if self.cache:
            keep_compiled_programs()
        self.train_in_turn({self.out: run}, until_the_last=False)
        print(f"Written: {self.out / WEIGHTS} (last), {BEST} (best evaluated)")
