"""Learning curves and performance profiles, ready for a paper.

Figures are made from plain arrays with Matplotlib's object interface: nothing global is touched,
no window is ever opened, and the same numbers give the same bytes.
"""

import dataclasses
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from experiments.reports import statistics

# Okabe and Ito's colours, told apart by colour-blind readers; their yellow is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES: tuple[Any, ...] = ("-", (0, (3, 2)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: searchable, editable, in the reader's font
    "svg.hashsalt": "rl-optim",
}
_UNITS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
_COLUMNS = 3
_PANEL = (3.1, 2.4)  # inches
_TITLE_WIDTH = 34  # characters
_MOST_BANDS = 4  # overlapping bands of profiles beyond which none can be read


@dataclasses.dataclass(frozen=True)
class Curve:
    """One optimizer's training curves on one environment."""

    label: str
    steps: NDArray[np.int64]  # shape=(points,), environment steps per seed
    returns: NDArray[np.float64]  # shape=(seeds, points), no gaps


@dataclasses.dataclass(frozen=True)
class Panel:
    """One environment's curves, and a published return or a limit to draw as a line."""

    title: str
    curves: Sequence[Curve]
    reference: float | None = None
    reference_name: str = "published Adam"
    x_label: str = "Environment steps"
    y_label: str = "Episode return"
    logarithmic: bool = False


def learning_curves(panels: Sequence[Panel], repetitions: int = 500) -> Figure:
    """Draws the IQM over seeds with its 95% bootstrap band, unsmoothed, a panel per environment.

    Args:
        panels: one per environment, three to a row. A label keeps its colour in all of them.
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
    styles = _styles(curve.label for panel in panels for curve in panel.curves)
    units = [_unit(panel) for panel in panels]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(panels))
        for panel, ax, (unit, name) in zip(panels, axes, units, strict=True):
            for curve in panel.curves:
                _draw_curve(ax, curve, styles[curve.label], repetitions)
            if panel.reference is not None:
                _draw_reference(ax, panel.reference, panel.reference_name)
            ax.set_title(wrap_label(panel.title, _TITLE_WIDTH), loc="left")
            ax.set_xlim(left=0)
            ax.xaxis.set_major_formatter(
                FuncFormatter(lambda step, _, unit=unit: f"{step / unit:g}")
            )
            ax.set_xlabel(f"{panel.x_label} ({name})" if name else panel.x_label)
            ax.set_ylabel(panel.y_label)
            if panel.logarithmic:
                ax.set_yscale("log")
        _keep_outer_labels(axes)
        _legend(figure, styles, beside=len(panels) < _COLUMNS)
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
    lowest = min(0.0, *(array.min() for array in arrays.values()))
    highest = max(1.0, *(array.max() for array in arrays.values()))
    thresholds = np.linspace(lowest, highest + 0.05 * (highest - lowest), 201)
    profile = partial(statistics.performance_profile, thresholds=thresholds)
    styles = _styles(arrays)
    with matplotlib.rc_context(_STYLE):
        figure, (ax,) = _grid(1)
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
        _legend(figure, styles, beside=True)
    return figure


@dataclasses.dataclass(frozen=True)
class AgePanel:
    """Returns of agents by age, on one task of one meta-training, in parts of it."""

    title: str
    ages: NDArray[np.float64]  # shape=(bins,), the middle of each
    parts: Mapping[str, NDArray[np.float64]]  # shape=(bins,) by label, NaN where there is none


def returns_by_age(panels: Sequence[AgePanel]) -> Figure:
    """Draws return against age, a line for each part of the meta-training, the later the darker.

    Args:
        panels: one for each task of each meta-training, three to a row.

    Returns:
        The figure, for `render`.

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
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(panels))
        for panel, ax in zip(panels, axes, strict=True):
            for i, (label, returns) in enumerate(panel.parts.items()):
                colour = shades(0.15 + 0.85 * (i + 1) / len(panel.parts))
                ax.plot(panel.ages, returns, color=colour, marker="o", markersize=3, label=label)
            ax.set_title(wrap_label(panel.title), loc="left")
            ax.set_xlim(left=0)
            ax.set_xlabel("Age of the agent (iterations)")
            ax.set_ylabel("Episode return")
            ax.legend(title="meta-iterations", fontsize="small", title_fontsize="small")
        _keep_outer_labels(axes)
    return figure


@dataclasses.dataclass(frozen=True)
class GradientPanel:
    """What the meta-gradients of one meta-training were worth, by one measure."""

    title: str
    measure: str
    iterations: NDArray[np.float64]  # shape=(points,)
    values: NDArray[np.float64]  # shape=(points,); gaps where they are not finite


