"""What a sweep over settings of meta-training found: as `sweep`, with evaluations for returns."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from experiments.reports import files, heat_maps, statistics, sweep, tables
from experiments.reports.meta_gradients import METRICS
from experiments.reports.summary import estimate
from experiments.runs import parsing
from experiments.runs.files import csv_text

_SCORE_RULES = (
    "Score: the last evaluation of the mean weights (`evaluation` in `meta_metrics.csv`: final "
    "returns of agents that learn with them, each divided by its task's normaliser), averaged over "
    "seeds of meta-training. Intervals are 95% percentile intervals of the bootstrap over these "
    "seeds, with 2000 resamples.",
    "The lifetimes of an evaluation have seeds that are used for nothing else. They are the same "
    "for all settings and all seeds of meta-training, so that settings are compared on the same "
    "luck. The best was selected on them: agents trained with its weights, on seeds of their own, "
    "say what it is worth.",
    "A run has diverged if it was stopped, because its meta-gradient was not finite, or its last "
    "evaluation is not finite. It scores the lowest last evaluation of all runs: it is counted, "
    "never dropped. A setting all of whose runs diverged is neither the best nor within 10 % of "
    "it.",
)


@dataclasses.dataclass(frozen=True)
class Tried:
    """A setting, and how its runs did.

    Attributes:
        values: of the swept keys, as text.
        optimizer: the learned optimizer's text.
        directories: of the runs, one for each seed.
        evaluations: the last ones, shape (seeds,); NaN of a run that diverged.
    """

    values: tuple[str, ...]
    optimizer: str
    directories: tuple[Path, ...]
    evaluations: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class MetaSweep:
    """All settings of a sweep of meta-training.

    Attributes:
        title: what is swept, such as `optim4rl on Catch-bsuite`.
        method: of meta-training, and how long it took, such as `pipeline, 78 meta-iterations`.
        axes: the values of each key, as text.
        tried: all combinations, the last key changing first.
        seeds: of meta-training.
        generations: of each run.
        floor: what the range to the best begins at; None for the worst score.
    """

    title: str
    method: str
    axes: Mapping[str, Sequence[str]]
    tried: Sequence[Tried]
    seeds: Sequence[int]
    generations: int
    floor: float | None = None

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which runs diverged, shape (settings, seeds)."""
        return np.isnan([one.evaluations for one in self.tried])

    @functools.cached_property
    def evaluations(self) -> NDArray[np.float64]:
        """What each run scores, shape (settings, seeds); NaN only if all runs diverged."""
        last = np.array([one.evaluations for one in self.tried])
        known = last[~self.diverged]
        return np.where(self.diverged, known.min() if known.size else math.nan, last)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Of the settings, shape (settings,)."""
        return self.evaluations.mean(axis=1)

    @property
    def within(self) -> NDArray[np.bool_]:
        """Which settings are near the best, shape (settings,)."""
        return sweep.within(self.scores, self.floor) & ~self.diverged.all(axis=1)

    @property
    def best(self) -> int | None:
        """Place of the best; of equal ones the first; None if all runs diverged."""
        known = np.flatnonzero(~self.diverged.all(axis=1))
        return max(known.tolist(), key=lambda i: self.scores[i], default=None)

    @property
    def estimates(self) -> list[tuple[float, float, float]]:
        """Each setting's score with the ends of its interval."""
        return [
            estimate((values,), statistics.mean, not diverged.all())
            for values, diverged in zip(self.evaluations, self.diverged, strict=True)
        ]


def tried(values: Sequence[str], optimizer: str, directories: Sequence[Path]) -> Tried:
    """What became of a setting; the arguments are the fields of `Tried`.

    Raises:
        ValueError: a file is not as meta-training writes it; the sentence names it.
    """
    evaluations = np.array([last_evaluation(directory) for directory in directories])
    return Tried(tuple(values), optimizer, tuple(directories), evaluations)


