"""What the commands of `rl-optim` take: a dataclass for each, whose docstrings are the help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from experiments.settings import unknown, whole_number

# No jax at import: `--help` answers at once, and XLA's settings have to be made before jax starts.

LISTS = ("envs", "optimizers", "presets")
_MOST_SEEDS = 10_000


class UsageError(Exception):
    """An argument that cannot be read; tyro lets it through, which it does not with ValueError."""


def _option(metavar: str, default: str = "") -> object:
    return tyro.conf.arg(
        metavar=metavar, help_behavior_hint=f"(default: {default})" if default else ""
    )


def _count(option: str, most: float = float("inf")) -> PrimitiveConstructorSpec[int | None]:
    """Reads a whole number that may be written as in 1e6, from 1 to `most`."""
    limits = "at least 1" if most == float("inf") else f"from 1 to {most}"

    def read(texts: list[str]) -> int:
        try:
            value = whole_number(texts[0])
        except (ValueError, OverflowError):
            value = 0
        if not 1 <= value <= most:
            raise UsageError(f"{option} must be a whole number, {limits}; got {texts[0]!r}.")
        return value

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=option.removeprefix("--").upper(),
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def _read_list(texts: list[str]) -> str:
    if texts[0] not in LISTS:
        raise UsageError(str(unknown("list", texts[0], LISTS)))
    return texts[0]


_ListName = PrimitiveConstructorSpec(
    nargs=1,
    metavar="{" + ",".join(LISTS) + "}",
    instance_from_str=_read_list,
    is_instance=lambda value: isinstance(value, str),
    str_from_instance=lambda value: [value],
)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Train agents under several optimizers and compare them.

    Every optimizer is trained on every environment, with all seeds side by side. Ends with a table,
    the same as summary.csv and summary.md, and learning curves as curves.png and curves.svg.

    Example: rl-optim compare --envs Breakout-MinAtar --optimizers adam adamo --out runs/breakout
    """

    envs: Annotated[tuple[str, ...], _option("ENV", "the preset's")] = ()
    """Environments, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list envs`."""
    optimizers: Annotated[tuple[str, ...], _option("OPTIMIZER", "the preset's")] = ()
    """Optimizers, NAME[:key=value,...], e.g. adam:learning_rate=3e-4, or learned ones,
    NAME@WEIGHTS[:key=value,...], e.g. open@weights.safetensors; see `rl-optim list optimizers`. One
    without a learning rate takes the environment's, which is tuned for Adam; learned ones take
    none."""
    steps: Annotated[int | None, _count("--steps"), _option("STEPS", "the preset's, or 1e6")] = None
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[
        int | None, _count("--seeds", _MOST_SEEDS), _option("SEEDS", "the preset's, or 4")
    ] = None
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    out: Annotated[Path | None, _option("DIR", "runs/PRESET")] = None
    """Directory for everything that is written."""
    preset: Annotated[str | None, _option("PRESET")] = None
    """Fills in whatever is not given; see `rl-optim list presets`."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256."""
    resume: bool = False
    """Continue what was interrupted; what is finished stays as it is."""
    overwrite: bool = False
    """Replace the runs in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train agents under one optimizer on one environment.

    Example: rl-optim train --env CartPole-v1 --optimizer adam --steps 1e5 --out runs/cartpole
    """

    env: Annotated[str, _option("ENV")]
    """Environment, NAME[:key=value,...], e.g. ant:backend=spring; see `rl-optim list envs`."""
    optimizer: Annotated[str, _option("OPTIMIZER")]
    """Optimizer, NAME[:key=value,...], e.g. adam:learning_rate=3e-4, or a learned one,
    NAME@WEIGHTS[:key=value,...], e.g. open@weights.safetensors; see `rl-optim list optimizers`. One
    without a learning rate takes the environment's, which is tuned for Adam; learned ones take
    none."""
    out: Annotated[Path, _option("DIR")]
    """The run directory."""
    steps: Annotated[int, _count("--steps"), _option("STEPS", "1e6")] = 1_000_000
    """Environment steps of each seed, rounded up to whole iterations."""
    seeds: Annotated[int, _count("--seeds", _MOST_SEEDS), _option("SEEDS", "4")] = 4
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the environment's")] = ()
    """Settings of the learner, e.g. num_envs=128 anneal=false widths=256x256."""
    resume: bool = False
    """Continue an interrupted run."""
    overwrite: bool = False
    """Replace the run in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class MetaTrain:
    """Meta-train a learned optimizer: find the weights with which agents learn best.

    With the method es, a generation tries a population of weights on whole lifetimes of agents and
    moves their mean towards those that ended with the higher returns. With the method pipeline, a
    meta-iteration descends the loss that agents of all ages have after a few iterations, through
    which it is differentiated. With the method imitation, an iteration descends the difference of
    its updates from another optimizer's. Ends with the last weights in meta_params.safetensors
    and the best evaluated ones in best_meta_params.safetensors.

    Example: rl-optim meta-train --optimizer optim4rl --tasks Catch-bsuite --out runs/catch
    """

    optimizer: Annotated[str, _option("OPTIMIZER")]
    """Learned optimizer, NAME[@WEIGHTS][:key=value,...], e.g. optim4rl:learning_rate=1e-3; training
    starts from the weights, if there are any."""
    out: Annotated[Path, _option("DIR")]
    """The run directory."""
    tasks: Annotated[tuple[str, ...], _option("ENV", "the preset's")] = ()
    """Environments to train it on, NAME[:key=value,...]; see `rl-optim list envs`."""
    method: Annotated[str, _option("METHOD", "es")] = "es"
    """How: es (evolution), pipeline (pipeline training) or imitation (of another optimizer, as a
    warm start for the others)."""
    preset: Annotated[str | None, _option("PRESET")] = None
    """Fills in whatever is not given, for the method pipeline: small, with which optim4rl@small was
    trained, or with the settings of Optim4RL's authors catch, gridworlds, small_dense_long,
    big_dense_long, ant or humanoid."""
    strategy: Annotated[str, _option("STRATEGY", "openai_es")] = "openai_es"
    """openai_es, snes, pgpe or sep_cma_es, or for lifetimes cut into stretches persistent_es or
    noise_reuse_es; with options sigma, sigma_decay, learning_rate and learning_rate_decay, e.g.
    openai_es:sigma=0.03,learning_rate=0.03."""
    pipeline: Annotated[tuple[str, ...], _option("KEY=VALUE", "see README")] = ()
    """Settings of pipeline training: agents, agents_at_once, window, reset_interval, meta_steps,
    schedule, optimizer, task_norm, max_norm, max_entry, first_order, rematerialise, age_bins,
    most_skipped, e.g. agents=128 window=4 optimizer=adam:learning_rate=1e-3."""
    target: Annotated[str | None, _option("OPTIMIZER")] = None
    """What imitation follows, NAME[:key=value,...], e.g. adam:learning_rate=1e-2."""
    imitation: Annotated[tuple[str, ...], _option("KEY=VALUE", "see README")] = ()
    """Settings of imitation: agents, learning_rate, learning_rate_decay, and anneal: whether the
    target's learning rate falls linearly to 0 over a lifetime (true)."""
    learner: Annotated[str | None, _option("LEARNER", "the preset's, or ppo")] = None
    """ppo or a2c."""
    learning_rates: Annotated[tuple[str, ...], _option("RATE", "the optimizer's")] = ()
    """Learning rates that the learned optimizer is used with: one number, or one for each task."""
    reward_scales: Annotated[tuple[str, ...], _option("SCALE", "1")] = ()
    """What the learner's rewards are multiplied by: one number, or one for each task."""
    steps: Annotated[tuple[str, ...], _option("STEPS", "1e5")] = ()
    """Environment steps of a lifetime, rounded up to whole iterations: one number, or one for each
    task."""
    normalisers: Annotated[tuple[str, ...], _option("RETURN", "published returns, or 1")] = ()
    """Returns are divided by these before they are averaged over tasks: one number, or one for each
    task."""
    population: Annotated[int, _count("--population"), _option("MEMBERS", "64")] = 64
    """Members of a generation."""
    generations: Annotated[
        int | None, _count("--generations"), _option("GENERATIONS", "the preset's, or 500")
    ] = None
    """How many generations, or meta-iterations."""
    lives: Annotated[int, _count("--lives"), _option("LIVES", "1")] = 1
    """Lifetimes of each member on each task, in each generation."""
    sampling: Annotated[str, _option("SAMPLING", "all")] = "all"
    """all: every member plays every task. pairs: every antithetic pair plays one task, with seeds
    of its own, and its two members are only compared with each other."""
    stretches: Annotated[
        int | None, _count("--stretches"), _option("STRETCHES", "10 where they are cut")
    ] = None
    """Generations that a lifetime is spread over, for the strategies that cut them."""
    at_once: Annotated[int | None, _count("--at-once"), _option("MEMBERS", "all")] = None
    """Members that a device computes side by side; fewer need less memory."""
    evaluate_every: Annotated[int, _count("--evaluate-every"), _option("GENERATIONS", "20")] = 20
    """Generations between two evaluations of the mean, on seeds of their own."""
    evaluation_seeds: Annotated[int, _count("--evaluation-seeds"), _option("SEEDS", "4")] = 4
    """Lifetimes of an evaluation, on each task."""
    seed: Annotated[int, _option("SEED", "0")] = 0
    """Seed of the first mean, the perturbations and the lifetimes."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the environments'")] = ()
    """Settings of the learner, e.g. num_envs=128 widths=256x256."""
    resume: bool = False
    """Continue an interrupted run."""
    overwrite: bool = False
    """Replace the run in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert OPEN's weights from a flat vector, as its authors publish them, for open@OUT.

    Example: rl-optim convert breakout_OPEN.npy open_breakout.safetensors
    """

    weights: Annotated[Path, tyro.conf.Positional, _option("WEIGHTS.npy")]
    """The vector, of float32 numbers."""
    out: Annotated[Path, tyro.conf.Positional, _option("OUT.safetensors")]
    """File to write."""
    training_tasks: Annotated[str, _option("TEXT", "unknown")] = "unknown"
    """What they were trained on."""
    hidden_size: Annotated[
        int | None, _count("--hidden-size"), _option("UNITS", "the authors' that fits: 16 or 32")
    ] = None
    """Units of the perceptron's hidden layers."""
    gru_features: Annotated[
        int | None, _count("--gru-features"), _option("UNITS", "the authors' that fits: 8 or 16")
    ] = None
    """Units of the GRU."""
    overwrite: bool = False
    """Replace the file if there is one."""


