"""What all figures of reports share: their style, their grid of panels, their legend."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

STYLE: dict[Any, Any] = {
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
    "pdf.fonttype": 42,  # TrueType: publishers refuse the other kind
}
# Okabe and Ito's colours, told apart by colour-blind readers; their yellow is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES: tuple[Any, ...] = ("-", (0, (3, 2)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = "osD^vPX"  # one for each colour, for those who print in grey
_APART = 0.16  # of the axes' diagonal, from one marker to the next
_FEW = 12  # points of a line, each of which has a marker

COLUMNS = 3
_PANEL = (3.1, 2.4)  # inches
_WIDE_PANEL = (4.7, 2.4)
TITLE_WIDTH = 30  # characters


def styles_of(
    labels: Iterable[str], line_styles: Sequence[Any] = LINE_STYLES
) -> dict[str, dict[str, Any]]:
    """Gives each label a colour with a marker, and a new line style each time these run out.

    Markers are few, and those of different labels stand at different places.

    Examples:
        >>> [(style["color"], style["marker"]) for style in styles_of(["adam", "lion"]).values()]
        [('#0072B2', 'o'), ('#D55E00', 's')]
    """
    found = {}
    for index, label in enumerate(dict.fromkeys(labels)):
        place = index % len(COLOURS)
        found[label] = {
            "color": COLOURS[place],
            "marker": _MARKERS[place],
            "markersize": 4.0,
            "markevery": (_APART * place / len(COLOURS), _APART),
            "linestyle": line_styles[index // len(COLOURS) % len(line_styles)],
        }
    return found


def style_for(style: Mapping[str, Any], points: int) -> dict[str, Any]:
    """A style from `styles_of` for a line of so many points."""
    return {**style, "markevery": None} if points <= _FEW else dict(style)


def wrap_label(label: str, width: int = 30) -> str:
    """Breaks a long optimizer specification after its commas, slashes, colon and at sign.

    So it does before brackets and before the task that it is on.

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
    for part in re.split(r"(?<=[,:/@])|(?= \(| on )", label):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def grid(panels: int, wide: bool = False) -> tuple[Figure, list[Axes]]:
    """Lays out so many panels; wide ones two to a row."""
    columns = min(panels, 2 if wide or panels == 4 else COLUMNS)
    rows = math.ceil(panels / columns)
    width, height = _WIDE_PANEL if wide else _PANEL
    scale = 1.35 if panels == 1 else 1.0
    figure = Figure(figsize=(scale * columns * width, scale * rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def keep_outer_labels(axes: Sequence[Axes]) -> None:
    """Leaves labels to the first column and, where all agree, the lowest panel of each column."""
    same, same_y = (
        len({get(ax) for ax in axes}) == 1 for get in (Axes.get_xlabel, Axes.get_ylabel)
    )
    for index, ax in enumerate(axes):
        place = ax.get_subplotspec()
        assert place is not None  # grid made every one of them
        if same_y and not place.is_first_col():
            ax.set_ylabel("")
        if same and index + place.get_gridspec().ncols < len(axes):
            ax.set_xlabel("")


def legend(figure: Figure, styles: Mapping[str, dict[str, Any]], beside: bool) -> None:
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
