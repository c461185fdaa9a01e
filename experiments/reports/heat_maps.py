"""Scores over a grid of settings: a heat map, or a line where only one key is swept."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from experiments.reports.drawing import STYLE, grid
from experiments.reports.tables import NONE, decimals_for, number

_CELL = (0.85, 0.5)  # inches
_WIDEST = 12.0
_LINE = "#0072B2"


@dataclasses.dataclass(frozen=True)
class GridScores:
    """Scores of all combinations of values, the last key changing first.

    Attributes:
        axes: the values of each key, as text.
        scores: shape (settings,), NaN where one is unknown.
        low: of the intervals, shape (settings,); NaN where there is none.
        high: likewise.
        diverged: seeds of each setting that diverged, shape (settings,).
        within: whether each is within reach of the best, shape (settings,).
        best: place of the best; None if there is none.
        threshold: from which score on a setting is within reach; NaN if there is none.
        title: of the figure.
        label: of the scores.
    """

    axes: Mapping[str, Sequence[str]]
    scores: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    diverged: NDArray[np.int64]
    within: NDArray[np.bool_]
    best: int | None
    threshold: float
    title: str
    label: str = "Final return"


def sweep_figure(found: GridScores) -> Figure:
    """Draws a heat map of the last two keys, a panel for each combination of the others.

    The best is bold; what is within reach of it is framed. Seeds that diverged are counted below
    the score. One key alone is drawn as a line with the scores' intervals as a band.

    Args:
        found: what is drawn.

    Returns:
        The figure, for `figures.render`.

    Examples:
        >>> scores, none = np.array([1.0, 2.0]), np.full(2, np.nan)
        >>> found = GridScores({"eps": ["1e-8", "1e-5"]}, scores, none, none, np.zeros(2, int),
        ...                    np.array([False, True]), 1, 1.9, "adam on Catch")
        >>> sweep_figure(found).axes[0].get_lines()[0].get_ydata().tolist()
        [1.0, 2.0]
    """
    with matplotlib.rc_context(STYLE):
        return _line(found) if len(found.axes) == 1 else _heat_map(found)


def _line(found: GridScores) -> Figure:
    ((key, values),) = found.axes.items()
    figure, (ax,) = grid(1, wide=True)
    places = numbers(values)
    if places is None:
        places = np.arange(len(values), dtype=np.float64)
        ax.set_xticks(places, values)
    elif places.min() > 0 and places.max() >= 8 * places.min():
        ax.set_xscale("log")
    order = np.argsort(places)
    x = places[order]
    ax.plot(x, found.scores[order], color=_LINE, marker="o", markersize=4)
    ax.fill_between(x, found.low[order], found.high[order], color=_LINE, alpha=0.18, lw=0)
    if math.isfinite(found.threshold):
        ax.axhline(found.threshold, color="#666666", linestyle="--", linewidth=1.0, zorder=1)
        ax.annotate(
            "within 10 %",
            xy=(1.0, found.threshold),
            xycoords=ax.get_yaxis_transform(),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            color="#555555",
            fontsize="small",
        )
    places_text = decimals_for(found.scores)
    for i, (value, count) in enumerate(zip(found.scores, found.diverged, strict=True)):
        if i == found.best or count:
            lines = [number(value, places_text)] if i == found.best else []
            lines += [f"{count} diverged"] if count else []
            ax.annotate(
                "\n".join(lines),
                xy=(places[i], value),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize="small",
                fontweight="bold" if i == found.best else "normal",
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
            )
    ax.margins(x=0.08, y=0.2)
    ax.set_xlabel(key)
    ax.set_ylabel(found.label)
    ax.set_title(found.title, loc="left")
    return figure


def numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    """The values as finite numbers; None if one of them is none."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _heat_map(found: GridScores) -> Figure:
    *others, (row_key, rows), (column_key, columns) = found.axes.items()
    panels = list(itertools.product(*(values for _, values in others)))
    width = max(2.2, len(columns) * _CELL[0]) + 0.9
    across = max(1, min(len(panels), 4, int(_WIDEST / width)))
    down = math.ceil(len(panels) / across)
    height = len(rows) * _CELL[1] + 0.75 + 0.2 * (len(others) > 1)
    figure = Figure(
        figsize=(across * width + 0.9, max(2.0, down * height) + 0.35), layout="constrained"
    )
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for unused in axes[len(panels) :]:
        unused.remove()
    axes = axes[: len(panels)]
    finite = found.scores[np.isfinite(found.scores)]
    norm = Normalize(*((finite.min(), finite.max()) if finite.size else (0.0, 1.0)))
    places = np.arange(len(found.scores)).reshape(len(panels), len(rows), len(columns))
    shades = matplotlib.colormaps["viridis"].with_extremes(bad="#dddddd")
    for values, ax, those in zip(panels, axes, places, strict=True):
        shown = np.ma.masked_invalid(found.scores[those])
        image = ax.imshow(shown, cmap=shades, norm=norm, aspect="auto", origin="lower")
        ax.grid(visible=False)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_xticks(range(len(columns)), columns)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_xlabel(column_key)
        ax.set_ylabel(row_key)
        named = zip(others, values, strict=True)
        ax.set_title("\n".join(f"{key}={value}" for (key, _), value in named), loc="left")
        for (row, column), place in np.ndenumerate(those):
            _cell(ax, column, row, found, int(place), float(norm(found.scores[place])))
    figure.colorbar(image, ax=axes, label=found.label, aspect=30, pad=0.02)
    figure.suptitle(found.title, x=0.01, ha="left", fontsize=10.0)
    return figure


def _cell(ax: Axes, x: int, y: int, found: GridScores, place: int, shade: float) -> None:
    """Writes a cell's score, and frames it if it is within reach of the best."""
    value, count = float(found.scores[place]), int(found.diverged[place])
    is_best = place == found.best
    colour = "white" if shade < 0.6 and math.isfinite(value) else "black"
    text = NONE if math.isnan(value) else number(value, decimals_for(found.scores))
    if count:
        text += f"\n{count} div."
    weight = "bold" if is_best else "normal"
    ax.text(x, y, text, ha="center", va="center", color=colour, fontsize=8.0, fontweight=weight)
    if found.within[place]:
        frame = Rectangle(
            (x - 0.47, y - 0.45), 0.94, 0.9, fill=False, color=colour, lw=2.0 if is_best else 0.9
        )
        ax.add_patch(frame)
