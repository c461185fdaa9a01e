"""Tables on the console, in Markdown and CSV, and files of images: what all reports share."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.reports import figures
from experiments.reports.drawing import wrap_label
from experiments.reports.files import IMAGES
from experiments.runs.files import write_atomically

NONE = "\N{EN DASH}"  # what a cell says where nothing is known


def print_table(
    console: Console,
    title: str,
    lines: Sequence[tuple[dict[str, str], bool]],
    hidden: set[str],
    name: str = "Optimizer",
    judged: str = "Final IQM",
) -> None:
    """Prints a table.

    Args:
        console: where to print.
        title: of the table.
        lines: for each row its cells by column, and whether it is the best.
        hidden: columns that are left out. So are those in which nothing is known.
        name: the column with the rows' names.
        judged: the column that is set in bold for the best.
    """
    columns = [
        column
        for column in lines[0][0]
        if column not in hidden and any(cells[column] != NONE for cells, _ in lines)
    ]
    table = Table(
        title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        if column == name:
            table.add_column(column, overflow="fold", vertical="bottom")
        else:
            heading = re.sub(r"^(Final|Sampled|Greedy) ", r"\1\n", column)
            table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    label_width = max(20, console.width - 60)
    for cells, best in lines:
        cells = cells | {name: wrap_label(cells[name], label_width)}
        table.add_row(
            *(
                Text(cells[column], style="bold" if best and column == judged else "")
                for column in columns
            )
        )
    console.print(table)
    console.print()


def markdown_table(
    lines: Sequence[tuple[dict[str, str], bool]],
    name: str = "Optimizer",
    judged: str = "Final IQM",
) -> str:
    """A table in Markdown; for the arguments see `print_table`."""
    columns = list(lines[0][0])
    headings = [column.replace("|", "\\|") for column in columns]
    text = [f"| {' | '.join(headings)} |", f"|:---|{'---:|' * (len(columns) - 1)}"]
    for cells, best in lines:
        shown = {column: cell.replace("|", "\\|") for column, cell in cells.items()}
        shown[name] = f"`{shown[name]}`"
        if best:
            shown[judged] = f"**{shown[judged]}**"
        text.append(f"| {' | '.join(shown.values())} |")
    return "\n".join(text)


def csv_bytes(rows: Sequence[Any], optional: Collection[str] = ()) -> bytes:
    """A CSV file of dataclasses of one type, a column for each field; NaN and None are empty.

    Args:
        rows: the dataclasses.
        optional: fields that have a column only if one of the rows has a value there.
    """

    def cell(value: Any) -> Any:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, tuple):
            return "; ".join(map(str, value))
        return int(value) if isinstance(value, bool) else value

    names = [field.name for field in dataclasses.fields(rows[0])]
    cells = {name: [cell(getattr(row, name)) for row in rows] for name in names}
    shown = [name for name in names if name not in optional or set(cells[name]) != {""}]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(shown)
    writer.writerows(zip(*(cells[name] for name in shown), strict=True))
    return text.getvalue().encode()


def image_files(stem: str, figure: figures.Figure) -> dict[str, bytes]:
    """A figure as `STEM.png`, `STEM.svg` and `STEM.pdf`, by name."""
    return {f"{stem}.{kind}": figures.render(figure, kind) for kind in IMAGES}


def decimals_for(values: Iterable[float]) -> int:
    """Decimals that leave a column of numbers some four digits."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 1 else 3


def number(value: float | None, decimals: int = 0) -> str:
    """A number with so many decimals; a dash where it is unknown."""
    return NONE if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def thousands(value: float) -> str:
    """Three digits, as in 850, 1.23k, 229k, 2.5M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:  # what rounds to the unit
            return f"{value / unit:.3g}{suffix}"
    return number(value)


def interval(low: float, high: float, decimals: int) -> str:
    """An interval as `[low, high]`; a dash where it is unknown."""
    if math.isnan(low):
        return NONE
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def write_files(out_dir: str | os.PathLike[str], contents: Mapping[str, bytes]) -> list[Path]:
    """Writes files, each replaced whole or not at all; makes the directory where it is missing."""
    directory = Path(out_dir)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(directory / name, content)
    return [directory / name for name in contents]
