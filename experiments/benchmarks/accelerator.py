"""What an accelerator does, all of it in minutes, against the number of agents side by side.

    python -m experiments.benchmarks.accelerator [--out accelerator.csv] [--minutes 7.5]

- `ppo`: environment steps per second with Adam, all parts included, published settings, for so many
  seeds at once on Breakout and on Ant's spring pipeline.
- `update`: updates per second of so many vmapped agents, all counted, on PPO's Breakout networks.
- `evolution`: generations per hour of OpenAI-ES on OPEN, with so many members, each of which lives
  131,072 steps of Breakout with 2x32 networks.
- `td3_bc`: critic updates per second of so many vmapped learners, all counted, on random data of
  Hopper's sizes, with Adam and AdamO for the critics.

A rate is the median of up to three calls after the first, which compiles; `seconds` is that of one
call. Small sizes come first, in turns, so that a run that is stopped has something of every part.
Each row is written as soon as it is there, and what the file has already is not measured again: to
go on, give the command once more. Nothing is begun that would not end in time, by what the size
before it took. A CPU gets smaller sizes.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import optim
from experiments.benchmarks import offline_time, timing, updates
from experiments.command_line.main import prepare_xla
from experiments.meta_training.evolution import EvolutionRunConfig
from experiments.meta_training.request import MetaRequest
from experiments.online.run import RunConfig
from experiments.online.tasks import TASKS, parse_environment
from experiments.online.training import compiled

LIFE = 131_072  # steps
CALLS = 3
KEYS = ("part", "task", "optimizer", "size")


class Case(NamedTuple):
    """What is timed at a size, which is a number of seeds, agents or members."""

    part: str
    task: str
    optimizer: str
    unit: str
    prepare: Callable[[int], tuple[Callable[[], Any], float]]  # a call, and the work in it
    sizes: tuple[int, ...]
    on_cpu: tuple[int, ...]


def _ppo(task: str) -> Callable[[int], tuple[Callable[[], Any], float]]:
    def prepare(seeds: int) -> tuple[Callable[[], Any], float]:
        settings = TASKS[parse_environment(task)[0]].settings
        config = RunConfig(task, "adam", 10**7, tuple(range(seeds)), settings)
        program, numbers, keys = compiled(config)
        state = program.init(numbers, keys)
        iterations = 4

        def call() -> Any:
            nonlocal state
            state, stretch = program.advance(numbers, state, jnp.int32(iterations))
            return stretch

        return call, iterations * config.steps_per_iteration * seeds

    return prepare


def _update(spec: str) -> Callable[[int], tuple[Callable[[], Any], float]]:
    def prepare(agents: int) -> tuple[Callable[[], Any], float]:
        optimizer = optim.make(spec, None if "@" in spec else 1e-3)
        number, params = 20, updates.trees()["breakout"]
        return updates.scan_of_updates(optimizer, params, number, agents), number * agents

    return prepare


def _evolution(members: int) -> tuple[Callable[[], Any], float]:
    run = EvolutionRunConfig.from_request(
        MetaRequest(
            optimizer="open",
            tasks=("Breakout-MinAtar",),
            steps=(str(LIFE),),
            set=("widths=32x32",),
            population=members,
            generations=1,
        )
    )
    trainer = run.trainer
    state = trainer.init(jax.random.key(0))
    return lambda: trainer.step(state), 3600.0


def _td3_bc(critic: str) -> Callable[[int], tuple[Callable[[], Any], float]]:
    def prepare(learners: int) -> tuple[Callable[[], Any], float]:
        steps = 200
        call = offline_time.stretch(critic, steps, offline_time.transitions(), learners)
        return call, steps * learners

    return prepare


CASES = (
    *(
        Case("ppo", task, "adam", "environment steps/s", _ppo(task), sizes, on_cpu)
        for task, sizes, on_cpu in (
            ("Breakout-MinAtar", (1, 4, 16, 64, 256), (1, 4)),
            ("ant:backend=spring", (1, 16, 256), (1,)),
        )
    ),
    *(
        Case("update", "Breakout's networks", spec, "updates/s", _update(spec), (1, 64), (1, 8))
        for spec in ("adam", "adamo", "open@breakout", "optim4rl@small", "kron")
    ),
    Case(
        part="evolution",
        task="Breakout-MinAtar",
        optimizer="open",
        unit="generations/h",
        prepare=_evolution,
        sizes=(64, 256, 1024, 4096),
        on_cpu=(4,),
    ),
    *(
        Case("td3_bc", "Hopper's sizes", critic, "critic updates/s", _td3_bc(critic), (1, 64), (1,))
        for critic in ("adam", "adamo:kappa=1,tau=0.05")
    ),
)


def in_turns(is_cpu: bool) -> Iterator[tuple[Case, int]]:
    """Every case at its smallest size, then at the next one, and so on."""
    sizes = [case.on_cpu if is_cpu else case.sizes for case in CASES]
    for rank in range(max(map(len, sizes))):
        for case, its in zip(CASES, sizes, strict=True):
            if rank < len(its):
                yield case, its[rank]


def measure(case: Case, size: int) -> dict[str, str]:
    """A row, without circumstances; if the device's memory is not enough, the row says so."""
    row = dict(zip(KEYS, (case.part, case.task, case.optimizer, str(size)), strict=True))
    empty = {"rate": "", "unit": case.unit, "seconds": "", "first_call_seconds": ""}
    try:
        start = time.perf_counter()
        call, work = case.prepare(size)
        jax.block_until_ready(call())
        first = time.perf_counter() - start
        seconds: list[float] = []
        while len(seconds) < CALLS and (not seconds or sum(seconds) < first + 5):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row | empty | {"note": "out of memory"}
    middle = statistics.median(seconds)
    return row | {
        "rate": f"{work / middle:.6g}",
        "unit": case.unit,
        "seconds": f"{middle:.4g}",
        "first_call_seconds": f"{first:.3g}",
        "note": f"{len(seconds)} calls",
    }


def read(path: Path) -> list[dict[str, str]]:
    """The rows that a file has; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def run(path: Path, minutes: float) -> None:
    """Measures what the file has not, until the time is over.

    Args:
        path: the file, which is written again after each measurement.
        minutes: how long.
    """
    end = time.monotonic() + 60 * minutes
    circumstances = timing.circumstances()
    rows = read(path)
    done = {tuple(row[key] for key in KEYS) for row in rows}
    took: dict[tuple[str, ...], tuple[int, float]] = {}  # by what but the size: the last one's
    for case, size in in_turns(jax.default_backend() == "cpu"):
        what = (case.part, case.task, case.optimizer)
        if (*what, str(size)) in done:
            continue
        last, seconds = took.get(what, (size, 0.0))
        if time.monotonic() + seconds * max(1.0, size / last) > end:
            print(f"Left out, no time: {', '.join(what)}, {size}")
            continue
        start = time.monotonic()
        rows.append(measure(case, size) | circumstances)
        took[what] = size, time.monotonic() - start
        timing.write(path, rows, show=False)
        print("  ".join(list(rows[-1].values())[:8]), flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("accelerator.csv"), help="CSV to write")
    parser.add_argument("--minutes", type=float, default=7.5, help="time limit (default: 7.5)")
    arguments = parser.parse_args()
    prepare_xla()  # before the first use of a device
    run(arguments.out, arguments.minutes)


if __name__ == "__main__":
    main()
