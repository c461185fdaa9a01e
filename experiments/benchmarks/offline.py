"""Critics of offline RL under many optimizers, in the settings where Adam's collapses and others.

    python -m experiments.benchmarks.offline [--out runs/offline] [--only R1 R5 ...] [--table]

Everything is learned from 10,000 transitions of Hopper-v5 that are collected first, from seed 2026
(as `rl-optim offline --preset r1` does): small data of our own, not D4RL's. Networks are 2x64,
batches 64. The optimizer under test drives the critic alone, the actor keeps Adam. Every run is a
run directory, and one that was killed goes on where it was. `table.csv` and `table.md` hold a line
a run: IQM over seeds with 95 % bootstrap intervals.

R1 has the controls of AdamO's claim: its correction without a budget, on hidden layers alone, and
towards zero, with and without a budget; its residual as a penalty on the loss (`parseval` with
scale 1 on all layers), of three strengths; Parseval regularisation as published; FIRE twice in the
run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.command_line.main import prepare_xla
from experiments.offline.algorithms import settings_of
from experiments.offline.collection import Collection, collect
from experiments.offline.datasets import Data
from experiments.offline.presets import OFFLINE_PRESETS, default_name
from experiments.offline.training import OfflineRun, train_offline
from experiments.reports.offline import OfflineRow, summarise_offline
from experiments.reports.tables import csv_bytes, interval
from experiments.runs.files import write_atomically
from experiments.runs.paths import run_paths
from experiments.runs.reading import load_runs

_R1 = OFFLINE_PRESETS["r1"]
_ADAMO = "adamo:kappa=1,tau=0.05"
_PAIR = ("adam", _ADAMO)
_PLAIN = "reference_width=none,heads=true"
_SMALL = ("batch_size=64", "actor_widths=64x64", "critic_widths=64x64")


@dataclasses.dataclass(frozen=True)
class Regime:
    """A setting in which critic optimizers are compared.

    Attributes:
        optimizers: of the critic.
        settings: changes to the algorithm's, `key=value`.
        steps: updates of the critic.
        learning_rate: of the critic.
        seeds: how many.
        kind: of data.
        algorithm: the learner.
    """

    optimizers: tuple[str, ...] = _PAIR
    settings: tuple[str, ...] = ("alpha=10", "polyak=0.01")
    steps: int = 15_000
    learning_rate: float = 1e-3
    seeds: int = 3
    kind: str = "medium"
    algorithm: str = "td3_bc"


REGIMES: dict[str, Regime] = {
    "R1": Regime(
        (
            *_PAIR,
            f"{_ADAMO},pull=zero",
            f"{_ADAMO},heads=false",
            "adamo:kappa=1,tau=none",
            "adamo:kappa=1,tau=none,pull=zero",
            *(f"parseval:strength={s},scale=1,{_PLAIN}" for s in ("1e-4", "1e-3", "1e-2")),
            "parseval",
            "fire:period=5000",
            "cautious_adamw",
            "adamw",
            "adam_reset:period=1000",
            "trac",
            "sgd",
            "kron",
        ),
        seeds=5,
    ),
    "R1 LayerNorm": Regime(("adam",), ("alpha=10", "polyak=0.01", "critic_layer_norm=true")),
    "alpha 2.5": Regime(settings=("alpha=2.5", "polyak=0.01")),
    "A1": Regime(settings=("alpha=1e6", "polyak=0.01"), steps=20_000),
    "IQL": Regime(settings=("polyak=0.01",), algorithm="iql"),
    "ReBRAC": Regime(settings=("polyak=0.01",), algorithm="rebrac"),
    "R7": Regime(kind="medium-replay"),
    "R5": Regime(settings=("alpha=10",), steps=40_000, learning_rate=1e-4),
    "A2": Regime(settings=("alpha=40",), steps=50_000, learning_rate=1e-4),
}


def run_of(out: Path, regime: Regime, optimizer: str) -> OfflineRun:
    """One run of a regime."""
    plan = _R1.collection
    settings = settings_of(regime.algorithm, (*_SMALL, *regime.settings))
    return OfflineRun(
        regime.algorithm,
        Data(str(out / "data" / default_name(plan.env) / f"{regime.kind}-v0"), _R1.subset),
        optimizer,
        regime.steps,
        tuple(range(regime.seeds)),
        settings,
        learning_rate=regime.learning_rate,
    )


def collect_data(out: Path, kinds: Sequence[str]) -> None:
    """Makes data sets, unless they are there."""
    plan = _R1.collection
    name, root = default_name(plan.env), out / "data"
    missing = tuple(kind for kind in kinds if not (root / name / f"{kind}-v0").exists())
    if missing:
        for one in collect(
            Collection(plan.env, missing, plan.size, plan.steps, plan.seed, plan.noise, name), root
        ):
            print(f"{one.dataset_id}: mean return {one.mean_return:.1f}", flush=True)


def table(out: Path) -> tuple[str, bytes]:
    """All runs that are there, as Markdown and as CSV."""
    lines = [
        "| setting | critic optimizer | updates | collapsed | first at | mean abs Q [95 %] "
        "| return [95 %] | fresh episodes |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows: list[OfflineRow] = []
    for name in REGIMES:
        folder = out / _slug(name)
        if not any(folder.glob("*/*/metrics.csv")):
            continue
        order = {text: i for i, text in enumerate(REGIMES[name].optimizers)}
        found = sorted(summarise_offline(load_runs([folder])), key=lambda r: order[r.optimizer])
        for row in found:
            row = dataclasses.replace(
                row, run_directory=Path(row.run_directory).relative_to(out).as_posix()
            )
            rows.append(row)
            q = "not finite"
            if math.isfinite(row.mean_abs_q_iqm):
                q = f"{row.mean_abs_q_iqm:.3g} [{row.mean_abs_q_iqm_low:.3g}, "
                q += f"{row.mean_abs_q_iqm_high:.3g}]"
            low_high = interval(row.return_iqm_low, row.return_iqm_high, 0)
            returns = f"{row.return_iqm:.0f} {low_high}"
            first = f"{row.first_collapse_step:,}" if row.first_collapse_step else ""
            lines.append(
                f"| {name} | `{row.optimizer}` | {row.steps_per_seed:,} | "
                f"{row.collapsed_seeds} of {row.seeds} | {first} | {q} | {returns} | "
                f"{row.fresh_return_mean:.0f} |"
            )
    return "\n".join(lines) + "\n", csv_bytes(rows)


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def train_regimes(out: Path, names: Sequence[str]) -> None:
    """Trains what is not there yet."""
    for name in names:
        regime = REGIMES[name]
        collect_data(out, (regime.kind,))
        folder = out / _slug(name)
        paths = run_paths(folder, [regime.algorithm], regime.optimizers)
        for (_, optimizer), path in paths.items():
            start = time.monotonic()
            train_offline(
                run_of(out, regime, optimizer),
                path,
                resume=path.exists(),
                on_note=functools.partial(print, flush=True),
            )
            print(f"{name}, {optimizer}: {time.monotonic() - start:.0f} s", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/offline"), help="directory of runs")
    parser.add_argument("--only", nargs="+", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--table", action="store_true", help="only write and print the table")
    arguments = parser.parse_args()
    if not arguments.table:
        prepare_xla()
        jax.config.update("jax_compilation_cache_dir", str(arguments.out / ".cache"))
        train_regimes(arguments.out, arguments.only)
    markdown, rows = table(arguments.out)
    write_atomically(arguments.out / "table.md", markdown)
    write_atomically(arguments.out / "table.csv", rows)
    print(markdown)


if __name__ == "__main__":
    main()
