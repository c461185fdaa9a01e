"""Learning curves and performance profiles, ready for a paper.

Figures are made from plain arrays with Matplotlib's object interface: nothing global is touched,
no window is ever opened, and the same numbers give the same bytes.
"""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from experiments.reports import statistics
from experiments.reports.drawing import (
    COLUMNS,
    LINE_STYLES,
    STYLE,
    TITLE_WIDTH,
    grid,
    keep_outer_labels,
    legend,
    style_for,
    styles_of,
    wrap_label,
)

_UNITS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
_DASHED: dict[str, Any] = {"linestyle": "--", "linewidth": 1.0}
_MEASURE_COLUMNS = 6
_MEASURE_PANEL = (2.4, 1.9)
_MOST_CURVES = 8  # of a panel; of more none can be followed
_MOST_BANDS = 4  # overlapping bands of profiles beyond which none can be read


@dataclasses.dataclass(frozen=True)
class Curve:
    """One optimizer's training curves on one environment."""

    label: str
    steps: NDArray[np.int64]  # shape=(points,), environment steps per seed
    returns: NDArray[np.float64]  # shape=(seeds, points), no gaps


@dataclasses.dataclass(frozen=True)
class Panel:
    """One environment's curves, and a published return or a limit to draw as a line.

    Of a task that changes, `changes` are the steps at which it does, and `stationary` the curves
    of the same labels on the same task without a change. What has the same `part_of` has the same
    vertical axis.
    """

    title: str
    curves: Sequence[Curve]
    reference: float | None = None
    reference_name: str = "published Adam"
    x_label: str = "Environment steps"
    y_label: str = "Episode return"
    logarithmic: bool = False
    changes: Sequence[int] = ()
    stationary: Sequence[Curve] = ()
    part_of: str | None = None


def learning_curves(panels: Sequence[Panel], repetitions: int = 500) -> Figure:
    """Draws the IQM over seeds with its 95% bootstrap band, unsmoothed, a panel per environment.

    Changes are thin vertical lines; what the same optimizer does without them is dashed.

    Args:
        panels: one per environment, three to a row, or two if any of them has changes. A label
            keeps its colour in all of them. One with more than eight curves is drawn as
            several with the same vertical axis.
        repetitions: bootstrap resamples of each band. A single seed has no band.

    Returns:
        The figure, for `render`.

    Raises:
        ValueError: there is no panel, or a panel without curves, or returns that are not finite.

    Examples:
        >>> curve = Curve("adam", np.array([1000, 2000]), np.array([[0.0, 2.0], [1.0, 4.0]]))
        >>> figure = learning_curves([Panel("Breakout-MinAtar", [curve])])
        >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
        [0.5, 3.0]
    """
    if not panels or not all(panel.curves for panel in panels):
        raise ValueError(
            f"panels must each hold at least one curve, got {[len(p.curves) for p in panels]}."
        )
    panels = [part for panel in panels for part in in_parts(panel)]
    is_compared = any(panel.stationary for panel in panels)
    styles = styles_of(
        (c.label for panel in panels for c in (*panel.curves, *panel.stationary)),
        [LINE_STYLES[0], *LINE_STYLES[2:]] if is_compared else LINE_STYLES,  # not two dashed ones
    )
    is_wide = any(panel.changes for panel in panels)
    units = [_unit(panel) for panel in panels]
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(panels), is_wide)
        for panel, ax, unit in zip(panels, axes, units, strict=True):
            for curve in panel.curves:
                _draw_curve(ax, curve, styles[curve.label], repetitions)
            for curve in panel.stationary:
                _draw_stationary(ax, curve, styles[curve.label])
            if panel.changes:
                ax.grid(visible=False, axis="x")
            for step in panel.changes:
                ax.axvline(step, color="#aaaaaa", linewidth=0.5, zorder=0)
            if panel.reference is not None:
                _draw_reference(ax, panel.reference, panel.reference_name)
            _finish(ax, panel, unit)
        _share_limits(axes, panels)
        keep_outer_labels(axes)
        if is_compared:
            styles = styles | {"without changes": {"color": "#666666"} | _DASHED}
        legend(figure, styles, beside=len(panels) < (2 if is_wide else COLUMNS))
    return figure


