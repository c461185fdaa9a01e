"""What a sweep over settings found: each setting's score, and how many are near the best."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.text import Text

from experiments.reports import files, heat_maps, statistics, tables
from experiments.reports.phases import has_phases, measure
from experiments.reports.summary import estimate
from experiments.runs.files import csv_text
from experiments.runs.reading import Run

NEAR = 0.1  # of the range from the floor to the best

_FINAL_RETURN = (
    "the final return of `rl-optim report` (the mean over the episodes completed in the last 5% of "
    "the steps; a seed that diverged scores the lowest return that any seed of its run logged)"
)
_PHASE_ENDS = (
    "the mean return in the last 10% of a phase, averaged over phases (a seed that diverged scores "
    "from there on the lowest return that any seed of its run logged)"
)
_SCORE_RULE = (
    "Score: {score}, averaged over seeds. Intervals are 95% percentile intervals of the bootstrap "
    "over seeds, with 2000 resamples."
)
SHARE_RULE = (
    "A setting with score $s_j$ is within 10 % of the best if "
    "$s_j \\ge s^* - 0.1 (s^* - f)$, with $s^*$ the best score and $f$ the worst, or `--floor` if "
    "one is given. The share is that of all settings; one whose score is unknown is not within. "
    "Others count $s_j \\ge 0.9 s^*$, which means nothing for negative returns and depends on what "
    "a return of 0 is; `--floor 0` gives it."
)
_HALVING_RULE = (
    "Rounds: after each, the settings with the best scores go on, one in {keep} and at least one; "
    "of equal ones the first. Share, figure and the column 'First round' compare all settings at "
    "the length of the first round, the only one that all have. The best is the best of those at "
    "full length."
)


@dataclasses.dataclass(frozen=True)
class Tried:
    """A setting, and how it did.

    Attributes:
        values: of the swept keys, as text.
        optimizer: its text in full.
        run: as it was when the sweep left it.
        first: the same when all settings were equally long, after the first round.
        rounds: how many it was part of.
    """

    values: tuple[str, ...]
    optimizer: str
    run: Run
    first: Run
    rounds: int = 1


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All settings of a sweep.

    Attributes:
        title: what is swept, such as `adam on CartPole-v1`.
        axes: the values of each key, as text.
        tried: all combinations, the last key changing first.
        lengths: steps of each seed that were asked for, at the end of each round.
        floor: what the range to the best begins at; None for the worst score.
        keep: one in how many settings went on after a round; None if there were no rounds.
    """

    title: str
    axes: Mapping[str, Sequence[str]]
    tried: Sequence[Tried]
    lengths: tuple[int, ...]
    floor: float | None = None
    keep: int | None = None

    @property
    def best(self) -> int | None:
        """Place of the best of the longest; of equal ones the first; None if none has a score."""
        rounds = len(self.lengths)
        scores = [score_of(one.run) if one.rounds == rounds else math.nan for one in self.tried]
        known = [i for i, score in enumerate(scores) if not math.isnan(score)]
        return max(known, key=lambda i: scores[i], default=None)

    @functools.cached_property
    def scores(self) -> NDArray[np.float64]:
        """Of all settings when they were equally long, shape (settings,)."""
        return np.array([score_of(one.first) for one in self.tried])

    @property
    def within(self) -> NDArray[np.bool_]:
        """Which settings are near the best, shape (settings,)."""
        return within(self.scores, self.floor)


def up_to(run: Run, steps: int) -> Run:
    """A run as it was after so many steps."""
    points = int(np.searchsorted(run.steps, steps, side="right"))
    return dataclasses.replace(
        run,
        steps=run.steps[:points],
        returns=run.returns[:, :points],
        episodes=run.episodes[:, :points],
        diverged_from=np.minimum(run.diverged_from, points),
    )


def score_of(run: Run) -> float:
    """The scores of its seeds, averaged; NaN if a seed has none."""
    return float(_seed_scores(run).mean())


def _is_scored_by_phases(run: Run) -> bool:
    """Whether it has gone through a phase; its last steps may be just those after a change."""
    return has_phases(run) and measure(run).count > 0


def _seed_scores(run: Run) -> NDArray[np.float64]:
    """Final returns, shape (seeds,); on a task that changes in phases, the mean of phase ends."""
    return measure(run).ends.mean(axis=1) if _is_scored_by_phases(run) else run.final_returns()


