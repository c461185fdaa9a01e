r"""Learned optimizers against Adam that is tuned on each task, by a protocol fixed beforehand.

    python -m experiments.benchmarks.tuned_adam --optimizers NAME@WEIGHTS --out runs/tuned_adam \
        [--settings training horizon published] [--tasks ...] [--seeds 32] [--search STEPS]

Tasks, settings and seeds are those of `experiments.meta_training.protocol`. On each task, in each
setting, Adam's learning rate, and whether it is annealed, are chosen by the mean final return over
the tuning seeds; then its decay rates at these. With `--search`, a second baseline spends so many
environment steps in each setting, shared by the tasks, on random draws of learning rate, annealing,
decay rates, epsilon, weight decay of either sign and the weight of the entropy: each draw has four
lifetimes, and the best eight are compared on the tuning seeds. The baselines and the learned
optimizers, which are told nothing of the task, then live on the report's seeds, the same for all:
networks and environments begin alike.

`lives.csv` keeps every return, from which `table.md` and `table.csv` are made. What is there
already is not done again.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from experiments.benchmarks.learned import meta_task, schedule
from experiments.command_line.main import prepare_xla
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.protocol import (
    HELD_OUT_TASKS,
    REPORT,
    SEARCH,
    SETTINGS,
    TASKS,
    TUNING,
    Setting,
    seed_keys,
)
from experiments.meta_training.tasks import MetaTask
from experiments.reports.comparison import Returns, comparison, table
from experiments.reports.tables import csv_bytes, write_files
from experiments.runs import weights as weights_files
from experiments.runs.files import write_rows
from experiments.settings import whole_number
from meta.population import over_members, whole_life
from meta.task import lifetimes

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
B1 = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
B2 = (0.9, 0.99, 0.999)
AT_ONCE = 7  # candidates that live side by side
SEARCH_SEEDS, FINALISTS = 4, 8
ADAM, SEARCHED = "adam (tuned)", "adam (searched)"

Build = Callable[[Any], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Adam's settings, and the weight of the entropy, None for the task's."""

    learning_rate: float
    annealed: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    entropy_weight: float | None = None

    def __str__(self) -> str:
        said = [f"learning_rate={self.learning_rate:g}", f"b1={self.b1:g}", f"b2={self.b2:g}"]
        if self.entropy_weight is not None:
            said += [f"eps={self.eps:g}", f"weight_decay={self.weight_decay:g}"]
            said += [f"entropy_weight={self.entropy_weight:g}"]
        return f"adam:{','.join(said)}" + (" (annealed)" if self.annealed else "")


def rates() -> list[Candidate]:
    """What is tried first."""
    return [Candidate(*pair) for pair in itertools.product(RATES, (False, True))]


def decays(best: Candidate) -> list[Candidate]:
    """What is tried then, the best of the first among them."""
    pairs = itertools.product(B1, B2)
    return [dataclasses.replace(best, b1=b1, b2=b2) for b1, b2 in pairs]


def draws(count: int) -> list[Candidate]:
    """What random search tries, the same draws for all tasks and settings."""
    random = np.random.default_rng(0)

    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    return [
        Candidate(
            between(1e-4, 1e-1),
            bool(random.integers(2)),
            1.0 - between(0.01, 1.0),
            1.0 - between(1e-4, 0.2),
            between(1e-10, 1e-3),
            float(random.choice([-1.0, 0.0, 1.0])) * between(1e-4, 1.0),
            between(1e-3, 3e-2),
        )
        for _ in range(count)
    ]


def adam(updates: int) -> Build:
    """From a candidate's numbers to Adam, whose rate, if annealed, falls to 0 over the updates."""
    return lambda parts: optax.chain(
        optax.scale_by_adam(parts["b1"], parts["b2"], parts["eps"]),
        optax.add_decayed_weights(parts["weight_decay"]),
        optax.scale_by_learning_rate(schedule(parts, updates)),
    )