def last_evaluation(directory: Path) -> float:
    """Of the mean weights after a run's last generation; NaN if the run has none that is finite.

    Raises:
        ValueError: a file is not as meta-training writes it; the sentence names it.
    """
    try:
        generations = int(json.loads((directory / "config.json").read_text())["generations"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{directory / 'config.json'} is missing or damaged.") from None
    lines = parsing.read_lines(directory / METRICS, ("generation", "evaluation"))
    if not lines or lines[-1].integer("generation") + 1 < generations:
        return math.nan
    value = lines[-1].number("evaluation", empty=math.nan)
    return value if math.isfinite(value) else math.nan


def notes(found: MetaSweep) -> list[str]:
    """What a reader must know of the best, and of runs that diverged."""
    if found.best is None:
        return ["No setting has a score: all runs diverged."]
    said = sweep.best_notes(found.axes, found.tried[found.best].values, found.estimates[found.best])
    if count := int(found.diverged.sum()):
        said.append(
            f"{count} of {found.diverged.size} runs diverged, and score the lowest evaluation of "
            "all runs."
        )
    return said


def print_sweep(found: MetaSweep, console: Console) -> None:
    """Prints a line for each setting, the share, and the best.

    Args:
        found: what was found.
        console: where to print.
    """
    hidden = set() if found.diverged.any() else {"Div."}
    hidden |= {"Each seed"} if len(found.seeds) == 1 else set()
    tables.print_table(
        console, _title(found), _lines(found), hidden, name="Setting", judged="Score"
    )
    console.print(Text(sweep.share_sentence(found.within), style="bold"))
    for sentence in notes(found):
        console.print(Text(sentence))


def write_sweep(found: MetaSweep, out: Path, again: str | None) -> list[Path]:
    """Writes `meta_sweep.csv`, `meta_sweep.md` and the figure `meta_sweep` (.png, .svg, .pdf).

    Args:
        found: what was found.
        out: where.
        again: the command that trains the best anew, if there is a best.

    Returns:
        The files.
    """
    contents = tables.image_files("meta_sweep", heat_maps.sweep_figure(_drawn(found)))
    contents["meta_sweep.md"] = _markdown(found, again).encode()
    contents[files.META_SWEEP] = csv_text(_rows(found, out), header=True).encode()
    return tables.write_files(out, contents)


def _title(found: MetaSweep, between: str = ", ") -> str:
    many = "" if len(found.seeds) == 1 else "s"
    return f"{found.title}{between}{found.method}, {len(found.seeds)} seed{many}"


def _rows(found: MetaSweep, out: Path) -> list[dict[str, Any]]:
    """The rows of `meta_sweep.csv`; what is unknown is empty."""

    def cell(value: float) -> str:
        return "" if math.isnan(value) else repr(float(value))

    rows = []
    for i, (one, scores) in enumerate(zip(found.tried, found.estimates, strict=True)):
        names = zip(("score", "score_low", "score_high"), scores, strict=True)
        each = zip(found.seeds, one.evaluations, strict=True)
        rows.append(
            {"optimizer": one.optimizer}
            | dict(zip(found.axes, one.values, strict=True))
            | {"seeds": " ".join(map(str, found.seeds)), "generations": found.generations}
            | {name: cell(value) for name, value in names}
            | {f"evaluation_seed_{seed}": cell(value) for seed, value in each}
            | {"diverged_seeds": int(found.diverged[i].sum())}
            | {"within_10_percent": int(found.within[i]), "best": int(i == found.best)}
            | {"run_directory": files.relative_names(out, files.names_of(one.directories))}
        )
    return rows


def _lines(found: MetaSweep) -> list[tuple[dict[str, str], bool]]:
    """For each setting its cells by column, and whether it is the best."""
    places = tables.decimals_for(found.evaluations.ravel())
    lines = []
    for i, (one, (score, low, high)) in enumerate(zip(found.tried, found.estimates, strict=True)):
        cells = {
            "Setting": sweep.name_of(found.axes, one.values),
            "Score": tables.number(score, places),
            "95%": tables.interval(low, high, places),
            "Each seed": " ".join(tables.number(value, places) for value in one.evaluations),
            "Div.": str(int(found.diverged[i].sum())),
            "Within 10 %": "yes" if found.within[i] else "no",
        }
        lines.append((cells, i == found.best))
    return lines


def _drawn(found: MetaSweep) -> heat_maps.GridScores:
    estimates, near = np.array(found.estimates), found.within
    return heat_maps.GridScores(
        axes=found.axes,
        scores=estimates[:, 0],
        low=estimates[:, 1],
        high=estimates[:, 2],
        diverged=found.diverged.sum(axis=1),
        within=near,
        best=found.best,
        threshold=sweep.threshold(found.scores, found.floor),
        title=_title(found, "\n") + f"\n{near.sum()} of {near.size} within 10 % of the best",
        label="Evaluation",
    )


def _markdown(found: MetaSweep, again: str | None) -> str:
    sections = [f"# Sweep: {_title(found)}", f"**{sweep.share_sentence(found.within)}**"]
    sections += notes(found)
    if again is not None:
        sections.append(f"```sh\n{again}\n```")
    sections.append(tables.markdown_table(_lines(found), name="Setting", judged="Score"))
    sections += sweep.figure_and_rules("meta_sweep.png", found.axes, _SCORE_RULES, found.floor)
    return "\n\n".join(sections) + "\n"