def within(scores: ArrayLike, floor: float | None = None) -> NDArray[np.bool_]:
    r"""Which settings are within 10 % of the best; their mean is the share.

    .. math:: s_j \ge s^* - 0.1\, (s^* - f), \qquad s^* = \max_j s_j

    with f the floor, or the worst score. That has a meaning for returns of any sign, and does not
    change if all of them are shifted or scaled. The other definition in use,
    :math:`s_j \ge 0.9\, s^*`, is that with a floor of 0.

    Args:
        scores: shape (settings,); NaN is not within.
        floor: f; None for the worst score. If the best lies below, nothing is within.

    Returns:
        Shape (settings,).

    Examples:
        >>> within([-100.0, -20.0, -11.0, -10.0]).tolist()
        [False, False, True, True]
        >>> float(within([50.0, 89.0, 91.0, 100.0], floor=0.0).mean())
        0.5
    """
    return np.asarray(scores, np.float64) >= threshold(scores, floor)


def threshold(scores: ArrayLike, floor: float | None) -> float:
    """From which score on a setting is within 10 % of the best; NaN if no score is known."""
    scores = np.asarray(scores, np.float64)
    known = scores[np.isfinite(scores)]
    if not known.size:
        return math.nan
    best = float(known.max())
    return best - NEAR * (best - (float(known.min()) if floor is None else floor))


def share_sentence(near: NDArray[np.bool_], at: str = "") -> str:
    """The one number.

    Args:
        near: which settings are within 10 % of the best.
        at: when they were, if that has to be said.

    Examples:
        >>> share_sentence(within([0.0, 9.5, 10.0, 2.0]))
        'Share of settings within 10 % of the best: 0.50 (2 of 4).'
    """
    return (
        f"Share of settings within 10 % of the best{at}: {near.mean():.2f} "
        f"({near.sum()} of {near.size})."
    )


def notes(sweep: Sweep) -> list[str]:
    """What a reader must know of the best."""
    if sweep.best is None:
        return ["No setting has a score: there are seeds that completed no episode."]
    best = sweep.tried[sweep.best]
    found = best_notes(sweep.axes, best.values, _estimate(best.run))
    if unknown := int(np.isnan(sweep.scores).sum()):
        found.append(f"{unknown} settings have seeds that completed no episode, and no score.")
    return found


def best_notes(
    axes: Mapping[str, Sequence[str]], best: Sequence[str], score: tuple[float, float, float]
) -> list[str]:
    """What a reader must know of a setting that was selected as the best.

    Args:
        axes: the values of each key, as text.
        best: those of the best.
        score: its score with the ends of its interval, which are NaN if there is none.
    """
    value, low, high = score
    places = tables.decimals_for([value])
    spread = "" if math.isnan(low) else f" {tables.interval(low, high, places)}"
    settings = math.prod(map(len, axes.values()))
    found = [
        f"Best: {name_of(axes, best)}, with {tables.number(value, places)}{spread}. It was "
        f"selected by this score, which as the best of {settings} is too high by luck: measure it "
        "anew, with other seeds."
    ]
    for (key, values), value_of_best in zip(axes.items(), best, strict=True):
        numbers = heat_maps.numbers(values)
        if numbers is not None and len(values) > 2:
            place = float(value_of_best)
            for edge, word in ((numbers.min(), "lowest"), (numbers.max(), "highest")):
                if place == edge:
                    found.append(f"The best has the {word} {key} that was tried: try further ones.")
    return found


def print_sweep(sweep: Sweep, console: Console) -> None:
    """Prints a line for each setting, the share, and the best.

    Args:
        sweep: what was found.
        console: where to print.
    """
    hidden = {"Div."} if not any(one.run.diverged.any() for one in sweep.tried) else set()
    lines = _lines(sweep)
    tables.print_table(console, _title(sweep), lines, hidden, name="Setting", judged="Score")
    console.print(Text(_share(sweep), style="bold"))
    for sentence in notes(sweep):
        console.print(Text(sentence))


def write_sweep(sweep: Sweep, out: Path, again: str | None) -> list[Path]:
    """Writes `sweep.csv`, `sweep.md` and the figure `sweep` (.png, .svg, .pdf).

    Args:
        sweep: what was found.
        out: where.
        again: the command that measures the best anew, if there is a best.

    Returns:
        The files.
    """
    contents = tables.image_files("sweep", heat_maps.sweep_figure(_drawn(sweep)))
    contents["sweep.md"] = _markdown(sweep, again).encode()
    contents[files.SWEEP] = csv_text(_rows(sweep, out), header=True).encode()
    return tables.write_files(out, contents)


def _last_step(run: Run) -> int:
    return int(run.steps[-1]) if len(run.steps) else 0


def _estimate(run: Run) -> tuple[float, float, float]:
    return estimate((_seed_scores(run),), statistics.mean, not run.diverged.all())


def name_of(axes: Iterable[str], values: Iterable[str]) -> str:
    """What a setting is called."""
    return ",".join(f"{key}={value}" for key, value in zip(axes, values, strict=True))