@dataclasses.dataclass(frozen=True)
class Offline:
    """Train offline learners from a data set under several critic optimizers and compare them.

    Ends with a table, the same as summary.csv and summary.md, and figures: mean |Q| with the line
    above which a critic has collapsed, and critic loss, as critic.png and critic.svg; returns,
    where the data's environment can be made, as curves.png and curves.svg.

    Example: rl-optim offline --algorithm td3_bc --dataset mujoco/hopper/medium-v0
    --critic-optimizer adam --critic-optimizer adamo:kappa=1,tau=0.05 --out runs/hopper
    """

    algorithm: Annotated[str | None, _option("ALGORITHM", "the preset's")] = None
    """td3_bc, iql, rebrac, sqog or pars."""
    dataset: Annotated[str | None, _option("DATASET", "the preset's")] = None
    """A Minari name, the folder of a Minari data set, or an HDF5 file of Minari's or D4RL's."""
    critic_optimizer: Annotated[tuple[str, ...], _option("OPTIMIZER", "the preset's")] = ()
    """Critic optimizers to compare, NAME[:key=value,...]; may be repeated. Adam and its kin get an
    eps of 1e-4 unless it is given, as AdamO's authors have it."""
    actor_optimizer: Annotated[str, _option("OPTIMIZER", "adam")] = "adam"
    """The actor's, at the published learning rate unless it names one."""
    value_optimizer: Annotated[str, _option("OPTIMIZER", "adam")] = "adam"
    """The value network's (iql alone), likewise."""
    critic_learning_rate: Annotated[
        float | None, _option("RATE", "the preset's, or the algorithm's")
    ] = None
    """Of critic optimizers that name none."""
    steps: Annotated[int | None, _count("--steps"), _option("STEPS", "the preset's, or 1e6")] = None
    """Updates of the critic of each seed."""
    seeds: Annotated[
        int | None, _count("--seeds", _MOST_SEEDS), _option("SEEDS", "the preset's, or 4")
    ] = None
    """How many seeds: 0, 1, ..., SEEDS - 1."""
    subset: Annotated[
        int | None, _count("--subset"), _option("TRANSITIONS", "the preset's, or all")
    ] = None
    """Learn from so many transitions only, drawn at random."""
    subset_seed: Annotated[int, _option("SEED", "0")] = 0
    """Of that draw."""
    env: Annotated[str | None, _option("ENV", "what the data set names")] = None
    """Environment to evaluate in, NAME[:key=value,...]."""
    evaluations: Annotated[int, _option("TIMES", "10")] = 10
    """How many times the policy is evaluated while it is trained; 0: only afterwards."""
    evaluation_episodes: Annotated[
        int, _count("--evaluation-episodes"), _option("EPISODES", "10")
    ] = 10
    """Episodes of each evaluation."""
    diagnostics_every: Annotated[
        int | None, _count("--diagnostics-every"), _option("STEPS", "never")
    ] = None
    """Log the critic's stability test (optim.diagnostics) every so many steps."""
    out: Annotated[Path | None, _option("DIR", "runs/PRESET")] = None
    """Directory for everything that is written."""
    preset: Annotated[str | None, _option("PRESET")] = None
    """Fills in whatever is not given, and collects its data first; see `rl-optim list presets`."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the published ones")] = ()
    """Settings of the algorithm, e.g. alpha=10 polyak=0.01 critic_widths=64x64."""
    resume: bool = False
    """Continue what was interrupted; what is finished stays as it is."""
    overwrite: bool = False
    """Replace the runs in the directory."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class Collect:
    """Make data sets for offline learning with an agent that is trained here.

    Written with Minari (under $MINARI_DATASETS_PATH or ~/.minari/datasets, or --root), to be read
    by name with `rl-optim offline --dataset` or minari.load_dataset.

    Example: rl-optim collect --env Hopper-v5 --datasets medium expert --size 1e5 --steps 1e6
    """

    env: Annotated[str, _option("ENV")]
    """Environment with continuous actions, NAME[:key=value,...]: one of Brax's, or of Gymnasium's
    MuJoCo tasks, e.g. Hopper-v5."""
    datasets: Annotated[tuple[str, ...], _option("KIND", "medium")] = ("medium",)
    """random, medium, medium-replay, expert, medium-expert."""
    size: Annotated[int, _count("--size"), _option("TRANSITIONS", "1e5")] = 100_000
    """Transitions of each data set."""
    steps: Annotated[int, _count("--steps"), _option("STEPS", "1e6")] = 1_000_000
    """Environment steps of the agent's training; its best snapshot is the expert."""
    seed: Annotated[int, _option("SEED", "0")] = 0
    """Of training, of the episodes and of the reference returns."""
    noise: Annotated[float | None, _option("STD", "the policy's own")] = None
    """Act by the policy's mean plus Gaussian noise of this standard deviation."""
    name: Annotated[str | None, _option("NAME", "rl-optim/ENV")] = None
    """First part of the data sets' names; the second is the kind."""
    root: Annotated[Path | None, _option("DIR", "Minari's")] = None
    """Folder of data sets to write to."""
    set: Annotated[tuple[str, ...], _option("KEY=VALUE", "the environment's")] = ()
    """Settings of PPO, e.g. num_envs=128 widths=256x256."""
    overwrite: bool = False
    """Replace data sets of the same name."""
    cache: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Forget compiled programs instead of keeping them in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class List:
    """List environments, optimizers or presets."""

    what: Annotated[str, tyro.conf.Positional, _ListName]
    """What to list."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Rebuild tables and figures from run directories alone; nothing is trained."""

    dirs: Annotated[tuple[Path, ...], tyro.conf.Positional, _option("DIR")]
    """Directories in which run directories are looked for, at any depth."""
    out: Annotated[Path | None, _option("DIR", "the first of the directories")] = None
    """Directory for tables and figures."""


Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[MetaTrain, tyro.conf.subcommand("meta-train")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Offline, tyro.conf.subcommand("offline")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
COMMANDS = {
    "compare": Compare,
    "train": Train,
    "meta-train": MetaTrain,
    "convert": Convert,
    "offline": Offline,
    "collect": Collect,
    "list": List,
    "report": Report,
}
