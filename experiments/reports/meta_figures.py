"""Figures of meta-training: its curves, returns by age, and what meta-gradients were worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from experiments.reports.drawing import (
    COLOURS,
    STYLE,
    grid,
    keep_outer_labels,
    style_for,
    styles_of,
    wrap_label,
)

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class TrainingPanel:
    """One number of a meta-training as it went on, or one for each task.

    Attributes:
        title: of the panel.
        y_label: what is drawn.
        generations: how many were done, shape (points,).
        lines: by label, shape (points,), NaN where there is none.
        band: the lowest and the highest of what the first line is the mean of; None for no band.
        changes: generations after which the task that is trained on changes.
        logarithmic: whether the vertical axis is; what it cannot show is a gap.
    """

    title: str
    y_label: str
    generations: Array
    lines: Mapping[str, Array]
    band: tuple[Array, Array] | None = None
    changes: Sequence[int] = ()
    logarithmic: bool = False


def training_curves(panels: Sequence[TrainingPanel]) -> Figure:
    """Draws numbers of meta-trainings against generations, unsmoothed; changes are vertical lines.

    Args:
        panels: three to a row.

    Returns:
        The figure, for `figures.render`.

    Raises:
        ValueError: there is no panel.

    Examples:
        >>> lines = {"Catch": np.array([np.nan, 0.5, 0.75])}
        >>> panel = TrainingPanel("open on Catch", "Evaluation", np.array([1.0, 2.0, 3.0]), lines)
        >>> figure = training_curves([panel])
        >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
        [0.5, 0.75]
    """
    if not panels:
        raise ValueError("panels must be at least one, got none.")
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels))
        for panel, ax in zip(panels, axes, strict=True):
            looks = styles_of(panel.lines)
            for label, values in panel.lines.items():
                shown = np.isfinite(values) & ((values > 0.0) | (not panel.logarithmic))
                style = style_for(looks[label], int(shown.sum()))
                ax.plot(panel.generations[shown], values[shown], label=label, **style)
            if panel.band is not None:
                low, high = panel.band
                ax.fill_between(panel.generations, low, high, alpha=0.18, lw=0, color=COLOURS[0])
            for generation in panel.changes:
                ax.axvline(generation, color="#777777", linewidth=0.9, linestyle=":", zorder=1)
            if panel.logarithmic:
                ax.set_yscale("log")
            ax.set_title(wrap_label(panel.title), loc="left")
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.set_xlabel("Generations")
            ax.set_ylabel(panel.y_label)
            ax.legend(fontsize="small")
        keep_outer_labels(axes)
    return figure


@dataclasses.dataclass(frozen=True)
class AgePanel:
    """Returns of agents by age, on one task of one meta-training, in parts of it."""

    title: str
    ages: Array  # shape=(bins,), the middle of each
    parts: Mapping[str, Array]  # shape=(bins,) by label, NaN where there is none


def returns_by_age(panels: Sequence[AgePanel]) -> Figure:
    """Draws return against age, a line for each part of the meta-training, the later the darker.

    Args:
        panels: one for each task of each meta-training, three to a row.

    Returns:
        The figure, for `figures.render`.

    Raises:
        ValueError: there is no panel.

    Examples:
        >>> panel = AgePanel("Catch", np.array([4.0, 12.0]), {"0 to 99": np.array([-0.6, 0.2])})
        >>> figure = returns_by_age([panel])
        >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
        [-0.6, 0.2]
    """
    if not panels:
        raise ValueError("panels must be at least one, got none.")
    shades = matplotlib.colormaps["viridis_r"]
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels))
        for panel, ax in zip(panels, axes, strict=True):
            for i, (label, returns) in enumerate(panel.parts.items()):
                colour = shades(0.15 + 0.85 * (i + 1) / len(panel.parts))
                ax.plot(panel.ages, returns, color=colour, marker="o", markersize=3, label=label)
            ax.set_title(wrap_label(panel.title), loc="left")
            ax.set_xlim(left=0)
            ax.set_xlabel("Age of the agent (iterations)")
            ax.set_ylabel("Episode return")
            ax.legend(title="meta-iterations", fontsize="small", title_fontsize="small")
        keep_outer_labels(axes)
    return figure


@dataclasses.dataclass(frozen=True)
class GradientPanel:
    """What the meta-gradients of one meta-training were worth, by one measure."""

    title: str
    measure: str
    iterations: Array  # shape=(points,)
    values: Array  # shape=(points,); gaps where they are not finite


def meta_gradients(panels: Sequence[GradientPanel]) -> Figure:
    """Draws a measure of the meta-gradient against meta-iterations.

    Args:
        panels: one for each measure of each meta-training, three to a row.

    Returns:
        The figure, for `figures.render`.

    Raises:
        ValueError: there is no panel.

    Examples:
        >>> panel = GradientPanel("Catch", "Signal to noise", np.array([0.0]), np.array([2.0]))
        >>> figure = meta_gradients([panel])
        >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
        [2.0]
    """
    if not panels:
        raise ValueError("panels must be at least one, got none.")
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels))
        for panel, ax in zip(panels, axes, strict=True):
            shown = np.where(np.isfinite(panel.values), panel.values, np.nan)
            ax.plot(panel.iterations, shown, color=COLOURS[0], marker=".", markersize=3)
            ax.axhline(0.0, color="#666666", linestyle="--", linewidth=1.0, zorder=1)
            ax.set_title(wrap_label(panel.title), loc="left")
            ax.set_xlim(left=0)
            ax.set_xlabel("Meta-iteration")
            ax.set_ylabel(panel.measure)
        keep_outer_labels(axes)
    return figure