def meta_gradients(panels: Sequence[GradientPanel]) -> Figure:
    """Draws a measure of the meta-gradient against meta-iterations.

    Args:
        panels: one for each measure of each meta-training, three to a row.

    Returns:
        The figure, for `render`.

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
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(panels))
        for panel, ax in zip(panels, axes, strict=True):
            shown = np.where(np.isfinite(panel.values), panel.values, np.nan)
            ax.plot(panel.iterations, shown, color=COLOURS[0], marker=".", markersize=3)
            ax.axhline(0.0, color="#666666", linestyle="--", linewidth=1.0, zorder=1)
            ax.set_title(wrap_label(panel.title), loc="left")
            ax.set_xlim(left=0)
            ax.set_xlabel("Meta-iteration")
            ax.set_ylabel(panel.measure)
        _keep_outer_labels(axes)
    return figure


def render(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    r"""Renders a figure, the same bytes each time.

    Args:
        figure: from this module.
        kind: "png" (200 dots per inch) or "svg" (with text as text).

    Returns:
        The image file's content, without a date in it.

    Raises:
        ValueError: kind is neither.

    Examples:
        >>> render(performance_profiles({"adam": [[0.5, 1.0]]}), "png")[:4]
        b'\x89PNG'
    """
    if kind not in ("png", "svg"):
        raise ValueError(f"kind must be 'png' or 'svg', got {kind!r}.")
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def wrap_label(label: str, width: int = 30) -> str:
    """Breaks a long optimizer specification after its commas, slashes, colon and at sign.

    Args:
        label: such as "adam:learning_rate=0.01,b2=0.99".
        width: in characters. A part that is longer stays whole.

    Returns:
        The label in lines, all but the first indented.

    Examples:
        >>> print(wrap_label("adam:learning_rate=0.01,b2=0.99", 24))
        adam:learning_rate=0.01,
          b2=0.99
    """
    lines = [""]
    for part in re.split(r"(?<=[,:/@])|(?= \()", label):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Gives each label a colour, and a new line style each time the colours run out."""
    return {
        label: {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)],
        }
        for index, label in enumerate(dict.fromkeys(labels))
    }


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    columns = min(panels, _COLUMNS) if panels != 4 else 2
    rows = math.ceil(panels / columns)
    scale = 1.35 if panels == 1 else 1.0
    figure = Figure(
        figsize=(scale * columns * _PANEL[0], scale * rows * _PANEL[1]), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def _unit(panel: Panel) -> tuple[float, str]:
    last_step = max(int(curve.steps[-1]) for curve in panel.curves)
    return next((unit for unit in _UNITS if last_step >= unit[0]), (1.0, ""))


def _draw_curve(ax: Axes, curve: Curve, style: dict[str, Any], repetitions: int) -> None:
    scores = curve.returns[:, None]  # one task
    marker = "o" if len(curve.steps) == 1 else None
    ax.plot(curve.steps, statistics.iqm(scores), marker=marker, markersize=4, **style)
    if len(scores) > 1:
        low, high = statistics.stratified_bootstrap(scores, statistics.iqm, repetitions)
        ax.fill_between(curve.steps, low, high, alpha=0.18, lw=0, color=style["color"])


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


def _keep_outer_labels(axes: Sequence[Axes]) -> None:
    """Leaves labels to the first column and, where all agree, the lowest panel of each column."""
    same, same_y = (
        len({get(ax) for ax in axes}) == 1 for get in (Axes.get_xlabel, Axes.get_ylabel)
    )
    for index, ax in enumerate(axes):
        place = ax.get_subplotspec()
        assert place is not None  # _grid made every one of them
        if same_y and not place.is_first_col():
            ax.set_ylabel("")
        if same and index + place.get_gridspec().ncols < len(axes):
            ax.set_xlabel("")


def _legend(figure: Figure, styles: Mapping[str, dict[str, Any]], beside: bool) -> None:
    """Puts one legend for all panels to the right of them, or below where the figure is wide."""
    handles = [Line2D([], [], label=wrap_label(label), **style) for label, style in styles.items()]
    width, height = figure.get_size_inches()
    longest = max(len(line) for handle in handles for line in str(handle.get_label()).split("\n"))
    column = 0.6 + 0.078 * longest  # inches: handle and spaces, then the characters
    lines = sum(str(handle.get_label()).count("\n") + 1 for handle in handles)
    if beside:
        figure.set_size_inches(width + column, max(height, 0.19 * lines + 0.4))
        figure.legend(handles=handles, loc="outside right center", handlelength=2.4)
        return
    columns = max(1, min(len(handles), int(width / column)))
    figure.set_size_inches(width, height + 0.19 * math.ceil(lines / columns) + 0.15)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.4)