def _share(sweep: Sweep) -> str:
    at = f" after {sweep.lengths[0]:,} steps" if sweep.keep else ""
    return share_sentence(sweep.within, at)


def _title(sweep: Sweep) -> str:
    seeds = len(sweep.tried[0].run.returns)
    many = "" if seeds == 1 else "s"
    return f"{sweep.title}, {sweep.lengths[-1]:,} steps, {seeds} seed{many}"


def _rows(sweep: Sweep, out: Path) -> list[dict[str, Any]]:
    """The rows of `sweep.csv`; what is unknown is empty."""

    def estimated(run: Run, name: str) -> dict[str, Any]:
        names = (name, f"{name}_low", f"{name}_high")
        values = zip(names, _estimate(run), strict=True)
        return {key: "" if math.isnan(value) else repr(value) for key, value in values}

    rows = []
    for i, (one, near) in enumerate(zip(sweep.tried, sweep.within, strict=True)):
        rows.append(
            dict(zip(sweep.axes, one.values, strict=True))
            | {"optimizer": one.optimizer}
            | {"seeds": " ".join(map(str, one.run.config["seeds"])), "steps": _last_step(one.run)}
            | estimated(one.run, "score")
            | (estimated(one.first, "first_round_score") if sweep.keep else {})
            | {"diverged_seeds": int(one.run.diverged.sum())}
            | {"within_10_percent": int(near), "best": int(i == sweep.best)}
            | {"run_directory": files.relative_names(out, files.names_of(one.run.directories))}
        )
    return rows


def _lines(sweep: Sweep) -> list[tuple[dict[str, str], bool]]:
    """For each setting its cells by column, and whether it is the best."""
    estimates = [(_estimate(one.run), _estimate(one.first)) for one in sweep.tried]
    places = tables.decimals_for(value for pair in estimates for value, _, _ in pair)
    lines = []
    for i, (one, (last, first)) in enumerate(zip(sweep.tried, estimates, strict=True)):
        cells = {"Setting": name_of(sweep.axes, one.values)}
        if sweep.keep:
            cells["Steps"] = f"{_last_step(one.run):,}"
            cells["First round"] = tables.number(first[0], places)
        cells |= {
            "Score": tables.number(last[0], places),
            "95%": tables.interval(last[1], last[2], places),
            "Div.": str(int(one.run.diverged.sum())),
            "Within 10 %": "yes" if sweep.within[i] else "no",
        }
        lines.append((cells, i == sweep.best))
    return lines


def _drawn(sweep: Sweep) -> heat_maps.GridScores:
    firsts = [one.first for one in sweep.tried]
    estimates = np.array([_estimate(run) for run in firsts])
    near = sweep.within
    return heat_maps.GridScores(
        axes=sweep.axes,
        scores=estimates[:, 0],
        low=estimates[:, 1],
        high=estimates[:, 2],
        diverged=np.array([int(run.diverged.sum()) for run in firsts]),
        within=near,
        best=sweep.best,
        threshold=threshold(sweep.scores, sweep.floor),
        title=f"{sweep.title}, {sweep.lengths[0]:,} steps\n"
        f"{near.sum()} of {near.size} within 10 % of the best",
        label="End of a phase" if _is_scored_by_phases(firsts[0]) else "Final return",
    )


def _markdown(sweep: Sweep, again: str | None) -> str:
    sections = [f"# Sweep: {_title(sweep)}", f"**{_share(sweep)}**"]
    sections += notes(sweep)
    if again is not None:
        sections.append(f"```sh\n{again}\n```")
    sections.append(tables.markdown_table(_lines(sweep), name="Setting", judged="Score"))
    by_phases = _is_scored_by_phases(sweep.tried[0].run)
    rules = [_SCORE_RULE.format(score=_PHASE_ENDS if by_phases else _FINAL_RETURN)]
    if sweep.keep is not None:
        rules.append(_HALVING_RULE.format(keep=sweep.keep))
    sections += figure_and_rules("sweep.png", sweep.axes, rules, sweep.floor)
    return "\n\n".join(sections) + "\n"


def figure_and_rules(
    image: str, axes: Mapping[str, Sequence[str]], rules: Sequence[str], floor: float | None
) -> list[str]:
    """How the text on a sweep ends, in Markdown.

    Args:
        image: the file with the figure.
        axes: the values of each key, as text.
        rules: of scores.
        floor: what the range to the best begins at, if it was given.
    """
    what = "A line with a 95% band" if len(axes) == 1 else "Heat map"
    given = [] if floor is None else [f"The floor was given: {floor:g}."]
    lines = [f"* {rule}" for rule in (*rules, SHARE_RULE, *given)]
    return [
        f"![{what} of the scores; the best is bold]({image})",
        "## Rules\n\n" + "\n".join(lines),
    ]