def player(task: MetaTask, build: Build) -> Callable[[Any, jax.Array], np.ndarray]:
    """From what optimizers are built of, (candidates, ...), and keys to (candidates, seeds)."""
    clip = optim.clip_by_network_norm(task.settings.max_grad_norm)
    whole = task.task(1)

    def live(parts: Any, key: jax.Array) -> jax.Array:
        config = whole.config
        if "entropy_weight" in parts:
            config = dataclasses.replace(config, entropy_weight=parts["entropy_weight"])
        lived = dataclasses.replace(whole, config=config)
        lives = lifetimes(lived, lambda parts: optax.chain(clip, build(parts)))
        return whole_life(lives)(parts, key)

    play = jax.jit(over_members(live, None))

    def returns(parts: Any, keys: jax.Array) -> np.ndarray:
        count = len(jax.tree.leaves(parts)[0])
        return np.asarray(play(parts, jnp.broadcast_to(keys, (count, *keys.shape))))

    return returns


class Lives:
    """The returns of all lifetimes so far, in a file; see `of`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def of(
        self,
        key: dict[str, str],
        names: Sequence[str],
        seeds: int,
        play: Callable[[list[int]], np.ndarray],
        at_once: int,
    ) -> np.ndarray:
        """Returns of optimizers, lived where they are not known.

        Args:
            key: setting, task and stage.
            names: of the optimizers, each only once.
            seeds: how many are asked for.
            play: from the places of optimizers to returns, shape (places, seeds).
            at_once: how many live at once; their returns are then saved.

        Returns:
            Shape (names, seeds).
        """
        key = key | {"seeds": str(seeds)}
        known = {
            row["optimizer"]: np.array(row["returns"].split(), float)
            for row in self.rows
            if row | key == row
        }
        missing = [place for place, name in enumerate(names) if name not in known]
        for begin in range(0, len(missing), at_once):
            places = missing[begin : begin + at_once]
            start = time.monotonic()
            # Always as many: the same compiled program.
            padded = places + places[-1:] * (min(at_once, len(names)) - len(places))
            returns = play(padded)[: len(places)]
            seconds = (time.monotonic() - start) / len(places)
            for place, values in zip(places, returns, strict=True):
                known[names[place]] = values.astype(float)
                text = " ".join(repr(float(value)) for value in values)
                row = {"optimizer": names[place], "seconds": f"{seconds:.1f}", "returns": text}
                self.rows.append(key | row)
                print(*key.values(), names[place], f"{values.mean():.4g}", flush=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(self.path, self.rows)
        return np.stack([known[name] for name in names])


def best(candidates: Sequence[Candidate], returns: np.ndarray) -> list[Candidate]:
    """Candidates by mean return, the best first; one of which a life diverged comes last."""
    means = np.where(np.isfinite(returns).all(axis=1), returns.mean(axis=1), -np.inf)
    return [candidates[place] for place in np.argsort(-means, kind="stable")]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Baselines and learned optimizers on one task in one setting.

    Attributes:
        setting: a key of `SETTINGS`.
        task: the environment.
        seeds: of tuning and of the report.
        lives: what has been lived.
        at_once: candidates that live side by side.
    """

    setting: str
    task: str
    seeds: int
    lives: Lives
    at_once: int = AT_ONCE

    @property
    def how(self) -> Setting:
        """The setting."""
        return SETTINGS[self.setting]

    def meta_task(self) -> MetaTask:
        """The task with its settings."""
        return meta_task(self.task, self.how.steps, self.how.changes)

    def tuned(self) -> tuple[Candidate, float]:
        """Adam's best candidate, and what it returns on the tuning seeds."""
        first = rates()
        found = best(first, self._adams("rates", first, TUNING, self.seeds))[0]
        second = decays(found)
        returns = self._adams("decays", second, TUNING, self.seeds)
        found = best(second, returns)[0]
        return found, float(returns[second.index(found)].mean())

    def searched(self, env_steps: int) -> Candidate:
        """The best candidate that random search finds with so many environment steps."""
        task = self.meta_task()
        life = task.iterations(1) * task.settings.num_envs * task.settings.num_steps
        left = env_steps // life - FINALISTS * self.seeds
        tried = draws(max(FINALISTS, left // SEARCH_SEEDS))
        first = self._adams("search", tried, SEARCH, SEARCH_SEEDS)
        finalists = best(tried, first)[:FINALISTS]
        return best(finalists, self._adams("finalists", finalists, TUNING, self.seeds))[0]

    def report(self, candidate: Candidate) -> np.ndarray:
        """Adam's returns on the report's seeds."""
        return self._adams("report", [candidate], REPORT, self.seeds)[0]

    def learned(self, text: str, name: str) -> np.ndarray:
        """A learned optimizer's returns on the report's seeds; the name tells its weights."""
        key = {"setting": self.setting, "task": self.task, "stage": "report"}

        def play(places: list[int]) -> np.ndarray:
            optimizer = LearnedOptimizer.parse(text)
            parts = jax.tree.map(lambda x: jnp.asarray(x)[None], optimizer.init(jax.random.key(0)))
            returns = player(self.meta_task(), optimizer.transform)
            return returns(parts, seed_keys(REPORT, self.seeds))

        return self.lives.of(key, [name], self.seeds, play, 1)[0]

    def _adams(
        self, stage: str, candidates: Sequence[Candidate], stream: int, seeds: int
    ) -> np.ndarray:
        keys = seed_keys(stream, seeds)
        entropy_weight = self.meta_task().settings.entropy_weight

        def lived(places: list[int]) -> np.ndarray:
            parts = [_numbers(candidates[place], entropy_weight) for place in places]
            return self._player(jax.tree.map(lambda *x: jnp.array(x, jnp.float32), *parts), keys)

        key = {"setting": self.setting, "task": self.task, "stage": stage}
        return self.lives.of(key, [str(c) for c in candidates], seeds, lived, self.at_once)

    @functools.cached_property
    def _player(self) -> Callable[[Any, jax.Array], np.ndarray]:
        task = self.meta_task()
        config = task.task(1).config
        return player(task, adam(task.iterations(1) * config.updates_per_iteration))


def _numbers(candidate: Candidate, entropy_weight: float) -> dict[str, float]:
    numbers = {name: float(x) for name, x in vars(candidate).items() if x is not None}
    return {"entropy_weight": entropy_weight} | numbers


def named(text: str) -> str:
    """A learned optimizer's text with the beginning of its weights' digest.

    Raises:
        ValueError: if there is no such optimizer, or no such weights.
    """
    LearnedOptimizer.parse(text).check_learning_rate()
    content = weights_files.read(optim.OptimizerSpec.parse(text))
    return text if content is None else f"{text} #{weights_files.sha256(content)[:8]}"


def compare(compared: Comparison, optimizers: dict[str, str], search: int | None) -> Returns:
    """Tunes the baselines, and lives on the report's seeds.

    Args:
        compared: where.
        optimizers: texts by name.
        search: environment steps of random search, or None.
    """
    candidate, scale = compared.tuned()
    returns = {ADAM: compared.report(candidate)}
    chosen = {ADAM: str(candidate)}
    if search is not None:
        candidate = compared.searched(search)
        returns[SEARCHED], chosen[SEARCHED] = compared.report(candidate), str(candidate)
    for name, text in optimizers.items():
        returns[name] = compared.learned(text, name)
    return Returns(compared.setting, compared.task, chosen, returns, scale)


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = "NAME@WEIGHTS[:key=value,...]"
    parser.add_argument("--optimizers", nargs="*", default=[], help=names)
    parser.add_argument("--out", type=Path, default=Path("runs/tuned_adam"), help="directory")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=32, help="of tuning, and of the report")
    parser.add_argument("--search", type=whole_number, help="environment steps in each setting")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="candidates side by side")
    arguments = parser.parse_args()
    if arguments.seeds < 2 or arguments.at_once < 1:
        parser.error("--seeds must be at least 2, and --at-once at least 1")
    try:
        optimizers = {named(text): text for text in arguments.optimizers}
    except ValueError as error:
        raise SystemExit(f"{error}") from None
    prepare_xla()
    lives = Lives(arguments.out / "lives.csv")
    share = None if arguments.search is None else arguments.search // len(arguments.tasks)
    found = []
    for setting, task in itertools.product(arguments.settings, arguments.tasks):
        compared = Comparison(setting, task, arguments.seeds, lives, arguments.at_once)
        found.append(compare(compared, optimizers, share))
        rows = comparison(found)
        text = f"{table(rows)}\nHeld out of training: {', '.join(HELD_OUT_TASKS)}.\n"
        write_files(arguments.out, {"table.csv": csv_bytes(rows), "table.md": text.encode()})
    print(text)


if __name__ == "__main__":
    main()