def in_parts(panel: Panel) -> list[Panel]:
    """A panel as one or more, none of which has too many curves to be read.

    Examples:
        >>> curves = [Curve(str(i), np.array([1]), np.ones((1, 1))) for i in range(10)]
        >>> [(part.title, len(part.curves)) for part in in_parts(Panel("Breakout", curves))]
        [('Breakout (1 of 2)', 5), ('Breakout (2 of 2)', 5)]
    """
    number = math.ceil(len(panel.curves) / _MOST_CURVES)
    if number < 2:
        return [panel]
    parts = []
    for i, places in enumerate(np.array_split(np.arange(len(panel.curves)), number)):
        curves = [panel.curves[place] for place in places]
        labels = {curve.label for curve in curves}
        part = dataclasses.replace(
            panel,
            title=f"{panel.title} ({i + 1} of {number})",
            curves=curves,
            stationary=[curve for curve in panel.stationary if curve.label in labels],
            part_of=f"{panel.title}, {panel.y_label}",
        )
        parts.append(part)
    return parts


def _share_limits(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Gives the parts of one panel the same vertical axis."""
    for whole in {panel.part_of for panel in panels} - {None}:
        parts = [ax for ax, panel in zip(axes, panels, strict=True) if panel.part_of == whole]
        lows, highs = zip(*(ax.get_ylim() for ax in parts), strict=True)
        for ax in parts:
            ax.set_ylim(min(lows), max(highs))


def measures(tasks: Mapping[str, Sequence[Panel]], repetitions: int = 500) -> Figure:
    """Draws the mean over seeds with its 95% bootstrap band, in small panels, six to a row.

    Args:
        tasks: panels by the title of a task, with one y_label for each panel. Curves may have gaps,
            NaN, and are drawn over those seeds that have a value. A label keeps its colour in all.
        repetitions: bootstrap resamples of each band. A single seed has no band.

    Returns:
        The figure, for `render`.

    Raises:
        ValueError: there is no task, or one without panels.

    Examples:
        >>> curve = Curve("adam", np.array([1000, 2000]), np.array([[0.0, 2.0], [1.0, np.nan]]))
        >>> figure = measures({"Breakout-MinAtar": [Panel("Actor: rank", [curve])]})
        >>> figure.axes[0].get_lines()[0].get_ydata().tolist()
        [0.5, 2.0]
    """
    if not tasks or not all(tasks.values()):
        raise ValueError(f"tasks must each hold a panel, got {[len(p) for p in tasks.values()]}.")
    every = [panel for panels in tasks.values() for panel in panels]
    styles = styles_of(curve.label for panel in every for curve in panel.curves)
    rows = [math.ceil(len(panels) / _MEASURE_COLUMNS) for panels in tasks.values()]
    with matplotlib.rc_context(STYLE | {"axes.titlesize": 9.0}):
        width, height = _MEASURE_PANEL
        figure = Figure(
            figsize=(_MEASURE_COLUMNS * width, sum(rows) * height + 0.4 * len(rows)),
            layout="constrained",
        )
        parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=rows).ravel()
        for (title, panels), part, lines in zip(tasks.items(), parts, rows, strict=True):
            part.suptitle(title, x=0.005, ha="left", fontsize=10.0, fontweight="bold")
            axes = part.subplots(lines, _MEASURE_COLUMNS, squeeze=False).ravel().tolist()
            for unused in axes[len(panels) :]:
                unused.remove()
            for panel, ax in zip(panels, axes, strict=False):
                for curve in panel.curves:
                    _draw_mean(ax, curve, styles[curve.label], repetitions)
                _finish(ax, panel, _unit(panel))
            keep_outer_labels(axes[: len(panels)])
        legend(figure, styles, beside=False)
    return figure


def performance_profiles(
    scores: Mapping[str, ArrayLike], threshold_label: str = "Normalised return τ"
) -> Figure:
    """Draws the fraction of runs above each threshold.

    Up to four optimizers get 95% bootstrap bands; the bands of more would hide the lines.

    Args:
        scores: normalised scores of shape (seeds, tasks) by label.
        threshold_label: label of the horizontal axis.

    Returns:
        The figure, for `render`.

    Raises:
        ValueError: there are no scores, or they are not finite.

    Examples:
        >>> figure = performance_profiles({"adam": [[0.5, 1.0], [0.7, 0.9]]})
        >>> figure.axes[0].get_xlabel()
        'Normalised return τ'

    References:
        Agarwal et al., arXiv 2108.13264, section 4.2.
    """
    if not scores:
        raise ValueError("scores must name at least one optimizer, got none.")
    arrays = {label: np.asarray(array, dtype=np.float64) for label, array in scores.items()}
    lowest = min(0.0, *(float(array.min()) for array in arrays.values()))
    highest = max(float(array.max()) for array in arrays.values())
    width = highest - lowest or 1.0  # where all score 0
    thresholds = np.linspace(lowest, highest + 0.05 * width, 201)
    profile = partial(statistics.performance_profile, thresholds=thresholds)
    styles = styles_of(arrays)
    with matplotlib.rc_context(STYLE):
        figure, (ax,) = grid(1)
        for label, array in arrays.items():
            style = styles[label]
            ax.plot(thresholds, profile(array), drawstyle="steps-post", **style)
            if len(arrays) <= _MOST_BANDS and len(array) > 1:
                low, high = statistics.stratified_bootstrap(array, profile)
                ax.fill_between(
                    thresholds, low, high, step="post", alpha=0.15, lw=0, color=style["color"]
                )
        ax.set_xlim(thresholds[0], thresholds[-1])
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel(threshold_label)
        ax.set_ylabel("Fraction of runs above τ")
        legend(figure, styles, beside=True)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    r"""Renders a figure, the same bytes each time.

    Args:
        figure: from this module.
        kind: "png" (300 dots per inch), "svg" (with text as text) or "pdf" (with its fonts).

    Returns:
        The image file's content, without a date in it.

    Raises:
        ValueError: kind is none of these.

    Examples:
        >>> render(performance_profiles({"adam": [[0.5, 1.0]]}), "png")[:4]
        b'\x89PNG'
    """
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    if kind not in undated:
        raise ValueError(f"kind must be 'png', 'svg' or 'pdf', got {kind!r}.")
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=300, metadata=undated[kind])
    return buffer.getvalue()


def _unit(panel: Panel) -> tuple[float, str]:
    last_step = max(int(curve.steps[-1]) for curve in panel.curves)
    return next((unit for unit in _UNITS if last_step >= unit[0]), (1.0, ""))


def _draw_curve(ax: Axes, curve: Curve, style: dict[str, Any], repetitions: int) -> None:
    scores = curve.returns[:, None]  # one task
    ax.plot(curve.steps, statistics.iqm(scores), **style_for(style, len(curve.steps)))
    if len(scores) > 1:
        low, high = statistics.stratified_bootstrap(scores, statistics.iqm, repetitions)
        ax.fill_between(curve.steps, low, high, alpha=0.18, lw=0, color=style["color"])


def _draw_stationary(ax: Axes, curve: Curve, style: dict[str, Any]) -> None:
    shown = style_for(style, len(curve.steps)) | _DASHED
    ax.plot(curve.steps, statistics.iqm(curve.returns[:, None]), **shown)


def _draw_mean(ax: Axes, curve: Curve, style: dict[str, Any], repetitions: int) -> None:
    """Draws a curve that may have gaps. Points at which the same seeds are known go together."""
    known = np.isfinite(curve.returns)
    drawn = known.any(axis=0)
    mean, low, high = np.full((3, len(curve.steps)), np.nan)
    for seeds in np.unique(known[:, drawn], axis=1).T:
        at = (known == seeds[:, None]).all(axis=0)
        scores = curve.returns[np.ix_(seeds, at)][:, None]  # one task
        mean[at] = statistics.mean(scores)
        low[at], high[at] = statistics.stratified_bootstrap(scores, statistics.mean, repetitions)
    steps = curve.steps[drawn]
    ax.plot(steps, mean[drawn], **style_for(style, len(steps)))
    if np.isfinite(low).any():
        ax.fill_between(steps, low[drawn], high[drawn], alpha=0.18, lw=0, color=style["color"])


def spans_decades(curves: Sequence[Curve]) -> bool:
    """Whether values reach over three powers of ten, so that a linear axis would hide most of them.

    Examples:
        >>> steps = np.array([1, 2])
        >>> wide, narrow = np.array([[0.01, 20.0]]), np.array([[0.0, 20.0]])
        >>> spans_decades([Curve("a", steps, wide)]), spans_decades([Curve("a", steps, narrow)])
        (True, False)
    """
    values = np.concatenate([curve.returns.ravel() for curve in curves])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0.0 and values.max() >= 1e3 * values.min())


def _finish(ax: Axes, panel: Panel, unit: tuple[float, str]) -> None:
    """Title, labels and scales of a panel."""
    size, name = unit
    ax.set_title(wrap_label(panel.title, TITLE_WIDTH), loc="left")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step / size:g}"))
    ax.set_xlabel(f"{panel.x_label} ({name})" if name else panel.x_label)
    ax.set_ylabel(panel.y_label)
    if panel.logarithmic:
        ax.set_yscale("log")


def _draw_reference(ax: Axes, value: float, name: str) -> None:
    ax.axhline(value, color="#666666", linestyle="--", linewidth=1.0, zorder=1)
    ax.margins(y=0.08)  # room for the words where the line is the topmost
    ax.annotate(
        f"{name}: {value:g}",
        xy=(0.0, value),
        xycoords=ax.get_yaxis_transform(),
        xytext=(4, 2),
        textcoords="offset points",
        color="#555555",
        fontsize="small",
    )
